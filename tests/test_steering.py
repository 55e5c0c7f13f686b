"Steering on tiny random models of every kind: the layers below as they were, the layer itself exactly as said, at exactly the tokens that are meant"
import functools
import pytest, torch
import transformers as tf
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, DynamicCache, StaticCache
from persona_vectors.config import cache_dir
from persona_vectors.extraction.vectors import Direction
from persona_vectors.extraction.blocks import find_blocks, residual_hooks
from persona_vectors.generation.local import Decoding
from persona_vectors.steering.steer import Gate, Steer, steered

D,L,V,K = 32, 4, 99, 2                                                          # width, blocks, words, steered layer
small = dict(hidden_size=D, intermediate_size=64, num_hidden_layers=L, num_attention_heads=4, num_key_value_heads=2, vocab_size=V, max_position_embeddings=128,
             pad_token_id=0, bos_token_id=1, eos_token_id=2)
gemma3 = dict(**small, head_dim=8, sliding_window=5, layer_types=['sliding_attention','full_attention']*2)
vision = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=L, num_attention_heads=2, image_size=28, patch_size=14)   # as many blocks as the text model
configs = dict(
    llama=lambda: tf.LlamaConfig(**small), gemma3_text=lambda: tf.Gemma3TextConfig(**gemma3), qwen3=lambda: tf.Qwen3Config(**small, head_dim=8),
    gemma3=lambda: tf.Gemma3Config(text_config=gemma3, vision_config=vision, mm_tokens_per_image=4, image_token_index=95, boi_token_index=96, eoi_token_index=97),
    gpt2=lambda: tf.GPT2Config(n_embd=D, n_head=4, n_layer=L, vocab_size=V, n_positions=128, bos_token_id=1, eos_token_id=2),
    gpt_neox=lambda: tf.GPTNeoXConfig(**{k: v for k,v in small.items() if k!='num_key_value_heads'}),
    olmo3=lambda: tf.Olmo3Config(**small, sliding_window=5, layer_types=['sliding_attention','full_attention']*2),
    lfm2=lambda: tf.Lfm2Config(**small, full_attn_idxs=[1,3]))
archs = pytest.mark.parametrize('arch', configs)

@functools.cache
def made(arch, dtype=torch.float32):
    torch.manual_seed(0)
    m = (AutoModelForImageTextToText if arch=='gemma3' else AutoModelForCausalLM).from_config(configs[arch](), dtype=torch.float32).eval()
    for p in m.parameters(): p.data += .1*torch.randn_like(p)
    return m.to(dtype)

g = torch.Generator().manual_seed(0)
v,w = torch.randn(2, D, generator=g)
d,e = (Direction(o, name, K, '') for o,name in ((v, 'v'), (v+w, 'w')))             # correlated
u = v/v.norm()

# two rows of 6 and 9 tokens, of which 3 and 5 are the prompt's; and by hand, the place of each column in its row

lengths,prompts = (6,9),(3,5)
ids = torch.randint(3, 90, (2,9), generator=g)
def places(side): return [[c-(9-n if side=='left' else 0) for c in range(9)] for n in lengths]
def mask(side): return torch.tensor([[int(0<=p<n) for p in row] for row,n in zip(places(side), lengths)])
def meant(side, at, shift=0):
    "The columns that are meant, written out; `shift` makes them wrong"
    def one(p, n, asked):
        if not 0<=p<n or p==0 and not at.endswith('+sinks'): return False
        return True if at.startswith('all') else p>=asked if at=='answer' else p<asked
    m = torch.tensor([[one(p, n, k) for p in row] for row,n,k in zip(places(side), lengths, prompts)])
    return m.roll(shift, 1)

