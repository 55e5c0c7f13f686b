"Answers from a server that misbehaves as planned, over HTTP: none is lost, none is paid for twice, and no key is said"
import asyncio, json, logging, math, random, re, resource, shutil, signal, subprocess, sys, time, traceback
from collections import Counter
from dataclasses import replace
from email.utils import formatdate
from io import StringIO
from types import SimpleNamespace
import httpx, openai, pytest
from persona_vectors import PersonaVectorConfig, generate_responses
from persona_vectors.generation import endpoint
from persona_vectors.generation.endpoint import REMEDIES, retry_after
from persona_vectors.generation.answers import Unanswered, agenerate_responses
from persona_vectors.prompts import RawFormat, chat_messages
from persona_vectors.responses import OUTCOMES, Response, load_responses, plan
from faulty_server import Server, digest, finished, passing
from run_notebooks import no_bars
from tiny import env, faulty, final, free_port, heeds, journal, lines, script, stop, until

# the console script, quick to try again, with settings that have no option
driver = '''import json, sys
from persona_vectors import cli
from persona_vectors.generation import endpoint
more,config = json.loads(sys.argv.pop(1)), cli.PersonaVectorConfig
cli.PersonaVectorConfig = lambda **kw: config(**kw | more)
endpoint.FIRST_BACKOFF,endpoint.MAX_BACKOFF = .01,.2
cli.main()'''
words = 'generate --api-model echo --personas personas.json --questions questions.json --max-tokens 8'.split()

def grid(folder, n, questions):
    "`n` personas and the questions in files; the cells as (prompt, question)"
    personas = {f'p{i}': f'You are number {i}.' for i in range(n)}
    for name,o in dict(personas=personas, questions=questions).items(): (folder/f'{name}.json').write_text(json.dumps(o))
    return [(s,q) for s in personas.values() for q in questions]

def start(folder, url, *args, more=None, secrets={}, err='err', preexec_fn=heeds):
    "The console script at work on the grid in `folder`, or the driver if there is `more`; what it says goes to `folder/err`"
    cmd = [script] if more is None else [sys.executable, '-c', driver, json.dumps(more)]
    with open(folder/err, 'w') as err, open(folder/'out', 'w') as out:
        return subprocess.Popen([*cmd, *words, '--base-url', url, *args], cwd=folder, env=env(**secrets), stdout=out, stderr=err, preexec_fn=preexec_fn)

def heard(folder): return no_bars((folder/'err').read_text()).splitlines()
def work(err): return [l for l in err if not re.match(r'\d+ answers in ', l)]         # besides the account

def run(folder, *args, **kw):
    "To the end: exit status, and the lines it said"
    rc = start(folder, *args, **kw).wait(120)
    return rc, heard(folder)

def answers(folder): return folder/'data/responses'
def kept(folder): return lines(journal(answers(folder)))
def size(path): return path.read_bytes().count(b'\n') if path and path.exists() else 0
def cells(rows): return [(r['system'], r.get('item') or r['question']) for r in rows]   # of the server's log, or of a journal

@pytest.fixture
def quick(monkeypatch):
    for o,secs in dict(FIRST_BACKOFF=.01, MAX_BACKOFF=.2).items(): monkeypatch.setattr(endpoint, o, secs)

def ask_about(n): return [f'question {i}' for i in range(n)]
def echo(url, **kw): return PersonaVectorConfig(**dict(base_url=url, openrouter_model='echo', max_tokens=8) | kw)
def ask(url, questions, out, **kw): return generate_responses(echo(url, **kw), {'a':'x'}, questions, out, api=True)
def always(*faults): return json.dumps({f'{o}!': o for o in faults})

# killed

def as_recorded(did, q):
    "Outcome, finish reason, model and text of a row that the server answered with `did`"
    said = f'You said: {q}'
    special = {'none': ('empty','stop',None,''), 'empty': ('empty','stop',None,''), 'other model': ('complete','stop','another/model',said),
               'length': ('cut','length',None,said), 'filter': ('filtered','content_filter',None,said), 'refusal': ('refused','refusal',None,'I will not.')}
    return special.get(did, ('complete','stop',None,said))

