"Published vectors as files and folders: what each becomes, in Python and at the command line, and what is refused by name"
import json, logging, re, sys
import numpy as np, pandas as pd, pytest, torch
from persona_vectors.analysis.axis import assistant_axis, project, rank_personas, role_pca
from persona_vectors.cli import main
from persona_vectors.extraction.vectors import PersonaVectors, load_vectors
from persona_vectors.steering.interop import export_direction, export_roles, import_file, load_direction
from tiny import files, make_llama

L,D = 2,32
names = 'analyst bard ghost jester oracle'.split()
g = torch.Generator().manual_seed(0)
base,toward = 20*torch.randn(L, D, generator=g),torch.randn(L, D, generator=g)
roles = {p: base+.3*torch.randn(L, D, generator=g)-.2*i*toward for i,p in enumerate(names)}
default = base+2*toward
axis = default-torch.stack(list(roles.values())).mean(0)
traits = {f'{t}_{k}': torch.randn(L+1, D, generator=g) for t,k in (('evil','response_avg'),('evil','prompt_last'),('calm','response_avg'))}

def save(path, x):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(x, path)

@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "A model, and beside it files of every kind"
    d = tmp_path_factory.mktemp('published')
    make_llama(d/'llama', D, L)
    hub = d/'hub'/'llama-2l'                                                # as on the hub: bare bfloat16 tensors
    for p,x in roles.items(): save(hub/'role_vectors'/f'{p}.pt', x.bfloat16())
    for k in ('calm','evil'): save(hub/'trait_vectors'/f'{k}.pt', traits['calm_response_avg'][:L].bfloat16())
    for k,x in dict(default_vector=default, assistant_axis=axis).items(): save(hub/f'{k}.pt', x.bfloat16())
    save(hub/'capping_config.pt', dict(vectors={'a': dict(vector=axis[1], layer=1)}, experiments=[dict(id='x', interventions=[dict(vector='a', cap=1.)])]))
    for p,x in (roles | {'default': default}).items(): save(d/'vectors'/f'{p}.pt', dict(vector=x, type='mean' if p=='default' else 'pos_3', role=p))
    for p,x in (('bard',roles['bard']), ('ghost',roles['ghost'])): save(d/'kinds'/f'{p}.pt', dict(vector=x, type='pos_3', role=p))
    save(d/'kinds'/'bard2.pt', dict(vector=roles['jester'], type='pos_2', role='bard'))
    save(d/'kinds'/'default.pt', dict(vector=default, type='mean', role='default'))
    for k,x in traits.items(): save(d/'chen'/f'{k}_diff.pt', x)
    for k in ('a','b'): save(d/'mixed'/f'{k}_response_avg_diff.pt', torch.ones(L+1, D if k=='a' else 8))
    for p in ('bard','ghost'): save(d/'deep'/'role_vectors'/f'{p}.pt', torch.cat([roles[p]]*(2 if p=='bard' else 1)))
    save(d/'deep'/'default_vector.pt', default)
    hole = roles['bard'].clone()
    hole[1,3] = float('nan')
    for k,x in dict(bard=hole, default_vector=default, ghost=roles['ghost']).items(): save(d/'nan'/f'{k}.pt', x)
    for k,x in dict(optimizer=torch.optim.Adam([torch.nn.Parameter(torch.zeros(3))]).state_dict(), three=torch.zeros(2, 3, 4), list=[axis], answers={'pos_p0_q0': axis},
                    weights={'lm_head.weight': axis}, mean=axis, object=Thing()).items(): save(d/'odd'/f'{k}.pt', x)
    (d/'role_list.json').write_text('{"bard": "A wandering singer who tells of heroes.", "ghost": "A restless spirit."}')
    return d

class Thing: pass

def hub(made): return made/'hub'/'llama-2l'
def model(made): return str(made/'llama')

# What each becomes

def test_a_folder_of_the_hub(made):
    "Roles and the default, each row one layer up from its block; with and without the model"
    for v in (load_vectors(hub(made)), import_file(hub(made), model(made)), import_file(hub(made))):
        assert (v.neutral, v.roles, v.layers, v.published) == (['default'], names, [1,2], True)
        for k in (1,2):
            assert torch.equal(v.at(k)['bard'], roles['bard'][k-1].bfloat16().float()) and torch.equal(v.at(k)['default'], default[k-1].bfloat16().float())
        assert not torch.equal(v.at(2)['bard'], roles['bard'][0].bfloat16().float())                  # control: the row below
        np.testing.assert_allclose(assistant_axis(v.at(2)).vector, axis[1], atol=.2)
        assert 'trait_vectors' in v.meta['read from'] and 'assistant_axis.pt' in v.meta['read from']
    assert import_file(hub(made), model(made)).model=='llama' and load_vectors(hub(made)).model=='not recorded'

