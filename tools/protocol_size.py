"""Time, CPU time and peak memory of an analysis from parts on disk, by roles, questions and width, into data/benchmarks/protocol_size.csv:
python tools/protocol_size.py [--full]. The full size is 275 roles × 240 questions × 5 wordings, width 5376, about 4 GB of made-up parts in a temporary folder."""
import argparse, json, os, resource, subprocess, sys, tempfile, time
from pathlib import Path
root = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(root))
import numpy as np

WORDINGS,LAYER,TABLE = 5,30,root/'data'/'benchmarks'/'protocol_size.csv'
GROWTH = [(r,60,576) for r in (20,60,140,275)]+[(60,q,576) for q in (18,120,240)]+[(60,60,d) for d in (1344,2688,5376)]
FULL = 275,240,5376

def kept(roles, questions, rng):
    "Kept answers of each cell, 'role question', 0 to 5: roles and questions differ in how many, and the wordings of a cell are alike"
    a,b = np.linspace(-2.2, 2.4, roles),rng.normal(0, .3, questions)
    p = 1/(1+np.exp(-(rng.permutation(a)[:,None]+b+rng.normal(0, 1.3, (roles,questions)))))
    n = rng.binomial(WORDINGS, p)
    for o in n:
        while (o>0).sum()<questions/6: o[rng.integers(questions)] = 1          # a role with fewer would not be kept
    return n

def responses(folder, n):
    "Write every answer with its score: 3 if it is kept; return the path"
    at = [('default', q, k, 3) for k in range(WORDINGS) for q in range(n.shape[1])]
    at += [(f'role_{r:03}', q, k, 3 if k<n[r,q] else 1) for r in range(len(n)) for k in range(WORDINGS) for q in range(n.shape[1])]
    with open(folder/'answers.jsonl', 'w', encoding='utf-8') as f:
        for p,q,k,s in at: f.write(json.dumps(dict(persona=p, question=f'Question {q}?', text='An answer.', system=f'{p}, wording {k}',
                                                  prompt=k, scores=dict(role=s)))+'\n')
    return folder/'answers.jsonl'

class MadeUp:
    "Means of answers: personas in five directions, questions, what a question does to a persona, single answers; two huge coordinates"
    def __init__(self, personas, questions, d, seed=0):
        self.rng = rng = np.random.default_rng(seed)
        self.scale = (np.arange(1, d+1.)**-.45)[rng.permutation(d)].astype(np.float32)
        places = rng.normal(size=(personas,5))*[4,2.5,2,1.5,1]
        places[0,0] += 12
        self.personas = (places@np.linalg.qr(rng.normal(size=(d,5)))[0].T).astype(np.float32)
        self.questions = self._draw(questions)*np.float32(3)
        self.huge = rng.choice(d, 2, replace=False)
    def _draw(self, n): return self.rng.standard_normal((n,len(self.scale)), np.float32)*self.scale
    def __call__(self, p, q): # Of answers, in whatever order: their personas and questions
        cell,place = np.unique(np.stack([p,q]), axis=1, return_inverse=True)
        x = self.personas[p]+self.questions[q]+self._draw(len(p))*np.float32(2)
        x += self._draw(cell.shape[1])[place.ravel()]*np.float32(3)
        x[:,self.huge] += np.float32(300)
        return x