def test_killed_five_times(tmp_path):
    "Two thousand cells, faults of every kind, five kills: all are answered or listed, and no answer that was on the disk is asked for again"
    todo = grid(tmp_path, 20, ask_about(98)+['an impossible one','a hopeless one'])
    log,port,rng,killed = tmp_path/'log', free_port(), random.Random(0), []
    def go(url, f=start): return f(tmp_path, url, *'--max-concurrent-requests 32 --timeout 1.5'.split(), more=dict(max_retries=8))
    faults = json.dumps({o: .015 for o in passing} | {o: .02 for o in finished[1:]})
    with faulty(log, '--faults', faults, '--always', '{"impossible": "422", "hopeless": "500"}', '--retry-after', .02, port=port) as url:
        for _ in range(5):
            p,n = go(url), size(journal(answers(tmp_path)))+rng.randint(80, 300)
            until(lambda: size(journal(answers(tmp_path)))>=n, p)
            time.sleep(rng.uniform(0, .1))
            assert stop(p, signal.SIGKILL)==-signal.SIGKILL
            time.sleep(.1)                                                          # what it had sent is read by now
            killed.append((size(log), cells(kept(tmp_path))))
        rc,err = go(url, run)
    asked,rows = lines(log),kept(tmp_path)
    for n,had in killed: assert set(cells(asked[n:])).isdisjoint(had)
    assert killed[-1][1] and {o['did'] for o in asked} == {*passing, *finished, '422'}
    fail = [o for o in todo if re.search('impossible|hopeless', o[1])]
    assert len(cells(rows))==len(set(cells(rows))) and set(cells(rows))==set(todo)-set(fail)
    last = {(o['system'],o['item']): o['did'] for o in asked}                       # what came last is what was kept
    for r in rows:
        o = Response(**r)
        assert (o.outcome, o.finish_reason, o.model, o.text)==as_recorded(last[o.system, o.question], o.question)
    # what it said
    named = [m.groups() for l in err if (m := re.match(r"failed: persona 'p(\d+)', prompt 0, question '(.+?)', sample 0: (?:422|500) planned", l))]
    assert rc==1 and sorted((f'You are number {p}.', q) for p,q in named)==sorted(fail) and len(fail)==40
    assert err[-1].startswith('persona-vectors: 40 of ') and not any('Traceback' in l for l in err)
    account, = [l for l in err if re.match(r'\d+ answers in', l)]
    n,had = killed[-1]
    new,sent = [Response(**r) for r in rows[len(had):]], cells(asked[n:])
    count = Counter(r.outcome for r in new) | Counter({'answers': len(new), 'failed': 40, 'retried': len(sent)-len(set(sent))})
    assert {k: int(n) for n,k in re.findall(rf"(\d+) ({'|'.join([*OUTCOMES,'answers','retried','failed'])})", account)}==count
    assert f"{sum(r.model is not None for r in new)} answered by 'another/model'" in account and count['retried']>100
    # and the rest
    n = len(asked)
    with faulty(log, port=port) as url: rc,err = go(url, run)
    rs = load_responses(final(answers(tmp_path)))
    assert rc==0 and sorted(cells(lines(log)[n:]))==sorted(fail) and list(answers(tmp_path).iterdir())==[final(answers(tmp_path))]
    assert [(r.system, r.question) for r in rs.rows]==todo
    assert {(r.system, r.question): r.text for r in rs.rows}.items() >= {(r['system'], r['question']): r['text'] for r in rows}.items()

@pytest.mark.parametrize('status', ['400', '401', '402', '403', '404', 'quota'])
def test_stops_at_once(status, tmp_path):
    "What every request would meet ends the run with one line that says what to do; what came before is kept"
    todo,log,port = grid(tmp_path, 2, ask_about(100)), tmp_path/'log', free_port()
    with faulty(log, '--status', status, '--after', 40, '--latency', .01, port=port) as url:
        rc,err = run(tmp_path, url, '--max-concurrent-requests', '4')
    assert rc==1 and len(work(err))==1 and err[-1].startswith('persona-vectors: ') and REMEDIES[402 if status=='quota' else int(status)] in err[-1], err
    n,had = size(log),cells(kept(tmp_path))
    assert len(had)==40<n<=44
    with faulty(log, port=port) as url:
        rs = generate_responses(echo(url), tmp_path/'personas.json', tmp_path/'questions.json', answers(tmp_path), api=True)
    assert sorted(cells(lines(log)[n:])+had)==sorted(todo) and [(r.system, r.question) for r in rs.rows]==todo

