"Model folders as people have them: each is read right, or ends in one line that says what is the matter and what helps"
import json, logging, os, re, shutil, subprocess
from contextlib import redirect_stderr
from importlib.util import find_spec
from io import StringIO
import pytest, torch
import transformers as tf
from tokenizers import AddedToken, Regex, Tokenizer, pre_tokenizers as p
from safetensors.torch import load_file, save_file
from persona_vectors.extraction.blocks import load_blocks
from persona_vectors.extraction.engine import read
from persona_vectors.extraction.streaming import read_streamed
from persona_vectors.models import find_model, load_causal, quiet, warn
from persona_vectors.prompts import Tokens, get_format, tokenize
from templates import tokenizer
from test_templates import answer, question, system
from tiny import env, script

C,G,T,J,W,A,B,I = ('config.json', 'generation_config.json', 'tokenizer_config.json', 'tokenizer.json', 'model.safetensors', 'adapter_config.json', 'pytorch_model.bin',
                   'model.safetensors.index.json')
K = 'chat_template.jinja'
tok = tokenizer('qwen', 'chatml')
small = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, vocab_size=len(tok), max_position_embeddings=512)

@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "A folder as it should be, and its model"
    d = tmp_path_factory.mktemp('whole')
    torch.manual_seed(0)
    model = tf.AutoModelForCausalLM.from_config(tf.LlamaConfig(**small))
    for o in (model, tok): o.save_pretrained(d)
    return d,model

def outcome(folder, k=3):
    "Token ids and means of one answer at layer `k`, and the same means streamed"
    source = find_model(str(folder))
    t = source.tokenizer()
    tk = tokenize(t, get_format('chat', t).full(system, question, answer), limit=500)
    assert source.num_layers>=k and source.width
    return tk.ids, read(load_blocks(source, k), [tk], [k], progress=False)

def edit(d, name=C, **kw): (d/name).write_text(json.dumps(json.loads((d/name).read_text()) | kw))
def gone(d, *names): [(d/o).unlink() for o in names]
def put(d, name, data): (d/name).write_bytes(data if isinstance(data, bytes) else data.encode())
def instead(name, data): return lambda d,m: put(d, name, data)
def cut(name, n): return lambda d,m: os.truncate(d/name, n)
def pickled(d, m, obj=None):
    gone(d, W)
    torch.save(m.state_dict() if obj is None else obj, d/B)
def sharded(d, m, index=None, lost=False):
    gone(d, W)
    with quiet(): m.save_pretrained(d, max_shard_size='50KB')
    if index is not None: put(d, I, index)
    if lost: sorted(d.glob('model-*'))[-1].unlink()
def both(*fs):
    def f(d, m):
        for o in fs: o(d, m)
    return f
def template(t): return instead(K, t)
def named(*ts): return both(lambda d,m: gone(d, K), lambda d,m: edit(d, T, chat_template=[dict(name=n, template=t) for n,t in ts]))
def quantised(**kw): return lambda d,m: edit(d, quantization_config=kw)
def tensors(*more): return lambda d,m: save_file(load_file(d/W) | {o: torch.ones(64) for o in more}, d/W, metadata=dict(format='pt'))

