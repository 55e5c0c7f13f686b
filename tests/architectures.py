"A tiny random model of any causal model type of transformers, and how far our reading of it is from transformers' own"
import tempfile
import torch, transformers as tf
from accelerate import init_empty_weights
from transformers import AutoModelForCausalLM
from transformers.models.auto import modeling_auto as known
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from persona_vectors.extraction.blocks import check_decoder, decoder_of, load_blocks, residual_hooks
from persona_vectors.extraction.engine import read
from persona_vectors.extraction.packing import can_pack
from persona_vectors.extraction.streaming import read_streamed
from persona_vectors.models import find_model
from persona_vectors.prompts import Tokens

L,V,W = 8,160,24                                                                # blocks, words, sliding window
KINDS = list(known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
OTHERS = [k for o in (known.MODEL_FOR_MASKED_LM_MAPPING_NAMES, known.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES) for k in o if k not in KINDS]

# configurations: what a field of this name becomes, if the type's own configuration has it

def _of(value, names): return dict.fromkeys(names.split(), value)
SMALL = {
    **_of(L, 'num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers num_decoder_layers num_encoder_layers'),
    **_of(V, 'vocab_size decoder_vocab_size vocab_size_per_layer_input shape_vocab_size pronunciation_vocab_size'), **_of(W, 'sliding_window attention_window_size local_attention_window_size window_size'),
    **_of(512, 'max_position_embeddings n_positions n_ctx max_seq_len model_max_length context_length'), 'index_topk': 256,
    **_of(64, '''intermediate_size ffn_hidden_size encoder_ffn_dim decoder_ffn_dim dff dim_ff ffn_dim inner_dim d_inner n_inner intermediate_size_mlp dense_intermediate_size
        mamba_intermediate_size mamba_d_ssm'''), **_of(32, 'hidden_size n_embd d_model emb_dim kv_channels attention_hidden_size linear_hidden_size embedding_size lru_width'),
    **_of(16, '''moe_intermediate_size expert_ffn_hidden_size shared_expert_intermediate_size shared_experts_intermediate_size shared_intermediate_size moe_shared_expert_intermediate_size
        kv_lora_rank q_lora_rank o_lora_rank mamba_d_state state_size ssm_state_size mamba_dt_rank time_step_rank gated_norm_rank moe_latent_size num_buckets mamba_d_head mamba_chunk_size
        chunk_size router_hidden_size'''),
    **_of(8, '''head_dim dim_head mamba_head_dim linear_head_dim linear_key_head_dim linear_value_head_dim v_head_dim qk_nope_head_dim qk_rope_head_dim swa_head_dim swa_v_head_dim index_head_dim
        global_head_dim rotary_dim attention_head_dim hidden_size_per_layer_input shape_embed_dim pronunciation_embed_dim'''),
    **_of(4, '''num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads num_decoder_attention_heads num_encoder_attention_heads num_experts num_local_experts
        n_routed_experts moe_num_experts index_n_heads mamba_n_heads linear_num_heads linear_num_key_heads linear_num_value_heads mamba_num_heads swa_num_attention_heads laurel_rank adapter_rank'''),
    **_of(2, '''num_key_value_heads num_experts_per_tok num_experts_per_token moe_topk moe_k swa_num_key_value_heads n_group topk_group num_expert_group zero_expert_num'''),
    **_of(1, 'n_shared_experts num_shared_experts num_dense_layers first_k_dense_replace n_groups mamba_n_groups mamba_ngroups'), 'pad_token_id': 0, 'bos_token_id': 1, 'eos_token_id': 2}
two = ['sliding_attention','full_attention']
low = dict(qk_nope_head_dim=8, v_head_dim=8, head_dim=16, q_lora_rank=16, kv_lora_rank=16)
SPECIAL = dict( # what the general rule gets wrong, or what is worth trying; ... keeps the type's own value
    bamba=dict(attn_layer_indices=[3,6]), granitemoehybrid=dict(layer_types=['mamba','attention']*4, position_embedding_type='rope'), mamba2=dict(num_heads=4, head_dim=16),
    gpt_neo=dict(attention_types=[[['global','local'],4]]), lfm2_moe=dict(layer_types=['conv','full_attention']*4),
    cohere_compass_text=dict(rope_parameters={k: dict(rope_type='default', rope_theta=1e4) for k in two}, layer_types=two*4),
    deepseek_v2=dict(num_experts_per_tok=2, n_group=1, topk_group=1), dots1=dict(n_shared_experts=1, n_routed_experts=4, num_experts_per_tok=2),
    gemma3n_text=dict(num_kv_shared_layers=2, layer_types=two*4, activation_sparsity_pattern=None),
    gemma4_text=dict(num_kv_shared_layers=3, layer_types=two*4, use_double_wide_mlp=True),
    dots3_note_text=low | {f'swa_{k}': v for k,v in low.items()},
    hunyuan_v1_dense=dict(head_dim=8), hunyuan_v1_moe=dict(head_dim=8), ministral=dict(head_dim=8), nemotron=dict(num_key_value_heads=2),
    nemotron_h=dict(layers_block_type=['linear_attention','moe','full_attention','mlp']*2, mamba_head_dim=16), hrm_text=dict(num_hidden_layers=..., num_layers_per_stack=2),
    bert=dict(is_decoder=True), gemma4_assistant=dict(hidden_size_per_layer_input=0), zamba=dict(attention_hidden_size=64, attention_head_dim=16), xmod=dict(default_language='en_XX', languages=['en_XX']),
    zamba2=dict(layers_block_type=['linear_attention','hybrid']*4, mamba_headdim=8, n_mamba_heads=8, use_mem_rope=True, num_mem_blocks=2, num_key_value_heads=4,
                use_shared_attention_adapter=True, attention_head_dim=16, attention_hidden_size=64), zaya=dict(num_experts_per_tok=1),
    qwen4_exp_text=dict(indexer_n_heads=2, indexer_kv_heads=1, indexer_head_dim=8, indexer_budget=64, indexer_compress_ratio=4, hc_lowrank=8, ple_embed_dim=32, ngram_vocab_size_base=100,
                        split_ngram_parts=1))

def config(kind):
    "A small configuration of a text model of this type"
    cls = CONFIG_MAPPING[kind]
    c = cls()
    c = c.get_text_config() if c.get_text_config() is not c else c
    has = vars(c)
    kw = {k: v for k,v in SMALL.items() if k in has and (has[k] is not None or k.endswith('token_id'))}
    if 'kv_lora_rank' in has and 'num_key_value_heads' in kw: kw['num_key_value_heads'] = 4
    for a,b in c.attribute_map.items():
        if b in kw: kw.pop(a, None)
    return type(c)(**{k: v for k,v in (kw | SPECIAL.get(kind, {}) | SPECIAL.get(c.model_type, {})).items() if v is not ...})

def config_and_size(kind):
    "A small configuration of this type, and its number of weights; ValueError if they are too many"
    c = config(kind)
    with init_empty_weights(): n = sum(p.numel() for p in AutoModelForCausalLM.from_config(c).parameters())
    if n>3e6: raise ValueError(f'the smallest {kind} made here has {n:,} weights')
    return c,n

def made(kind, folder):
    "A random model of this type, its weights large enough that attention matters, saved in `folder` in several files"
    c,_ = config_and_size(kind)
    torch.manual_seed(0)
    m = AutoModelForCausalLM.from_config(c, dtype=torch.float32).eval()
    for p in m.parameters(): p.data += .05*torch.randn_like(p)
    m.save_pretrained(folder, max_shard_size='60KB')
    return m

def sequences(lengths=(70, 43, 59, 31, 23, 4)):
    g = torch.Generator().manual_seed(0)
    start = torch.randint(3, 150, (9,), generator=g).tolist()
    ids = [(start if n>40 else [])+torch.randint(3, 150, (n,), generator=g).tolist() for n in lengths]
    return [Tokens(o, len(o)//2, len(o), [], '', f'sequence {i}') for i,o in enumerate(ids)]

def rel(a, b): return ((a-b).norm()/b.norm()).item()

def truth(m, seqs, n):
    "By transformers' whole model, one sequence at a time: after every block, and its `hidden_states`, averaged over the span"
    out,hidden = [],[]
    base = decoder_of(m)
    for s in seqs:
        got = {}
        with torch.no_grad(), residual_hooks(base, range(n+1), lambda k,h: got.update({k: h.clone()})):
            hs = m(torch.tensor([s.ids]), output_hidden_states=True, use_cache=False).hidden_states
        out.append(torch.stack([got[k][0,s.start:s.end].mean(0) for k in range(n+1)]))
        hidden.append(torch.stack([h[0,s.start:s.end].mean(0) for h in hs]))
    want = torch.stack(out)
    assert min(rel(want[:,k], want[:,k+1]) for k in range(n))>1e-3                 # the control: another layer is another
    return want,torch.stack(hidden)

def counting(want, hidden):
    "Which of our layers `hidden_states[k]` is, below the last: 'k', or 'k+1'"
    n = want.shape[1]-1
    for name,more in (('k', 0), ('k+1', 1)):
        if all(rel(hidden[:,k], want[:,k+more])<1e-5 for k in range(1, n-1)): return name
    raise AssertionError(f'hidden_states are none of our layers')

def words(f):
    "What `f` returns, or the words of the refusal; any other exception passes"
    try: return f()
    except ValueError as e: return str(e)

def tried(kind):
    "A dict: the largest relative difference from the whole model, read whole, cut in the middle, and streamed; or in which words it is refused"
    with tempfile.TemporaryDirectory() as d:
        m = made(kind, d)
        src,seqs = find_model(d),sequences()
        n = src.num_layers
        whole = words(lambda: read(load_blocks(src, n), seqs, list(range(n+1)), progress=False))
        streamed = words(lambda: read_streamed(src, seqs, [0,n//2,n], progress=False))
        if isinstance(whole, str): return dict(type=kind, refused=whole.replace(d, '…'))
        want,hidden = truth(m, seqs, n)
        cut = {k: read(load_blocks(src, k), seqs, [k], progress=False)[:,0] for k in {1, n//2}}
        def largest(xs): return float(f'{max(rel(x, want[:,k]) for k,x in xs.items()):.0e}')
        return dict(type=kind, whole=largest(dict(enumerate(whole.unbind(1)))), cut=largest(cut),
            streamed=streamed if isinstance(streamed, str) else largest(dict(zip((0,n//2,n), streamed.unbind(1)))),
            packed=can_pack(load_blocks(src, 1)), hidden_states=counting(want, hidden))

def refused(kind):
    "A dict with the words in which a type that is no causal model is refused, by its configuration; None if only reading would tell"
    if kind in CONFIG_MAPPING and not CONFIG_MAPPING[kind].sub_configs and isinstance(why := words(lambda: check_decoder(CONFIG_MAPPING[kind]())), str):
        return dict(type=kind, refused=why)