def test_stops_before_the_first(tmp_path):
    "A run that got no answer leaves nothing"
    grid(tmp_path, 2, ask_about(5))
    with faulty(tmp_path/'log', '--status', '401') as url: rc,err = run(tmp_path, url)
    assert rc==1 and len(work(err))==1 and REMEDIES[401] in err[-1] and not (tmp_path/'data').exists(), err

# tried again

beyond = *passing, '502', '504', '529', 'no message', '422', '410'

def test_tried_again_then_listed(tmp_path, quick):
    "What passes is tried `max_retries` times more; what does not, once; the cells are listed, and all others are answered"
    good,log = ask_about(20), tmp_path/'log'
    with faulty(log, '--always', always(*beyond), '--retry-after', .02) as url:
        with pytest.raises(Unanswered) as e:
            ask(url, [*good, *(f'always {o}!' for o in beyond)], tmp_path, max_concurrent_requests=30, max_retries=2, timeout=.5)
    failed = {r.question[7:-1]: why for r,why in e.value.failed}
    assert {o['question'] for o in lines(journal(tmp_path))}==set(good) and set(failed)==set(beyond)
    assert Counter(o['item'] for o in lines(log)) == Counter({f'always {o}!': 1 if o in ('422','410') else 3 for o in beyond} | {q: 1 for q in good})
    assert all(failed[o]==f'{o} planned {o}' for o in beyond if o.isdigit())
    assert 'within 0.5 s' in failed['slow'] and 'upstream is busy' in failed['error body']

def test_down(tmp_path, quick):
    "An endpoint that fails cell after cell ends the run; one that is not there, too"
    log = tmp_path/'log'
    with faulty(log, '--status', '503', '--after', 5) as url:
        with pytest.raises(RuntimeError, match='down'): ask(url, ask_about(100), tmp_path, max_retries=1)
    assert len(lines(journal(tmp_path)))==5 and size(log)<=5+2*2*endpoint.MAX_FAILURES
    with pytest.raises(RuntimeError, match='down.*onnect'): ask(f'http://127.0.0.1:{free_port()}/v1', ask_about(100), tmp_path, max_retries=1)

def test_not_down(tmp_path, quick):
    "Questions that it will not have are not an endpoint that is down, however many stand together"
    good,bad = ask_about(5), [f'impossible {i}' for i in range(2*endpoint.MAX_FAILURES)]
    with faulty(tmp_path/'log', '--always', '{"impossible": "422"}') as url:
        with pytest.raises(Unanswered) as e: ask(url, bad+good, tmp_path, max_concurrent_requests=2)
    assert sorted(r.question for r,_ in e.value.failed)==sorted(bad) and sorted(o['question'] for o in lines(journal(tmp_path)))==good

def test_half_an_emoji(tmp_path, quick):
    "An answer that was cut within a character is an answer"
    with faulty(tmp_path/'log', '--always', '{"half": "surrogate"}') as url:
        rs = ask(url, ['one','half of one','two'], tmp_path)
    assert [r.text[:len('You said: ')+len(r.question)] for r in rs.rows]==[f'You said: {r.question}' for r in rs.rows] and size(tmp_path/'log')==3
    assert load_responses(rs.path).rows==rs.rows

def test_odd_lines(tmp_path, quick):
    "Letters that some take for the end of a line do not end one, in a journal or in what reads it"
    with faulty(tmp_path/'log', '--says', 'one\u2028two\x85three', '--always', '{"impossible": "422"}') as url:
        with pytest.raises(Unanswered): ask(url, ['one','an impossible one'], tmp_path/'out')
        rs = ask(url, ['one'], tmp_path/'out')
    assert [r.text for r in rs.rows]==['one\u2028two\x85three'] and size(tmp_path/'log')==2
    assert load_responses(journal(tmp_path/'out')).rows==load_responses(rs.path).rows==rs.rows

