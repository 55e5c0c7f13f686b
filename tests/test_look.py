"""The page of `persona-vectors look` in a real browser: Debian's chromium, driven by `pip install playwright`; skipped without them"""
import json, os, re, shutil, signal, subprocess, sys, time
from pathlib import Path
import psutil, pytest
from persona_vectors import load_responses
playwright = pytest.importorskip('playwright.sync_api', reason='the browser is driven by playwright')
chromium = shutil.which('chromium') or pytest.skip('there is no chromium', allow_module_level=True)
pytestmark = pytest.mark.xdist_group('browser')

def serve(log, *args):
    "A process of the page, and its address"
    with open(log, 'w') as f:
        p = subprocess.Popen([Path(sys.executable).with_name('persona-vectors'), 'look', '--no-browser', *args], stdout=f, stderr=f, env=os.environ|dict(PYTHONUNBUFFERED='1'))
    for _ in range(240):
        if m := re.search(r'http://127\S+', Path(log).read_text()): return p,m[0]
        if p.poll() is not None: break
        time.sleep(.5)
    p.kill()
    raise AssertionError(Path(log).read_text())

def gone(procs, within=30):
    "Whether all of these processes ended in time"
    return not psutil.wait_procs(procs, timeout=within)[1]

@pytest.fixture(scope='module')
def page_at(tmp_path_factory):
    p,url = serve(tmp_path_factory.mktemp('look')/'log.txt')
    yield p,url
    kids = psutil.Process(p.pid).children(recursive=True)
    p.send_signal(signal.SIGTERM)
    assert gone([psutil.Process(p.pid)] if psutil.pid_exists(p.pid) else [], 20) or p.wait(10) is not None
    assert gone(kids)                                                    # no kernel is left behind

@pytest.fixture(scope='module')
def browser():
    with playwright.sync_playwright() as p:
        b = p.chromium.launch(executable_path=chromium, args=['--no-sandbox','--disable-gpu','--no-first-run','--disable-background-networking'])
        yield b
        b.close()

def opened(browser, url, width, **kw):
    "A page with its first picture; what the browser loaded from elsewhere"
    pg,outside = browser.new_context(viewport=dict(width=width, height=1000), **kw).new_page(),[]
    pg.on('requestfinished', lambda r: outside.append(r.url) if '127.0.0.1' not in r.url and not r.url.startswith(('data:','blob:')) else None)
    pg.goto(url)
    pg.wait_for_selector('.pv-plot .main-svg', timeout=90_000)
    return pg,outside

def click_persona(pg, name):
    "Click the marker of a persona in the ranking"
    at = pg.evaluate('''name => { const g = document.querySelector('.js-plotly-plot'); for (const [i, t] of g.data.entries()) {
        const j = (t.customdata || []).findIndex(c => c[0] === name); if (j >= 0) return [i, j] } }''', name)
    pg.locator('.scatterlayer .trace').nth(at[0]).locator('.point').nth(at[1]).click(force=True)
    pg.wait_for_selector(f'h3:has-text("{name}")', timeout=30_000)

def shown(pg, column):
    "(text, projection, z) of each token in a column, and their backgrounds"
    return pg.evaluate('''k => [...document.querySelectorAll('.pv-chat')][k].querySelectorAll('span') && [...[...document.querySelectorAll('.pv-chat')][k]
        .querySelectorAll('span')].map(s => [s.textContent, s.title, s.style.background])''', column)

def test_guarded(page_at):
    import requests
    assert 'widget' not in requests.get(page_at[1].split('?')[0]).text and 'look' not in requests.get(page_at[1].split('?')[0]).url

def test_walk(page_at, browser, tmp_path):
    pg,outside = opened(browser, page_at[1], 1300)
    click_persona(pg, 'bard')
    pg.wait_for_selector('text=tokens averaged', timeout=60_000)
    pg.wait_for_selector('text=reproducible axis', timeout=30_000)
    pg.locator('.noUi-handle').first.focus()
    pg.keyboard.press('ArrowLeft')
    pg.wait_for_function("document.querySelector('.js-plotly-plot').layout.title.subtitle.text.includes('layer 0')", timeout=60_000)
    pg.keyboard.press('ArrowRight')
    pg.wait_for_function("document.querySelector('.js-plotly-plot').layout.title.subtitle.text.includes('layer 20')", timeout=1_000)     # kept
    pg.get_by_role('button', name='load smollm2').click()
    pg.get_by_role('button', name='send').wait_for(timeout=180_000)
    for n,q in enumerate(('Who are you?','What do you like?','<b>Why</b> is that?'), 1):
        pg.locator('textarea').first.fill(q)
        pg.get_by_role('button', name='send').click()
        pg.wait_for_function(f"[...document.querySelectorAll('.pv-chat')].slice(0, 2).every(o => o.querySelectorAll('p').length === {2*n}) "
                             "&& !document.body.innerText.includes('answers …')", timeout=180_000)
    assert not pg.locator('.pv-chat b').count() and '<b>Why</b>' in pg.inner_text('.pv-chat')
    with pg.expect_download() as d: pg.get_by_role('button', name='save').first.click()
    d.value.save_as(tmp_path/'conversation.jsonl')
    as_monitor(pg, tmp_path/'conversation.jsonl')
    replayed(pg, tmp_path)
    make(pg)
    with pg.expect_download() as d: pg.get_by_role('button', name='save').nth(1).click()
    d.value.save_as(tmp_path/'answers.json')
    assert {'beekeeper','<img src=x onerror=alert(1)>keeper'} == {r.persona for r in load_responses(tmp_path/'answers.json').rows}
    assert 'beekeeper' in pg.locator('select').filter(has_text='no system prompt').inner_text()
    other,_ = opened(browser, page_at[1], 1300)                                   # a second tab, undisturbed by the first
    assert 'keeper' not in other.inner_text('body')
    click_persona(other, 'ghost')
    click_persona(pg, 'bard')
    kids = len(psutil.Process(page_at[0].pid).children(recursive=True))
    other.close(run_before_unload=True)
    for _ in range(60):
        if len(psutil.Process(page_at[0].pid).children(recursive=True))<kids: break
        time.sleep(.5)
    else: raise AssertionError('the kernel of a closed tab goes on')
    assert not outside