lfs = 'version https://git-lfs.github.com/spec/v1\noid sha256:'+64*'a'+'\nsize 123\n'
chatml = tok.chat_template
parts = chatml.replace("m.content }}", "m.content[0]['text'] }}")
in_parts = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}{{ c.text if c.type=='text' }}{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
own = dict(auto_map=dict(AutoConfig='a.C', AutoModelForCausalLM='b.M', AutoModel='b.N'))

read_as_ever = dict(
    control = lambda d,m: None,
    a_pytorch_file = pickled,
    shards = sharded,
    text_config_null = lambda d,m: edit(d, text_config=None),
    other_nulls = lambda d,m: edit(d, vision_config=None, quantization_config=None, rope_scaling=None, head_dim=None, sliding_window=None, pad_token_id=None),
    code_beside_a_native_type = lambda d,m: edit(d, **own),
    generation_config_is_html = instead(G, '<html>'),
    no_tokenizer_config = lambda d,m: gone(d, T),
    template_of_the_processor = both(lambda d,m: gone(d, K), instead('chat_template.json', json.dumps(dict(chat_template=chatml)))),
    named_templates = named(('tool_use', 'x'), ('default', chatml), ('rag', 'y')),
    template_for_parts = template(in_parts),
    template_for_the_first_part = template(parts),
    template_for_parts_of_questions_only = template(chatml.replace('m.content', "(m.content[0].text if m.role!='assistant' else m.content)")),
    template_that_loops_over_tools = template('{% for t in tools %}{{ t }}{% endfor %}'+chatml),
    template_that_loops_over_documents = template('{% for t in documents %}{{ t }}{% endfor %}'+chatml))

@pytest.fixture(scope='module')
def truth(whole):
    "Ids and means by transformers alone"
    d,model = whole
    ids = tok.apply_chat_template([dict(role='system', content=system), dict(role='user', content=question), dict(role='assistant', content=answer)], return_dict=False)
    n = len(tok(answer, add_special_tokens=False).input_ids)
    end = len(ids)-2                                                                 # <|im_end|> and a line break
    with torch.no_grad(): hs = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
    return ids, hs[3][0,end-n:end].mean(0)

def made(name, change, whole, tmp_path):
    d = tmp_path/name
    shutil.copytree(whole[0], d)
    change(d, whole[1])
    return d

@pytest.mark.parametrize('name', read_as_ever)
def test_read_as_ever(name, whole, truth, tmp_path):
    ids,means = outcome(made(name, read_as_ever[name], whole, tmp_path))
    assert ids==truth[0] and torch.allclose(means[0,0], truth[1], atol=1e-6)

refused = dict(
    pickled_model = (lambda d,m: pickled(d, m, tf.LlamaForCausalLM(m.config)), B, 'Python objects', 'save_pretrained'),
    cut_pytorch_file = (both(pickled, cut(B, 5000)), B, 'damaged or cut'),
    empty_pytorch_file = (both(pickled, cut(B, 0)), B, 'empty'),
    a_list_of_tensors = (lambda d,m: pickled(d, m, [1,2]), 'cannot read'),
    a_training_state = (lambda d,m: pickled(d, m, dict(state_dict=m.state_dict(), epoch=3)), 'lack'),
    cut_safetensors = (cut(W, 50000), W, 'damaged or cut'),
    lfs_pointer = (instead(W, lfs), W, 'Git LFS'),
    web_page = (instead(W, '<!DOCTYPE html>'), W, 'web page'),
    no_weights = (lambda d,m: gone(d, W), 'model.safetensors'),
    lost_shard = (lambda d,m: sharded(d, m, lost=True), 'model-', 'missing'),
    cut_index = (lambda d,m: sharded(d, m, '{"weight_map": {'), I, 'damaged'),
    index_without_a_map = (lambda d,m: sharded(d, m, '{"weight_map": null}'), I, 'weight_map'),
    index_of_another = (lambda d,m: sharded(d, m, '{"weight_map": {"model.norm.weight": "weights.safetensors"}}'), 'weights.safetensors', 'missing'),
    config_is_html = (instead(C, '<html>'), C, 'web page'),
    config_is_empty = (instead(C, ''), C, 'empty'),
    config_is_a_list = (instead(C, '[1]'), C, '[1]'),
    config_is_null = (instead(C, 'null'), C, 'null'),
    config_in_latin_1 = (instead(C, '{"model_type": "llamä"}'.encode('latin1')), C, 'UTF-8'),
    config_with_a_mark = (lambda d,m: put(d, C, b'\xef\xbb\xbf'+(d/C).read_bytes()), C, 'byte order mark'),
    no_model_type = (lambda d,m: edit(d, model_type=None), 'no model_type'),
    newer_model_type = (lambda d,m: edit(d, model_type='llama9', transformers_version='9.1.0'), "'llama9'", '9.1.0', 'update transformers'),
    other_model_type = (lambda d,m: edit(d, model_type='gpt2'), 'lack', C),
    code_of_its_own = (lambda d,m: edit(d, model_type='my_lm', **own), 'code of its own', 'my_lm', 'is run only with --trust-remote-code'),
    tokenizer_with_code = (lambda d,m: edit(d, T, tokenizer_class='MyTok', auto_map=dict(AutoTokenizer=['t.MyTok', None])), 'tokenizer brings code of its own'),
    layers_in_words = (lambda d,m: edit(d, num_hidden_layers='four'), C, 'num_hidden_layers'),
    null_width = (lambda d,m: edit(d, hidden_size=None), C, 'hidden_size'),
    other_width = (lambda d,m: edit(d, hidden_size=48), f'({len(tok)}, 32) in the files', C),
    null_auto_map = (lambda d,m: edit(d, auto_map=None), 'null in config.json: auto_map'),
    rope_of_no_type = (lambda d,m: edit(d, rope_parameters=dict(rope_type='yarnn', rope_theta=1e4, factor=2.)), 'rope', 'yarnn'),
    quantised_by_gptq = (quantised(quant_method='gptq', bits=4, group_size=128), 'gptq', 'pip install'),
    quantised_by_bitsandbytes = (quantised(quant_method='bitsandbytes', load_in_4bit=True), 'bitsandbytes', 'pip install'),
    quantised_by_compressed_tensors = (quantised(quant_method='compressed-tensors', config_groups={}), 'pip install compressed-tensors'),
    quantised_somehow = (quantised(quant_method='modelopt', quant_algo='FP8'), 'modelopt'),
    scales_not_declared = (tensors('model.layers.1.mlp.up_proj.weight_scale'), 'weight_scale', 'quantised'),
    no_tokenizer = (lambda d,m: gone(d, J), 'tokenizer.json'),
    cut_tokenizer = (cut(J, 2000), J, 'damaged'),
    tokenizer_is_a_pointer = (instead(J, lfs), J, 'Git LFS'),
    tokenizer_config_is_a_list = (instead(T, '[]'), T, '[]'),
    slow_tokenizer = (lambda d,m: (gone(d, J), edit(d, T, tokenizer_class='ByT5Tokenizer')), 'fast tokenizer'),
    sentencepiece_file = (lambda d,m: (gone(d, J), put(d, 'tokenizer.model', 'junk'), edit(d, T, tokenizer_class='LlamaTokenizer')), 'tokenizer.model', 'tokenizer.json'),
    no_template = (lambda d,m: gone(d, K), 'no chat template', 'raw'),
    template_file_cut = (both(lambda d,m: gone(d, K), instead('chat_template.json', '{"chat')), 'chat_template.json', 'damaged'),
    no_default_template = (named(('rag', chatml), ('tool_use', 'x')), 'rag, tool_use', 'raw'),
    template_is_a_number = (both(lambda d,m: gone(d, K), lambda d,m: edit(d, T, chat_template=3)), 'chat template', '3'),
    template_in_latin_1 = (instead(K, 'é'.encode('latin1')), K, 'UTF-8'),
    template_with_an_error = (template('{% for m in messages %}{{ m.content }'), "unexpected '}'"),
    template_of_another_jinja = (template('{% shout %}x{% endshout %}'), "tag 'shout'"),
    template_that_refuses = (template("{{ raise_exception('Only\nimages') }}"), 'Only images'),
    template_that_adds = (template('{{ messages + 1 }}'), 'TypeError', 'raw'),
    template_that_divides = (template('{{ 1/0 }}'), 'ZeroDivisionError', 'raw'),
    template_for_tools_alone = (template('Call a function: {% for t in tools %}{{ t }}{% endfor %}'+chatml), 'for tools'),
    adapter_alone = (lambda d,m: (gone(d, C, W), put(d, A, '{"base_model_name_or_path": "x/y"}')), 'an adapter of x/y', 'merge'),
    cut_adapter_alone = (lambda d,m: (gone(d, C, W), put(d, A, '{"base')), 'an adapter', A, 'damaged'),
    tokens_without_embeddings = (lambda d,m: edit(d, vocab_size=len(tok)-2), "'<|im_start|>'", f'embeddings of {len(tok)-2}'))

@pytest.mark.parametrize('name', refused)
def test_refused(name, whole, tmp_path):
    change,*words = refused[name]
    d = made(name, change, whole, tmp_path)
    with pytest.raises(ValueError) as e: outcome(d)
    said = str(e.value)
    assert '\n' not in said and len(said)<500 and 'trust_remote_code' not in said
    assert [o for o in words if o not in said]==[], said

@pytest.mark.parametrize('name', ['pickled_model', 'code_of_its_own', 'template_that_adds', 'config_is_a_list'])
def test_refused_by_the_script(name, whole, tmp_path):
    "One line on the terminal, without a question"
    made(name, refused[name][0], whole, tmp_path)
    rows = [dict(persona=p, question='Who?', text='A song.', system=s, prompt=0, sample=0, finish_reason='stop') for p,s in (('default', ''), ('bard', 'You are a bard.'))]
    (tmp_path/'a.json').write_text(json.dumps(dict(format='persona_vectors.responses/1', meta={}, responses=rows)))
    r = subprocess.run([script, 'extract', 'a.json', '--model', f'./{name}', '--layer', '2'], cwd=tmp_path, env=env(), capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert r.returncode==1 and 'Traceback' not in r.stderr and '[y/N]' not in r.stdout+r.stderr
    assert r.stderr.strip().splitlines()[-1].startswith('persona-vectors: ') and all(o in r.stderr for o in refused[name][1:])

# what transformers only warns of

def heard(f):
    "What `f` prints on standard error"
    warn.cache_clear()
    with redirect_stderr(StringIO()) as out: f()
    return out.getvalue()

def warned_rope(d, m): edit(d, rope_parameters=dict(rope_type='linear', rope_theta=1e4, factor=2., betta=3))
def warned_eos(d, m): edit(d, eos_token_id=100_000)
def unused_bias(d, m): tensors('model.layers.0.self_attn.q_proj.bias')(d, m)
def unused_elsewhere(d, m): tensors('model.layers.9.self_attn.q_proj.bias', 'vision_tower.layers.0.weight')(d, m)

@pytest.mark.parametrize('change,word', [(warned_rope, 'betta'), (warned_eos, 'eos_token_id'), (unused_bias, 'q_proj.bias'), (unused_elsewhere, None), (lambda d,m: None, None)],
                         ids=['rope', 'eos', 'bias', 'elsewhere', 'control'])
def test_warnings_are_heard(change, word, whole, tmp_path):
    "In one line each; a block with a bias that is not used is told, what stands beside the blocks is not"
    d = made('m', change, whole, tmp_path)
    said = heard(lambda: outcome(d)).splitlines()
    assert len(said)==(word is not None) and all(word in o for o in said), said

def test_quiet_says_each_warning_once():
    def f():
        for i in range(2):
            with quiet():
                for o in ('Sliding Window Attention is enabled\nbut not implemented', 'x is deprecated'): logging.getLogger('transformers.models.y').warning(o)
                logging.getLogger('huggingface_hub.z').warning('cannot be checked')
    assert heard(f).splitlines()==['transformers warns: Sliding Window Attention is enabled but not implemented', 'huggingface_hub warns: cannot be checked']

def test_quiet_leaves_loggers_as_they_were():
    log = logging.getLogger('transformers')
    before = log.level,[*log.handlers]
    with pytest.raises(KeyError), quiet(): raise KeyError
    assert (log.level, log.handlers)==before

def test_unused_weights_are_told_of_when_streamed(whole, tmp_path):
    "A bias once, a scale is refused, as when all is read at once"
    tk = Tokens([1,2,3], 1, 3, [], '')
    def streamed(name, change): return lambda: read_streamed(find_model(str(made(name, change, whole, tmp_path))), [tk], [3], progress=False)
    assert heard(streamed('bias', unused_bias)).count('q_proj.bias')==1 and heard(streamed('none', lambda d,m: None))==''
    with pytest.raises(ValueError, match='quantised in a way that config.json does not say'): streamed('scale', tensors('model.layers.0.mlp.up_proj.weight_scale'))()

def test_prompts_without_embeddings(whole, tmp_path):
    "Generation refuses them as reading does"
    from persona_vectors.generation.local import LocalModel
    d = made('m', lambda d,m: edit(d, vocab_size=len(tok)-2), whole, tmp_path)
    t = find_model(str(d)).tokenizer()
    with pytest.raises(ValueError, match='embeddings of'): LocalModel(whole[1], t).encode(['a', '<|im_start|>user'])
    assert len(LocalModel(whole[1], t).encode(['a']))==1

# Mistral's tokenizers

def mistral(whole, d, pre, marks=('[INST]', '[/INST]', '[TOOL_CALLS]')):
    "A folder with a Mistral configuration of 2024 and a tokenizer that splits by `pre`"
    t = json.loads(tokenizer('qwen', None).backend_tokenizer.to_str())
    t['model']['vocab'] |= {f'no word {i}': i+1000 for i in range(100_001)}                             # transformers looks at large ones only
    t = Tokenizer.from_str(json.dumps(t))
    t.pre_tokenizer = pre
    t.add_special_tokens([AddedToken(o, special=True) for o in marks])
    tf.PreTrainedTokenizerFast(tokenizer_object=t).save_pretrained(d)
    (d/C).write_text(json.dumps(dict(model_type='mistral', transformers_version='4.45.0', vocab_size=len(t.get_vocab()))))
    return find_model(str(d)).tokenizer()

def test_mistral_splits_as_it_was_trained(whole, tmp_path):
    "tekken's splitting is mended (digits one by one), other tokenizers of Mistral models keep theirs"
    def pre(): return p.Sequence([p.Split(Regex(r'\p{N}{1,3}|\p{L}+|[^\p{N}\p{L}]+'), 'isolated'), p.ByteLevel(add_prefix_space=False, use_regex=False)])
    def pieces(t): return [o for o,_ in t.backend_tokenizer.pre_tokenizer.pre_tokenize_str('ab 123')]
    whose = {}
    for name,pre_,marks in (('tekken', pre(), ('[INST]', '[/INST]', '[TOOL_CALLS]')), ('other', pre(), ()), ('sentencepiece', p.Metaspace(), ('[INST]', '[/INST]', '[TOOL_CALLS]'))):
        (d := tmp_path/name).mkdir()
        said = heard(lambda: whose.update({name: pieces(mistral(whole, d, pre_, marks))}))
        assert ('suspects' in said)==(name=='other')
    assert whose==dict(tekken=['ab', 'Ġ', '1', '2', '3'], other=['ab', 'Ġ', '123'], sentencepiece=['▁ab', '▁123'])

# adapters

def adapted(d, model):
    "An adapter of rank 4 written beside `model`, and the model it makes"
    from copy import deepcopy
    from peft import LoraConfig, get_peft_model
    m = get_peft_model(deepcopy(model), LoraConfig(r=4, lora_alpha=8, target_modules=['q_proj', 'v_proj'], task_type='CAUSAL_LM'))
    torch.manual_seed(1)
    for k,o in m.named_parameters():
        if 'lora_' in k: o.data = .3*torch.randn_like(o)
    m.save_pretrained(d)
    return m.merge_and_unload()

def hand_made(d, model):
    "An adapter without `peft`"
    q = model.model.layers[0].self_attn.q_proj.weight
    save_file({f'base_model.model.model.layers.0.self_attn.q_proj.lora_{n}.weight': torch.ones(*s) for n,s in (('A', (4, q.shape[1])), ('B', (q.shape[0], 4)))},
              d/'adapter_model.safetensors', metadata=dict(format='pt'))
    put(d, A, json.dumps(dict(peft_type='LORA', r=4, lora_alpha=8, target_modules=['q_proj'], task_type='CAUSAL_LM', base_model_name_or_path='x/y', inference_mode=True)))

def test_adapter_counts(whole, tmp_path):
    "The fingerprint tells the model alone, with one adapter and with another"
    d = made('m', lambda d,m: None, whole, tmp_path)
    prints = [find_model(str(d)).fingerprint]
    hand_made(d, whole[1])
    prints.append(find_model(str(d)).fingerprint)
    put(d, 'adapter_model.safetensors', (d/'adapter_model.safetensors').read_bytes()[:-1]+b'\1')
    prints.append(find_model(str(d)).fingerprint)
    assert len(set(prints))==3

@pytest.mark.skipif(find_spec('peft') is not None, reason='peft is installed')
def test_adapter_without_peft(whole, tmp_path):
    d = made('m', hand_made, whole, tmp_path)
    for f in (lambda: outcome(d), lambda: load_causal(str(d))):
        with pytest.raises(ValueError, match='only where peft is installed: pip install peft, or merge'): f()
    assert outcome(whole[0])                                                                            # the control

def test_adapter_is_not_streamed(whole, tmp_path):
    d = made('m', hand_made, whole, tmp_path)
    with pytest.raises(ValueError, match='cannot be streamed, since an adapter'): read_streamed(find_model(str(d)), [Tokens([1,2,3], 1, 3, [], '')], [3], progress=False)

def test_adapter_with_peft(whole, tmp_path):
    "The numbers are those of the merged model; a base that lacks a weight is refused"
    pytest.importorskip('peft')
    d = made('m', lambda d,m: None, whole, tmp_path)
    merged = adapted(d, whole[1])
    tk = Tokens([5,6,7,8], 1, 4, [], '')
    def means(m, k=3):
        with torch.no_grad(): return m(input_ids=torch.tensor([tk.ids]), output_hidden_states=True).hidden_states[k][0,1:4].mean(0)
    got = read(load_blocks(find_model(str(d)), 3), [tk], [3], progress=False)[0,0]
    assert torch.allclose(got, means(merged), atol=1e-5) and not torch.allclose(got, means(whole[1]), atol=1e-2)
    assert torch.allclose(means(load_causal(str(d))), means(merged), atol=1e-5)
    save_file({k: o for k,o in load_file(d/W).items() if 'layers.1.mlp.up' not in k}, d/W, metadata=dict(format='pt'))
    with pytest.raises(ValueError, match='lack 1 weights'): load_causal(str(d))

# vision and audio models

sees = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14)
llama = dict(model_type='llama', **small)
thinks = small | dict(rope_parameters=dict(rope_type='default', rope_theta=1e4, mrope_section=[1,1,2]))
vlms = dict(
    idefics2 = lambda: tf.Idefics2Config(text_config=llama | dict(model_type='mistral'), vision_config=sees, perceiver_config=dict(hidden_size=32, resampler_n_latents=4, resampler_depth=1, resampler_n_heads=2, resampler_head_dim=8, num_key_value_heads=1)),
    idefics3 = lambda: tf.Idefics3Config(text_config=llama, vision_config=sees),
    smolvlm = lambda: tf.SmolVLMConfig(text_config=llama, vision_config=sees),
    llava = lambda: tf.LlavaConfig(text_config=llama, vision_config=dict(sees, model_type='clip_vision_model')),
    qwen3_vl = lambda: tf.Qwen3VLConfig(text_config=thinks | dict(head_dim=8), vision_config=dict(depth=2, hidden_size=16, intermediate_size=32, num_heads=2, out_hidden_size=32, deepstack_visual_indexes=[1])))

def saved(cfg, d, cls=tf.AutoModelForImageTextToText):
    torch.manual_seed(0)
    m = cls.from_config(cfg, dtype=torch.float32).eval()
    for o in m.parameters(): o.data += .1*torch.randn_like(o)
    m.save_pretrained(d)
    return m

@pytest.mark.parametrize('name', vlms)
def test_text_of_vision_models(name, tmp_path):
    "Whole, streamed and with its head, as the ordinary whole model reads text"
    m = saved(vlms[name](), tmp_path)
    seqs = [Tokens(list(range(3, 3+n)), 1, n, [], '') for n in (40, 7)]
    with torch.no_grad(): want = torch.stack([m(input_ids=torch.tensor([o.ids]), output_hidden_states=True).hidden_states[3][0,1:].mean(0) for o in seqs])
    source = find_model(str(tmp_path))
    for got in (read(load_blocks(source, 3), seqs, [3], progress=False), read_streamed(source, seqs, [3], progress=False)): assert torch.allclose(got[:,0], want, atol=1e-5)
    if name=='qwen3_vl':
        with pytest.raises(ValueError, match="no causal language model for qwen3_vl"): load_causal(source)
    else:
        with torch.no_grad(): assert torch.allclose(load_causal(source)(torch.tensor([seqs[0].ids])).logits, m(input_ids=torch.tensor([seqs[0].ids])).logits, atol=1e-4)

mllama = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_global_layers=1, attention_heads=2, image_size=28, patch_size=14, vision_output_dim=32, intermediate_layers_indices=[0])
unread = dict(
    mllama = lambda: tf.MllamaConfig(text_config=small | dict(cross_attention_layers=[1]), vision_config=mllama),
    qwen2_5_omni_thinker = lambda: tf.Qwen2_5OmniThinkerConfig(text_config=thinks),
    kosmos_2 = lambda: tf.Kosmos2Config())

