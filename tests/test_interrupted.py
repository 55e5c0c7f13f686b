"Generation that dies and goes on: nothing is asked twice, and the end is that of a run that was left alone"
import json, random, signal, subprocess, sys, time
from pathlib import Path
import pytest
from persona_vectors import EVAL_QUESTIONS, PERSONAS, PersonaVectorConfig, generate_responses
from tiny import env, final, heeds, journal, lines, make_llama, script, stop, until

who,batch = ('default','bard','ghost'), 4
cells = len(who)*len(EVAL_QUESTIONS)

driver = '''import json, os, sys, time
from persona_vectors import EVAL_QUESTIONS, PERSONAS, PersonaVectorConfig, generate_responses
from persona_vectors.generation.local import LocalModel
model,out,log = sys.argv[1:]
answer = LocalModel.answer
def logged(self, rows, *args, **kw):
    with open(log, 'a') as f:
        f.writelines(json.dumps([r.persona, r.question])+'\\n' for r in rows)
        f.flush()
        os.fsync(f.fileno())
    res = answer(self, rows, *args, **kw)
    time.sleep(.1)
    return res
LocalModel.answer = logged
c = PersonaVectorConfig(model_name=model, max_tokens=6, dtype='float32')
generate_responses(c, {p: PERSONAS[p] for p in %r}, EVAL_QUESTIONS, out, batch_size=%d)
''' % (who, batch)

# The command itself, with a pause after each batch: time enough to be stopped in
slowly = '''import time
from persona_vectors.cli import main
from persona_vectors.generation.local import LocalModel
answer = LocalModel.answer
def slow(*args, **kw):
    res = answer(*args, **kw)
    time.sleep(1)
    return res
LocalModel.answer = slow
main()
'''

def whole(path):
    "The answers in the journal at `path` whose lines are whole, by (persona, question)"
    return {(o['persona'],o['question']): o['text'] for o in lines(path)}

def named(out, alone): return (out/alone[0]).with_suffix('.jsonl')                  # where a run in `out` that is to end as `alone` keeps its journal

