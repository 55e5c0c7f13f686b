"Screening that is killed and goes on: no row is read twice, and the scores are those of a run that was left alone"
import json, random, re, signal, subprocess
import numpy as np, torch
from persona_vectors.extraction.vectors import Direction
from persona_vectors.steering.screening import load_screening
from tiny import env, make_llama, script, stop, until

words = 'river bread letter window garden music number stone winter road'.split()

def start(cwd): return subprocess.Popen([script, *'screen train.jsonl --direction d.safetensors --model llama --dtype float32 --batch-tokens 256 --own mine --out scores.parquet'.split()],
                                        cwd=cwd, env=env(), stdout=subprocess.DEVNULL, stderr=open(cwd/'err', 'a'))
def partial(cwd): return next(iter(cwd.glob('scores.parquet.*.part')), None)
def read_before(cwd): return [int(o.replace(',', '')) for o in re.findall(r'([\d,]+) rows are read already', (cwd/'err').read_text())]

def finished(cwd):
    p = start(cwd)
    assert p.wait(300)==0, (cwd/'err').read_text()[-2000:]
    return load_screening(cwd/'scores.parquet')

def test_killed(tmp_path):
    make_llama(tmp_path/'llama')
    Direction(torch.randn(32, generator=torch.Generator().manual_seed(0)), 'random', 1, 'llama').save(tmp_path/'d.safetensors')
    r = random.Random(0)
    def said(): return ' '.join(r.choice(words) for _ in range(r.randint(2, 9)))
    rows = [dict(prompt=said(), completion=said(), mine=said()) for _ in range(1500)]
    rows[7] = dict(text='no pair')
    (tmp_path/'train.jsonl').write_text(''.join(json.dumps(o)+'\n' for o in rows))
    for bytes_ in (1, 30_000):                                                            # in the first windows, and when about half is read
        p = start(tmp_path)
        until(lambda: (o := partial(tmp_path)) and o.stat().st_size>bytes_, p, 300)
        assert stop(p, signal.SIGKILL)==-signal.SIGKILL and not (tmp_path/'scores.parquet').exists()
    s,before = finished(tmp_path),read_before(tmp_path)
    assert len(before)==2 and 0<before[0]<before[1]<1500                                   # each run goes on where the one before was killed
    assert s.table.row.tolist()==[i for i in range(1, 1501) if i!=8] and s.left.n==1 and not partial(tmp_path)
    (tmp_path/'scores.parquet').unlink()
    alone = finished(tmp_path)
    assert read_before(tmp_path)==before and np.allclose(s.values, alone.values, atol=1e-4) and np.array_equal(s.numbers, alone.numbers)
    assert sorted(o[1:3] for o in s.top)==sorted(o[1:3] for o in alone.top) and s.about==alone.about