@torch.no_grad()
def stream(m, ids, mask=None, cuts=(), layers=(0,K-1,K,K+1)):
    "The residual stream, the tokens read in pieces onto a cache"
    got,cache = {k: [] for k in layers},DynamicCache(config=m.config.get_text_config()) if cuts else None
    with residual_hooks(m.get_decoder(), layers, lambda k,h: got[k].append(h.clone())):
        for a,b in zip((0,*cuts), (*cuts,ids.shape[1])):
            m(ids[:,a:b], attention_mask=None if mask is None else mask[:,:b], past_key_values=cache, use_cache=bool(cuts))
    return {k: torch.cat(o, 1) for k,o in got.items()}

def projected(h, t): return h+(t-(h@u))[...,None]*u
c2,far = torch.tensor([1.5,-2.]),torch.tensor([9.,8.])
def forms(x):
    "Operation, arguments, and what the layer should be; floors and ceilings in the middle, where some tokens move, and far away, where all do"
    q = (x@u).sort(1).values[:,4:6].mean(1)
    rows = (q, far)
    yield 'add', dict(coef=c2), x+c2[:,None,None]*v
    yield 'ablate', dict(), projected(x, 0)
    yield 'clamp', dict(coef=.3), projected(x, .3*v.norm())
    for t in rows:
        yield 'floor', dict(coef=t, unit='raw'), projected(x, torch.maximum(x@u, t[:,None]))
        yield 'ceiling', dict(coef=t if t is q else -t, unit='raw'), projected(x, torch.minimum(x@u, (t if t is q else -t)[:,None]))

ways = dict(whole=(), chunks=(4,7), tokens=tuple(range(1,9)), decoded=(5,6,7,8))
@archs
@pytest.mark.parametrize('side', ['left','right'])
@pytest.mark.parametrize('way', ways)
def test_exactly(arch, side, way):
    "Every operation at every place: below nothing, at the layer the formula where it is meant and nothing elsewhere, above something"
    m,mk = made(arch),mask(side)
    plain = stream(m, ids, mk, ways[way])
    for op,kw,want in forms(plain[K]):
        moves = ((want-plain[K])@u).abs()>0 if op in ('floor','ceiling') else torch.ones(2, 9, dtype=torch.bool)
        for at in ('all','prompt','answer','all+sinks','prompt+sinks') if op=='add' else ('all','answer'):
            with steered(m, Steer(d, op=op, positions=at, **kw), prompt_len=torch.tensor(prompts)) as s: got = stream(m, ids, mk, ways[way])
            here,there = meant(side, at),meant(side, at, 1)
            assert all(torch.equal(got[k], plain[k]) for k in (0,K-1))
            assert torch.equal(got[K][~(here & moves)], plain[K][~(here & moves)])
            if op=='add': assert torch.equal(got[K][here], want[here])
            else: assert torch.allclose(got[K][here], want[here], atol=4e-6)
            if moves.all(): assert not torch.allclose(got[K], torch.where(there[...,None], want, plain[K]), atol=4e-6)      # the control: one to the right
            assert not torch.equal(got[K+1], plain[K+1])
            assert s.counts.tokens.sum()==here.sum() and s.counts.moved.sum()==(here & moves).sum()
    again = stream(m, ids, mk, ways[way])
    assert all(torch.equal(again[k], plain[k]) for k in plain)
    assert not any(o._forward_hooks or o._forward_pre_hooks for o in m.modules())

@archs
@pytest.mark.parametrize('way', ways)
@pytest.mark.parametrize('below', [False,True])
def test_gate(arch, way, below):
    "Behind a gate, at a lower layer and at its own, the tokens that it opens for are as without one, and all others are as they were"
    m,mk,n = made(arch),mask('left'),torch.tensor(prompts)
    plain = stream(m, ids, mk, ways[way])
    for k in (K-1,K):
        a = (plain[k]@e.unit)
        at = a[meant('left', 'all')].sort().values[4:6].mean().item()                   # between two tokens
        for op,want in (('add', plain[K]+v), ('clamp', projected(plain[K], v.norm()))):
            with steered(m, Steer(d, op=op, when=Gate(e, at, below, k)), prompt_len=n) as s: got = stream(m, ids, mk, ways[way])
            here = meant('left', 'all') & ((a<at) if below else (a>at))
            assert torch.equal(got[K][~here], plain[K][~here]) and torch.allclose(got[K][here], want[here], atol=4e-6)
            assert 0<here.sum()<meant('left', 'all').sum() and not torch.allclose(got[K], torch.where(here.roll(1, 1)[...,None], want, plain[K]), atol=4e-6)
            assert s.counts.moved.tolist()==[here.sum()] and s.counts.tokens.sum()==meant('left', 'all').sum()

