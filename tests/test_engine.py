"The engine when the memory does not suffice, when it is killed, and on any sequences at all"
import json, random, subprocess, sys
import pytest, torch
from hypothesis import given, settings, strategies as st
from tiny import cli, env, make_llama, said, script, until
from persona_vectors.extraction.packing import batches, pack_segments
from persona_vectors.prompts import Tokens

# packing

ids = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=1, max_size=12)

@given(ids, st.integers(1, 30), st.booleans())
@settings(max_examples=300, deadline=None)
def test_laid_out(seqs, budget, packed):
    "Every sequence is in one batch, whole and in order, its span too; no packed token stands there twice after the same beginning"
    toks = [Tokens(s, len(s)//2, len(s), [], '') for s in seqs]
    bs = batches(toks, budget, packed)
    assert sorted(sum([b.index for b in bs], [])) == list(range(len(seqs)))
    for b in bs:
        flat,at = b.ids.flatten().tolist(),b.positions.flatten().tolist()
        assert len(b) <= budget or len(b.index)==1
        for i,runs,span in zip(b.index, b.where, b.spans):
            assert sum([flat[x:y] for x,y in runs], []) == seqs[i]
            assert sum([at[x:y] for x,y in runs], []) == list(range(len(seqs[i])))
            assert sum([flat[x:y] for x,y in span], []) == seqs[i][len(seqs[i])//2:]
        if packed: assert len(b) == len({tuple(seqs[i][:n+1]) for i in b.index for n in range(len(seqs[i]))})

def test_laid_out_control(): assert pack_segments([[1,2],[1,3]]) != pack_segments([[1,2],[2,3]])

# memory

starved = '''
import json, logging, resource, sys, torch
from persona_vectors.extraction.blocks import load_blocks
from persona_vectors.extraction.engine import read
from persona_vectors.models import find_model
from persona_vectors.prompts import Tokens
from persona_vectors.extraction.streaming import read_streamed
logging.basicConfig(format='%(message)s', level=logging.WARNING)
torch.set_num_threads(1)
src,how = find_model(sys.argv[1]),sys.argv[2]
model = load_blocks(src, 2)
def tokens(n, i): return Tokens([i, *range(5, n+4)], n//2, n, [], '', f'number {i}')
seqs = [tokens(150, i) for i in range(160)]
def all(seqs): return read_streamed(src, seqs, [2], batch_tokens=30000, progress=False) if how=='stream' else read(model, seqs, [2], 30000, False)
want = all(seqs[:2]+seqs[-2:])
used = next(int(o.split()[1])*1024 for o in open('/proc/self/status') if o.startswith('VmSize'))
resource.setrlimit(resource.RLIMIT_AS, (used+int(sys.argv[3])*2**20,)*2)
if how=='long': seqs = [tokens(8000, 3)]
got = all(seqs)
print(json.dumps(dict(apart=((got[[0,1,-2,-1]]-want).norm()/want.norm()).item())))
'''

@pytest.fixture(scope='module')
def wide(tmp_path_factory): return make_llama(tmp_path_factory.mktemp('wide'), d=512, n=2)

def starve(model, how, mb): return subprocess.run([sys.executable, '-c', starved, model, how, str(mb)], env=env(MALLOC_ARENA_MAX='1'), capture_output=True, text=True, timeout=120)

@pytest.mark.skipif(sys.platform!='linux', reason='an address space that is limited')
@pytest.mark.parametrize('how', ['read','stream'])
def test_out_of_memory(how, wide):
    "Where a batch does not fit, smaller ones do, and the numbers are the same; where all fits nothing is said"
    r = starve(wide, how, 420 if how=='stream' else 160)
    assert r.returncode==0, r.stderr
    assert 'out of memory with' in r.stderr and json.loads(r.stdout)['apart'] < 1e-5
    r = starve(wide, how, 20000)
    assert r.returncode==0 and 'out of memory' not in r.stderr

@pytest.mark.skipif(sys.platform!='linux', reason='an address space that is limited')
def test_too_long_for_memory(wide):
    r = starve(wide, 'long', 60)
    assert r.returncode==1 and 'MemoryError: number 3: its 8000 tokens do not fit into memory by themselves' in r.stderr

crowded = """
import resource, signal, sys, torch
from pathlib import Path
from persona_vectors.extraction.engine import Means
from persona_vectors.prompts import Tokens
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path,seqs = Path(sys.argv[1]),[Tokens([1], 0, 1, [], '')]*4
def full(means, i, size):
    n = path.stat().st_size if path.exists() else None
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try: means.add([i], torch.ones(1,1,1000))
    except OSError as e: assert str(path) in str(e)
    else: raise AssertionError('it fitted')
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,)*2)
    assert (path.stat().st_size if path.exists() else None)==n and i in means.todo
m = Means(seqs, [1], 1000, path)
full(m, 0, 1000)
m.add([0,1], torch.ones(2,1,1000))
full(m, 2, 10000)
m.add([2], 2*torch.ones(1,1,1000))
again = Means(seqs, [1], 1000, path)
assert again.todo==[3] and again.values[2].mean()==2
"""

@pytest.mark.skipif(sys.platform!='linux', reason='the size of a file is limited')
def test_full_disk(tmp_path):
    "Where a mean does not fit the file is left as it was, or is not there; with room again it goes on"
    r = subprocess.run([sys.executable, '-c', crowded, tmp_path/'some.partial'], env=env(), capture_output=True, text=True)
    assert r.returncode==0, r.stderr

# killed

def test_killed(tmp_path):
    "Killed again and again, extraction goes on from the means that are there, and ends with the same vectors"
    from persona_vectors import load_vectors
    from persona_vectors.config import data_dir
    model,out = make_llama(tmp_path/'model', d=128, n=4),tmp_path/'out'
    args = ['extract', data_dir()/'responses'/'smollm2-135m-instruct-82c3d62e-843b827f.json', '--model', model, '--dtype', 'float32', '--batch-tokens', 400, '--out', out]
    cmd,rnd,had = [script, *map(str, args)],random.Random(0),[]
    def partial(): return next(out.rglob('*.partial'), None)
    def far(): return partial() and partial().stat().st_size >= sum(had)+rnd.randrange(60, 120)*(8+4*128)
    for _ in range(2):
        with subprocess.Popen(cmd, cwd=tmp_path, env=env(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as p:
            until(far, p)
            assert p.poll() is None, 'it ended before it was killed'
            p.kill()
        had.append(partial().stat().st_size-sum(had))
    r = cli(*args, cwd=tmp_path)
    assert r.returncode==0, r.stderr
    assert any('answers were read before' in o for o in said(r))
    assert partial() is None
    whole = cli(*args[:-2], '--out', tmp_path/'whole', cwd=tmp_path)
    assert whole.returncode==0 and not any('read before' in o for o in said(whole))
    a,b = (load_vectors(next(o.rglob('*.safetensors'))) for o in (out, tmp_path/'whole'))
    assert a.rows==b.rows and torch.equal(a.means, b.means)

streamed = '''
import sys
from persona_vectors.extraction.engine import Means
from persona_vectors.models import find_model
from persona_vectors.prompts import Tokens
from persona_vectors.extraction.streaming import read_streamed
seqs = [Tokens([i, *range(5, n+4)], n//2, n, [], '', f'number {i}') for i in range(300) for n in (100+i,)]
def read(path, chunks): return read_streamed(find_model(sys.argv[1]), seqs, [1,4], batch_tokens=400, progress=False, chunks=chunks, means=Means(seqs, [1,4], 128, path))
if __name__=='__main__': read(sys.argv[2], 30)
'''

def test_killed_streaming(tmp_path, monkeypatch):
    "Killed after some of its parts, a streamed reading does the others, and ends with the same numbers to the last bit"
    model,path = make_llama(tmp_path/'model', d=128, n=4),tmp_path/'means.partial'
    (tmp_path/'streamed.py').write_text(streamed)
    with subprocess.Popen([sys.executable, tmp_path/'streamed.py', str(model), path], env=env()) as p:
        until(lambda: path.exists() and path.stat().st_size>40*(8+8*128), p)
        assert p.poll() is None, 'it ended before it was killed'
        p.kill()
    monkeypatch.setattr(sys, 'argv', ['', str(model)])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)                                                        # the work is too small to be shared out
    monkeypatch.syspath_prepend(tmp_path)
    import streamed as s
    done = s.Means(s.seqs, [1,4], 128, path).done
    assert 40 <= done.sum() < 300
    try: assert torch.equal(s.read(path, 3), s.read(None, 1))
    finally: torch.set_num_threads(threads)