def test_retry_after():
    def says(*headers): return retry_after(SimpleNamespace(response=SimpleNamespace(headers=httpx.Headers(headers))))
    def at(secs): return 'retry-after', formatdate(time.time()+secs, usegmt=True)
    assert [says(('Retry-After',o)) for o in ('1.5','0','-3')]==[1.5,0,0]
    assert says(('retry-after-ms','250'), ('retry-after','9'))==.25
    assert 4<=says(at(5))<=5 and says(at(-5))==0
    assert says() is says(('retry-after','soon')) is retry_after(openai.APIConnectionError(request=None)) is None

@pytest.mark.parametrize('how,rate', [('seconds',None), ('date',None), ('seconds',1200), ('silent',None)])
def test_retry_after_is_waited_for(how, rate, tmp_path, quick):
    "One request of twenty is turned away: it is sent when the server said, and nothing else until then; if it says nothing, nobody waits (the control)"
    qs,faults = ask_about(20), {'429' if how=='silent' else 'retry-after': .05}
    def plays(seed): return [(q,n) for q in qs for n in (1,2) if Server(faults, seed=seed).fault(q, n)!='ok']
    seed = next(s for s in range(10_000) if plays(s)==[(qs[5],1)])
    at = math.ceil(time.time()+2)
    says = formatdate(at, usegmt=True) if how=='date' else .6
    with faulty(tmp_path/'log', '--faults', json.dumps(faults), '--seed', seed, '--latency', .02, '--retry-after', says) as url:
        rs = ask(url, qs, tmp_path, max_concurrent_requests=4, requests_per_minute=rate)
    asked = lines(tmp_path/'log')
    (t,again),others = [o['t'] for o in asked if o['item']==qs[5]], [o['t'] for o in asked if o['item']!=qs[5]]
    end = at if how=='date' else t+.62                                           # it answered 20 ms after it was asked
    if how=='silent': assert again-t<.3
    else:
        assert again>=end-.02 and [o-t for o in others if t+.1<o<end-.02]==[] and sum(o>t for o in others)>5
    assert len(asked)==21 and len(rs.rows)==20

@pytest.mark.parametrize('limit', [dict(requests_per_minute=1200), dict(tokens_per_minute=1200*10), {}], ids=str)
def test_pace(limit, tmp_path):
    "Thirty-one requests of ten tokens, 50 ms apart, take 1.5 s, and any ten half a second; without a limit they do not (the control)"
    with faulty(tmp_path/'log') as url: ask(url, [f'1234{i:03}' for i in range(31)], tmp_path, **limit)
    t = sorted(o['t'] for o in lines(tmp_path/'log'))
    ten = min(b-a for a,b in zip(t, t[10:]))
    if limit: assert t[-1]-t[0]>1.2 and ten>.3                                      # the first, which has to connect, arrives late
    else: assert ten<.3

@pytest.mark.parametrize('n', [1, 7])
def test_at_a_time(n, tmp_path):
    with faulty(tmp_path/'log', '--latency', .03) as url: ask(url, ask_about(30), tmp_path, max_concurrent_requests=n)
    assert max(o['now'] for o in lines(tmp_path/'log'))==n

# two at once, a full disk, Ctrl-C

def test_two_at_once(tmp_path):
    "The second process says so and asks for nothing; when the first is killed, a third can go on"
    todo,log,(who,other) = grid(tmp_path, 3, ask_about(100)), tmp_path/'log', ('first','other')
    with faulty(log, '--latency', .05) as url:
        first = start(tmp_path, url, secrets=dict(OPENAI_API_KEY=who), err='first')
        until(lambda: size(journal(answers(tmp_path)))>20, first)
        rc,err = run(tmp_path, url, secrets=dict(OPENAI_API_KEY=other))
        assert rc==1 and len(work(err))==1 and 'another process' in err[-1] and '--out' in err[-1] and first.poll() is None, err
        stop(first, signal.SIGKILL)
        had = cells(kept(tmp_path))
        assert {o['key'] for o in lines(log)}=={digest(who)}
        rc,err = run(tmp_path, url, secrets=dict(OPENAI_API_KEY=other))
    assert rc==0 and sorted(had+cells(o for o in lines(log) if o['key']==digest(other)))==sorted(todo), err