def test_the_numbers_of_the_files(made):
    "Ranking, components and projections are those of the tensors, by hand"
    v = load_vectors(made/'vectors', layer=2)
    x = {p: t[1].double().numpy() for p,t in (roles | {'default': default}).items()}
    rank = rank_personas(v)
    assert rank.index[0]=='default' and rank.se.isna().all()
    for p in names:
        others = np.mean([x[o] for o in names if o!=p], 0)
        u = x['default']-others
        np.testing.assert_allclose(rank.projection[p], (x[p]-np.mean([x[o] for o in names], 0))@u/np.linalg.norm(u), rtol=1e-4)
    r = np.stack([x[p] for p in names])
    s = np.linalg.svd(r-r.mean(0), compute_uv=False)**2
    np.testing.assert_allclose(role_pca(v).variance_ratio, (s/s.sum())[:4], rtol=1e-4)
    np.testing.assert_allclose(project(v.only(['bard']), assistant_axis(v))['bard'], x['bard']@axis[1].double().numpy()/axis[1].double().norm().item(), rtol=1e-4)

def test_types_of_one_role(made):
    "pos_3 and pos_2 of one role are two personas, and are written as they were"
    v = load_vectors(made/'kinds')
    assert set(v)=={'default','bard','bard_pos_2','ghost'} and v.meta['types']=={'bard_pos_2': 'pos_2'}
    assert torch.equal(v.at(1)['bard'], roles['bard'][0]) and torch.equal(v.at(1)['bard_pos_2'], roles['jester'][0])
    export_roles(v, made/'kinds_again', model(made))
    again = load_vectors(made/'kinds_again')
    assert again.meta['types']==v.meta['types'] and all(torch.equal(again[p], v[p]) for p in v)

@pytest.mark.parametrize('name', ['default_vector.pt', 'role_vectors/bard.pt'])
def test_a_persona_is_no_axis(made, name):
    "It was silently an axis; it is a persona, whether or not a format is said"
    p = hub(made)/name
    for got in (load_vectors(p), import_file(p), import_file(p, model(made)), import_file(p, model(made), 'assistant-axis')):
        assert isinstance(got, PersonaVectors) and len(got)==1 and got.layers==[1,2]
    assert import_file(p).neutral==(['default'] if 'default' in name else [])
    with pytest.raises(ValueError, match='and no direction, which is a difference of two') as e: load_direction(p, model=model(made), layer=1)
    assert '\n' not in str(e.value) and p.name in str(e.value)

def test_nothing_says_what_it_is(made):
    "A tensor of as many rows as blocks is not an axis because of that"
    for f in (import_file, lambda p, m: load_direction(p, model=m, layer=1)):
        with pytest.raises(ValueError, match='nothing says what its tensor is'): f(made/'odd'/'mean.pt', model(made))
    assert list(import_file(made/'odd'/'mean.pt', model(made), 'assistant-axis'))==[1,2]              # unless it is said
    (made/'odd'/'an_axis.pt').write_bytes((made/'odd'/'mean.pt').read_bytes())
    assert torch.equal(load_direction(made/'odd'/'an_axis.pt', model=model(made), layer=2).vector, axis[1])

def test_traits(made, tmp_path):
    "A folder of Chen et al. in both directions; a folder of the Assistant Axis' traits"
    got = import_file(made/'chen', model(made))
    assert {k: list(o) for k,o in got.items()} == dict.fromkeys(sorted(traits), [0,1])
    for k,o in got.items():
        for i,d in o.items(): assert torch.equal(d.vector, traits[k][i]) and k.split('_')[0] in d.orientation and d.layer==i
    export_direction(got, tmp_path/'again', 'persona_vectors', model(made))
    assert sorted(p.name for p in (tmp_path/'again').iterdir())==sorted(f'{k}_diff.pt' for k in traits)
    for k,x in traits.items():
        there = torch.load(tmp_path/'again'/f'{k}_diff.pt', weights_only=True)
        assert there.shape==(L+1,D) and torch.equal(there[:L], x[:L]) and there[L].isnan().all()
    theirs = import_file(hub(made)/'trait_vectors')
    assert list(theirs)==['calm','evil'] and list(theirs['calm'])==[1,2] and theirs['calm'][1].made_of is None
    with pytest.raises(ValueError, match='is a folder'): load_direction(made/'chen', model=model(made), layer=1)

