"What depends on the longest text of a call: a sequence has the numbers that it has alone, in a model that has read nothing before"
import functools
from unittest import mock
import pytest, torch
import transformers as tf
from transformers import AutoModelForCausalLM
from persona_vectors.analysis.likelihood import token_logprobs
from persona_vectors.extraction import engine, packing, streaming
from persona_vectors.extraction.blocks import load_blocks
from persona_vectors.extraction.engine import read
from persona_vectors.extraction.streaming import read_streamed
from persona_vectors.models import batch_key, find_model, load_causal
from persona_vectors.generation import local as local_module
from persona_vectors.generation.local import LocalModel
from persona_vectors.prompts import Tokens
from persona_vectors.steering.steer import predictions

L,V,LIMIT = 4, 150, 48
small = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=L, num_attention_heads=4, num_key_value_heads=2, vocab_size=V, pad_token_id=0, bos_token_id=1, eos_token_id=2)
factors = dict(short_factor=[1.,1.2,1.5,2.], long_factor=[1.,2.,6.,12.], original_max_position_embeddings=LIMIT)
longrope = dict(rope_type='longrope', rope_theta=1e4, **factors)
two_kinds = dict(sliding_attention=dict(rope_type='default', rope_theta=1e4), full_attention=dict(rope_type='dynamic', factor=4., rope_theta=1e5))
configs = dict(
    phi3=lambda: tf.Phi3Config(**small, max_position_embeddings=256, original_max_position_embeddings=LIMIT, rope_parameters=longrope),
    phimoe=lambda: tf.PhimoeConfig(**small, max_position_embeddings=256, original_max_position_embeddings=LIMIT, num_local_experts=4, num_experts_per_tok=2,
                                   rope_parameters=dict(**longrope, short_mscale=1.1, long_mscale=1.5)),
    llama_longrope=lambda: tf.LlamaConfig(**small, max_position_embeddings=256, rope_parameters=longrope),
    llama_dynamic=lambda: tf.LlamaConfig(**small, max_position_embeddings=LIMIT, rope_parameters=dict(rope_type='dynamic', rope_theta=1e4, factor=3.)),
    gemma3_dynamic=lambda: tf.Gemma3TextConfig(**small, head_dim=8, max_position_embeddings=LIMIT, sliding_window=16,
                                               layer_types=['sliding_attention','full_attention']*2, rope_parameters=two_kinds))
archs = pytest.mark.parametrize('arch', configs)

@functools.cache
def checkpoint(arch, folder):
    torch.manual_seed(0)
    m = AutoModelForCausalLM.from_config(configs[arch](), dtype=torch.float32).eval()
    for p in m.parameters(): p.data += .1*torch.randn_like(p)
    m.save_pretrained(folder/arch)
    return find_model(str(folder/arch))

@pytest.fixture(scope='module')
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp('models')
    return lambda arch: checkpoint(arch, folder)