@archs
def test_single(arch):
    "One row without a mask, whole and a token at a time"
    m,row = made(arch),ids[1:]
    for cuts in ((), tuple(range(1,9))):
        plain,here = stream(m, row, None, cuts),torch.arange(9)[None]>=5
        with steered(m, Steer(d, positions='answer'), prompt_len=5): got = stream(m, row, None, cuts)
        assert torch.equal(got[K], torch.where(here[...,None], plain[K]+v, plain[K])) and torch.equal(got[K-1], plain[K-1])
        assert not torch.equal(got[K], torch.where(here.roll(1, 1)[...,None], plain[K]+v, plain[K]))

@archs
def test_layers(arch):
    "The first layer, the last, and several together; the layer at the very bottom is what the first block is given"
    m = made(arch)
    for k in (0,L):
        plain = stream(m, ids, mask('left'), layers=range(L+1))
        with steered(m, Steer(d, layers=k)): got = stream(m, ids, mask('left'), layers=range(L+1))
        at = meant('left', 'all')[...,None]
        if k: assert torch.equal(got[k], torch.where(at, plain[k]+v, plain[k])) and all(torch.equal(got[j], plain[j]) for j in range(k))
        else:                                                                   # seen before our hook, so by what comes of it
            x = plain[0]
            h = find_blocks(m.get_decoder())[0].register_forward_pre_hook(lambda b,a,kw: ((torch.where(at, x+v, x), *a[1:]), kw) if a else (a, kw | dict(hidden_states=torch.where(at, x+v, x))), with_kwargs=True)
            assert torch.equal(stream(m, ids, mask('left'))[1], got[1]) and not torch.equal(got[1], plain[1])
            h.remove()
    with steered(m, Steer(d, layers=[1,3])): got = stream(m, ids, mask('left'), layers=[0,1,2,3])
    with steered(m, Steer(d, layers=1)): low = stream(m, ids, mask('left'), layers=[0,1,2,3])
    assert torch.equal(got[3], torch.where(meant('left', 'all')[...,None], low[3]+v, low[3])) and torch.equal(got[2], low[2])

@torch.no_grad()
def by_hand(m, ids, mk, n, steers, prompt_len):
    "Greedy, without a cache and the end token: everything is read again for each token"
    with steered(m, *steers, prompt_len=prompt_len):
        for _ in range(n):
            x = m(ids, attention_mask=mk, position_ids=(mk.cumsum(-1)-1).clamp(min=0), use_cache=False).logits[:,-1].index_fill(1, torch.tensor([2]), -torch.inf)
            ids,mk = torch.cat([ids, x.argmax(-1)[:,None]], 1),torch.cat([mk, torch.ones(len(mk), 1, dtype=mk.dtype)], 1)
    return ids

@archs
@pytest.mark.parametrize('at', ['all','prompt','answer'])
def test_generate(arch, at):
    "`generate` with a cache says what reading everything again says, with another coefficient in each row; so it does in chunks"
    m,mk,n = made(arch),mask('left'),torch.tensor(lengths)
    kw = dict(attention_mask=mk, do_sample=False, max_new_tokens=8, min_new_tokens=8, pad_token_id=0)
    steer = Steer(d, coef=torch.tensor([2.,-2.]), positions=at)
    want = by_hand(m, ids, mk, 8, [steer], n)
    with steered(m, steer): got = m.generate(ids, **kw)
    with steered(m, steer, prompt_len=n): assert torch.equal(m.generate(ids, **kw), got)
    assert torch.equal(got, want)
    assert not torch.equal(m.generate(ids, **kw), got)
    with steered(m, steer, prompt_len=n): assert torch.equal(m.generate(ids, prefill_chunk_size=4, **kw), got)
    if at!='all':
        with pytest.raises(ValueError, match='prompt_len='), steered(m, steer): m.generate(ids, prefill_chunk_size=4, **kw)