WRONG = {'mixed': 'b_response_avg_diff.pt holds \\(3, 8\\), and the others \\(3, 32\\)|a_response_avg_diff.pt holds', 'deep': 'bard.pt holds \\(4, 32\\), and the others',
         'nan': 'row 1 of bard.pt holds numbers that are not finite', 'hub': 'a folder for each model: name one of llama-2l', 'odd/optimizer.pt': 'an optimizer',
         'odd/three.pt': 'of 3 dimensions', 'odd/list.pt': 'a list', 'odd/answers.pt': 'single answers', 'odd/weights.pt': "a model's weights",
         'odd/object.pt': 'nothing is unpickled', 'role_list.json': 'it is JSON', 'hub/llama-2l/capping_config.pt': 'a capping of assistant-axis', 'llama': 'there is no .pt file'}

@pytest.mark.parametrize('name', WRONG)
def test_refused_by_name(made, name):
    before = files(made)
    for f in (load_vectors, import_file, lambda p: import_file(p, model(made))):
        with pytest.raises(ValueError) as e: f(made/name)
        if name!='mixed' or f is not load_vectors: assert re.search(WRONG[name], str(e.value)), str(e.value)
        assert '\n' not in str(e.value) and name.split('/')[-1] in str(e.value)
    if (made/name).is_file():
        with pytest.raises(ValueError): load_direction(made/name, model=model(made), layer=1)
    assert files(made)==before

# At the command line

@pytest.fixture
def run(monkeypatch, tmp_path, capsys, caplog):
    "Runs a command in a folder of its own, in this process; its exit status, what it printed and logged, and its errors"
    def go(line, made):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, 'argv', ['persona-vectors', *(o.format(made=made, hub=hub(made)) for o in line.split())])
        with caplog.at_level(logging.INFO), pytest.raises(SystemExit) as e: main()
        out,err = capsys.readouterr()
        return e.value.code or 0,out+caplog.text,err
    return go

RUNS = {                                                                    # command, what it says
    'info {hub}': '5 role vectors of assistant-axis and the default persona', 'info {hub}/default_vector.pt': '1 personas × 32', 'info {made}/chen': '3 directions, layers 0, 1',
    'info {hub}/assistant_axis.pt': 'mean of the default persona minus mean of the roles', 'info {hub}/trait_vectors': '2 directions', 'info {made}/kinds': '1 of type pos_2',
    'import {hub} --layer 2 --model {made}/llama --out roles.safetensors': 'roles.safetensors', 'import {made}/chen/evil_response_avg_diff.pt': 'answers with evil minus answers without',
    'plot {hub} --layer 2': 'ranking.html', 'report {hub} --layer 2': 'These means cannot say', 'report {hub}': 'layer 2, the highest in',
    'report {hub} --layer 2 --direction bard,ghost': 'coordinates', 'export {hub} axis.pt --format assistant-axis --model {made}/llama': 'axis.pt',
    'export {made}/chen traits --format persona_vectors --model {made}/llama': 'traits', 'export {hub} again --format roles --model {made}/llama': 'again',
    'export {hub}/assistant_axis.pt axis.gguf --format gguf --layer 2 --model {made}/llama': 'axis.gguf',
    'steer Who? --model {made}/llama --vectors {hub} --layer 2 --coef 1 --max-tokens 2': 'mean of default minus mean of 5 roles',
    'steer Who? --model {made}/llama --vectors {hub} --direction bard,default --layer 2 --coef 1 --max-tokens 2': 'bard minus default',
    'steer Who? --model {made}/llama --vectors {hub} --direction {made}/chen/evil_response_avg_diff.pt --layer 1 --coef 1 --max-tokens 2': 'answers with evil',
    'monitor {made}/talk.json --model {made}/llama --vectors {hub} --layer 2': 'axis, layer 2',
    'steer Who? --model {made}/llama --direction {made}/chen/evil_response_avg_diff.pt --layer 1 --coef 1 --max-tokens 2': 'answers with evil',
    'monitor {made}/talk.json --model {made}/llama --direction {made}/chen/evil_response_avg_diff.pt --layer 0.5': 'answers with evil'}
