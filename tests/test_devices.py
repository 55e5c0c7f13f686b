"The package's own functions on devices that are pretended: the numbers are those of the CPU, and planted faults are found"
import subprocess, sys, tempfile
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch
import pytest, torch
from accelerate import dispatch_model
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma3TextConfig, LlamaConfig
from persona_vectors import ActivationExtractor, PersonaVectorConfig
from persona_vectors.analysis import controls, likelihood
from persona_vectors.extraction import engine, packing, planning, streaming
from persona_vectors.extraction.vectors import Direction
from persona_vectors.generation import local
from persona_vectors.models import ModelSource
from persona_vectors.prompts import Tokens
from persona_vectors.steering import capping, steer
from pretend import Device, WrongPlace, pretend
from tiny import make_llama

root = Path(__file__).resolve().parents[1]
shape = dict(vocab_size=128, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512)
halves = {f'model.{k}': i for i,ks in enumerate((('embed_tokens','rotary_emb','layers.0','layers.1'), ('layers.2','layers.3','norm'))) for k in ks} | dict(lm_head=0)
seqs = [Tokens([5,6,7,8]*(3+i//8) + [(7*i+3*j)%128 for j in range(20+i%8)], 12, 30, [], f'number {i}') for i in range(16)]

CONFIGS = dict(llama=lambda: LlamaConfig(**shape), gemma=lambda: Gemma3TextConfig(**shape, head_dim=8, sliding_window=16),     # windows
               capped=lambda: Gemma2Config(**shape, head_dim=8, sliding_window=16, attn_logit_softcapping=2.))                     # and capped scores
def make(kind='llama'):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[kind]()).eval().requires_grad_(False)

def direction(k): return Direction(torch.randn(32, generator=torch.Generator().manual_seed(k)), 'one', k, 'tiny')
def read(m, batch_tokens=200, seqs=seqs): return engine.read(m.get_decoder(), seqs, [0,2,4], batch_tokens, False)
def same(a, b): assert torch.allclose(a, b, rtol=1e-4, atol=1e-5), (a-b).abs().max()

def steered(m, device):
    ids = torch.tensor([s.ids[:30] for s in seqs[:3]]).to(device)
    what = steer.Steer(direction(2), coef=.5),steer.Steer(direction(3), .1, 'floor', unit='raw')
    with torch.no_grad(), steer.steered(m, *what): return m(ids, use_cache=False).logits.cpu()

def answered(m):
    out,u = [],torch.rand(3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    b = local.Decoding(m, [s.ids[:12] for s in seqs[:3]], 24)
    with torch.inference_mode():
        for tok in b.tokens(u, .7): out.append(tok.tolist())
    return out

def streamed(device='cuda', **kw):
    with tempfile.TemporaryDirectory() as d:
        make().model.save_pretrained(d)
        return streaming.read_streamed(ModelSource('tiny', d, ''), seqs, [0,2,4], 'float32', device, 200, False, **kw)

@pytest.mark.parametrize('kind', ['cuda','mps'])
@pytest.mark.parametrize('name', ['llama','gemma'])
def test_one(kind, name):
    m = make(name)
    want = read(m),steered(m, 'cpu'),answered(m)
    with pretend(kind): m.to(kind); got = read(m),steered(m, kind),answered(m)
    for a,b in zip(got[:2], want): same(a, b)
    assert got[2]==want[2]

def test_two():
    m = make('gemma')
    want = read(m),steered(m, 'cpu'),answered(m)
    with pretend(devices=2) as g: m = dispatch_model(m, halves); got = read(m),steered(m, 0),answered(m)
    for a,b in zip(got[:2], want): same(a, b)
    assert got[2]==want[2] and min(g.peak.values())>10_000

@pytest.mark.parametrize('place', ['device','memory','file'])
def test_streaming(place):
    with pretend(): got = streamed(place=place)
    same(got, read(make()))

long = [*seqs[:5], Tokens([*seqs[4].ids[:20], *[(5*j)%128 for j in range(300)]], 15, 310, [], 'long'), Tokens([(3*j)%128 for j in range(200)], 3, 190, [], 'other')]

@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('name', CONFIGS)
def test_attention(name, dtype):
    "Packed reading with shared beginnings, windows, several slices of queries: as each sequence by itself on the CPU, in float32"
    m = make(name)
    want = torch.cat([read(m, seqs=[o]) for o in long])
    with pretend() as g: got = read(m.to('cuda').to(dtype), 2000, long)
    assert m.get_decoder().packs=={None: True}
    off = ((got-want).norm(dim=-1)/want.norm(dim=-1)).max()
    assert off<(1e-5 if dtype==torch.float32 else .02), off

@pytest.mark.parametrize('name', CONFIGS)
def test_waits(name):
    "The host waits once a batch, for its means; and a batch of twice the sequences takes as many launches"
    counts = []
    for n in (6, 12):
        m = make(name).bfloat16()
        with pretend() as g:
            m.to('cuda')
            engine.read(m.get_decoder(), seqs[:2], [4], 1000, False)                     # checks and the probe
            g.syncs.clear(); g.launches = 0
            with patch.object(engine, 'check_blocks'): engine.read(m.get_decoder(), seqs[:n], [0,2,4], 1000, False)
        counts.append(g.launches)
        assert sum(g.syncs.values())==1, g.syncs
    assert counts[0]==counts[1]

def waits_and_launches(name, attend=None, n=64):
    "(launches a block, waits) of reading one batch of `n` sequences in bfloat16, perhaps with another attention"
    m,some = make(name).bfloat16(),[Tokens([5,6,7,8]*(3+i//8) + [(7*i+3*j)%128 for j in range(20+i%8)], 12, 30, [], '') for i in range(n)]
    with pretend() as g, patch.object(packing, '_at_once', attend or packing._at_once):
        b = packing.pack(some, range(n))
        engine.read_batch(m.to('cuda').get_decoder(), packing.pack(some[:2], range(2)), [4])
        g.syncs.clear(); g.launches = 0
        engine.read_batch(m.get_decoder(), b, [4]).cpu()
    return round(g.launches/4),sum(g.syncs.values())

def as_before(batch, q, k, v, scale, window, softcap, sinks):
    "One sequence after another, its mask from the CPU"
    def attend(q, k, v, *o):
        n,m = q.shape[1],k.shape[1]
        k,v = (o.repeat_interleave(len(q)//len(o), 0)[None] for o in (k,v))
        seen = dict(is_causal=True) if n==m and o[1] is None else dict(attn_mask=packing.causal_mask(n, m, o[1], 1, q.dtype, 'cpu').to(q.device))
        return torch.nn.functional.scaled_dot_product_attention(q[None], k, v, scale=o[0], **seen)[0].transpose(0, 1)
    with patch.object(packing, 'causal_attention', attend): return packing._one_by_one(batch, q, k, v, scale, window, softcap, sinks)

def test_table():
    "What 22_packing says of launches and waits"
    text = (root/'nbs'/'extraction'/'22_packing.ipynb').read_text()
    for row,name,attend in (('Llama, before','llama',as_before), ('Llama, as here','llama',None), ('Gemma 3, before','gemma',as_before), ('Gemma 3, as here','gemma',None),
                            ('Gemma 2, as here','capped',None)):
        launches,waits = waits_and_launches(name, attend)
        assert f'| {row} | {launches} | {waits} |' in text, (row,launches,waits)

def test_sinks():
    "A learned score a head, as gpt-oss has it, whose experts a pretended device cannot run"
    b = packing.pack(long, range(len(long)))
    q,k,v,sinks = (torch.randn(*n, generator=torch.Generator().manual_seed(0)) for n in ((1,4,len(b),8), (1,2,len(b),8), (1,2,len(b),8), (4,)))
    def attended(*o):
        packing._now.batch = b
        return packing.packed_attention(SimpleNamespace(), *o[:3], None, sliding_window=None, s_aux=o[3])[0].cpu()
    want = attended(q, k, v, sinks)
    with pretend() as g: same(attended(*(o.to('cuda') for o in (q, k, v, sinks))), want)
    assert (attended(q, k, v, sinks-1)-want).abs().max()>.01

# faults that must be found

def unmoved(self, params):
    with torch.cuda.stream(self.copy_stream):
        for p in params: p.data = p.data.pin_memory().to(self.device, non_blocking=True)
    return lambda: None

def unkept(self, params):
    wait = unmoved(self, params)
    there = self.copy_stream.record_event()
    return lambda: torch.cuda.current_stream(self.device).wait_event(there)

mask = packing.Together.mask
def on_the_cpu(self, *o): return mask(packing.Together(*(t.cpu() for t in (self.queries, self.keys, self.first))), *o)

PLANTED = {'a mask that stays on the CPU': (packing.Together, 'mask', on_the_cpu, lambda: read(make('capped').to('cuda'))),
    'bounds that stay on the CPU': (steer.Bounds, 'to', lambda self, *o: self, lambda: steered(make().to('cuda'), 'cuda')),
    'an index that stays on the CPU': (packing, 'sent', lambda x, device: x, lambda: read(make().to('cuda'))),
    'weights that are not waited for': (streaming.Weights, 'to_device', unmoved, streamed),
    'weights whose memory is given away too early': (streaming.Weights, 'to_device', unkept, streamed),
    '.numpy() of what is on the GPU': (packing, 'ATTENTION', packing.ATTENTION, lambda: make().to('cuda').lm_head.weight.numpy())}

def test_planted_operation():
    "One that Apple's GPUs do not have"
    def mean(kind): return torch.segment_reduce(torch.ones(3, 2, device=kind), 'mean', lengths=torch.tensor([3], device=kind), axis=0, unsafe=True)
    with pytest.raises(WrongPlace, match='no kernel for aten.segment_reduce'), pretend('mps'): mean('mps')
    with pretend('cuda'): assert mean('cuda').sum()==2

@pytest.mark.parametrize('fault', PLANTED)
def test_planted(fault):
    where,name,wrong,run = PLANTED[fault]
    packing.drop_masks()
    with pytest.raises(WrongPlace), patch.object(where, name, wrong), pretend(): run()
    packing.drop_masks()

def test_planted_mask():
    "Attention that sees a token too many is refused by the probe, and would change the numbers"
    m = make('capped')
    want = torch.cat([read(m, seqs=[o]) for o in long])
    with patch.object(packing.Together, 'mask', lambda self, window, *o: mask(self, window and window+1, *o)), patch.object(packing, 'TOLERANCE', {torch.float32: 9.}), pretend():
        got = read(make('capped').to('cuda'), 2000, long)
    assert ((got-want).norm(dim=-1)/want.norm(dim=-1)).max()>1e-3

def test_memory():
    "A batch that does not fit is halved, and the numbers stay"
    m = make()
    want = read(m)
    with pretend(memory=400_000) as g: m.to('cuda'); same(read(m, 4000), want)               # all sequences at once need more
    assert g.peak[Device('cuda:0')]>300_000

# what went wrong before

def test_capping_over_two():
    m,ds = make(),[direction(1), direction(4)]
    want = capping.token_projections(m, seqs[:2], ds)
    with pretend(devices=2): got = capping.token_projections(dispatch_model(make(), halves), seqs[:2], ds)
    for a,b in zip(got, want): same(a, b)

def test_likelihoods_over_two():
    "The head is asked with another forward in place of the decoder's, and accelerate's own comes back"
    want = likelihood.token_logprobs(make(), seqs[:3], progress=False)
    with pretend(devices=2):
        m = dispatch_model(make(), halves)
        for _ in range(2): got = likelihood.token_logprobs(m, seqs[:3], progress=False)
    for a,b in zip(got, want): same(a, b)

def test_time_of_the_other_gpu():
    "The time of matrix products is taken when they are done"
    with pretend(devices=2):
        planning.matmul_rate([torch.randn(8, 8, device='cuda:1')], 8)
        s = torch.cuda.current_stream('cuda:1')
        assert s.done==s.n

def test_plan_of_a_full_gpu():
    with pretend(memory=100_000):
        p = planning.plan_reading(make().config, [4], seqs, device='cuda')
        assert p.rate is None and p.stream

@pytest.fixture
def tiny(tmp_path): # A folder
    make_llama(tmp_path/'tiny', n=4)
    return tmp_path/'tiny'

def extractor(tiny, **kw): return ActivationExtractor(PersonaVectorConfig(model_name=str(tiny), dtype='float32', **kw))

def test_own_memory_is_free(tiny):
    "A model that is dropped before the next is loaded does not stand in its way"
    ex = extractor(tiny, device='cuda')
    with pretend() as g:
        ex.blocks(2)
        held = g.used[Device('cuda:0')]
        before = ex.plan(seqs, [4]).weights+ex.plan(seqs, [4]).batch
    ex._blocks = None
    with pretend(memory=before/.9+held/2):
        ex.blocks(2)
        assert not ex.plan(seqs, [4]).stream and ex.plan(seqs, [2]).stream is False
        assert torch.cuda.memory_allocated()>0

def test_auto(tiny):
    "Spread over all GPUs, the plan counts them together; block by block it counts one, the emptiest"
    ex = extractor(tiny, device='auto')
    with pretend(devices=2, memory=20e6):
        hold = torch.zeros(3_000_000, device='cuda:0')
        assert ex.device=='cuda:1'
        p = ex.plan(seqs, [4])
        assert p.free==planning.free_memory('auto') and not p.stream
        del hold
        wide = extractor(tiny, device='auto', stream=True).plan(seqs, [4])
        assert wide.stream and wide.free==planning.free_memory('cuda:0')

def test_seeds_of_gpus_stay():
    "An untrained twin leaves the caller's random numbers on the GPU as they are"
    cfg = make().config
    with patch.object(torch.cuda, 'manual_seed_all', side_effect=AssertionError): list(controls.random_parts(cfg, 1))

def test_budget_is_remembered():
    "The second reading begins with what fitted in the first"
    m = make()
    with pretend(memory=400_000):
        want = read(m.to('cuda'), None)
        with patch.object(engine, '_halve', side_effect=AssertionError): same(read(m, None), want)
        m.get_decoder().fits = None
        with patch.object(engine, '_halve', side_effect=AssertionError), pytest.raises(AssertionError): read(m, None)       # the control

@pytest.mark.slow
def test_script():
    "What is run where a GPU can be had runs here, with tiny shapes"
    r = subprocess.run([sys.executable, root/'tools'/'on_gpu.py', '--rehearse'], capture_output=True, text=True)
    assert r.returncode==0 and 'failed' not in r.stdout, r.stdout+r.stderr