def goes_on(folder, todo, port, room):
    "With room again, the run ends well and asks for what the journal in `room` lacks"
    had = cells(kept(room))
    raw = journal(answers(room)).read_bytes()
    assert 5<len(had)<len(todo) and len(set(had))==len(had) and len(raw)-raw.rfind(b'\n')<2000
    with faulty(folder/'again', port=port) as url: rc,err = run(room, url)
    assert rc==0 and sorted(cells(lines(folder/'again'))+had)==sorted(todo), err
    assert [r.text for r in load_responses(final(answers(room))).rows]==[f'You said: {q}' for _,q in todo]

def cramped(folder, url):
    def limit(): resource.setrlimit(resource.RLIMIT_FSIZE, (5000,5000))
    return run(folder, url, preexec_fn=limit, secrets=dict(PYTHONDONTWRITEBYTECODE='1'))

def test_file_too_large(tmp_path):
    "Where no file can grow beyond 5,000 bytes the run stops with one line that names the file"
    todo,port = grid(tmp_path, 2, ask_about(100)), free_port()
    with faulty(tmp_path/'log', port=port) as url: rc,err = cramped(tmp_path, url)
    assert rc==1 and len(work(err))==1 and journal(answers(tmp_path)).name in err[-1], err
    assert size(tmp_path/'log')<100
    goes_on(tmp_path, todo, port, tmp_path)

def test_last_answer_too_large(tmp_path):
    "If it is the very last that does not fit, it is not counted either"
    grid(tmp_path, 1, ['one'])
    with faulty(tmp_path/'log', '--says', 'word '*1200) as url:
        rc,err = cramped(tmp_path, url)
        assert rc==1 and len(work(err))==1 and '.jsonl' in err[-1] and journal(answers(tmp_path)) is None, err    # nothing is left
        rc,err = run(tmp_path, url)
    assert rc==0 and size(tmp_path/'log')==2, err

def test_full_disk(tmp_path):
    "A disk with 8 KB of room, mounted for this process alone"
    todo,port,disk = grid(tmp_path, 2, ask_about(100)), free_port(), tmp_path/'disk'
    disk.mkdir()
    on_disk = 'mount -t tmpfs -o size=64k tmpfs disk && head -c 57000 /dev/zero > disk/filler && "$@"; rc=$?; cp -r disk/data room/; exit $rc'
    def mounted(*args):
        return subprocess.run(['unshare', '-m', 'sh', '-c', on_disk, 'sh', *args], cwd=tmp_path, env=env(), capture_output=True, text=True)
    if not shutil.which('unshare') or 'permitted' in mounted('true').stderr: pytest.skip('mounting needs Linux and root')
    room = tmp_path/'room'
    room.mkdir()
    for o in ('personas','questions'): shutil.copy(tmp_path/f'{o}.json', room)
    with faulty(tmp_path/'log', port=port) as url: r = mounted(script, *words, '--base-url', url, '--out', 'disk')
    err = no_bars(r.stderr).splitlines()
    assert r.returncode==1 and len(work(err))==1 and 'No space left' in err[-1] and journal(answers(room)).name in err[-1], err
    goes_on(tmp_path, todo, port, room)

def test_ctrl_c(tmp_path):
    "Requests under way are waited for: every answer that the server gave is kept, and nothing more is asked for"
    todo,log,port = grid(tmp_path, 2, ask_about(20)), tmp_path/'log', free_port()
    with faulty(log, '--latency', 1, port=port) as url:
        p = start(tmp_path, url)
        until(lambda: size(log)==10, p)
        assert stop(p, signal.SIGINT) not in (0,None)
    err,had = heard(tmp_path), cells(kept(tmp_path))
    assert size(log)==len(had)==10 and set(had)==set(cells(lines(log)))
    said = '\n'.join(err)
    assert 'waiting for 10 requests' in said and 'stopped: 10 of 40 ' in said and 'Traceback' not in said, said
    with faulty(log, port=port) as url: rc,err = run(tmp_path, url)
    assert rc==0 and sorted(cells(lines(log)))==sorted(todo), err                   # each cell once, over both runs

