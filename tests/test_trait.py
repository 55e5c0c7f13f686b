"A trait from its file to the page: killed anywhere, the same command goes on, and the end is that of a run that was left alone"
import json, signal, subprocess
import pytest
from tiny import cli, env, files, heeds, make_llama, script, stop, until

few = dict(instruction=[dict(pos=f'Be loud, way {i}.', neg=f'Be quiet, way {i}.') for i in range(2)], questions=[f'What of number {i}?' for i in range(8)],
           eval_prompt='How loud is this, from 0 to 100?\n{question}\n{answer}')
args = '--dtype', 'float32', '--device', 'cpu', '--max-tokens', '6', '--layers', '1,2', '--doses', '0.001,0.002', '--coef', '1', '--controls', '1'

@pytest.fixture(scope='module')
def walked(tmp_path_factory):
    "A folder with a model and a trait file, and the walk that nobody stopped"
    d = tmp_path_factory.mktemp('trait')
    make_llama(d/'model')
    (d/'loud.json').write_text(json.dumps(few))
    r = cli('trait', 'loud.json', '--model', 'model', *args, '--out', 'whole', cwd=d)
    assert r.returncode==0, r.stderr
    return d, r

def made(folder): return {k: o for k,o in files(folder).items() if not k.startswith(('.','answers/.','steered/.'))}

def test_to_the_page(walked):
    d,r = walked
    said = json.loads((d/'whole/walk.json').read_text())
    assert said['headline'] in r.stdout and said['headline'] in (d/'whole/index.html').read_text()
    assert 'scores by the judge' in r.stderr and {o['key'] for o in said['findings']}=={'answers','direction','prompt','words','layer','steering','prompting'}

def killed(d, out, when, sig):
    "Start the walk, and end it as soon as `when` holds"
    with subprocess.Popen([script, 'trait', 'loud.json', '--model', 'model', *args, '--out', out], cwd=d, env=env(), stderr=subprocess.PIPE, text=True, preexec_fn=heeds) as p:
        until(when, p)
        assert stop(p, sig)!=0

def test_killed_anywhere_it_goes_on(walked):
    d,_ = walked
    out = d/'killed'
    steps = ['answers/*.jsonl', 'answers/*.loud-*.json', 'vectors/*.safetensors', 'steered/*.json', 'strengths.csv']
    for i,o in enumerate(steps): killed(d, 'killed', lambda: any(out.glob(o)), (signal.SIGKILL, signal.SIGTERM)[i%2])
    r = cli('trait', 'loud.json', '--model', 'model', *args, '--out', 'killed', cwd=d)
    assert r.returncode==0, r.stderr
    a,b = made(d/'whole'),made(out)
    assert {k for k in a if k.endswith(('.json','.csv'))}=={k for k in b if k.endswith(('.json','.csv'))}
    assert json.loads((out/'curve.json').read_text())['answers']==json.loads((d/'whole/curve.json').read_text())['answers']

@pytest.mark.parametrize('more,says', [(['grace'], 'is not built in'), (['loud.json', '--doses', 'x'], '--doses'), (['loud.json', '--keep', 'some'], "keep='some'"),
                                       (['loud.json', '--judge', 'none', '--judge-api-model', 'm'], '--judge none')])
def test_wrong_input(walked, more, says):
    d,_ = walked
    r = cli('trait', *more, '--model', 'model', '--out', 'wrong', cwd=d)
    assert r.returncode==1 and says in r.stderr and not (d/'wrong').exists()
