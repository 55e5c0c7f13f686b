"The engine on tiny random models of every architecture: each layer is transformers' own, packed or padded, streamed or not, alone or in company"
import functools, json
import pytest, torch
import transformers as tf
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
from persona_vectors.config import data_dir
from persona_vectors.extraction.blocks import find_blocks, load_blocks, residual_hooks
from persona_vectors.extraction.engine import read
from persona_vectors.models import find_model
from persona_vectors.extraction.packing import batches, forward, can_pack, block_outputs
from persona_vectors.prompts import Tokens
from persona_vectors.extraction.streaming import read_streamed
from architectures import refused, tried

L,V,W = 6, 160, 24                                                              # blocks, words, sliding window
small = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=L, num_attention_heads=4, num_key_value_heads=2, vocab_size=V, max_position_embeddings=512,
             pad_token_id=0, bos_token_id=1, eos_token_id=2)
kinds = ['sliding_attention','full_attention']*(L//2)
moe = dict(num_experts_per_tok=2)
vision = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=L, num_attention_heads=2, image_size=28, patch_size=14)    # as many blocks as the text model
gemma3 = dict(**small, head_dim=8, sliding_window=W, layer_types=kinds)
configs = dict(
    llama=lambda: tf.LlamaConfig(**small), gemma2=lambda: tf.Gemma2Config(**small, head_dim=8, sliding_window=W, attn_logit_softcapping=2., query_pre_attn_scalar=8),
    gemma3_text=lambda: tf.Gemma3TextConfig(**gemma3), gemma3=lambda: tf.Gemma3Config(text_config=gemma3, vision_config=vision, mm_tokens_per_image=4, image_token_index=150, boi_token_index=151, eoi_token_index=152),
    qwen2=lambda: tf.Qwen2Config(**small, use_sliding_window=True, sliding_window=W, max_window_layers=3), qwen3=lambda: tf.Qwen3Config(**small, head_dim=8),
    qwen3_moe=lambda: tf.Qwen3MoeConfig(**small, **moe, head_dim=8, num_experts=4, moe_intermediate_size=16), mistral=lambda: tf.MistralConfig(**small, sliding_window=W),
    olmo2=lambda: tf.Olmo2Config(**small), olmo3=lambda: tf.Olmo3Config(**small, sliding_window=W, layer_types=kinds), phi3=lambda: tf.Phi3Config(**small, sliding_window=W),
    gpt2=lambda: tf.GPT2Config(n_embd=32, n_head=4, n_layer=L, vocab_size=V, n_positions=512, scale_attn_by_inverse_layer_idx=True),
    gpt_neox=lambda: tf.GPTNeoXConfig(**{k: v for k,v in small.items() if k!='num_key_value_heads'}),
    gpt_oss=lambda: tf.GptOssConfig(**small, **moe, head_dim=8, num_local_experts=4, sliding_window=W, layer_types=kinds),
    minicpm3=lambda: tf.MiniCPM3Config(**{**small, 'num_key_value_heads': 4}, q_lora_rank=16, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=8),
    lfm2=lambda: tf.Lfm2Config(**small, full_attn_idxs=[1,3]),
    bloom=lambda: tf.BloomConfig(hidden_size=32, n_head=4, n_layer=L, vocab_size=V))
padded_only = {'bloom','lfm2'}
archs = pytest.mark.parametrize('arch', configs)

@functools.cache
def checkpoint(arch, folder):
    "A random model of this architecture, its weights large enough that attention matters, saved in several shards"
    torch.manual_seed(0)
    cls = AutoModelForImageTextToText if arch=='gemma3' else AutoModelForCausalLM
    m = cls.from_config(configs[arch](), dtype=torch.float32).eval()
    for p in m.parameters(): p.data += .1*torch.randn_like(p)
    m.save_pretrained(folder/arch, max_shard_size='60KB')
    return m,find_model(str(folder/arch))

@pytest.fixture(scope='module')
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp('models')
    return lambda arch: checkpoint(arch, folder)