def test_beams():
    "Rows that beams make have to have coefficients"
    m,mk,c = made('llama'),mask('left'),torch.tensor([2.,-2.])
    kw = dict(attention_mask=mk, do_sample=False, max_new_tokens=6, num_beams=3, pad_token_id=0)
    with pytest.raises(ValueError, match=r'for 2 rows and the batch has 6.*repeat_interleave'), steered(m, Steer(d, coef=c)): m.generate(ids, **kw)
    with steered(m, Steer(d, coef=c.repeat_interleave(3))): both = m.generate(ids, **kw)
    for i in range(2):
        with steered(m, Steer(d, coef=c[i])): assert torch.equal(m.generate(ids, **kw)[i], both[i])
    assert not torch.equal(m.generate(ids, **kw), both)

@pytest.mark.parametrize('cache', [DynamicCache, StaticCache])
def test_batch_of_local_model(cache):
    "The loop of `LocalModel`, whose rows can leave, on either cache"
    m,mk = made('llama'),mask('left')
    want = by_hand(m, ids, mk, 5, [Steer(d, coef=2, positions='answer')], torch.tensor(lengths))
    with torch.no_grad(), steered(m, Steer(d, coef=2, positions='answer')):
        b = Decoding(m, [o[on==1].tolist() for o,on in zip(ids, mk)], 20)
        b.cache,got = cache(config=m.config, **(dict(max_cache_len=20) if cache is StaticCache else {})),[]
        for i in range(5):
            if i==2: b.keep([1])
            tok = b.logits().index_fill(1, torch.tensor([2]), -torch.inf).argmax(-1)
            b.add(tok)
            got.append(tok.tolist())
    assert [o[-1] for o in got]==want[1,9:].tolist() and [o[0] for o in got[:2]]==want[0,9:11].tolist()

def test_static_cache_of_generate_is_refused():
    with pytest.raises(ValueError, match='use the default cache'), steered(made('llama'), Steer(d)):
        made('llama').generate(ids, attention_mask=mask('left'), max_new_tokens=3, cache_implementation='static', disable_compile=True)

# several at once

def test_together():
    "Additions add up in any order, and bounds apply to what they make; bounds along a second direction are refused"
    m,mk = made('llama'),mask('left')
    plain,here = stream(m, ids, mk)[K],meant('left', 'all')[...,None]
    a,b = Steer(d, .5), Steer(e, -1)
    def run(*steers):
        with steered(m, *steers): return stream(m, ids, mk)[K]
    assert torch.allclose(run(a, b), torch.where(here, plain+.5*v-(v+w), plain), atol=1e-6)
    free = run(a, b)[here[...,0]]@u
    lo,hi = free.quantile(torch.tensor([.3,.7])).tolist()
    f,c = Steer(d, lo, 'floor', unit='raw'), Steer(d, hi, 'ceiling', unit='raw')
    assert torch.allclose(run(f, b, c, a), run(a, b, c, f), atol=1e-6)
    got = run(f, c, a, b)[here[...,0]]@u
    assert torch.allclose(got, free.clamp(lo, hi), atol=1e-5) and not torch.allclose(got, free, atol=1e-2)
    with pytest.raises(ValueError, match='overlap'): run(f, Steer(e, op='clamp', positions='answer'))
    for o in (Steer(e, op='clamp'), Steer([d,e], op='ablate'), Steer([d,e], op='floor')):
        with pytest.raises(ValueError, match='give one a layer'): run(f, o)
    both = (Steer(d, 9, 'floor', unit='raw', positions='prompt'), Steer(d, -9, 'ceiling', unit='raw', positions='answer'))
    with steered(m, *both, prompt_len=torch.tensor(prompts)): got = stream(m, ids, mk)[K]@u
    assert torch.allclose(got[meant('left','prompt')], torch.tensor(9.), atol=1e-4) and torch.allclose(got[meant('left','answer')], torch.tensor(-9.), atol=1e-4)