def as_monitor(pg, path):
    "The page's numbers and colours against `Monitor` on the same text, of the plain column"
    from persona_vectors import ActivationExtractor, Monitor, PersonaVectorConfig, assistant_axis, shipped_vectors
    from persona_vectors.conversations import each_conversation
    v = shipped_vectors()
    ex = ActivationExtractor(PersonaVectorConfig(model_name='smollm2-135m-instruct', dtype=v.meta['dtype']))           # as the vectors were read
    talks = dict(each_conversation(path, 'id'))
    m = Monitor(ex.causal, ex.tokenizer, assistant_axis(v.at(20)))
    want = m.read(talks['plain']).tokens.query('message>=0').projection.tolist()
    got = [(float(re.search(r'projection (\S+)', t)[1]), float(re.search(r' z (\S+)', t)[1]), c) for _,t,c in shown(pg, 0)]
    assert len(got)==len(want) and max(abs(a-b) for (a,*_),b in zip(got, want))<.02
    for _,z,c in got: assert ('178, 24, 43' if z<0 else '33, 102, 172') in c
    moved = [float(re.search(r'projection (\S+)', t)[1]) for _,t,_ in shown(pg, 1)]
    plain = m.read(talks['steered']).tokens.query('message>=0').projection.tolist()
    assert len(moved)==len(plain) and max(abs(a-b) for a,b in zip(moved, plain))>1                # it was steered

def replayed(pg, folder):
    "The page's own file shows all its conversations; an empty file is refused in words"
    (folder/'empty.jsonl').write_text('')
    for name,said in (('empty.jsonl','is empty'), ('conversation.jsonl','steered')):
        with pg.expect_file_chooser() as f: pg.get_by_role('button', name='replay a file').click()
        f.value.set_files(folder/name)
        if name=='empty.jsonl': pg.wait_for_selector(f'text={said}', timeout=30_000)
    pg.wait_for_function("!document.body.innerText.includes('reading …') && !document.body.innerText.includes('is empty')", timeout=60_000)
    assert [pg.locator('.pv-chat').nth(k).locator('p').count() for k in (0,1)]==[6,6]

def make(pg):
    "Make a persona whose name is markup; stop another, and go on with it"
    name,prompt = pg.locator('input[placeholder="lighthouse_keeper"]'),pg.locator('textarea').nth(1)
    name.fill('<img src=x onerror=alert(1)>keeper')
    prompt.fill('You keep a lighthouse, and speak of the sea.')
    pg.on('dialog', lambda d: (_ for _ in ()).throw(AssertionError('a script ran')))
    pg.get_by_role('button', name='make').click()
    pg.wait_for_selector('text=is on the map', timeout=180_000)
    pg.wait_for_selector('h3:has-text("keeper")', timeout=60_000)
    assert not pg.locator('img[src=x]').count()
    name.fill('beekeeper')
    pg.get_by_role('button', name='make').click()
    time.sleep(1)
    pg.get_by_role('button', name='stop').nth(1).click()
    pg.wait_for_selector('text=are kept', timeout=90_000)
    pg.get_by_role('button', name='make').click()
    pg.wait_for_selector('text=beekeeper is on the map', timeout=180_000)

@pytest.mark.parametrize('scheme', ['light','dark'])
def test_phone(page_at, browser, scheme):
    pg,outside = opened(browser, page_at[1], 420, color_scheme=scheme)
    click_persona(pg, 'bard')
    assert pg.evaluate('Math.max(...[...document.querySelectorAll(".widget-html, .pv-plot, .widget-hbox")].map(o => o.getBoundingClientRect().right))')<=421
    assert ('rgb(23, 24, 27)' in pg.evaluate('getComputedStyle(document.body).backgroundColor'))==(scheme=='dark') and not outside

@pytest.mark.parametrize('how', [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_killed(browser, tmp_path, how):
    before = {o.name for o in Path('/tmp').glob('tmp*')}
    p,url = serve(tmp_path/'log.txt')
    opened(browser, url, 1300)
    kids = psutil.Process(p.pid).children(recursive=True)
    assert kids
    p.send_signal(how)
    p.wait(20)
    assert gone(kids)
    if how!=signal.SIGKILL: assert not [o for o in Path('/tmp').glob('tmp*/look.ipynb') if o.parent.name not in before]