g = torch.Generator().manual_seed(0)
def rnd(n): return torch.randint(3, V, (n,), generator=g).tolist()
start = rnd(11)
ids = [start+rnd(109), start+rnd(20), rnd(LIMIT), start+rnd(LIMIT-10), rnd(7), start+rnd(60), rnd(71)]      # to either side of the limit, at it, one beyond, two of one length
seqs = [Tokens(o, len(o)//2, len(o), [], '', f'number {i}') for i,o in enumerate(ids)]
layers = [1, L-1]

def rel(a, b): return ((a-b).norm()/b.norm()).item()
def fresh(src): return AutoModelForCausalLM.from_pretrained(src.path, dtype=torch.float32).eval()

@functools.cache
def truth(src):
    "By transformers alone, each sequence in a model just loaded: hidden states averaged over the span; the log-probabilities of its tokens"
    hs,lps = [],[]
    for s in seqs:
        with torch.no_grad(): out = fresh(src)(torch.tensor([s.ids]), output_hidden_states=True, use_cache=False)
        hs.append(torch.stack([out.hidden_states[k][0,s.start:s.end].mean(0) for k in layers]))
        lps.append(out.logits[0,s.start-1:s.end-1].log_softmax(-1).gather(-1, torch.tensor(s.ids[s.start:s.end])[:,None])[:,0])
    return torch.stack(hs),lps

def worst(got, want): return max(rel(a, b) for a,b in zip(got, want))

@pytest.fixture(params=['packed','padded'])
def form(request):
    "Batches of this form"
    with mock.patch.object(engine, 'can_pack', lambda *a: request.param=='packed'), mock.patch.object(streaming, 'can_pack', lambda *a: request.param=='packed'): yield

@archs
@pytest.mark.parametrize('budget', [1, 100, 100000])
def test_read(arch, budget, made, form):
    "In batches of any size, and in any order"
    src = made(arch)
    model = load_blocks(src, L-1)
    assert worst(read(model, seqs, layers, budget, False), truth(src)[0]) < 1e-6
    assert worst(read(model, seqs[::-1], layers, budget, False).flip(0), truth(src)[0]) < 1e-6

@archs
def test_streamed(arch, made, form):
    src = made(arch)
    for budget in (100, 100000): assert worst(read_streamed(src, seqs, layers, batch_tokens=budget, progress=False), truth(src)[0]) < 1e-6

@archs
def test_likelihoods(arch, made):
    src = made(arch)
    assert worst(token_logprobs(load_causal(src), seqs, progress=False), truth(src)[1]) < 1e-5

@archs
def test_control(arch, made, form):
    "With all in one batch, most have other numbers"
    src = made(arch)
    with mock.patch.object(engine, 'batch_key', lambda model: None): got = read(load_blocks(src, L-1), seqs, layers, progress=False)
    assert sum(rel(a, b)>1e-3 for a,b in zip(got, truth(src)[0])) >= 3

def test_carried(made):
    "Nor does it matter what the model read just before; with the frequencies of that, a sequence has other numbers"
    src = made('llama_dynamic')
    model,long,short = load_blocks(src, L-1),*(packing.pack(seqs, [i]) for i in (0, -1))
    def after_long(): return [engine.read_batch(model, b, layers) for b in (long, short)][1]
    assert worst(after_long(), truth(src)[0][-1:]) < 1e-6
    with mock.patch.object(packing, 'fresh_ropes', lambda model: None): assert worst(after_long(), truth(src)[0][-1:]) > 1e-3

def test_plain_models_mix(made):
    "Where nothing depends on the longest, nothing is held apart"
    m = AutoModelForCausalLM.from_config(tf.LlamaConfig(**small, max_position_embeddings=LIMIT))
    assert {batch_key(m)(n) for n in (1, LIMIT, 5*LIMIT)} == {()}
    assert len({batch_key(load_blocks(made('phi3'), 1))(n) for n in (1, LIMIT, 5*LIMIT)}) == 2

# generation

prompts = [rnd(5), rnd(LIMIT-20), rnd(LIMIT-6), rnd(LIMIT-6), rnd(LIMIT+9), rnd(2*LIMIT)]          # short for good, short, two that cross, two beyond

class Endless(LocalModel):
    "Answers that never end, without a tokenizer"
    def __init__(self, model): super().__init__(model, None, None)
    def is_over(self, ids): return False

def local(src): return Endless(load_causal(src))

def greedy(lm, prompts, n=16): return lm.generate(prompts, torch.zeros(len(prompts), n, dtype=torch.float64))

@functools.cache
def alone(src, n=16):
    "By transformers' `generate`, each prompt in a model just loaded"
    out = []
    for o in prompts:
        m = fresh(src)
        m.generation_config.update(eos_token_id=V+1, pad_token_id=0)
        out.append(m.generate(torch.tensor([o]), max_new_tokens=n, do_sample=False)[0,len(o):].tolist())
    return out

@archs
def test_generated(arch, made):
    "Together, in reverse, and one by one, after each other: what `generate` answers to each; texts that grow over the limit are read anew where it does that"
    lm,want = local(made(arch)),alone(made(arch))
    assert lm.form=='padded'
    assert greedy(lm, prompts) == want
    assert greedy(lm, prompts[::-1])[::-1] == want
    assert [greedy(lm, [o])[0] for o in prompts] == want

@pytest.mark.parametrize('arch', [o for o in configs if o!='gemma3_dynamic'])     # whose greedy answers repeat one token
def test_generated_control(arch, made):
    "In one batch some answers are others"
    lm = local(made(arch))
    with mock.patch.object(LocalModel, 'batches', lambda self, ps, more: [list(range(len(ps)))]): assert greedy(lm, prompts) != alone(made(arch))

def test_cache_control(made):
    "With the cache kept over the limit, Phi-3 goes on otherwise"
    src = made('phi3')
    with mock.patch.object(local_module, 'restart_length', lambda model: None): assert greedy(local(src), prompts) != alone(src)

recurrent = dict(
    rwkv=lambda: tf.RwkvConfig(vocab_size=V, hidden_size=32, attention_hidden_size=32, intermediate_size=64, num_hidden_layers=2),
    recurrent_gemma=lambda: tf.RecurrentGemmaConfig(**{**small, 'num_key_value_heads': 1}, lru_width=32, attention_window_size=16),
    roberta=lambda: tf.RobertaConfig(vocab_size=V, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, is_decoder=True),
    mamba=lambda: tf.MambaConfig(vocab_size=V, hidden_size=32, num_hidden_layers=2), llama=lambda: tf.LlamaConfig(**small))

@pytest.mark.parametrize('arch,form', dict(rwkv='level', recurrent_gemma='anew', roberta='level', mamba='padded', llama='padded').items())
def test_form(arch, form, caplog):
    "A model that cannot be padded answers prompts of one length at a time, which the log says; together as alone"
    torch.manual_seed(0)
    m = AutoModelForCausalLM.from_config(recurrent[arch](), dtype=torch.float32).eval()
    for p in m.parameters(): p.data += .1*torch.randn_like(p)
    lm,some = Endless(m),[o[:n] for o,n in zip(prompts[1:], (4, 9, 9, 15))]
    assert (lm.form,'answers prompts of one length at a time' in caplog.text) == (form, form!='padded')
    def one(o):
        ids = list(o)
        for _ in range(8): ids.append(m(torch.tensor([ids])).logits[0,-1].argmax().item())
        return ids[len(o):]
    with torch.no_grad(): want = [one(o) for o in some]
    assert greedy(lm, some, 8) == want
    if form!='padded':
        lm.form = 'padded'
        assert greedy(lm, some, 8) != want

def test_form_beyond_a_window(made):
    "A cache that forgets what the window of 16 tokens still shows is found"
    src,make = made('gemma3_dynamic'),local_module.make_cache
    def forgets(model, n=None):
        own = model.config.sliding_window
        model.config.sliding_window = 12
        try: return make(model, n)
        finally: model.config.sliding_window = own
    assert local_module.batch_form(fresh(src)) == 'padded'
    with mock.patch.object(local_module, 'make_cache', forgets): assert local_module.batch_form(fresh(src)) != 'padded'

def test_steered_together(made):
    "Where rows must stay together and cannot, that is said"
    with pytest.raises(ValueError, match='Phi3ForCausalLM cannot answer these prompts in one batch'):
        local(made('phi3')).generate(prompts, torch.zeros(len(prompts), 4, dtype=torch.float64), leave=False)

def test_predictions(made):
    "Steering's predictions are of one batch: refused where its texts have other numbers in company, right on one side of the limit"
    src = made('phi3')
    m,short = load_causal(src),[s for s in seqs if len(s)<=LIMIT]
    with pytest.raises(ValueError, match='Phi3ForCausalLM reads texts of these lengths differently'): list(predictions(m, seqs))
    for s,lp in zip(short, predictions(m, short)): assert rel(lp.gather(-1, torch.tensor(s.ids[s.start:s.end])[:,None])[:,0], truth(src)[1][seqs.index(s)]) < 1e-5