def make(folder, roles, questions, d, seed=0):
    "Write answers and parts, as `extract_shard` leaves them; return the folder of the parts"
    import torch
    from persona_vectors.extraction.parts import part_of
    from persona_vectors.selection import Answers
    answers = Answers(responses(folder, kept(roles, questions, np.random.default_rng(seed))), min_score=3, min_answers=1)
    what = dict(model='made-up', layers=[LAYER], responses=answers.hash(), order=answers.order, sums=False)
    meta = dict(model='made-up', layers=[LAYER], num_layers=62, outcomes=answers.outcomes)
    path,number = folder/'made-up.parts',{p: i for i,p in enumerate(answers.prompts)}
    path.mkdir()
    (path/'run.json').write_text(json.dumps(dict(what=what, meta=meta, answers=answers.source)), encoding='utf-8')
    of = np.array([[number[p],int(q.split()[1][:-1])] for p,_,q in answers.cells])
    x = MadeUp(len(number), questions, d, seed)
    step = max(1, (1<<27)//(4*d)//(WORDINGS*questions))*WORDINGS*questions      # a few whole personas at a time
    for i in range(0, len(answers.cell), step):
        rows = answers.rows[(answers.rows>=i) & (answers.rows<i+step)]
        tokens = x.rng.integers(80, 300, len(rows))
        if len(rows): part_of(what, answers, rows, tokens, torch.from_numpy(x(*of[answers.cell[rows]].T))[:,None]).save(path)
    return path

def peak(): # Largest resident memory of this process so far, in MB
    return int(next(o for o in open('/proc/self/status') if o.startswith('VmHWM')).split()[1])/1024

def cpu(): # Seconds of this process so far, user and system, over all cores
    o = resource.getrusage(resource.RUSAGE_SELF)
    return o.ru_utime+o.ru_stime

def measure(path):
    "Seconds of every step, peak memory so far after each, and what came out"
    from persona_vectors.extraction.parts import cell_means
    from persona_vectors.analysis.grids import balanced
    from persona_vectors.analysis.report import evidence
    from persona_vectors.analysis.uncertainty import rank_intervals
    out = dict(peak_start=peak())
    def step(name, f):
        if __name__=='__main__': print(name, file=sys.stderr, flush=True)
        start,before = time.time(),cpu()
        got = f()
        out[f'seconds_{name}'],out[f'cpu_{name}'],out[f'peak_{name}'] = time.time()-start,cpu()-before,peak()
        return got
    v = step('cells', lambda: cell_means(path))
    out |= dict(answers=v.meta['answers'], cells=len(v.rows), filled=len(v.rows)/(len(v)*len(v.questions)))
    whole = step('fit', lambda: balanced(v))
    t = step('ranking', lambda: rank_intervals(whole, n=1000))
    whole = None
    e = step('report', lambda: evidence(v))                     # from the cells, as the command does: fit and ranking once more
    return out | dict(reliability=e.tables['reliability'].loc['axis','reliability'], first=t.index[0], headline=e.headline)

def one(roles, questions, d):
    "A row of the table, measured in a process of its own; in one thread, for threads that wait for a busy core count as at work"
    env = os.environ | dict(OMP_NUM_THREADS='1', OPENBLAS_NUM_THREADS='1', MKL_NUM_THREADS='1')
    def child(*args): return subprocess.run([sys.executable, __file__, *map(str, args)], env=env, check=True, stdout=subprocess.PIPE, text=True).stdout
    with tempfile.TemporaryDirectory() as folder:
        child('--make', folder, roles, questions, d)
        size = sum(p.stat().st_size for p in Path(folder).rglob('*.safetensors'))/1e9
        got = json.loads(child('--measure', Path(folder)/'made-up.parts').splitlines()[-1])
    seconds,cpu_seconds = (sum(o for k,o in got.items() if k.startswith(kind)) for kind in ('seconds_','cpu_'))
    return dict(roles=roles, questions=questions, width=d, parts_gb=size, load=os.getloadavg()[0], seconds=seconds, cpu_seconds=cpu_seconds,
                peak_mb=got['peak_report']) | got

def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument('--full', action='store_true', help='the protocol\'s size too')
    ap.add_argument('--only', nargs=3, type=int, help='one size: roles questions width')
    ap.add_argument('--make', nargs=4, help=argparse.SUPPRESS)
    ap.add_argument('--measure', help=argparse.SUPPRESS)
    a = ap.parse_args()
    if a.make: return print(make(Path(a.make[0]), *map(int, a.make[1:])))
    if a.measure: return print(json.dumps(measure(Path(a.measure))))
    import pandas as pd
    rows = pd.read_csv(TABLE).to_dict('records') if TABLE.exists() and (a.only or a.full) else []
    for size in [tuple(a.only)] if a.only else [FULL] if a.full else GROWTH:
        rows = [o for o in rows if (o['roles'],o['questions'],o['width'])!=size]+[one(*size)]
        print(rows[-1], flush=True)
        pd.DataFrame(rows).round(3).to_csv(TABLE, index=False)

if __name__=='__main__': main()
