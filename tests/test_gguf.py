"GGUF files are read as the safetensors model they were written from, or refused in one line that names what is not understood"
import json, math, re, struct, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
import numpy as np
import pytest, torch, transformers as tf
from gguf import GGMLQuantizationType as Q, GGUFWriter, MODEL_ARCH_NAMES, RopeScalingType, get_tensor_name_map, quantize, quants
from persona_vectors.gguf import ARCHS, check_against_metadata, convert_model, read_gguf
from persona_vectors.models import ModelSource, find_model, load_causal

V,L,D,H,K,HD = 300,4,64,4,2,16
SHAPE = dict(vocab_size=V, hidden_size=D, intermediate_size=96, num_hidden_layers=L, num_attention_heads=H, max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=0)
GROUPED = SHAPE|dict(num_key_value_heads=K)

# writing, as llama.cpp's converter does

def neighbours(w, heads):
    "Rows of each head: 0, d/2, 1, d/2+1, …"
    d = len(w)//heads
    return w[[h*d + half*(d//2) + i for h in range(heads) for i in range(d//2) for half in (0,1)]]

def plus_one(k, v): return v+1 if k.endswith('norm.weight') else v
def turned(k, v): return neighbours(v, H) if 'q_proj' in k else neighbours(v, K) if 'k_proj' in k else v
def round_about(k, v): return v.T if re.search(r'(c_attn|c_proj|c_fc)\.weight', k) else v
def queries_first(groups):
    "All queries, then all keys, then all values, as the converter writes Falcon and Bloom"
    def f(k, v):
        if 'query_key_value' not in k: return v
        qkv = v.reshape(groups, H//groups+2, HD, -1)
        return np.concatenate([o.reshape(-1, *v.shape[1:]) for o in (qkv[:,:-2], qkv[:,[-2]], qkv[:,[-1]])])
    return f
def oss_experts(k, v):
    "gpt-oss: gates and what they gate take turns in transformers, and matrices are the other way round"
    i,name = re.search(r'layers\.(\d+)\.mlp\.experts\.(\w+)', k).groups()
    end = 'bias' if name.endswith('_bias') else 'weight'
    if end=='weight': v = v.swapaxes(1, 2)
    return {f'blk.{i}.ffn_{n}_exps.{end}': np.ascontiguousarray(o) for n,o in (dict(down=v) if 'down' in name else dict(gate=v[:,::2], up=v[:,1::2])).items()}
def states(k, v): return v[:,0] if 'conv1d.weight' in k else -np.exp(v) if 'A_log' in k else v
NK,NV,KD,VD = 2,4,8,12
def dealt_out(v, dim=0, skip=0):
    "Heads of values, which stand by their heads of keys, in turn"
    head,rest = np.split(v, [skip], dim)
    shape = rest.shape
    rest = rest.reshape(*shape[:dim], NK, NV//NK, shape[dim]//NV, *shape[dim+1:]).swapaxes(dim, dim+1).reshape(shape)
    return np.concatenate([head, rest], dim)
def qwen35(k, v):
    if 'conv1d' in k: return dealt_out(v[:,0], 0, 2*NK*KD)
    if 'in_proj_qkv' in k: return dealt_out(v, 0, 2*NK*KD)
    if 'out_proj' in k: return dealt_out(v, 1)
    if 'A_log' in k: return dealt_out(-np.exp(v))
    if re.search('dt_bias|in_proj_[abz]', k): return dealt_out(v)
    return v if 'linear_attn' in k else plus_one(k, v)
CHANGED = dict(qwen35=qwen35, qwen35moe=qwen35, mamba=states, lfm2=lambda k, v: v[:,0] if 'conv.conv' in k else v, llama=turned, granite=turned, smollm3=turned, gpt2=round_about, bloom=queries_first(H), gemma=plus_one, gemma2=plus_one, gemma3=plus_one, nemotron=plus_one)

def gguf_tensors(model, arch):
    "The model's weights under the names and in the layout of GGUF"
    names = get_tensor_name_map(next(k for k,v in MODEL_ARCH_NAMES.items() if v==arch), model.config.num_hidden_layers)
    tied,out = (set(model._tied_weights_keys or ()) if model.config.tie_word_embeddings else set()),{}
    for k,v in model.state_dict().items():
        v = v.float().numpy()
        if k in tied: continue
        if arch=='gpt-oss' and 'experts' in k:
            out |= oss_experts(k, v)
            continue
        if m := re.search(r'layers\.(\d+)\.mlp\.experts\.(\w+)', k):
            half = v.shape[1]//2
            stacks = dict(gate=v[:,:half], up=v[:,half:]) if m[2]=='gate_up_proj' else dict(down=v)
            out |= {f'blk.{m[1]}.ffn_{n}_exps.weight': o for n,o in stacks.items()}
            continue
        stem,_,end = k.rpartition('.')
        if k.endswith('sinks'): stem,end = k,'weight'
        if k.endswith(('A_log','.D')): stem,end = k,''
        if k.endswith('dt_bias'): stem,end = k.replace('dt_bias', 'dt_proj'),'bias'
        v = CHANGED.get(arch, lambda k, v: v)(k, v)
        if 'shared_expert_gate' in k: v = v[0]
        out[f"{names.get_name(stem) or names.get_name(stem.removeprefix('transformer.'))}.{end}".removesuffix('.')] = np.ascontiguousarray(v)
    return out

def metadata(cfg, arch, **more):
    "What the converter writes of a configuration; `more` wins, and None takes a key out"
    eps = next(getattr(cfg, k) for k in ('rms_norm_eps','layer_norm_eps','norm_epsilon','norm_eps','layer_norm_epsilon') if hasattr(cfg, k))
    name = 'layer_norm_rms_epsilon' if hasattr(cfg, 'rms_norm_eps') else 'layer_norm_epsilon'
    d = {'context_length': 512, 'embedding_length': D, 'block_count': L, 'feed_forward_length': 96, 'attention.head_count': H, 'attention.head_count_kv': K, f'attention.{name}': float(eps), 'vocab_size': V}
    return {k: v for k,v in (d|more).items() if v is not None}

def put(w, k, v):
    "Write one key with the type its value has"
    if isinstance(v, list): w.add_array(k, v)
    else: {str: w.add_string, bool: w.add_bool, float: w.add_float32, int: w.add_uint32}[type(v)](k, v)

def write(path, model, arch, meta=None, tensors=None, kind=Q.F32, general=None, endian=None, **more):
    "Write `model` as a GGUF file of the architecture `arch`"
    w = GGUFWriter(path, arch, **({} if endian is None else dict(endianess=endian)))
    for k,v in (metadata(model.config, arch, **more) if meta is None else meta).items(): put(w, f'{arch}.{k}', v)
    for k,v in dict(bos=1, eos=2, padding=0).items(): put(w, f'tokenizer.ggml.{k}_token_id', v)
    for k,v in (general or {}).items(): put(w, k, v)
    for k,v in (gguf_tensors(model, arch) if tensors is None else tensors).items():
        o = kind if v.ndim>1 and v.shape[-1]%quants.GGML_QUANT_SIZES[kind][0]==0 else Q.F32
        raw = v.astype(np.float32) if o==Q.F32 else packed(v, o)
        w.add_tensor(k, raw, raw_dtype=o)
    for step in (w.write_header_to_file, w.write_kv_data_to_file, w.write_tensors_to_file, w.close): step()
    return path

def packed(v, kind):
    "Quantised values; of kinds that the package only unpacks, random bytes with small scales"
    try: return quantize(np.ascontiguousarray(v, np.float32), kind)
    except NotImplementedError: pass
    block,size = quants.GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(0).integers(0, 256, (v.size//block, size), np.uint8)
    scales = np.full(2, .004, np.float16).view(np.uint8)
    raw[:, :4] = scales                                                             # of Q4_K
    if kind==Q.Q6_K: raw[:, -2:] = scales[:2]
    return raw.reshape(*v.shape[:-1], -1)

# comparing

def make(cls, **kw):
    "A random model whose every weight matters"
    torch.manual_seed(0)
    m = tf.AutoModelForCausalLM.from_config(cls(**kw), dtype=torch.float32).eval()
    for p in m.parameters(): p.data += .1*torch.randn_like(p)
    return m

IDS = torch.randint(3, V, (1, 400), generator=torch.Generator().manual_seed(0))
def numbers(model, n=400):
    with torch.no_grad(): out = model(IDS[:,:n], output_hidden_states=True, use_cache=False)
    return [*out.hidden_states, out.logits]
def apart(a, b, n=400): return max(((x-y).norm()/y.norm()).item() for x,y in zip(numbers(a, n), numbers(b, n)))

def as_written(model):
    "`model`, its weights rounded as in a file, which has one more than a norm's and the exponential of a decay: a recurrence makes much of 1e-8"
    with torch.no_grad():
        for k,p in model.named_parameters():
            if k.endswith('norm.weight'): p.copy_((p+1)-1)
            if k.endswith('A_log'): p.copy_(torch.from_numpy(np.log(np.exp(p.numpy()))))
    return model

def convert(path, dest):
    convert_model(path, dest)
    assert check_against_metadata(dest)
    return load_causal(str(dest))

@pytest.fixture
def read(tmp_path):
    "The product's model of what `write` writes"
    def f(model, arch, **kw):
        (tmp_path/'out').mkdir()
        return convert(write(tmp_path/'model.gguf', model, arch, **kw), tmp_path/'out')
    return f

@pytest.fixture
def refused(tmp_path):
    def f(why, model, arch, **kw):
        with pytest.raises(ValueError, match=why) as e: convert_model(write(tmp_path/'model.gguf', model, arch, **kw), tmp_path)
        assert '\n' not in str(e.value)
        assert not list(tmp_path.glob('*.safetensors'))
    return f

def llama(**kw): return make(tf.LlamaConfig, **GROUPED|dict(head_dim=HD)|kw)
def same_weights(a, **kw):
    "The weights of `a` in another configuration"
    m = make(type(a.config), **{**{k: v for k,v in a.config.to_dict().items() if k not in ('model_type','transformers_version','architectures','dtype')}, **kw})
    m.load_state_dict(a.state_dict())
    return m
TURN = {'rope.dimension_count': HD}

# rotary positions

def freq_factors(factor, low, high, old, base=1e4, hd=HD):
    "Llama 3's factors, one by one as the converter computes them"
    out = []
    for i in range(0, hd, 2):
        wave = 2*math.pi*base**(i/hd)
        s = (old/wave-low)/(high-low)
        out.append(1. if wave<old/high else factor if wave>old/low else 1/((1-s)/factor+s))
    return np.array(out, np.float32)

ROPES = {
    'linear': (dict(rope_type='linear', factor=4.), {'rope.scaling.type': 'linear', 'rope.scaling.factor': 4.}),
    'linear without a type': (dict(rope_type='linear', factor=4.), {'rope.scaling.factor': 4.}),
    'linear by its old name': (dict(rope_type='linear', factor=2.), {'rope.scale_linear': 2.}),
    'none in spite of a factor': (None, {'rope.scaling.type': 'none', 'rope.scaling.factor': 4.}),
    'base': (dict(rope_type='default', rope_theta=5e5), {'rope.freq_base': 5e5}),
    'yarn': (dict(rope_type='yarn', factor=4., original_max_position_embeddings=128), {'rope.scaling.type': 'yarn', 'rope.scaling.factor': 4., 'rope.scaling.original_context_length': 128}),
    'yarn, all of it': (dict(rope_type='yarn', factor=4., original_max_position_embeddings=128, beta_fast=16., beta_slow=2., attention_factor=.8),
        {'rope.scaling.type': 'yarn', 'rope.scaling.factor': 4., 'rope.scaling.original_context_length': 128, 'rope.scaling.yarn_beta_fast': 16., 'rope.scaling.yarn_beta_slow': 2.,
         'rope.scaling.yarn_attn_factor': .8, 'rope.scaling.yarn_ext_factor': 1.}),
    'yarn times attn_factor': (dict(rope_type='yarn', factor=4., original_max_position_embeddings=512, attention_factor=.5*(1+.1*math.log(4))),
        {'rope.scaling.type': 'yarn', 'rope.scaling.factor': 4., 'rope.scaling.attn_factor': .5})}

@pytest.mark.parametrize('name', ROPES)
def test_rope(read, name):
    rope,meta = ROPES[name]
    base = llama()
    twin = same_weights(base, rope_parameters=dict(rope_theta=1e4)|(rope or dict(rope_type='default')))
    got = read(base, 'llama', **TURN|meta)
    assert apart(got, twin)<1e-6
    if rope: assert apart(base, twin)>1e-3                                            # control: it matters

@pytest.mark.parametrize('hd,params', [(64, (8., 1., 4., 256)), (64, (32., 1., 4., 128)), (64, (8., 1., 2., 64)), (16, (8., 1., 4., 256)), (16, (4., 2., 3., 64))])
def test_llama3(read, hd, params):
    base = llama(head_dim=hd)
    rope = dict(zip(('factor','low_freq_factor','high_freq_factor','original_max_position_embeddings'), params), rope_type='llama3', rope_theta=1e4)
    twin = same_weights(base, rope_parameters=rope)
    got = read(base, 'llama', tensors=gguf_tensors(base, 'llama')|{'rope_freqs.weight': freq_factors(*params, hd=hd)}, **{'rope.dimension_count': hd, 'attention.key_length': hd, 'attention.value_length': hd})
    assert apart(got, twin)<1e-6<1e-3<apart(base, twin)
    if hd==64: assert got.config.rope_parameters['rope_type']=='llama3' and got.config.rope_parameters['original_max_position_embeddings']==params[-1]

def test_factors_of_any_kind(read):
    base = llama()
    f = np.linspace(1, 9, HD//2).astype(np.float32)
    got = read(base, 'llama', tensors=gguf_tensors(base, 'llama')|{'rope_freqs.weight': f}, **TURN)
    longrope = dict(rope_type='longrope', rope_theta=1e4, short_factor=f.tolist(), long_factor=f.tolist(), attention_factor=1., factor=1., original_max_position_embeddings=512)
    assert apart(got, same_weights(base, rope_parameters=longrope))<1e-6<1e-3<apart(base, got)

@pytest.mark.parametrize('why,more,tensors', [
    ("scaling 'ntk' is not known", {'rope.scaling.type': 'ntk'}, {}),
    ("'yarn' with factors of its own", {'rope.scaling.type': 'yarn'}, {'rope_freqs.weight': np.ones(HD//2)}),
    ('yarn_ext_factor', {'rope.scaling.type': 'yarn', 'rope.scaling.yarn_ext_factor': .5}, {}),
    ('8 frequencies', {}, {'rope_freqs.weight': np.ones(3)}),
    ('rope_factors_long, which do not go together', {}, {'rope_factors_long.weight': np.ones(HD//2)}),
    ("'llama.rope.dimension_count' is 8", {'rope.dimension_count': 8}, {}),
    ("'llama.rope.dimension_sections'", {'rope.dimension_sections': [4,2,2,0]}, {})])
def test_rope_refused(refused, why, more, tensors):
    m = llama()
    refused(why, m, 'llama', tensors=gguf_tensors(m, 'llama')|tensors, **TURN|more)

@pytest.mark.parametrize('n,part', [(60, 1.), (400, 1.), (400, .5)])
def test_phi3_longrope(read, n, part):
    "Short and long factors, and Phi 4's positions that turn a part of a head"
    dim = int(HD*part)
    short,long = np.linspace(1, 2, dim//2),np.linspace(2, 9, dim//2)
    rope = dict(rope_type='longrope', rope_theta=1e4, short_factor=short.tolist(), long_factor=long.tolist(), partial_rotary_factor=part)
    twin = make(tf.Phi3Config, **GROUPED, rope_parameters=rope, original_max_position_embeddings=128, sliding_window=200)
    got = read(twin, 'phi3', tensors=gguf_tensors(twin, 'phi3')|{'rope_factors_short.weight': short, 'rope_factors_long.weight': long},
               **{'rope.dimension_count': dim, 'rope.scaling.original_context_length': 128, 'rope.scaling.attn_factor': math.sqrt(1+math.log(4)/math.log(128)), 'attention.sliding_window': 200})
    assert apart(got, twin, n)<1e-6
    assert got.config.sliding_window==200 and apart(got, same_weights(twin, rope_parameters=dict(rope_type='default', rope_theta=1e4, partial_rotary_factor=part)), n)>1e-3

def test_phi3_short(read, refused):
    twin = make(tf.Phi3Config, **GROUPED, sliding_window=None)
    assert apart(read(twin, 'phi3', **{'rope.dimension_count': HD, 'rope.scaling.original_context_length': 512, 'attention.sliding_window': 0}), twin)<1e-6

# Gemma

GEMMA_HEADS = {'attention.key_length': 32, 'attention.value_length': 32}
@pytest.mark.parametrize('linear', [False, True])
@pytest.mark.parametrize('blocks', [L, 7])
def test_gemma3(read, linear, blocks):
    full = dict(rope_type='linear', factor=8., rope_theta=1e6) if linear else dict(rope_type='default', rope_theta=1e6)
    twin = make(tf.Gemma3TextConfig, **GROUPED|dict(num_hidden_layers=blocks), head_dim=32, sliding_window=50, query_pre_attn_scalar=32,
                rope_parameters=dict(full_attention=full, sliding_attention=dict(rope_type='default', rope_theta=1e4)))
    got = read(twin, 'gemma3', **GEMMA_HEADS, **{'block_count': blocks, 'rope.freq_base': 1e6, 'attention.sliding_window': 50}, **({'rope.scaling.type': 'linear', 'rope.scaling.factor': 8.} if linear else {}))
    assert apart(got, twin)<1e-6
    assert apart(same_weights(twin, sliding_window=512), twin)>1e-3                   # control: windows matter

def test_gemma3_27b(read, refused):
    "62 blocks: the scale is width/heads; the heads of 27B with another depth are refused"
    twin = make(tf.Gemma3TextConfig, **GROUPED|dict(num_hidden_layers=62), head_dim=32, sliding_window=50, query_pre_attn_scalar=D//H)
    got = read(twin, 'gemma3', **GEMMA_HEADS, **{'block_count': 62, 'rope.freq_base': 1e6, 'attention.sliding_window': 50})
    assert got.config.query_pre_attn_scalar==D//H and apart(got, twin)<1e-6<1e-3<apart(same_weights(twin, query_pre_attn_scalar=32), twin)
    wide = make(tf.Gemma3TextConfig, **GROUPED, head_dim=128)
    refused("heads are those of gemma3 27B, but it has 4 blocks", wide, 'gemma3', **{'attention.key_length': 128, 'attention.value_length': 128, 'attention.sliding_window': 50})

def test_gemma3_pattern(read):
    "A pattern in the file is believed, as a number and as a list"
    kinds = ['full_attention','sliding_attention']*2
    twin = make(tf.Gemma3TextConfig, **GROUPED, head_dim=32, sliding_window=50, query_pre_attn_scalar=32, layer_types=kinds)
    got = read(twin, 'gemma3', **GEMMA_HEADS, **{'rope.freq_base': 1e6, 'attention.sliding_window': 50, 'attention.sliding_window_pattern': [False,True]*2, 'rope.freq_base_swa': 1e4})
    assert got.config.layer_types==kinds and apart(got, twin)<1e-6

def test_gemma2(read):
    twin = make(tf.Gemma2Config, **GROUPED, head_dim=32, sliding_window=50, query_pre_attn_scalar=32, attn_logit_softcapping=2., final_logit_softcapping=3.)
    got = read(twin, 'gemma2', **GEMMA_HEADS, **{'attention.sliding_window': 50, 'attn_logit_softcapping': 2., 'final_logit_softcapping': 3.})
    assert apart(got, twin)<1e-6
    for k,v in dict(attn_logit_softcapping=50., final_logit_softcapping=30., sliding_window=512).items(): assert apart(same_weights(twin, **{k: v}), twin)>1e-4

def test_gemma2_27b(read):
    twin = make(tf.Gemma2Config, **GROUPED|dict(num_hidden_layers=46), head_dim=32, sliding_window=50, query_pre_attn_scalar=D//H)
    got = read(twin, 'gemma2', **GEMMA_HEADS, **{'block_count': 46, 'attention.sliding_window': 50, 'attn_logit_softcapping': 50., 'final_logit_softcapping': 30.})
    assert apart(got, twin)<1e-6<1e-3<apart(same_weights(twin, query_pre_attn_scalar=32), twin)

def test_gemma(read):
    twin = make(tf.GemmaConfig, **GROUPED, head_dim=32)
    assert apart(read(twin, 'gemma', **GEMMA_HEADS), twin)<1e-6

# other families

QWEN = {'attention.key_length': HD, 'attention.value_length': HD}
@pytest.mark.parametrize('tied', [False, True])
def test_qwen2(read, tied):
    twin = make(tf.Qwen2Config, **GROUPED, tie_word_embeddings=tied)
    got = read(twin, 'qwen2')
    assert got.config.tie_word_embeddings==tied and apart(got, twin)<1e-6

def test_qwen3(read):
    "Its heads have a size of their own"
    twin = make(tf.Qwen3Config, **GROUPED, head_dim=24)
    assert apart(read(twin, 'qwen3', **{'attention.key_length': 24, 'attention.value_length': 24}), twin)<1e-6

MOE = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=48)
MOE_META = {'expert_count': 4, 'expert_used_count': 2, 'expert_feed_forward_length': 48}
def test_qwen3moe(read):
    twin = make(tf.Qwen3MoeConfig, **GROUPED, **MOE, head_dim=HD, norm_topk_prob=True)
    assert apart(read(twin, 'qwen3moe', **QWEN, **MOE_META), twin)<1e-6

def test_qwen2moe(read):
    twin = make(tf.Qwen2MoeConfig, **GROUPED, **MOE, shared_expert_intermediate_size=40, norm_topk_prob=False)
    assert apart(read(twin, 'qwen2moe', **MOE_META, expert_shared_feed_forward_length=40), twin)<1e-6

def test_mixtral(read):
    twin = make(tf.MixtralConfig, **GROUPED, num_local_experts=4, num_experts_per_tok=2)
    assert apart(read(twin, 'llama', **TURN, **{'rope.freq_base': twin.config.rope_parameters['rope_theta'], 'expert_count': 4, 'expert_used_count': 2}), twin)<1e-6

def test_mistral_window(read):
    twin = make(tf.MistralConfig, **GROUPED, sliding_window=50)
    got = read(twin, 'llama', **TURN, **{'attention.sliding_window': 50})
    assert apart(got, twin)<1e-6<1e-3<apart(same_weights(twin, sliding_window=None), twin)

@pytest.mark.parametrize('kw', [dict(tie_word_embeddings=True), dict(attention_bias=True), dict(mlp_bias=True), dict(attention_bias=True, mlp_bias=True), dict(num_key_value_heads=H)], ids=str)
def test_llama(read, kw):
    twin = llama(**kw)
    meta = {'attention.head_count_kv': None} if 'num_key_value_heads' in kw else {}
    global K
    old,K = K,kw.get('num_key_value_heads', K)
    try: got = read(twin, 'llama', **TURN|meta)
    finally: K = old
    assert apart(got, twin)<1e-6

def test_wide_heads(read):
    "Mistral Nemo: heads that are not width/heads"
    twin = llama(head_dim=32)
    assert apart(read(twin, 'llama', **{'rope.dimension_count': 32, 'attention.key_length': 32, 'attention.value_length': 32}), twin)<1e-6

# quantised

@pytest.mark.parametrize('kind', [Q.F16, Q.BF16, Q.Q8_0, Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q4_K, Q.Q6_K, Q.TQ2_0, Q.MXFP4], ids=lambda o: o.name)
def test_quantised(tmp_path, kind):
    "As the model with the values that quantisation left; halves stay halves in the file"
    twin = make(tf.LlamaConfig, **GROUPED|dict(hidden_size=256, intermediate_size=256, head_dim=64))
    tensors = gguf_tensors(twin, 'llama')
    meta = metadata(twin.config, 'llama', **{'embedding_length': 256, 'feed_forward_length': 256, 'rope.dimension_count': 64})
    (tmp_path/'a').mkdir(); (tmp_path/'b').mkdir()
    left = {k: quants.dequantize(packed(v, kind), kind).reshape(v.shape) if v.ndim>1 else v for k,v in tensors.items()}
    got = convert(write(tmp_path/'a.gguf', twin, 'llama', meta=meta, tensors=tensors, kind=kind), tmp_path/'a')
    want = convert(write(tmp_path/'b.gguf', twin, 'llama', meta=meta, tensors=left), tmp_path/'b')
    for (k,a),b in zip(got.state_dict().items(), want.state_dict().values()): assert torch.equal(a, b), k
    assert apart(got, want)==0 and apart(got, twin)>1e-6                              # control: something was lost by quantisation
    sizes = [sum(p.stat().st_size for p in (tmp_path/o).glob('*.safetensors')) for o in 'ab']
    assert (sizes[0]<.6*sizes[1])==(kind in (Q.F16, Q.BF16, Q.MXFP4))

def test_unknown_quantisation(tmp_path):
    p = write(tmp_path/'m.gguf', llama(), 'llama', **TURN)
    raw = p.read_bytes()
    at = raw.index(b'blk.0.ffn_up.weight')+len('blk.0.ffn_up.weight')+4+16
    p.write_bytes(raw[:at]+struct.pack('<I', 99)+raw[at+4:])
    with pytest.raises(ValueError, match='blk.0.ffn_up.weight has quantisation 99'): convert_model(p, tmp_path)

# what is not understood

KEYS = {'logit_scale': .25, 'residual_scale': .5, 'embedding_scale': 12., 'attention.scale': .1, 'attention.max_alibi_bias': 8., 'attention.clamp_kqv': 8., 'attn_logit_softcapping': 50., 'final_logit_softcapping': 30.,
        'attention.causal': False, 'use_parallel_residual': True, 'attention.layer_norm_epsilon': 1e-5, 'expert_weights_scale': 2.5, 'expert_gating_func': 2, 'expert_shared_count': 1, 'leading_dense_block_count': 1,
        'attention.sliding_window_pattern': 2, 'rope.freq_base_swa': 1e4, 'rope.scaling.yarn_log_multiplier': .1, 'nextn_predict_layers': 1, 'attention.temperature_length': 8192, 'attention.key_length_mla': 192,
        'tensor_data_layout': 'jploski', 'swin_norm': True, 'key_of_tomorrow': 1, 'attention.group_norm_groups': 4}
@pytest.mark.parametrize('key', KEYS)
def test_key_refused(refused, key):
    refused(f"'llama.{key}' .* not understood.*original folder.*--remove-metadata llama.{key}", llama(), 'llama', **TURN|{key: KEYS[key]})

def test_key_of_another(refused): refused("'ollama.tuned' .* not understood", llama(), 'llama', **TURN, general={'ollama.tuned': 1})

NEUTRAL = {'expert_count': 0, 'expert_used_count': 0, 'logit_scale': 1., 'attention.causal': True, 'tensor_data_layout': 'Meta AI original pth', 'attention.max_alibi_bias': 0., 'rope.scaling.finetuned': True, 'pooling_type': 0}
def test_harmless(read):
    "Authors, samplers, quantisation, and keys whose values change nothing"
    general = {'general.name': 'x', 'general.file_type': 1, 'general.sampling.temp': .7, 'general.base_model.0.name': 'y', 'quantize.imatrix.file': 'z', 'general.tags': ['a','b'], 'general.type': 'model',
        'general.dataset.0.name': 'd', 'general.quantized_by': 'x', 'split.count': 0, **{f'mradermacher.{o}': 'x' for o in ('quantize_version','quantized_by','quantized_at','quantized_on','convert_type')},
        'tokenizer.ggml.add_padding_token': False}
    twin = llama()
    assert apart(read(twin, 'llama', **TURN|NEUTRAL, general=general), twin)<1e-6

def test_differs_by_block(refused): refused("'llama.feed_forward_length' differs from block to block", llama(), 'llama', **TURN, feed_forward_length=[96]*3+[48])
def test_same_in_blocks(read):
    twin = llama()
    assert apart(read(twin, 'llama', **TURN|{'feed_forward_length': [96]*L}), twin)<1e-6

@pytest.mark.parametrize('key', ['context_length','embedding_length','block_count','feed_forward_length','attention.head_count','attention.layer_norm_rms_epsilon'])
def test_key_missing(refused, key): refused(f"lack 'llama.{key}'", llama(), 'llama', **TURN|{key: None})

def test_value_length(refused): refused("'llama.attention.value_length'", llama(), 'llama', **TURN|{'attention.key_length': HD, 'attention.value_length': 8})
def test_vocabulary(refused): refused('has 300 rows, for 0 tokens and a vocabulary of 299', llama(), 'llama', **TURN|{'vocab_size': V-1})

@pytest.mark.parametrize('why,change', [('lacks 1 tensors of a llama model, the first blk.2.ffn_up.weight', lambda t: t.pop('blk.2.ffn_up.weight')),
    ('lacks 1 tensors .* output_norm.weight', lambda t: t.pop('output_norm.weight')), ('token_embd.weight is missing', lambda t: t.pop('token_embd.weight')),
    ('1 of its tensors have no place .* blk.0.attn_q_norm.weight', lambda t: t.update({'blk.0.attn_q_norm.weight': np.ones(HD)})),
    ('1 of its tensors have no place .* blk.1.attn_q.scale', lambda t: t.update({'blk.1.attn_q.scale': np.ones(1)})),
    ('lacks 15 tensors .* blk.0.attn_k.bias', lambda t: t.update({'blk.0.attn_q.bias': np.ones(D)})),
    (r'blk.0.ffn_up.weight is \(95, 64\), and its metadata make it \(96, 64\)', lambda t: t.update({'blk.0.ffn_up.weight': t['blk.0.ffn_up.weight'][1:]}))])
def test_tensors(refused, why, change):
    m = llama()
    tensors = gguf_tensors(m, 'llama')
    change(tensors)
    refused(why, m, 'llama', tensors=tensors, **TURN)

# what is no model, and what is torn

OTHER = {'a LoRA adapter': dict(arch='llama', general={'general.type': 'adapter', 'adapter.type': 'lora', 'adapter.lora.alpha': 16.}), 'the vision or audio part': dict(arch='clip', general={'general.type': 'mmproj'}),
         'the vision or audio part of': dict(arch='clip', general={}), 'a control vector.*steer --direction': dict(arch='controlvector', general={}), 'an importance matrix': dict(arch='imatrix', general={'general.type': 'imatrix'}),
         "architecture 'rwkv7' are not read.*llama": dict(arch='rwkv7', general={}), "architecture 't5' are not read": dict(arch='t5', general={}), "architecture 'bert'": dict(arch='bert', general={})}
@pytest.mark.parametrize('why', OTHER)
def test_other_kinds(tmp_path, why, monkeypatch):
    monkeypatch.setenv('PERSONA_VECTORS_CACHE', str(tmp_path/'cache'))
    o = OTHER[why]
    write(tmp_path/'x.gguf', None, o['arch'], meta={}, tensors={'direction.1': np.ones(8)}, general=o['general'])
    with pytest.raises(ValueError, match=why) as e: find_model(str(tmp_path/'x.gguf'))
    assert 'x.gguf' in str(e.value) and '\n' not in str(e.value) and not list((tmp_path/'cache').iterdir())

def test_one_at_a_time(tmp_path, monkeypatch):
    "Who waits for a conversion that fails tries it too, never two at once, and nothing is left; the next one that works is used by all"
    monkeypatch.setenv('PERSONA_VECTORS_CACHE', str(tmp_path/'cache'))
    write(tmp_path/'x.gguf', None, 'llama', meta={}, tensors={})
    busy,at_once,works = threading.Lock(),[],[False]
    def convert(src, dest):
        at_once.append(not busy.acquire(blocking=False))
        time.sleep(.2)
        if not at_once[-1]: busy.release()
        if not works[0]: raise ValueError('it is odd')
        (dest/'config.json').write_text('{}')
    monkeypatch.setattr('persona_vectors.gguf.convert_gguf', convert)
    def ask():
        try: return find_model(str(tmp_path/'x.gguf')).path
        except ValueError as e: return str(e)
    def all_ask():
        at_once.clear()
        with ThreadPoolExecutor(4) as ex: return set(o.result() for o in [ex.submit(ask) for _ in range(4)])
    assert all('it is odd' in o for o in all_ask()) and at_once==[False]*4 and not list((tmp_path/'cache').iterdir())
    works[0] = True
    assert len(all_ask())==1 and at_once==[False] and [p.is_dir() for p in (tmp_path/'cache').iterdir()]==[True]

def test_vocabulary_only(tmp_path):
    write(tmp_path/'x.gguf', None, 'llama', meta={}, tensors={})
    with pytest.raises(ValueError, match='a vocabulary without weights'): convert_model(tmp_path/'x.gguf', tmp_path)

def test_torn(tmp_path):
    "Cut anywhere, a file is refused in one line"
    raw = write(tmp_path/'whole.gguf', llama(), 'llama', **TURN).read_bytes()
    p = tmp_path/'torn.gguf'
    for n in [4, 5, 8, 20, 24, 30, *range(40, 4000, 97), len(raw)//2, len(raw)-1]:
        p.write_bytes(raw[:n])
        with pytest.raises(ValueError, match='torn') as e: read_gguf(p)
        assert '\n' not in str(e.value)
    for data in (b'', b'GGU', b'<html>'):
        p.write_bytes(data)
        with pytest.raises(ValueError, match='not GGUF'): read_gguf(p)

def test_damaged(tmp_path):
    "Bytes turned at random end in a result or in a ValueError"
    raw = bytearray(write(tmp_path/'whole.gguf', llama(), 'llama', **TURN).read_bytes())
    rng = np.random.default_rng(0)
    bad = 0
    for _ in range(300):
        o = raw.copy()
        for at in rng.integers(4, 3000, 3): o[at] = rng.integers(256)
        (tmp_path/'x.gguf').write_bytes(o)
        try: convert_model(tmp_path/'x.gguf', tmp_path)
        except ValueError as e:
            bad += 1
            assert '\n' not in str(e)
    assert bad>100

@pytest.mark.parametrize('key,v', [('attention.head_count', 0), ('attention.head_count', 'four'), ('block_count', 10**9), ('embedding_length', 0), ('rope.freq_base', 'x'), ('rope.dimension_count', [1,2]),
    ('attention.head_count_kv', []), ('attention.layer_norm_rms_epsilon', 'tiny'), ('expert_count', 'x'), ('context_length', [5, 6, 7, 8]), ('rope.scaling.type', 5), *(('rope.scaling.factor', v) for v in (-1., 0., math.inf, math.nan)),
    ('context_length', 512.), ('attention.head_count', 4.5), ('attention.head_count', 3), ('attention.sliding_window', 'a'), ('rope.dimension_count', 15), ('attention.layer_norm_rms_epsilon', math.inf)])
def test_nonsense(refused, key, v): refused('fetch the file again|give the model|convert the model', llama(), 'llama', **TURN|{key: v})

def test_the_key_is_named_whole(refused): refused("'llama.attention.head_count'", llama(), 'llama', **TURN|{'attention.head_count': 'four'})

@pytest.mark.parametrize('v', [15, 8.5, 'x'])
def test_odd_part_of_a_head(refused, v):
    refused("'phi3.rope.dimension_count'", make(tf.Phi3Config, **GROUPED, sliding_window=None), 'phi3', **{'rope.dimension_count': v})

def test_versions(tmp_path):
    raw = write(tmp_path/'a.gguf', llama(), 'llama', **TURN).read_bytes()
    (tmp_path/'b.gguf').write_bytes(raw[:4]+struct.pack('<I', 1)+raw[8:])
    with pytest.raises(ValueError, match='version 1'): read_gguf(tmp_path/'b.gguf')
    from gguf import GGUFEndian
    write(tmp_path/'c.gguf', llama(), 'llama', endian=GGUFEndian.BIG, **TURN)
    with pytest.raises(ValueError, match='big-endian'): read_gguf(tmp_path/'c.gguf')
    (tmp_path/'d.gguf').write_bytes(raw[:4]+struct.pack('<I', 2)+raw[8:])
    assert read_gguf(tmp_path/'d.gguf').arch=='llama'

@pytest.mark.parametrize('given', [1, 3])
def test_split(tmp_path, given):
    "Any part stands for all; a missing one is named"
    twin = llama()
    tensors = list(gguf_tensors(twin, 'llama').items())
    def part(i): return tmp_path/f'm-{i:05d}-of-00003.gguf'
    for i in (1,2,3):
        meta = metadata(twin.config, 'llama', **TURN) if i==1 else {}
        write(part(i), twin, 'llama', meta=meta, tensors=dict(tensors[i-1::3]), general={'split.no': i-1, 'split.count': 3, 'split.tensors.count': len(tensors)})
    (tmp_path/'out').mkdir()
    assert apart(convert(part(given), tmp_path/'out'), twin)<1e-6
    part(2).rename(tmp_path/'elsewhere.gguf')
    with pytest.raises(ValueError, match='m-00002-of-00003.gguf is not beside'): read_gguf(part(given))
    with pytest.raises(ValueError, match='one of 3 parts'): read_gguf(tmp_path/'elsewhere.gguf')

# later loads, and memory

def test_checked_later(read, tmp_path):
    "An edited configuration is found by the metadata that stay in the folder"
    got = read(llama(), 'llama', **TURN, **{'rope.scaling.type': 'yarn', 'rope.scaling.factor': 4., 'rope.scaling.original_context_length': 128})
    p = tmp_path/'out'/'config.json'
    c = json.loads(p.read_text())
    for k,v in dict(rms_norm_eps=1e-3, num_key_value_heads=1, eos_token_id=7, rope_parameters=dict(rope_type='default', rope_theta=1e4)).items():
        p.write_text(json.dumps(c|{k: v}))
        with pytest.raises(ValueError, match='rotary' if 'rope' in k else k): check_against_metadata(tmp_path/'out')
    p.write_text(json.dumps(c))
    assert check_against_metadata(tmp_path/'out')

@pytest.mark.skipif(sys.platform!='linux', reason='memory is read from /proc')
def test_memory(tmp_path):
    "A file whose weights take 400 MB is converted in 150 MB of its own"
    rng = np.random.default_rng(0)
    width,blocks,ff = 1024,6,4096
    def mat(*shape): return quantize(rng.standard_normal(shape, np.float32)*.02, Q.Q8_0)
    w = GGUFWriter(tmp_path/'big.gguf', 'llama')
    meta = {'context_length': 512, 'embedding_length': width, 'block_count': blocks, 'feed_forward_length': ff, 'attention.head_count': 16, 'attention.layer_norm_rms_epsilon': 1e-5, 'rope.dimension_count': 64}
    for k,v in meta.items(): put(w, f'llama.{k}', v)
    w.add_tensor('token_embd.weight', mat(20_000, width), raw_dtype=Q.Q8_0)
    w.add_tensor('output_norm.weight', np.ones(width, np.float32))
    for i in range(blocks):
        for n in ('attn_norm','ffn_norm'): w.add_tensor(f'blk.{i}.{n}.weight', np.ones(width, np.float32))
        for n in 'qkv': w.add_tensor(f'blk.{i}.attn_{n}.weight', mat(width, width), raw_dtype=Q.Q8_0)
        w.add_tensor(f'blk.{i}.attn_output.weight', mat(width, width), raw_dtype=Q.Q8_0)
        for n,s in dict(gate=(ff, width), up=(ff, width), down=(width, ff)).items(): w.add_tensor(f'blk.{i}.ffn_{n}.weight', mat(*s), raw_dtype=Q.Q8_0)
    for step in (w.write_header_to_file, w.write_kv_data_to_file, w.write_tensors_to_file, w.close): step()
    code = """
import re, sys, threading, time, torch, transformers
from transformers import AutoModelForCausalLM, LlamaConfig
from persona_vectors.gguf import convert_model
def own(): return int(re.search(r'RssAnon:\\s*(\\d+)', open('/proc/self/status').read())[1])/1e3
peak = start = own()
def watch():
    global peak
    while True: peak = max(peak, own()); time.sleep(.005)
threading.Thread(target=watch, daemon=True).start()
convert_model(*sys.argv[1:])
print(peak-start)
"""
    import subprocess
    (tmp_path/'out').mkdir()
    r = subprocess.run([sys.executable, '-c', code, str(tmp_path/'big.gguf'), str(tmp_path/'out')], capture_output=True, text=True, check=True)
    size = (tmp_path/'out'/'model.safetensors').stat().st_size/1e6
    assert size>400>150>float(r.stdout), r.stdout

# architectures with scales, biases, partial positions

def test_granite(read):
    scales = dict(embedding_multiplier=12., attention_multiplier=.015625, residual_multiplier=.22, logits_scaling=8.)
    twin = make(tf.GraniteConfig, **GROUPED, **scales, tie_word_embeddings=True)
    meta = {'embedding_scale': 12., 'attention.scale': .015625, 'residual_scale': .22, 'logit_scale': 8.}
    assert apart(read(twin, 'granite', **TURN|meta), twin)<1e-6
    for k in scales: assert apart(same_weights(twin, **{k: 1.}), twin)>1e-4

@pytest.mark.parametrize('norm', [False, True])
def test_command_r(read, norm):
    twin = make(tf.CohereConfig, **GROUPED, logit_scale=.25, use_qk_norm=norm)
    got = read(twin, 'command-r', **{'logit_scale': .25, 'rope.freq_base': twin.config.rope_parameters['rope_theta'], 'rope.scaling.type': 'none'})
    assert apart(got, twin)<1e-6<1e-3<apart(same_weights(twin, logit_scale=1.), twin)

@pytest.mark.parametrize('kw', [dict(), dict(use_qkv_bias=True), dict(use_parallel_residual=True)], ids=str)
def test_stablelm(read, kw):
    twin = make(tf.StableLmConfig, **GROUPED, partial_rotary_factor=.25, **kw)
    assert apart(read(twin, 'stablelm', **{'rope.dimension_count': HD//4, 'use_parallel_residual': True}), twin)<1e-6

@pytest.mark.parametrize('bias', [False, True])
def test_starcoder2(read, bias):
    twin = make(tf.Starcoder2Config, **GROUPED, use_bias=bias)
    assert apart(read(twin, 'starcoder2', **{'rope.freq_base': twin.config.rope_parameters['rope_theta']}), twin)<1e-6

def test_nemotron(read):
    twin = make(tf.NemotronConfig, **GROUPED, partial_rotary_factor=.5, head_dim=HD)
    assert apart(read(twin, 'nemotron', **{'rope.dimension_count': HD//2}), twin)<1e-6

def test_olmo2(read):
    twin = make(tf.Olmo2Config, **GROUPED)
    assert apart(read(twin, 'olmo2', **{'rope.freq_base': twin.config.rope_parameters['rope_theta']}), twin)<1e-6

def test_olmo3(read):
    "Scaled positions in blocks without a window only"
    yarn = dict(rope_type='yarn', factor=4., original_max_position_embeddings=128, rope_theta=1e4)
    twin = make(tf.Olmo3Config, **GROUPED, sliding_window=50, rope_parameters=dict(full_attention=yarn, sliding_attention=dict(rope_type='default', rope_theta=1e4)))
    got = read(twin, 'olmo2', **{'attention.sliding_window': 50, 'attention.sliding_window_pattern': [True]*3+[False], 'rope.scaling.type': 'yarn', 'rope.scaling.factor': 4.,
                                'rope.scaling.original_context_length': 128})
    assert got.config.model_type=='olmo3' and apart(got, twin)<1e-6

def test_smollm3(read):
    twin = make(tf.SmolLM3Config, **GROUPED)
    assert apart(read(twin, 'smollm3', **TURN|{'rope.freq_base': twin.config.rope_parameters['rope_theta']}), twin)<1e-6

def test_gpt2(read):
    twin = make(tf.GPT2Config, **SHAPE|dict(n_inner=96))
    assert apart(read(twin, 'gpt2', **{'attention.head_count_kv': None}), twin)<1e-6

def test_bloom(read):
    twin = make(tf.BloomConfig, vocab_size=V, hidden_size=D, n_layer=L, n_head=H)
    assert apart(read(twin, 'bloom', **{'attention.head_count_kv': H, 'feed_forward_length': 4*D}), twin)<1e-6

@pytest.mark.parametrize('kv,norms', [(1, 1), (2, 2), (2, 1)])
def test_falcon(read, kv, norms, monkeypatch):
    monkeypatch.setitem(CHANGED, 'falcon', queries_first(kv))
    new = dict(new_decoder_architecture=True, num_kv_heads=kv, num_ln_in_parallel_attn=norms) if kv>1 else dict(new_decoder_architecture=False, multi_query=True)
    twin = make(tf.FalconConfig, **SHAPE|dict(ffn_hidden_size=96), parallel_attn=True, bias=False, alibi=False, **new)
    assert apart(read(twin, 'falcon', **{'attention.head_count_kv': kv, 'tensor_data_layout': 'jploski'}), twin)<1e-6

@pytest.mark.parametrize('kind', [Q.F32, Q.MXFP4], ids=lambda o: o.name)
def test_gpt_oss(tmp_path, kind):
    yarn = dict(rope_type='yarn', factor=32., original_max_position_embeddings=64, rope_theta=150000., beta_fast=32., beta_slow=1., truncate=False)
    twin = make(tf.GptOssConfig, **GROUPED|dict(num_local_experts=4, num_experts_per_tok=2, intermediate_size=96, head_dim=HD, sliding_window=50), rope_parameters=yarn)
    tensors = gguf_tensors(twin, 'gpt-oss')
    meta = metadata(twin.config, 'gpt-oss', **QWEN, **{'attention.sliding_window': 50, 'expert_count': 4, 'expert_used_count': 2, 'expert_feed_forward_length': 96, 'rope.freq_base': 150000.,
        'rope.scaling.type': 'yarn', 'rope.scaling.factor': 32., 'rope.scaling.original_context_length': 64, 'rope.scaling.yarn_beta_fast': 32., 'rope.scaling.yarn_beta_slow': 1.})
    (tmp_path/'a').mkdir(); (tmp_path/'b').mkdir()
    got = convert(write(tmp_path/'a.gguf', twin, 'gpt-oss', meta=meta, tensors=tensors, kind=kind), tmp_path/'a')
    if kind==Q.F32: assert apart(got, twin)<1e-6
    else:
        left = {k: quants.dequantize(packed(v, kind), kind).reshape(v.shape) if v.ndim>1 and v.shape[-1]%32==0 else v for k,v in tensors.items()}
        want = convert(write(tmp_path/'b.gguf', twin, 'gpt-oss', meta=meta, tensors=left), tmp_path/'b')
        for (k,a),b in zip(got.state_dict().items(), want.state_dict().values()): assert torch.equal(a, b), k

def test_lfm2(read):
    twin = make(tf.Lfm2Config, **GROUPED, layer_types=['conv','full_attention']*2, block_auto_adjust_ff_dim=False)
    got = read(twin, 'lfm2', **{'attention.head_count_kv': [0,K]*2, 'shortconv.l_cache': 3, 'attention.layer_norm_epsilon': None, 'attention.layer_norm_rms_epsilon': float(twin.config.norm_eps),
                               'rope.freq_base': twin.config.rope_parameters['rope_theta']})
    assert apart(got, twin)<1e-6

def test_mamba(read):
    twin = make(tf.MambaConfig, vocab_size=V, hidden_size=D, num_hidden_layers=L)
    eps = float(twin.config.layer_norm_epsilon)
    got = read(twin, 'mamba', meta={'context_length': 1<<20, 'embedding_length': D, 'block_count': L, 'feed_forward_length': 0, 'attention.head_count': 0, 'attention.layer_norm_rms_epsilon': eps,
        'vocab_size': V, 'ssm.conv_kernel': 4, 'ssm.inner_size': 2*D, 'ssm.state_size': 16, 'ssm.time_step_rank': D//16, 'ssm.dt_b_c_rms': False})
    assert apart(got, twin)<1e-6

LINEAR = dict(linear_num_key_heads=NK, linear_num_value_heads=NV, linear_key_head_dim=KD, linear_value_head_dim=VD)
LINEAR_META = {'full_attention_interval': 2, 'ssm.conv_kernel': 4, 'ssm.state_size': KD, 'ssm.group_count': NK, 'ssm.time_step_rank': NV, 'ssm.inner_size': NV*VD,
               'rope.dimension_count': HD//2, 'rope.dimension_sections': [2,1,1,0], 'rope.freq_base': 1e6}
ROPE35 = dict(rope_type='default', rope_theta=1e6, partial_rotary_factor=.5, mrope_section=[2,1,1], mrope_interleaved=True)
@pytest.mark.parametrize('ahead', [0, 1])
def test_qwen35(read, ahead):
    "Linear attention, and a block that predicts further ahead, which is left out"
    twin = as_written(make(tf.Qwen3_5TextConfig, **GROUPED, **LINEAR, head_dim=HD, layer_types=['linear_attention','full_attention']*2, rope_parameters=ROPE35))
    more = {f'blk.{L}.nextn.eh_proj.weight': np.ones((D,D)), f'blk.{L}.attn_norm.weight': np.ones(D)} if ahead else {}
    got = read(twin, 'qwen35', tensors=gguf_tensors(twin, 'qwen35')|more, **QWEN, **LINEAR_META|{'block_count': L+ahead, 'nextn_predict_layers': ahead})
    assert apart(got, twin)<1e-6

def test_qwen35moe(read):
    twin = make(tf.Qwen3_5MoeTextConfig, **{k: v for k,v in GROUPED.items() if k!='intermediate_size'}, **LINEAR, **MOE, shared_expert_intermediate_size=40, head_dim=HD,
                layer_types=['linear_attention','full_attention']*2, rope_parameters=ROPE35)
    got = read(twin, 'qwen35moe', **QWEN, **LINEAR_META, **MOE_META, expert_shared_feed_forward_length=40, feed_forward_length=None)
    assert apart(got, twin)<1e-6