STOPS = {                                                                   # command, what the one line has
    'info {made}/hub': 'name one of llama-2l', 'info {made}/mixed': 'and the others', 'info {made}/deep': 'bard.pt holds (4, 32)', 'info {made}/nan': 'row 1 of bard.pt',
    'report {hub}/role_vectors --layer 2': 'there is no neutral persona', 'report {hub} --layer 2 --direction {hub}/default_vector.pt': 'and no direction',
    'report {hub} --layer 2 --reading {hub}': '--reading: ', 'report {hub} --layer 2 --responses {made}/answers.json --min-score 3': '--responses, --min-score: ',
    'report {hub} --layer 2 --min-answers 3 --strict': 'neither questions nor answers; leave them out', 'plot {made}/odd/optimizer.pt': 'an optimizer', 'plot {made}/chen': 'directions of traits', 'plot {made}/role_list.json': 'it is JSON', 'import {made}/odd/mean.pt': 'nothing says what its tensor is',
    'import {made}/odd/object.pt --model {made}/llama': 'nothing is unpickled', 'import {made}/chen --out all.gguf': 'a file for each', 'import {made}/chen/evil_response_avg_diff.pt --layer 1 --out evil.gguf': '--model',
    'export {hub} axis.gguf --format gguf --layer 2': '--model', 'export {made}/chen all --format assistant-axis --model {made}/llama': 'an assistant-axis file holds',
    'export {made}/chen all --format gguf --model {made}/llama --layer 1': 'no place for layer 1', 'export {hub}/default_vector.pt d.gguf --format gguf --layer 2 --model {made}/llama': '0 roles beside the neutral default',
    'steer Who? --vectors {hub} --layer 2': 'is of a model of 2 blocks, 32 wide, and smollm2-135m-instruct has 30, 576 wide',
    'steer Who? --model {made}/llama --vectors {hub} --layer 2 --direction {hub}/default_vector.pt': 'the vector of default, and no direction',
    'steer Who? --model {made}/llama --vectors {hub} --layer 2 --direction {hub}': 'is a folder',
    'monitor {made}/talk.json --model {made}/llama --vectors {hub} --layer 2 --direction {hub}/role_vectors/bard.pt': 'the vector of bard, and no direction',
    'steer Who? --model {made}/llama --direction none.gguf': 'there is no direction file none.gguf', 'steer Who? --model {made}/llama --direction bard,ghost': 'or the file of a direction with --direction',
    'monitor {made}/talk.json --model {made}/llama --direction {made}/chen/evil_response_avg_diff.pt': 'choose one with layer= (--layer)'}

@pytest.fixture(scope='module', autouse=True)
def talk(made):
    (made/'answers.json').write_text(json.dumps({json.dumps([p, 'Who?']): 'Me.' for p in names}))
    (made/'talk.json').write_text('[{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "A helper."}]')

@pytest.mark.parametrize('line', RUNS)
def test_runs(made, run, line):
    code,out,err = run(line, made)
    assert code==0 and RUNS[line] in ' '.join(out.split()), out+err
    if '--layer' in line and '{hub} ' in line and 'export' not in line: assert out.count('one mean a persona, no answers')==1     # one line says what was made of it

@pytest.mark.parametrize('line', STOPS)
def test_stops(made, run, tmp_path, line):
    code,_,err = run(line, made)
    assert code==1 and err.startswith('persona-vectors: ') and len(err.splitlines())==1 and STOPS[line] in err, err
    assert files(tmp_path)=={}

def test_page_of_means(made, run, tmp_path):
    "The report of means is a page too, with the numbers of the table"
    for options,says in (('', 'Personas along the assistant axis'), (' --direction bard,ghost', 'Personas along a direction: bard minus ghost')):
        code,out,_ = run('report {hub} --layer 2'+options, made)
        page,table = (tmp_path/o for o in out.splitlines() if o.endswith(('report.html','report.csv')))
        assert code==0 and page.with_suffix('.csv')==table
        text = page.read_text()
        assert says in text and 'These means cannot say' not in text and 'cannot say' in text and '<script src' not in text
        for k in ('ranking','variance','similarity','pca'): assert f'id="fig-{k}"' in text
        found = pd.read_csv(table).query("section=='ranking' and quantity=='projection'").set_index('item').value.astype(float)
        assert set(found.index)=={*names, 'default'} and all(re.search(rf'<th>{p}</th>(<td[^>]*>[^<]*</td>)?<td class=n>{x:.2f}'.replace('-', '−'), text) for p,x in found.items())