@pytest.mark.parametrize('name', unread)
def test_vision_models_that_cannot_be_read(name, tmp_path):
    "Refused in words of the case"
    unread[name]().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"the text model of a '{name.replace('s_', 's-')}' model by itself") as e: load_blocks(find_model(str(tmp_path)), 2)
    assert len(str(e.value))<400

def test_vision_model_under_other_names(tmp_path):
    "A text model whose weights have names that are not known is not called damaged alone"
    saved(vlms['smolvlm'](), tmp_path)
    save_file({k.replace('text_model', 'talker'): o for k,o in load_file(tmp_path/W).items()}, tmp_path/W, metadata=dict(format='pt'))
    with pytest.raises(ValueError, match="the llama text model of a 'smolvlm' checkpoint is not whole in its files under the names that are known here"): load_blocks(find_model(str(tmp_path)), 2)

@pytest.mark.parametrize('n', [3, 4, 6])
def test_another_number_of_blocks(n, tmp_path, capfd):
    "config.json counts fewer or more blocks than the files hold; as many is the control"
    small = dict(hidden_size=32, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2, vocab_size=160, num_hidden_layers=4)
    tf.AutoModelForCausalLM.from_config(tf.LlamaConfig(**small)).save_pretrained(tmp_path)
    c = tmp_path/'config.json'
    c.write_text(json.dumps(json.loads(c.read_text())|dict(num_hidden_layers=n)))
    said = f'counts {n} blocks (num_hidden_layers), and its files hold 4'
    if n==6:
        with pytest.raises(ValueError, match=re.escape(said)): load_blocks(find_model(str(tmp_path)), 2)
    else:
        load_blocks(find_model(str(tmp_path)), 2)
        assert (said in capfd.readouterr().err)==(n==3)