def test_ctrl_c_twice(tmp_path):
    "The second time nothing is waited for"
    grid(tmp_path, 1, ask_about(20))
    with faulty(tmp_path/'log', '--latency', 30) as url:
        p = start(tmp_path, url)
        until(lambda: size(tmp_path/'log')==10, p)
        p.send_signal(signal.SIGINT)
        until(lambda: 'waiting for' in (tmp_path/'err').read_text(), p)
        time.sleep(.3)
        assert p.poll() is None                                                     # the control: the first time they are
        t = time.monotonic()
        assert stop(p, signal.SIGINT) not in (0,None) and time.monotonic()-t<5
    assert 'Traceback' not in (tmp_path/'err').read_text() and kept(tmp_path)==[]

def test_ctrl_c_while_it_waits(tmp_path):
    "One who was told to come back in an hour is not waited for"
    grid(tmp_path, 1, ask_about(20))
    with faulty(tmp_path/'log', '--status', 'retry-after', '--after', 3, '--retry-after', '3600') as url:
        p = start(tmp_path, url)
        until(lambda: size(tmp_path/'log')>3, p)
        time.sleep(.3)
        assert p.poll() is None
        t = time.monotonic()
        assert stop(p, signal.SIGINT) not in (0,None) and time.monotonic()-t<5
    assert len(kept(tmp_path))==3 and any('stopped: 3 of 20 ' in l for l in heard(tmp_path))

in_a_loop = '''import asyncio, sys
from persona_vectors import PersonaVectorConfig, generate_responses
c = PersonaVectorConfig(base_url=sys.argv[1], openrouter_model='echo', max_tokens=8)
def ask(): return generate_responses(c, 'personas.json', 'questions.json', api=True)
async def main():
    try: ask()
    except KeyboardInterrupt:
        if len(sys.argv)<3: raise
        ask()
asyncio.run(main())'''

@pytest.mark.parametrize('again', [[], ['again']], ids=['once','twice'])
def test_ctrl_c_in_a_loop(again, tmp_path):
    "In a loop that is running, as Jupyter's is: heeded, at once the second time, and the same process can go on"
    todo,log = grid(tmp_path, 2, ask_about(20)), tmp_path/'log'
    with faulty(log, '--latency', 1) as url:
        with open(tmp_path/'err', 'w') as err:
            p = subprocess.Popen([sys.executable, '-c', in_a_loop, url, *again], cwd=tmp_path, env=env(), stderr=err, preexec_fn=heeds)
        until(lambda: size(log)==10, p)
        if again:
            p.send_signal(signal.SIGINT)
            until(lambda: 'waiting for' in (tmp_path/'err').read_text(), p)
            p.send_signal(signal.SIGINT)
            assert p.wait(60)==0 and size(log)==50                                  # ten were dropped
            assert [(r.system, r.question) for r in load_responses(final(answers(tmp_path))).rows]==todo and not kept(tmp_path)
        else:
            assert stop(p, signal.SIGINT) not in (0,None)
            assert size(log)==len(kept(tmp_path))==10

def test_cancelled(tmp_path):
    "The awaitable does the same when it is cancelled"
    async def main(url):
        c = echo(url, max_concurrent_requests=4)
        task = asyncio.create_task(agenerate_responses(c, {'a':'x'}, ask_about(40), tmp_path))
        while size(tmp_path/'log')<6: await asyncio.sleep(.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError): await task
    with faulty(tmp_path/'log', '--latency', .3) as url: asyncio.run(main(url))
    assert 6<=size(tmp_path/'log')<=8 and sorted(o['question'] for o in lines(journal(tmp_path)))==sorted(o['item'] for o in lines(tmp_path/'log'))

# keys