def start(model, out, log):
    return subprocess.Popen([sys.executable, '-c', driver, model, out, log], cwd=log.parent, env=env(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

def finish(model, out, log):
    "Run to the end; returns the (persona, question) of what was asked in this run"
    p = start(model, out, log)
    err = p.communicate(timeout=120)[1]
    assert p.returncode==0, err
    return [tuple(o) for o in lines(log)]

def stopped(p, out, n, sig, wait=0):
    "Send `sig` to `p` once the journal in `out` has more than `n` answers, and `wait` seconds more; its exit status"
    until(lambda: len(whole(journal(out)))>n, p)
    time.sleep(wait)
    return stop(p, sig)

@pytest.fixture(scope='module')
def model(tmp_path_factory): return make_llama(tmp_path_factory.mktemp('llama'))

@pytest.fixture(scope='module')
def alone(model, tmp_path_factory):
    "A run that nothing interrupted: its file's bytes"
    d = tmp_path_factory.mktemp('alone')
    asked = finish(model, d/'out', d/'log')
    assert len(asked)==len(set(asked))==cells and journal(d/'out') is None
    return final(d/'out').name, final(d/'out').read_bytes()

def test_left_alone(alone):
    "The control: an answer to each cell, not all the same, and a batch is a part of the whole"
    rows = json.loads(alone[1])['responses']
    assert [(r['persona'],r['question']) for r in rows] == [(p,q) for p in who for q in EVAL_QUESTIONS]
    assert len({r['text'] for r in rows})>cells/2 and cells>6*batch

def test_killed(model, alone, tmp_path):
    "Killed three times at odd moments: each run asks for just what the journal lacked, and the file is byte for byte that of a run left alone"
    out,rng = tmp_path/'out', random.Random(0)
    for i in range(3):
        before,log = whole(journal(out)), tmp_path/f'log{i}'
        assert stopped(start(model, out, log), out, len(before), signal.SIGKILL, rng.uniform(0, .1)) == -signal.SIGKILL
        asked,after = [tuple(o) for o in lines(log)], whole(journal(out))
        assert set(asked).isdisjoint(before) and len(asked)==len(set(asked))
        assert len(before)<len(after)<cells and after.items()>=before.items() and set(after)-set(before)<=set(asked)
        assert final(out) is None
    kept = whole(journal(out))
    assert set(finish(model, out, tmp_path/'log')) == {(p,q) for p in who for q in EVAL_QUESTIONS}-set(kept)
    assert (final(out).name, final(out).read_bytes()) == alone and journal(out) is None
    assert {(r['persona'],r['question']): r['text'] for r in json.loads(alone[1])['responses']}.items() >= kept.items()

def test_finished_asks_nothing(model, alone, tmp_path):
    "Once the file is there, the model is not asked again"
    (tmp_path/'out').mkdir()
    (tmp_path/'out'/alone[0]).write_bytes(alone[1])
    assert finish(model, tmp_path/'out', tmp_path/'log')==[]
    assert final(tmp_path/'out').read_bytes()==alone[1]

def test_torn_line(model, alone, tmp_path):
    "A journal whose last line was cut in the middle, of a letter even, goes on: the torn answer is asked for again, those before it are not"
    out,rows = tmp_path/'out', json.loads(alone[1])['responses']
    out.mkdir()
    ls = [json.dumps(r, ensure_ascii=False).encode()+b'\n' for r in rows[:9]] + [json.dumps(rows[9] | dict(text='é'), ensure_ascii=False).encode()]
    named(out, alone).write_bytes(b''.join(ls)[:ls[-1].index('é'.encode())+1-len(ls[-1])])
    asked = finish(model, out, tmp_path/'log')
    assert len(asked)==len(set(asked))==cells-9 and set(asked).isdisjoint((r['persona'],r['question']) for r in rows[:9])
    assert (final(out).name, final(out).read_bytes())==alone

def test_damaged_journal(model, alone, tmp_path):
    "A journal damaged elsewhere is not taken for an empty one: the run stops, says which file, and leaves it alone"
    out = tmp_path/'out'
    out.mkdir()
    j = named(out, alone)
    j.write_text('{"persona": "bard"\n')
    p = start(model, out, tmp_path/'log')
    err = p.communicate(timeout=60)[1]
    assert p.returncode!=0 and j.name in err and lines(tmp_path/'log')==[] and j.read_text()=='{"persona": "bard"\n'

def test_stopped_while_it_writes(model, tmp_path, monkeypatch):
    "Ctrl-C that comes when a batch is in the file, and not yet said to be: the batch is kept"
    def stop(*_, **__): raise KeyboardInterrupt
    c = PersonaVectorConfig(model_name=str(model), max_tokens=6, dtype='float32')
    def run(out):
        with pytest.raises(KeyboardInterrupt): generate_responses(c, {'bard': PERSONAS['bard']}, EVAL_QUESTIONS, out, batch_size=batch)
    monkeypatch.setattr('persona_vectors.generation.answers.os.fsync', stop)
    run(tmp_path/'out')
    assert len(whole(journal(tmp_path/'out')))==batch
    monkeypatch.setattr('persona_vectors.generation.local.LocalModel.answer', stop)          # the control: before the first batch nothing is left
    run(tmp_path/'none')
    assert not (tmp_path/'none').exists()

def test_ctrl_c(model, tmp_path):
    "Ctrl-C ends the command soon, without a traceback, and the same command goes on to the file of a run left alone"
    args = [script, *f'generate --model {model} --personas {",".join(list(PERSONAS)[:6])} --max-tokens 8 --dtype float32'.split()]
    cwds = tmp_path/'alone', tmp_path/'stopped'
    for o in cwds: o.mkdir()
    assert subprocess.run(args, cwd=cwds[0], env=env(), capture_output=True).returncode==0
    out = cwds[1]/'data/responses'
    slow = [sys.executable, '-c', slowly, *args[1:]]
    p = subprocess.Popen(slow, cwd=cwds[1], env=env(), stdout=subprocess.PIPE, stderr=open(tmp_path/'err', 'w'), text=True, preexec_fn=heeds)
    assert stopped(p, out, 0, signal.SIGINT) not in (0,None)
    kept = whole(journal(out))
    assert 0<len(kept)<6*18 and final(out) is None and 'Traceback' not in (tmp_path/'err').read_text()
    r = subprocess.run(args, cwd=cwds[1], env=env(), capture_output=True, text=True)
    assert r.returncode==0 and f'/{6*18-len(kept)} ' in r.stderr, r.stderr        # the bar counts what is asked for
    a,b = (final(o/'data/responses') for o in cwds)
    assert a.name==b.name and a.read_bytes()==b.read_bytes()
