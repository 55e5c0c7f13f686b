"Wrong input to the console script, in a folder of its own: one line that names it, a non-zero exit, and nothing written"
import json, os, re, shutil, subprocess, sys
from pathlib import Path
import pytest
from odd import called
from persona_vectors.config import data_dir
from tiny import cli, env, files, forked, make_llama, said, script

who,asked = ('default','bard','ghost','jester'), ['Why do people dream?', 'What makes for a good life?']

@pytest.fixture(scope='module')
def inputs(tmp_path_factory):
    "Good and bad files, by name"
    import torch
    from persona_vectors.extraction.vectors import PersonaVectors, Row
    d = tmp_path_factory.mktemp('inputs')
    def write(name, x): (d/name).write_text(x if isinstance(x, str) else json.dumps(x))
    def seed(**kw): return {json.dumps([p,q]): f'An answer of {p}.' for p in who for q in asked} | kw
    write('q.json', asked)
    write('good.json', seed())
    write('lacking.json', {k:v for k,v in seed().items() if 'bard' not in k})
    write('empty.json', seed() | {json.dumps(['ghost',asked[1]]): ' \n'})
    write('torn.json', json.dumps(seed())[:-40])
    write('rows.json', dict(format='persona_vectors.responses/1', meta={}, responses=[1]))
    write('blank.json', '')
    v = PersonaVectors(torch.randn(8, 1, 8), [Row(p, q, n_tokens=5) for p in who for q in asked], [3], dict(model='llama', num_layers=30))
    for o in ('good.safetensors', 'torn.safetensors', 'good.pt', 'torn.pt'): v.save(d/o)
    for o in ('torn.safetensors', 'torn.pt'): os.truncate(d/o, (d/o).stat().st_size//2)
    write('noise.safetensors', 'noise'*50)
    write('noise.gguf', 'noise'*50)
    (d/'folder').mkdir()
    make_llama(d/'llama')
    make_llama(d/'torn_llama')
    os.truncate(d/'torn_llama'/'model.safetensors', 100_000)
    return d

def filled(args, inputs):
    "The words of `args`: {name} is a file of `inputs`, {shipped} the folder that holds the package's data, {grid} the personas and questions that the files hold"
    grid = f'--personas {",".join(who)} --questions {inputs/"q.json"}'
    return args.replace('{grid}', grid).replace('{shipped}', str(data_dir().parent)).replace('{', f'{inputs}/').replace('}', '').split()

def work(r): return [o for o in said(r) if not re.match(r'extracting |  \d|.*: the embedding|.*: read as by ', o)]   # the log says what was begun, and the plan of reading

def refused(r, *names):
    "Is `r` one line that names what is wrong, and a non-zero exit?"
    assert r.returncode not in (0,None) and len(work(r))==1, r.stderr
    line, = work(r)
    assert line.startswith('persona-vectors: ') and 'Traceback' not in r.stderr
    assert [o for o in names if o not in line]==[], line
    return True

wrong = dict(
  model = [
    ('extract {good.json} {grid} --model {folder}', 'folder', 'config.json'),
    ('extract {good.json} {grid} --model gone.gguf', 'gone.gguf'),
    ('extract {good.json} {grid} --model {noise.gguf}', 'noise.gguf'),
    ('extract {good.json} {grid} --model nobody/no-such-model', 'nobody/no-such-model'),
    ('extract {good.json} {grid} --model {torn_llama}', 'torn_llama'),
    ('generate {grid} --model gone/folder', 'gone/folder'),
    ('run {grid} --model {folder}', 'folder', 'config.json'),],
  who = [
    ('generate --personas default,brad', "'brad'", 'bard'),
    ('run --personas default,brad', "'brad'", 'bard'),
    ('run --personas bard,ghost', 'neutral', "'default'"),
    ('extract {good.json} --personas gone.yaml', 'gone.yaml'),
    ('extract {good.json} --questions gone.txt', 'gone.txt'),
    ('preview {good.json} --persona brad', "'brad'", 'bard'),
    ('preview {good.json} --question 2', 'question 2'),],
  layer = [
    ('extract {good.json} {grid} --layer 31', '31', '30 blocks'),
    ('extract {good.json} {grid} --layer 0,31', '31', '30 blocks'),
    ('extract {good.json} {grid} --layer top', "'top'"),
    ('extract {good.json} {grid} --layer 1.5', '1.5', '30 blocks'),
    ('run --layer 31', '31', '30 blocks'),
    ('run --layer all', 'all'),
    ('plot {good.safetensors} --layer 7', 'layer 7', '[3]'),
    ('plot {good.pt} --layer 0.65', 'layer', 'give its index'),],
  answers = [
    ('extract gone.json', 'gone.json'),
    ('extract {lacking.json} {grid} --strict', "'bard'", asked[0]),
    ('extract {empty.json} {grid}', "'ghost'", asked[1], 'empty'),
    ('extract {torn.json} {grid}', 'torn.json'),
    ('extract {rows.json} {grid}', 'rows.json'),
    ('extract {blank.json} {grid}', 'blank.json'),
    ('run --responses {lacking.json} {grid} --strict', "'bard'", asked[0]),
    ('run --responses {empty.json} {grid}', "'ghost'", asked[1], 'empty'),
    ('run --responses {torn.json} {grid}', 'torn.json'),
    ('info {torn.json}', 'torn.json'),],
  vectors = [
    ('plot gone.safetensors', 'gone.safetensors'),
    ('plot {torn.safetensors}', 'torn.safetensors'),
    ('info {torn.safetensors}', 'torn.safetensors'),
    ('plot {noise.safetensors}', 'noise.safetensors'),
    ('plot {torn.pt}', 'torn.pt'),
    ('info {torn.pt}', 'torn.pt'),],
  settings = [
    ('extract {good.json} {grid} --dtype int8', 'dtype', "'int8'", 'bfloat16'),
    ('run --prompt-format xml', 'prompt_format', "'xml'", 'raw'),
    ('extract {good.json} {grid} --span all', 'span', "'all'", 'prompt_last'),
    ('generate --max-tokens 0', 'max_tokens', '0'),
    ('extract {good.json} {grid} --model {llama} --device abacus', 'device', "'abacus'"),
    ('extract {good.json} {grid} --model {llama} --read-under brad', "'brad'"),
    ('run --fresh --out {shipped} --layer all', '--fresh', 'data')])

def check(run, args, names, inputs, cwd, **kw):
    "One line, non-zero, nothing written: neither here nor among the inputs"
    before = files(inputs)
    cwd.mkdir(exist_ok=True)
    assert refused(run(*filled(args, inputs), cwd=cwd, **kw), *names)
    assert list(cwd.iterdir())==[] and files(inputs)==before

@pytest.mark.parametrize('case', [o for os in wrong.values() for o in os], ids=lambda o: o[0])
def test_refused(case, inputs, tmp_path): check(forked, case[0], case[1:], inputs, tmp_path/'cwd', said=tmp_path)

@pytest.mark.parametrize('case', [os[0] for os in wrong.values()], ids=lambda o: o[0])
def test_refused_by_the_script(case, inputs, tmp_path):
    "The first of each kind again, with the script itself"
    check(cli, case[0], case[1:], inputs, tmp_path)

@pytest.mark.parametrize('args,made', [
    ('extract {good.json} {grid} --model {llama}', 'data/persona_vectors'), ('generate {grid} --model {llama} --max-tokens 2', 'data/responses'),
    ('plot {good.safetensors}', 'images/tmp'), ('plot {good.pt} --layer 3', 'images/tmp'), ('info {good.pt}', None), ('info {good.json}', None)])
def test_refused_control(args, made, inputs, tmp_path):
    "The right input beside it is taken, and makes what it should"
    r = cli(*filled(args, inputs), cwd=tmp_path)
    assert r.returncode==0, r.stderr
    assert {Path(o).parent.as_posix() for o in files(tmp_path)} == ({made} if made else set())

def test_lacking_device(inputs, tmp_path):
    "A device that this machine does not have"
    import torch
    if torch.cuda.is_available(): pytest.skip('this machine has CUDA')
    assert refused(cli(*filled('extract {good.json} {grid} --model {llama} --device cuda', inputs), cwd=tmp_path), 'cuda')
    assert list(tmp_path.iterdir())==[]

def test_fresh_keeps_the_shipped_data(tmp_path):
    "`--fresh` sees through a link and a roundabout path to the folder that holds the package's data, and changes nothing in it"
    before = files(data_dir())
    (tmp_path/'link').symlink_to(data_dir().parent)
    for out in (data_dir().parent, 'link', 'link/data/..'): assert refused(cli('run', '--fresh', '--layer', 'all', '--out', out, cwd=tmp_path), '--fresh')
    assert files(data_dir())==before and [p.name for p in tmp_path.iterdir()]==['link']

def test_out_of_memory(inputs, tmp_path, monkeypatch):
    "What does not fit into memory is one line too"
    from persona_vectors.generation.answers import Generation
    def run(self): raise MemoryError("persona 'bard', question 'Why?': its answer does not fit into memory by itself: give a smaller --max-tokens")
    monkeypatch.setattr(Generation, 'run', run)
    r = called(*filled('generate --personas bard --model {llama}', inputs), cwd=tmp_path)
    assert refused(r, 'does not fit into memory')

def test_secret_is_not_said(tmp_path):
    "A failure with a key in the environment does not show it"
    key = 'sk-or-v1-not-a-real-key'
    r = subprocess.run([script, *'generate --api --base-url http://127.0.0.1:9 --api-model m --personas default --dtype int8'.split()], cwd=tmp_path,
                       env=env(OPENROUTER_API_KEY=key, HF_TOKEN=key), capture_output=True, text=True)
    assert refused(r, 'dtype') and key not in r.stdout+r.stderr

# a full disk

limited = 'import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),)*2); os.execv(sys.argv[2], sys.argv[2:])'

def cramped(size, *args, cwd):
    "Run the console script where no file can grow beyond `size` bytes"
    pytest.importorskip('resource')
    return subprocess.run([sys.executable, '-c', limited, str(size), script, *args], cwd=cwd,
                          env=env(PYTHONDONTWRITEBYTECODE='1'), capture_output=True, text=True)

def test_file_does_not_fit(inputs, tmp_path):
    "One line that names the place, and no half file; with enough room the same command writes it"
    args = filled('extract {good.json} {grid} --model {llama}', inputs)
    r = cramped(1000, *args, cwd=tmp_path)
    assert r.returncode!=0 and len(work(r))==1 and 'File too large' in work(r)[0], r.stderr
    assert 'persona_vectors' in work(r)[0].removeprefix('persona-vectors: '), 'the line does not say which file'
    assert files(tmp_path)=={}
    assert cramped(1_000_000, *args, cwd=tmp_path).returncode==0 and len(files(tmp_path))==1

def test_pt_does_not_fit(tmp_path):
    "The `.pt` goes the same way: an OSError that says so, and no half file"
    src = '''import torch
from persona_vectors.extraction.vectors import PersonaVectors, Row
try: PersonaVectors(torch.randn(2, 1, 5000), [Row(p, 'q') for p in 'ab'], [3]).save('v.pt')
except OSError as e: print(e)'''
    r = subprocess.run([sys.executable, '-c', limited, '1000', sys.executable, '-c', src], cwd=tmp_path, env=env(PYTHONDONTWRITEBYTECODE='1'), capture_output=True, text=True)
    assert 'File too large' in r.stdout, r.stderr
    assert files(tmp_path)=={}

def test_answers_do_not_fit(inputs, tmp_path):
    "Generation stops with one line; what was answered is kept, and with room again the same command ends as if nothing had happened"
    args = filled('generate {grid} --model {llama} --max-tokens 40', inputs)
    for o in 'ab': (tmp_path/o).mkdir()
    r = cramped(1000, *args, cwd=tmp_path/'a')
    assert r.returncode!=0 and len(work(r))==1 and 'File too large' in work(r)[0], r.stderr
    assert [Path(o).suffix for o in files(tmp_path/'a')] in ([], ['.jsonl'])
    for o in 'ab': assert cli(*args, cwd=tmp_path/o).returncode==0
    assert files(tmp_path/'a')==files(tmp_path/'b') and len(files(tmp_path/'a'))==1

on_tmpfs = 'mount -t tmpfs -o size=64k tmpfs disk && head -c 60000 /dev/zero > disk/filler && cd disk && "$@"; rc=$?; ls -AR >../listing; exit $rc'

def test_full_disk(inputs, tmp_path):
    "A disk of 64 KB, nearly full and mounted for this process alone: the line says that there is no space, and no half file is left behind; means that were read may be"
    (tmp_path/'disk').mkdir()
    def on_disk(*args): return subprocess.run(['unshare', '-m', 'sh', '-c', on_tmpfs, 'sh', *args], cwd=tmp_path, env=env(), capture_output=True, text=True)
    if not shutil.which('unshare') or on_disk('true').returncode: pytest.skip('mounting needs Linux and root')
    r = on_disk(script, *filled('extract {good.json} {grid} --model {llama}', inputs))
    assert r.returncode!=0 and len(work(r))==1 and 'No space left on device' in work(r)[0], r.stderr
    assert 'persona_vectors' in work(r)[0].removeprefix('persona-vectors: '), 'the line does not say which file'
    left = (tmp_path/'listing').read_text()
    assert 'filler' in left and 'safetensors' not in left