key = 'sk-or-v1-' + digest('planted')
parts = [key[i:i+12] for i in range(9, len(key)-11)]

def leaks(text): return [o for o in parts if o in text]
def leaky(folder): return [p for p in folder.rglob('*') if p.is_file() and leaks(p.read_text(errors='replace'))] # also what it said, in `err` and `out`

def test_leaks_control(tmp_path):
    (tmp_path/'a').write_text(f'... {key[:30]}')
    (tmp_path/'b').write_text(f'... {digest(key)}, sk-or-v1-***')
    assert leaky(tmp_path)==[tmp_path/'a']

@pytest.mark.parametrize('how', ['environment', 'config'])
def test_wrong_key(how, tmp_path):
    "A server that repeats the key in its refusal is not repeated, nor by the client's own log"
    grid(tmp_path, 2, ['one','two'])
    given = dict(secrets=dict(OPENAI_API_KEY=key)) if how=='environment' else dict(more=dict(openrouter_api_key=key), secrets={})
    given['secrets'] |= dict(OPENAI_LOG='debug')
    with faulty(tmp_path/'log', '--key', 'another') as url: rc,err = run(tmp_path, url, **given)
    assert rc==1 and REMEDIES[401] in err[-1] and 'provided: ***' in err[-1] and any('HTTP Re' in l for l in err), err   # the client's log was on
    assert leaky(tmp_path)==[] and {(o['key'],o['did']) for o in lines(tmp_path/'log')}=={(digest(key),'key')}

@pytest.mark.parametrize('debug', [{}, dict(OPENAI_LOG='debug')], ids=['plain','debug'])
def test_right_key(debug, tmp_path):
    "Errors of every kind that repeat the key, cells that fail with it, and then a whole run: nowhere is any part of it"
    hopeless = '422','html','error body','500'
    grid(tmp_path, 3, ask_about(10)+[f'always {o}!' for o in hopeless])
    port,log,given = free_port(), tmp_path/'log', dict(more=dict(max_retries=3), secrets=dict(OPENAI_API_KEY=key)|debug)
    faults = json.dumps({o: .05 for o in passing if o!='slow'})
    with faulty(log, '--key', key, '--faults', faults, '--always', always(*hopeless), port=port) as url:
        rc,err = run(tmp_path, url, **given)
    assert rc==1 and sum(l.startswith('failed: ') for l in err)>=12 and any('500, said ***' in l for l in err) and journal(answers(tmp_path))
    assert leaky(tmp_path)==[]
    with faulty(log, '--key', key, port=port) as url: rc,err = run(tmp_path, url, **given)
    assert rc==0 and final(answers(tmp_path)) and any('DEBUG' in l or 'HTTP Re' in l for l in err)==bool(debug), err
    assert leaky(tmp_path)==[] and {o['key'] for o in lines(log)}=={digest(key)}

@pytest.mark.parametrize('fault', ['key', '422', 'html'])
def test_key_in_tracebacks(fault, tmp_path, quick):
    "Neither a traceback with all that led to it, nor a log of it, nor the configuration shows the key"
    said = StringIO()
    logger = logging.Logger('a user')
    logger.addHandler(logging.StreamHandler(said))
    with faulty(tmp_path/'log', '--key', 'another' if fault=='key' else key, '--status', fault) as url:
        c = echo(url, openrouter_api_key=key, max_retries=1)
        try:
            try: asyncio.run(agenerate_responses(c, {'a':'x'}, ['one'], tmp_path))
            except RuntimeError as e: raise ValueError('what a user adds') from e
        except ValueError as e:
            logger.exception('it failed')
            text = traceback.format_exc() + repr(e) + repr(e.__cause__) + str(getattr(e.__cause__, 'failed', ''))
    assert '***' in text and '***' in said.getvalue() and {o['key'] for o in lines(tmp_path/'log')}=={digest(key)}
    assert leaks(text+said.getvalue()+repr(c)+str(c))==[]

# memory