g = torch.Generator().manual_seed(0)
def rnd(n): return torch.randint(3, 150, (n,), generator=g).tolist()
start,asked = rnd(14),rnd(9)
ids = [start+asked+rnd(70), start+asked+rnd(20), start+rnd(45), rnd(31), start+asked, rnd(1)+rnd(3)]
seqs = [Tokens(o, len(o)//2, len(o), [], '', f'number {i}') for i,o in enumerate(ids)]
layers = list(range(L+1))

def rel(a, b): return ((a-b).norm()/b.norm()).item()

@functools.cache
def truth(m):
    "By transformers alone, one sequence at a time: what every block wrote, the last one before the norm, averaged over the span as `shift` has it"
    out,last = {},[]
    base = m.model.language_model if hasattr(m.model if hasattr(m, 'model') else m, 'language_model') else m.base_model
    norm = next(o for k in ('norm','ln_f','final_layer_norm','embedding_norm') if (o := getattr(base, k, None)) is not None)
    h = norm.register_forward_pre_hook(lambda mod,args: last.append(args[0]))
    for s in seqs:
        with torch.no_grad(): hs = m(torch.tensor([s.ids]), output_hidden_states=True, use_cache=False).hidden_states
        hs = torch.stack([*hs[:-1], last.pop()])[:,0]
        for shift in (0,-1): out.setdefault(shift, []).append(hs[:,s.start+shift:s.end+shift].mean(1))
    h.remove()
    return {k: torch.stack(v) for k,v in out.items()}

@archs
def test_every_layer(arch, made):
    "All layers equal transformers' hidden states, and neither the layer below nor the span one token to the left does"
    m,src = made(arch)
    got,want = read(load_blocks(src, L), seqs, layers, progress=False),truth(m)
    assert max(rel(got[:,k], want[0][:,k]) for k in layers) < 2e-6
    assert min(rel(got[:,k], want[0][:,k-1]) for k in layers[1:]) > 1e-2
    assert min(rel(got[:,k], want[-1][:,k]) for k in layers) > 1e-2

@archs
def test_fewer_blocks(arch, made):
    "The first three blocks are the same without those above"
    m,src = made(arch)
    part = load_blocks(src, 3)
    assert len(find_blocks(part))==3
    assert max(rel(o, w) for o,w in zip(read(part, seqs, [0,3], progress=False).unbind(1), truth(m)[0][:,[0,3]].unbind(1))) < 2e-6

@archs
def test_any_batch(arch, made):
    "In any company and order the numbers are the same to float32 rounding"
    m,src = made(arch)
    model = load_blocks(src, L)
    want = truth(m)[0]
    for budget in (1, 60, 100000): assert rel(read(model, seqs, layers, budget, False), want) < 2e-6
    assert rel(read(model, seqs[::-1], layers, progress=False).flip(0), want) < 2e-6

@archs
def test_packed(arch, made):
    "What can be packed is; common beginnings stand there once"
    _,src = made(arch)
    model = load_blocks(src, L)
    assert can_pack(model, functools.partial(block_outputs, model)) == (arch not in padded_only)
    assert sum(map(len, batches(seqs, 100000))) < sum(map(len, ids)) < sum(map(len, batches(seqs, 100000, packed=False)))

@pytest.mark.parametrize('arch', [o for o in configs if o not in padded_only])
def test_packed_control(arch, made):
    "A sequence that sees a token too few of its beginning does not come out right"
    m,src = made(arch)
    model,b,got = load_blocks(src, L),batches(seqs, 100000)[0],{}
    b.where = [r if len(r)==1 else [(r[0][0]+1, r[0][1]), *r[1:]] for r in b.where]
    with residual_hooks(model, [L], lambda k,h: got.update({k: h[0]})): forward(model, b)
    off = torch.stack([torch.cat([got[L][x:y] for x,y in s]).mean(0) for s in b.spans])
    assert rel(off, truth(m)[0][b.index,L]) > 1e-4

@archs
@pytest.mark.parametrize('dtype', ['float32','bfloat16'])
def test_streamed(arch, dtype, made):
    "Block by block is the same to the last bit; with another block in its place it is not"
    _,src = made(arch)
    want = read(load_blocks(src, L, dtype), seqs, [0,2,L], 100, False)
    assert torch.equal(read_streamed(src, seqs, [0,2,L], dtype, batch_tokens=100, progress=False), want)
    assert not torch.equal(read_streamed(src, seqs, [0,3,L], dtype, batch_tokens=100, progress=False)[:,1], want[:,1])

def test_override(made):
    "A path of one's own: right, and wrong"
    _,src = made('llama')
    assert torch.equal(read(load_blocks(src, L), seqs, [3], progress=False, blocks='layers'), read(load_blocks(src, L), seqs, [3], progress=False))
    with pytest.raises(ValueError, match=r"no list of 6 blocks at 'h'.*blocks=\.\.\. \(--blocks\).*'layers' of 6"): read(load_blocks(src, L), seqs, [3], progress=False, blocks='h')
    with pytest.raises(ValueError, match='blocks='): read_streamed(src, seqs, [3], progress=False, blocks='h')

# blocks that share: keys and values of earlier ones (Gemma 4), weights (Zamba 2), what the one before returned (ZAYA, GLM, Bamba); other names in files (Bailing)

@pytest.mark.parametrize('kind', ['gemma4_text', 'zamba2', 'zaya', 'glm_moe_dsa', 'bamba', 'bailing_hybrid'])
def test_blocks_that_share(kind):
    "Whole, cut and streamed they are transformers' whole model"
    got = tried(kind)
    assert max(got[o] for o in ('whole','cut','streamed'))<1e-5, got

def test_not_streamed():
    "What later blocks get is made from what earlier ones wrote: read whole and cut, refused streamed"
    got = tried('inkling2_text')
    assert max(got['whole'], got['cut'])<1e-5 and 'a block gets more from earlier ones' in got['streamed']

streams,encoder,two = 'a decoder with 4 residual streams', 'an encoder, whose tokens see those after them', 'an encoder-decoder'
cannot = dict(gemma3n_text=streams, deepseek_v4=streams, roberta=encoder, xlm=encoder, bart=two, whisper=two, xlnet='no single residual stream', cpmant='gets (1, 40, 32) for 8 tokens',
              hrm_text='its blocks run several times', rwkv='the model changes the stream in between', **{'bert-generation': 'tokens see those after them'})

@pytest.mark.parametrize('kind', cannot)
def test_what_cannot_be_read(kind): assert cannot[kind] in tried(kind)['refused']

@pytest.mark.parametrize('kind,why', dict(t5=two, mt5=two, distilbert=encoder, modernbert=encoder).items())
def test_by_its_configuration(kind, why): assert why in refused(kind)['refused']

table = json.loads((data_dir()/'what_was_tried.json').read_text(encoding='utf-8'))['architectures']

@pytest.mark.slow
@pytest.mark.parametrize('row', [o for o in table if 'whole' in o], ids=lambda o: o['type'])
def test_the_table(row):
    "What data/what_was_tried.json says is read, is read; it is written by tools/what_was_tried.py"
    got = tried(row['type'])
    assert got.keys()==row.keys() and max(got['whole'], got['cut'])<1e-5 and got['hidden_states']==row['hidden_states'] and type(got['streamed'])==type(row['streamed'])
