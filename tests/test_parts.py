"The examples of shards, as their launchers would run them; a package without Ray"
import os, psutil, shutil, subprocess, sys
from pathlib import Path
import pandas as pd, pytest, torch, yaml
from safetensors.torch import load_file, save_file
from persona_vectors import extract_persona_vectors, ActivationExtractor, PersonaVectorConfig, load_vectors, shipped_responses
from persona_vectors.responses import as_json
from tiny import cli, env, make_llama, said, script

examples = Path(__file__).parent.parent/'examples'

@pytest.fixture(scope='module')
def here(tmp_path_factory):
    "A folder with a tiny model, sixty answers, and their vectors"
    d = tmp_path_factory.mktemp('parts')
    make_llama(d/'tiny')
    rs = shipped_responses()
    (d/'answers.jsonl').write_text('\n'.join(as_json(r) for r in rs.rows if r.persona in ('default','ghost','oracle','bard') and r.question in rs.questions[:15]))
    prompts = {p: rs.prompts()[p] for p in ('default','ghost','oracle','bard')}
    ex = ActivationExtractor(PersonaVectorConfig(model_name=str(d/'tiny'), dtype='float32'))
    return d, extract_persona_vectors(ex, prompts, rs.questions[:15], rs, 1, progress=False)

def run(cmd, here, **kw):
    return subprocess.run(['bash', *map(str, cmd)], cwd=here, capture_output=True, text=True, check=True, env=env(PATH=f'{script.parent}:{os.environ["PATH"]}', **kw)).stdout

def near(path, plain):
    v = load_vectors(path)
    assert v.rows==plain.rows
    assert torch.allclose(v.stacked(), plain.stacked(), atol=1e-6)
    assert not torch.allclose(v.stacked()[[1,0,2,3]], plain.stacked(), atol=1e-6)    # the control

EXACT = '--dtype float32 --layer 1'.split()

def merged(folder, d):
    path, = (folder/'data/persona_vectors').glob('*.parts')
    return run(['-c', f'persona-vectors merge {path}'], d).strip()

def test_processes(here):
    d,plain = here
    out = run([examples/'processes.sh', 2, d/'answers.jsonl', d/'tiny', d/'p', *EXACT], d).splitlines()
    near(out[-1], plain)

def test_processes_end_together(tmp_path):
    fake = tmp_path/'persona-vectors'                                                # the first shard fails once the second is there, which is never done
    fake.write_text('#!/bin/bash\nif [[ "$*" == *2/2* ]]; then echo $$ >pid; exec sleep 999; fi; while [ ! -s pid ]; do sleep .05; done; exit 3\n')
    fake.chmod(0o755)
    r = subprocess.run([examples/'processes.sh', '2', 'answers', 'model', 'out'], cwd=tmp_path, env=env(PATH=f'{tmp_path}:{os.environ["PATH"]}'), timeout=60)
    assert r.returncode==3 and not psutil.pid_exists(int((tmp_path/'pid').read_text()))

def test_slurm(here):
    d,plain = here
    for i in (2,1): run([examples/'slurm.sh', 2, d/'answers.jsonl', d/'tiny', d/'s', *EXACT], d, SLURM_ARRAY_TASK_ID=str(i))
    near(merged(d/'s', d), plain)

def test_skypilot(here):
    d,plain = here
    job = yaml.safe_load((examples/'skypilot.yaml').read_text())
    assert job['envs'].keys()=={'MODEL','ANSWERS','OUT','OPTIONS'}
    for i in (0,1): run(['-c', job['run']], d, ANSWERS=str(d/'answers.jsonl'), MODEL=str(d/'tiny'), OUT=str(d/'y'), OPTIONS=' '.join(EXACT), SKYPILOT_NODE_RANK=str(i), SKYPILOT_NUM_NODES='2')
    near(merged(d/'y', d), plain)

def test_a_shard_is_missing(here):
    d,_ = here
    path = cli('extract', d/'answers.jsonl', '--model', d/'tiny', '--out', d/'m', '--shard', '1/2', *EXACT, cwd=d).stdout.strip()
    r = cli('merge', path, cwd=d)
    assert r.returncode==1 and 'answers are in no part' in said(r)[-1]
    r = cli('extract', d/'answers.jsonl', '--shard', '3/2', cwd=d)
    assert r.returncode==1 and '3/2: give i/n' in said(r)[-1]

def test_without_ray(here):
    d,_ = here
    gone = "import sys; sys.modules['ray'] = None; from persona_vectors.cli import main; main()"
    r = subprocess.run([sys.executable, '-c', gone, 'extract', d/'answers.jsonl', '--model', d/'tiny', '--ray', 'local'], cwd=d, env=env(), capture_output=True, text=True)
    assert r.returncode==1 and 'pip install "persona-vectors-lab[ray]"' in said(r)[-1]

def test_ray_from_the_command_line(here):
    d,plain = here
    r = cli('extract', d/'answers.jsonl', '--model', d/'tiny', '--out', d/'r', '--ray', 'local', '--actors', 1, *EXACT, cwd=d)
    assert not r.returncode, r.stderr
    near(d/r.stdout.strip(), plain)
    again = cli('extract', d/'answers.jsonl', '--model', d/'tiny', '--out', d/'r', '--ray', 'local', '--actors', 1, *EXACT, cwd=d)
    assert again.stdout==r.stdout and '0 of 60 answers' in again.stderr

def test_one_of_two_models_on_ray(here):
    d,plain = here
    shutil.copytree(d/'tiny', d/'bad')
    w = {k: o*float('nan') for k,o in load_file(d/'bad/model.safetensors').items()}
    save_file(w, d/'bad/model.safetensors', {'format':'pt'})
    r = cli('extract', d/'answers.jsonl', '--model', d/'bad', '--model', d/'tiny', '--out', d/'two', '--ray', 'local', '--actors', 1, *EXACT, cwd=d)
    assert r.returncode==1 and 'answers cannot be read' in said(r)[-1], r.stderr
    near(d/r.stdout.strip(), plain)                                                  # the other one is read, and merged

def test_report_on_parts(here):
    d,_ = here
    path = Path(cli('extract', d/'answers.jsonl', '--model', d/'tiny', '--out', d/'w', '--shard', '1/1', '--layer', '0,1', '--dtype', 'float32', cwd=d).stdout.strip())
    whole = cli('merge', path, cwd=d).stdout.strip()
    tables = []
    for o in (path, whole):
        r = cli('report', o, '--resamples', 40, '--layer', 1, '--out', d/'pages'/Path(o).suffix[1:], cwd=d)
        assert not r.returncode, r.stderr
        tables.append(pd.read_csv(d/r.stdout.split()[-1]))
    parts,file = (t[(t.section=='ranking') & (t.quantity!='category')].set_index(['item','quantity']).value.astype(float) for t in tables)
    assert len(file)==4*4 and (parts-file).abs().max()<1e-9<file.abs().max()
    for args,says in ((['report', path, '--layer', '0.2,1'], 'give one layer'), (['report', path, '--min-score', 2], '--min-score: '),
                      (['plan-study', path], 'persona-vectors merge')):
        r = cli(*args, cwd=d)
        assert r.returncode==1 and says in said(r)[-1] and len(said(r))==1, r.stderr