def test_ablated_span():
    "Of several directions nothing is left of any, and of what is at right angles to them everything"
    m,mk = made('llama'),mask('left')
    plain,here = stream(m, ids, mk)[K],meant('left', 'all')
    with steered(m, Steer([d,e,d], op='ablate')): got = stream(m, ids, mk)[K]
    Q = torch.linalg.qr(torch.stack([v,w]).T.double())[0]
    assert torch.allclose(got[here].double(), plain[here]-plain[here].double()@Q@Q.T, atol=1e-5)
    one = plain[here]-(plain[here]@u)[:,None]*u                                 # the control: one after the other leaves something
    two = one-(one@((v+w)/(v+w).norm()))[:,None]*(v+w)/(v+w).norm()
    assert abs(two@u).max()>1e-2

# weights

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_rounded_once(dtype):
    m,mk = made('llama', dtype),mask('left')
    plain,here = stream(m, ids, mk),meant('left', 'all')[...,None]
    with steered(m, Steer([d,e], coef=.37)): got = stream(m, ids, mk)[K]
    want = (plain[K].float()+.37*(v+(v+w))).to(dtype)
    assert got.dtype==dtype and torch.equal(got, torch.where(here, want, plain[K]))
    assert not torch.equal(got, torch.where(here, plain[K]+(.37*v).to(dtype)+(.37*(v+w)).to(dtype), plain[K]))     # rounded at each step
    made.cache_clear()

class Int8(torch.nn.Module):
    "A linear layer whose weights are stored as whole numbers"
    def __init__(self, lin):
        super().__init__()
        self.scale,self.bias = lin.weight.abs().amax(1, keepdim=True)/127,lin.bias
        self.register_buffer('weight', (lin.weight/self.scale).round().to(torch.int8))
    def forward(self, x): return torch.nn.functional.linear(x, self.weight*self.scale, self.bias)

def test_quantised():
    "Weights of another kind: nothing but the stream is touched"
    m,mk = made('llama'),mask('left')
    for b in find_blocks(m.get_decoder()):
        for o in (b.self_attn, b.mlp):
            for k,lin in list(o.named_children()):
                if isinstance(lin, torch.nn.Linear): setattr(o, k, Int8(lin))
    made.cache_clear()
    before,plain,here = {k: x.clone() for k,x in m.state_dict().items()},stream(m, ids, mk),meant('left', 'all')[...,None]
    with steered(m, Steer(d)): got = stream(m, ids, mk)
    assert torch.equal(got[K], torch.where(here, plain[K]+v, plain[K])) and torch.equal(got[K-1], plain[K-1])
    assert all(torch.equal(x, before[k]) for k,x in m.state_dict().items())

def test_gradients():
    "They pass through, as in preventative steering"
    m = made('llama')
    with steered(m, Steer(d, .2, 'floor', unit='raw'), Steer(d, coef=.1)): m(ids).logits.sum().backward()
    assert m.get_input_embeddings().weight.grad.abs().sum()>0
    m.zero_grad()

def test_of_another_model(caplog):
    "Of the same width it is used, and the log says so; of another it is refused"
    m = made('llama')
    m.config._name_or_path = str(cache_dir()/'tiny-llama-1a2b')                    # a converted model, as the cache names it
    other,own = (Direction(v, 'v', K, name) for name in ('org/other', 'org/tiny-llama'))
    with steered(m, Steer(own)): m(ids)
    assert not caplog.records
    with steered(m, Steer(other)): m(ids)
    assert 'a direction of org/other steers tiny-llama' in caplog.text
    with pytest.raises(ValueError, match='width 5'), steered(m, Steer(Direction(v[:5], 'v', K, 'org/other'))): pass
    m.config._name_or_path = ''
