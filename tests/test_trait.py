"A trait's walk that is killed and goes on: no step is done again, and the numbers are those of a walk that was left alone"
import json, re, signal, subprocess
import pandas as pd, pytest
from persona_vectors import EMBEDDED
from persona_vectors.steering.evaluation import load_evaluation
from tiny import cli, env, faulty, lines, make_llama, said, script, stop, until

pairs = [dict(pos='SHOUT! Use capitals.', neg='Whisper, in small letters.')]
questions = ['Why is the sky blue?', 'What is bread?', 'Who are you?', 'Where is Rome?', 'How do bees fly?', 'What do cats eat?', 'Is it late?', 'What is a fjord?']
small = '--max-tokens 6 --dtype float32 --layers 1,2 --doses 0.05 --coef 1 --controls 1 --out walk'.split()
kept = 'answers','measures','vectors','steered'                                      # folders whose files are a step each

# what is there when a step is done, in the order of the steps
steps = {'a batch of answers': lambda d: any(lines(o) for o in d.glob('answers/*.jsonl')), 'the answers': lambda d: done(d, 'answers'), 'the measures': lambda d: done(d, 'measures'),
         'the vectors': lambda d: done(d, 'vectors'), 'steering at one layer': lambda d: done(d, 'steered'), 'steering at several': lambda d: len(done(d, 'steered'))>2,
         'the readings': lambda d: len(done(d, 'vectors'))>1, 'the first table': lambda d: [*d.glob('*.csv')], 'the curve': lambda d: (d/'curve.json').exists()}

def done(d, *names): return {p.relative_to(d).as_posix(): p.stat().st_mtime_ns for k in names for p in d.glob(f'{k}/[!.]*') if p.suffix!='.jsonl'}

def start(model, cwd):
    cwd.mkdir(exist_ok=True)
    for o,qs in dict(extract=questions[:4], eval=questions[4:]).items(): (cwd/f'loud_{o}.json').write_text(json.dumps(dict(instruction=pairs, questions=qs)))
    return subprocess.Popen([script, 'trait', 'loud_extract.json', '--model', model, *small], cwd=cwd, env=env(), stdout=subprocess.DEVNULL, stderr=open(cwd/'err', 'a'))

def finished(model, cwd):
    "The walk at its end: its folder"
    p = start(model, cwd)
    assert p.wait(600)==0, (cwd/'err').read_text()[-2000:]
    return cwd/'walk'

def numbers(d):
    "All that came out: the tables, the curve, what is said"
    return {p.name: pd.read_csv(p, index_col=0) for p in sorted(d.glob('*.csv'))},load_evaluation(d/'curve.json').answers,json.loads((d/'walk.json').read_text())

def same(a, b):
    for k in a[0].keys()|b[0].keys(): pd.testing.assert_frame_equal(a[0][k], b[0][k], rtol=1e-3, atol=1e-4, obj=k)
    pd.testing.assert_frame_equal(a[1], b[1], rtol=1e-3, atol=1e-4)
    assert {k: a[2][k] for k in ('trait','layer','measure','kept','headline')}=={k: b[2][k] for k in ('trait','layer','measure','kept','headline')}

def killed_at(names, model, tmp_path):
    "Kill the walk at each of the steps `names`, let it end, and compare it with one that was left alone"
    alone,d = finished(model, tmp_path/'alone'),tmp_path/'killed'/'walk'
    for name in names:
        before = done(d, *kept)
        p = start(model, d.parent)
        until(lambda: steps[name](d), p, 600)
        assert stop(p, signal.SIGKILL)==-signal.SIGKILL, name
        assert not (d/'index.html').exists() and before.items()<=done(d, *kept).items(), name
    before = done(d, *kept)
    assert 0<len(before) and before.items()<=done(finished(model, d.parent), *kept).items()       # none is made again, and some were there
    assert set(done(d, *kept))==set(done(alone, *kept)) and not [*d.rglob('*.jsonl')]
    same(numbers(d), numbers(alone))

def test_killed_twice(tmp_path): killed_at(['the measures','steering at one layer'], make_llama(tmp_path/'llama', n=3), tmp_path)

@pytest.mark.slow
def test_killed_at_every_step(tmp_path): killed_at(steps, EMBEDDED, tmp_path)

# a trait that is described in a sentence

wrote = dict(instruction=[dict(pos='Flatter.', neg='Be frank.'), dict(pos='Praise.', neg='Judge.')], questions=[f'What of {o}?' for o in 'abcdefgh'])

def describe(cwd, says, *args):
    "`trait --describe` through an endpoint that says `says`; and how often it was asked"
    with faulty(cwd/'log', '--says', says) as url:
        r = cli('trait', '--describe', 'flattery: the answer flatters the user', '--judge-base-url', url, '--judge-api-model', 'writer', *args, cwd=cwd)
    return r,len(lines(cwd/'log'))

def test_described(tmp_path):
    "It is shown and written; nothing else is done, and the file that is there is not overwritten"
    r,asked = describe(tmp_path, f'Here it is:\n```json\n{json.dumps(wrote)}\n```')
    assert r.returncode==0 and asked==1, r.stderr
    data = json.loads((tmp_path/'flattery.json').read_text())
    assert data==dict(description='the answer flatters the user', **wrote) and {p.name for p in tmp_path.iterdir()}=={'log','flattery.json'}
    for o in ('+ Flatter.', '- Be frank.', 'What of h?', 'then: persona-vectors trait flattery.json'): assert o in r.stdout
    r,asked = describe(tmp_path, json.dumps(wrote))
    assert r.returncode==1 and asked==1 and 'flattery.json is there already' in r.stderr and len(said(r))==1
    (tmp_path/'flattery.json').write_text(json.dumps(data | dict(questions=data['questions']+['One of mine?', 'And one more?'])))
    r = cli('trait', 'flattery.json', '--dry-run', cwd=tmp_path)                            # edited by the user
    assert r.returncode==0 and int(re.search(r"under the trait's prompts +(\d+)", r.stderr+r.stdout)[1])==10*4, r.stderr

def test_described_and_used(tmp_path):
    "With --yes it goes on at once"
    r,asked = describe(tmp_path, json.dumps(wrote), '--yes', '--dry-run')
    assert r.returncode==0 and asked==1 and int(re.search(r"under the trait's prompts +(\d+)", r.stderr+r.stdout)[1])==8*4, r.stderr

@pytest.mark.parametrize('says,why', [('I would rather not.', "no JSON object of prompts and questions, but 'I would rather not.'"), (json.dumps(wrote | dict(questions=['a?'])), 'a walk needs eight')])
def test_described_otherwise(says, why, tmp_path):
    r,_ = describe(tmp_path, says, '--yes')
    assert r.returncode==1 and why in said(r)[-1] and {p.name for p in tmp_path.iterdir()}=={'log'}