remember = '''import asyncio, psutil, sys
from persona_vectors import PersonaVectorConfig
from persona_vectors.generation.endpoint import answer_api
from persona_vectors.generation.answers import Journal
from persona_vectors.responses import Response
j,rss,n = Journal(sys.argv[2]), psutil.Process().memory_info, 0
async def keep(r):
    global n
    await j.keep(r)
    n += 1
    if n in (500,5000): print(rss().rss)
c = PersonaVectorConfig(base_url=sys.argv[1], openrouter_model='echo', max_concurrent_requests=32)
asyncio.run(answer_api((Response('a', f'question {i}', '', 'x') for i in range(5000)), c, keep))
held = bytes(range(256))*80_000
print(rss().rss)'''

def test_memory(tmp_path):
    "Five thousand answers of 4,000 letters take no more of it than five hundred; 20 MB that are held are seen (the control)"
    with faulty(tmp_path/'log', '--says', 'word '*800) as url:
        r = subprocess.run([sys.executable, '-c', remember, url, tmp_path/'run.jsonl'], env=env(), capture_output=True, text=True)
    early,late,held = (int(o)/2**20 for o in r.stdout.split())
    assert late-early<8 and held-late>15 and size(tmp_path/'run.jsonl')==size(tmp_path/'log')==5000

# what an answer depends on

def raw_prompt(r): return RawFormat.write(chat_messages(r.system, r.question))[0]

def test_asks_for_what_changed(tmp_path):
    "Each setting that decides the answers asks for all of them again, each that does not for none, and what is changed in the grid for just that"
    personas,questions,log,out = {o: f'You are {o}.' for o in 'abc'}, ask_about(4), tmp_path/'log', tmp_path/'out'
    with faulty(log) as url:
        base = echo(url)
        def asked(c=base, ps=personas, qs=questions, **kw):
            n = size(log)
            rs = generate_responses(c, ps, qs, out, api=True, **kw)
            assert all(r.text in (f'You said: {r.question}', f'You said: {endpoint.RawFormat.write(endpoint.chat_messages(r.system, r.question))[0]}') for r in rs.rows)
            return Counter(cells(lines(log)[n:]))
        whole = Counter((s,q) for s in personas.values() for q in questions)
        assert asked()==whole and asked()=={}
        there = url.replace('127.0.0.1', 'localhost')
        decide = dict(openrouter_model='other', base_url=there, max_tokens=9, temperature=.5, seed=1, extra_body={'top_p': .5},
                      top_p=.9, top_k=5, min_p=.1, repetition_penalty=1.1, chat_template_kwargs=dict(enable_thinking=False))
        for k,o in decide.items(): assert asked(replace(base, **{k: o}))==whole, k
        assert asked(replace(base, extra_body={'top_p': .6}))==whole
        assert sum(asked(replace(base, prompt_format='raw')).values())==12
        idle = dict(max_concurrent_requests=3, timeout=9., requests_per_minute=1e6, tokens_per_minute=1e9, max_retries=1,
                    openrouter_api_key='k', hf_token='t', base_url=url+'/', extra_body={},
                    model_name='m', layer_fraction=.5, device='cuda:1', dtype='float16', span='last', batch_tokens=1, stream=True, blocks='layers', quantize='4bit', trust_remote_code=True)
        for k,o in idle.items(): assert asked(replace(base, **{k: o}))=={}, k
        assert set(PersonaVectorConfig.__dataclass_fields__)==set(decide)|set(idle)|{'prompt_format'}   # none is left out
        assert asked(ps=personas|{'b':'You are B.'})==Counter(('You are B.',q) for q in questions)
        assert asked(ps=personas|{'b':['You are b.','You are B!']})==Counter(('You are B!',q) for q in questions)
        assert asked(ps=personas|{'d':'You are d.'})==Counter(('You are d.',q) for q in questions)
        assert asked(qs=questions[:3]+['question four'])==Counter((s,'question four') for s in personas.values())
        assert asked(samples=2)==whole and asked(samples=3)==whole                  # one more of each
        assert asked(extra={'b': ['to b']})=={('You are b.','to b'): 1}
        assert asked(ps={'a': personas['a']})==asked(qs=questions[::-1])==asked()=={}
    assert {o['seed'] for o in lines(log)}=={0,1,2}                                 # a sample has a seed of its own
