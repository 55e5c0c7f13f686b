"Adapters, revisions on the hub and rounded weights: each is the model that was meant, and the files say which"
import hashlib, json, os, shutil, subprocess
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
import pytest, torch
from persona_vectors import EMBEDDED, ActivationExtractor, PersonaVectorConfig, find_model
from persona_vectors.extraction.blocks import load_blocks, residual_hooks
from persona_vectors.extraction.extractor import cached_vectors
from persona_vectors.analysis.readings import difference
from persona_vectors.models import load_causal
from persona_vectors.extraction.parts import extract_shard
from persona_vectors.extraction.vectors import Direction, load_vectors, vectors_of
from persona_vectors.generation.answers import generate_responses
from persona_vectors.responses import Response, Responses
from persona_vectors.pipeline import run as run_pipeline
from persona_vectors.selection import Answers, select
from persona_vectors.steering.interop import export_direction, import_file, load_direction
from persona_vectors.steering.monitoring import Monitor
from persona_vectors.steering.steer import Steer, steered
from tiny import env, files, make_llama, said, script

rows = Responses([Response(p, q, 'Hello there, who is it?', s) for p,s in (('default',''), ('bard','You sing.')) for q in ('Who are you?', 'And why?')])
needs_peft = pytest.mark.skipif(find_spec('peft') is None, reason='needs peft')

def extractor(name, **kw): return ActivationExtractor(PersonaVectorConfig(model_name=str(name), dtype='float32', device='cpu', **kw))
def vectors(ex, folder, layers=(1,)): return cached_vectors(ex, select(rows), list(layers), folder)
def run(*args, cwd, **kw): return subprocess.run([script, *map(str, args)], cwd=cwd, env=env(**kw), capture_output=True, text=True)

# adapters

def tune(base, folder, steps, targets=('q_proj','v_proj'), tok=None, **kw):
    "An adapter of the model `base`, trained for some steps to say one sentence; the merged model"
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM
    torch.manual_seed(0)
    m = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), LoraConfig(r=4, lora_alpha=16, target_modules=targets if isinstance(targets, str) else list(targets), task_type='CAUSAL_LM', **kw))
    ids = (tok or find_model(EMBEDDED).tokenizer())('Hark! I am a bard, and I sing of old kings.', return_tensors='pt').input_ids
    opt,losses = torch.optim.AdamW([o for o in m.parameters() if o.requires_grad], lr=1e-2),[]
    for _ in range(steps):
        loss = m(input_ids=ids, labels=ids).loss
        loss.backward()
        opt.step()
        opt.zero_grad()
        losses.append(loss.item())
    assert losses[-1]<losses[0]
    m.save_pretrained(folder)
    return m.merge_and_unload().eval()

def same_states(source, merged, base, tol=1e-5):
    "Are the hidden states those of `merged`, to float32 rounding, and not those of `base`?"
    ids = torch.arange(40, 60)[None]
    def states(m):
        with torch.no_grad(): return torch.stack(m(input_ids=ids, output_hidden_states=True).hidden_states)
    got,want,other = map(states, (load_causal(source), merged, load_causal(base)))
    assert ((got-want).norm()/want.norm()).item()<tol<1e-3<((got-other).norm()/other.norm()).item()

@needs_peft
@pytest.mark.parametrize('kw', [{}, dict(targets=('q_proj','gate_proj','down_proj')), dict(modules_to_save=['embed_tokens','lm_head'])], ids=['attention', 'mlp', 'embeddings'])
def test_adapter_is_merged(kw, tmp_path):
    base = make_llama(tmp_path/'base', n=3)
    merged = tune(base, tmp_path/'tuned', 3, **kw)
    source = find_model(str(tmp_path/'tuned'))
    assert source.label=='tuned' and source.fingerprint!=find_model(str(base)).fingerprint
    same_states(source, merged, str(base))
    v,path = vectors(ex := extractor(tmp_path/'tuned'), tmp_path/'v', (0,1,2,3))
    assert v.meta['model']=='tuned' and len(v.meta['adapter'])==16 and v.meta['probe']['against']=='LlamaForCausalLM'
    merged.save_pretrained(tmp_path/'merged')
    shutil.copy(base/'tokenizer.json', tmp_path/'merged'), shutil.copy(base/'tokenizer_config.json', tmp_path/'merged')
    shutil.copytree(base, tmp_path/'merged', dirs_exist_ok=True, ignore=lambda d,fs: [o for o in fs if o.startswith('model')])
    want = vectors(extractor(tmp_path/'merged'), tmp_path/'v', (0,1,2,3))[0]
    assert torch.allclose(v.means, want.means, atol=1e-5*want.means.abs().max().item())
    assert not torch.allclose(v.means, vectors(extractor(base), tmp_path/'v', (0,1,2,3))[0].means, atol=1e-3)

chosen = dict(
    block=dict(layers_to_transform=[1]), number=dict(layers_to_transform=2, layers_pattern='layers'), regex=dict(targets=r'model\.layers\.[12]\..*(q|v)_proj'),
    excluded=dict(exclude_modules=r'.*layers\.0.*'), ranks=dict(rank_pattern={r'^model\.layers\.0\.self_attn\.q_proj': 2}, alpha_pattern={r'model\.layers\.[01].*': 64}),
    dora=dict(use_dora=True, layers_to_transform=[1]), scale=dict(use_rslora=True), every=dict(targets='all-linear'), head=dict(targets=('lm_head',)),
    words=dict(trainable_token_indices=[41,45], layers_to_transform=[2]), parameter=dict(target_parameters=['mlp.down_proj.weight']), kept=dict(modules_to_save=['norm'], layers_to_transform=[1]))

@needs_peft
@pytest.mark.parametrize('kw', chosen.values(), ids=chosen)
def test_adapters_options(kw, tmp_path):
    "What an adapter changes is where it was trained, in a model that is cut and without a head, too: hidden states at every depth are those of the merged model"
    base = make_llama(tmp_path/'base', n=3)
    merged = tune(base, tmp_path/'tuned', 3, **kw)
    source = find_model(str(tmp_path/'tuned'))
    if 'lm_head' in kw.get('targets', ()): merged = load_causal(str(base))                 # its weights are the embeddings', and these were not trained
    else: same_states(source, merged, str(base))
    ids = torch.arange(40, 60)[None]
    with torch.no_grad(): want = merged(input_ids=ids, output_hidden_states=True).hidden_states
    for k in (0, 1, 2):
        got = []
        with residual_hooks(m := load_blocks(source, k), [k], lambda _,h: got.append(h)), torch.no_grad(): m(input_ids=ids)
        assert torch.allclose(got[0], want[k], atol=1e-5*want[k].abs().max().item()), k
    with torch.no_grad(): assert torch.allclose(load_causal(source)(input_ids=ids, output_hidden_states=True).hidden_states[1], want[1], atol=1e-4)
    v,_ = vectors(extractor(tmp_path/'tuned'), tmp_path/'v', (0,1))
    assert v.meta['probe']['against']=='LlamaForCausalLM'

@needs_peft
@pytest.mark.slow
def test_adapter_of_the_embedded_model(tmp_path):
    "Ten steps, the hidden states of all layers"
    base = find_model(EMBEDDED)
    merged = tune(base.path, tmp_path, 10, tok=base.tokenizer())
    same_states(find_model(str(tmp_path)), merged, base)

@needs_peft
def test_two_adapters_of_one_name(tmp_path, caplog):
    "What was made with one is not taken for the other's: vectors and control vectors are refused, steering and monitoring say so"
    base = make_llama(tmp_path/'base')
    for name,steps in (('a', 2), ('b', 4)): tune(base, tmp_path/name/'tuned', steps)
    first,second = (extractor(tmp_path/o/'tuned') for o in 'ab')
    (v,path),(w,_) = vectors(first, tmp_path/'v'),vectors(second, tmp_path/'w')
    difference(v, 'default', 'bard').save(tmp_path/'d.safetensors')
    d = Direction.load(tmp_path/'d.safetensors')
    export_direction(replace(d, layer=2), tmp_path/'d.gguf', 'gguf', first.source)
    models = {o: load_causal(o.source) for o in (first, second)}
    def used(ex, d):
        caplog.clear()
        with steered(models[ex], Steer(d)): models[ex](torch.tensor([[5,6,7]]))
        Monitor(models[ex], ex.tokenizer, d)
        return list(caplog.messages)
    assert used(first, d)==[] and torch.equal(vectors_of(first.source, path).means, v.means)
    assert used(second, d)==[f'a direction of tuned {o} tuned: another adapter of this name' for o in ('steers', 'is projected on by')]
    with pytest.raises(ValueError, match='has vectors of tuned, and the model is tuned: another adapter of this name'): vectors_of(second.source, path)
    with pytest.raises(ValueError, match='made with tuned, not with tuned .another adapter of this name'): import_file(tmp_path/'d.gguf', second.source)
    assert import_file(tmp_path/'d.gguf', first.source)[2].model.weights==d.model.weights==first.source.whose.weights
    caplog.clear()
    load_direction(tmp_path/'d.safetensors', v)
    assert not caplog.messages
    load_direction(tmp_path/'d.safetensors', w)
    assert 'd.safetensors is a direction of tuned, and the vectors are of tuned: another adapter of this name' in caplog.text
    replace(d, model='tuned').save(tmp_path/'old.safetensors')                              # as older files: it does not say which
    assert used(first, old := Direction.load(tmp_path/'old.safetensors'))==used(second, old)==[]

@needs_peft
def test_adapters_template(tmp_path):
    "A fine-tune may have a chat template of its own beside the adapter"
    base = make_llama(tmp_path/'base')
    tune(base, tmp_path/'tuned', 2)
    assert find_model(str(tmp_path/'tuned')).tokenizer().chat_template==find_model(str(base)).tokenizer().chat_template
    tok = find_model(EMBEDDED).tokenizer()
    tok.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    tok.save_pretrained(tmp_path/'tuned')
    assert find_model(str(tmp_path/'tuned')).tokenizer().chat_template==tok.chat_template

@needs_peft
def test_adapters_splitting(tmp_path, caplog):
    "A tokenizer beside the adapter is read as its tokenizer.json splits, too, whatever class it names"
    base = make_llama(tmp_path/'base')
    tune(base, tmp_path/'tuned', 2)
    find_model(EMBEDDED).tokenizer().save_pretrained(tmp_path/'tuned')
    file = tmp_path/'tuned'/'tokenizer_config.json'
    c = json.loads(file.read_text())
    c.pop('ggml_pre', None)
    file.write_text(json.dumps(c | dict(tokenizer_class='GPT2Tokenizer')))
    got,text = find_model(str(tmp_path/'tuned')).tokenizer(),'Steps:\n\n1. Go'
    assert got.tokenize(text)==find_model(EMBEDDED).tokenizer().tokenize(text) and 'is followed, not the class GPT2Tokenizer' in caplog.text

@pytest.mark.parametrize('change,why', [
    (dict(base_model_name_or_path='./nowhere'), 'an adapter of ./nowhere, which is not here'), (dict(base_model_name_or_path=None), 'does not name a model'),
    (dict(peft_type='PREFIX_TUNING'), 'adds to the prompt')])
def test_adapters_that_cannot_be_read(change, why, tmp_path):
    (tmp_path/'tuned').mkdir()
    (tmp_path/'tuned'/'adapter_config.json').write_text(json.dumps(dict(peft_type='LORA', r=2, base_model_name_or_path='x/y') | change))
    (tmp_path/'tuned'/'adapter_model.safetensors').write_bytes(b'x')
    if 'nowhere' in why and find_spec('peft') is None: why = 'only where peft is installed'
    r = run('extract', '--model', 'tuned', '--span', 'prompt_last', cwd=tmp_path)
    assert r.returncode==1 and why in r.stderr and len(said(r))==1 and set(os.listdir(tmp_path))=={'tuned'}, r.stderr

# revisions

def hub(cache, repo, revisions):
    "A cache of the hub as huggingface_hub keeps it: `revisions` is name to (commit, folder)"
    at = cache/f"models--{repo.replace('/', '--')}"
    for name,(commit,folder) in revisions.items():
        for o in ('blobs', f'snapshots/{commit}', 'refs'): (at/o).mkdir(parents=True, exist_ok=True)
        (at/'refs'/name).write_text(commit)
        for p in folder.iterdir():
            h = hashlib.sha256(p.read_bytes()).hexdigest()
            shutil.copy(p, at/'blobs'/h)
            (at/'snapshots'/commit/p.name).symlink_to(Path('../../blobs')/h)

def test_revisions_of_the_hub(tmp_path):
    "Two checkpoints of one model, from a cache of the hub: each has its own file, with the numbers of its weights"
    a,b = (make_llama(tmp_path/o) for o in 'ab')
    from safetensors.torch import load_file, save_file
    save_file({k: o+.01 for k,o in load_file(b/'model.safetensors').items()}, b/'model.safetensors', metadata=dict(format='pt'))
    commits = {'step1': 'a'*40, 'step2': 'b'*40}
    hub(tmp_path/'hub', 'lab/tiny', {k: (c, o) for (k,c),o in zip(commits.items(), (a,b))})
    rows.save(tmp_path/'r.json')
    def extract(*args): return run('extract', 'r.json', '--dtype', 'float32', '--layer', '1', *args, cwd=tmp_path, HF_HUB_CACHE=str(tmp_path/'hub'))
    r = extract('--model', 'lab/tiny@step1', '--model', 'lab/tiny@step2')
    assert r.returncode==0, r.stderr
    found = [load_vectors(tmp_path/o) for o in r.stdout.split()]
    assert [(v.meta['model'], v.meta['fingerprint']) for v in found]==[(f'lab/tiny@{k}', c) for k,c in commits.items()]
    for v,folder in zip(found, (a,b)): assert torch.equal(v.means, vectors(extractor(folder), tmp_path/'own')[0].means)
    assert not torch.equal(found[0].means, found[1].means)
    again = extract('--model', 'lab/tiny', '--revision', 'step1')
    assert again.stdout==r.stdout.splitlines(True)[0]                                       # the same file, used again
    for args,why in ((('--model', 'lab/tiny@step9'), 'lab/tiny@step9'), (('--model', 'lab/tiny@step1', '--revision', 'step2'), 'name one of them'), (('--model', 'a@step1'), 'only models on the hub')):
        before = files(tmp_path/'data')
        bad = extract(*args)
        assert bad.returncode==1 and why in said(bad)[-1] and len(said(bad))==1 and files(tmp_path/'data')==before, bad.stderr

# rounded weights

BITS = {'4bit': 'bitsandbytes', '8bit': 'torchao'}
@pytest.mark.parametrize('bits', BITS)
def test_rounded_weights(bits, tmp_path):
    "Rounded when loaded: the size is the planned one, numbers are near those of the whole weights, alike in any batch, and the files say so"
    if not find_spec(BITS[bits]): pytest.skip(f'needs {BITS[bits]}; test_plan_of_rounded_weights does without')
    base = make_llama(tmp_path/'base', d=256, n=3)
    plain,ex = extractor(base),extractor(base, quantize=bits)
    v,path = vectors(ex, tmp_path/'v', (0,1,3))
    want,other = vectors(plain, tmp_path/'v', (0,1,3))
    assert (v.meta['quantize'], want.meta.get('quantize'), path!=other, v.meta['fingerprint']!=want.meta['fingerprint'])==(bits, None, True, True)
    assert v.meta['probe']['against']=='LlamaForCausalLM'
    gap = ((v.means-want.means).norm()/want.means.norm()).item()
    assert 1e-4<gap<{'4bit': .3, '8bit': .03}[bits] and torch.equal(v.means[:,0], want.means[:,0])     # the embedding is not rounded
    alone = extractor(base, quantize=bits, batch_tokens=1)
    seqs = alone.conversations(rows.rows)
    assert torch.allclose(alone.means(seqs, [3], progress=False), ex.means(seqs, [3], progress=False), atol=1e-4)
    m = ex.blocks(3)
    held = sum(w.untyped_storage().nbytes() if bits=='4bit' else w.numel()*(1 if 'int8' in type(w).__name__.lower() or 'Int8' in type(w.data).__name__ else w.element_size()) for w in m.parameters())
    if bits=='4bit': held += sum(o.weight.quant_state.absmax.nbytes for o in m.modules() if hasattr(getattr(o, 'weight', None), 'quant_state'))
    planned = ex.plan(seqs, [3], measure=False).weights
    assert abs(planned/held-1)<.02 and planned<.95*plain.plan(seqs, [3], measure=False).weights
    with pytest.raises(ValueError, match='cannot be streamed, since its weights are rounded'): extractor(base, quantize=bits, stream=True).means(seqs, [3], progress=False)

@pytest.mark.parametrize('bits,each', [('4bit', 1/2+4/64), ('8bit', 1)])
def test_plan_of_rounded_weights(bits, each, tmp_path, monkeypatch):
    "The planned bytes, without the library that rounds; whatever needs it is refused before anything is written"
    monkeypatch.setattr('importlib.util.find_spec', lambda name, *args: None if name==BITS[bits] else find_spec(name, *args))
    base,d,vocab = make_llama(tmp_path/'base', d=64, n=3),64,len(find_model(EMBEDDED).tokenizer())
    ex = extractor(base, quantize=bits)
    p,whole = (o.plan(o.conversations(rows.rows), [2], measure=False) for o in (ex, extractor(base)))
    linear,norms = 4*d*d+3*d*2*d,2*d                                            # q, k, v, o and gate, up, down; two norms
    assert (p.block, whole.block)==(linear*each+4*norms, 4*linear+4*norms)
    assert p.embedding==whole.embedding==4*(vocab*d+d) and p.weights==p.embedding+2*p.block and whole.weights==whole.embedding+2*whole.block
    needs,out = pytest.raises(ValueError, match=f'rounded to {bits} by {BITS[bits]}, which is not installed: pip install {BITS[bits]}'),tmp_path/'out'
    rows.save(tmp_path/'r.json')
    c,answers = ex.config,Answers(tmp_path/'r.json')
    asked = dict(personas={'default': '', 'bard': 'You sing.', 'cook': 'You cook.', 'monk': 'You pray.'}, questions=['Who are you?', 'And why?'])
    for f in (lambda: load_causal(ex.source), lambda: extractor(base, quantize=bits).means(ex.conversations(rows.rows), [2], progress=False),
              lambda: vectors(ex, out), lambda: extract_shard(ex, answers, i=1, n=1, layer=1, folder=out),
              lambda: generate_responses(c, out=out, **asked), lambda: run_pipeline(c, layer=1, out=out, **asked)):
        with needs: f()
        assert not out.exists()

@pytest.mark.parametrize('bits', [o for o in BITS if not find_spec(BITS[o])])
def test_plan_of_rounded_weights_in_the_command(bits, tmp_path):
    make_llama(tmp_path/'base')
    rows.save(tmp_path/'r.json')
    command,before = ('extract', 'r.json', '--model', 'base', '--layer', '1', '--quantize', bits),files(tmp_path)
    r = run(*command, '--dry-run', cwd=tmp_path)
    assert r.returncode==0 and 'base' in r.stdout and files(tmp_path)==before, r.stderr
    r = run(*command, cwd=tmp_path)
    assert r.returncode==1 and f'which is not installed: pip install {BITS[bits]}' in said(r)[-1] and files(tmp_path)==before, r.stderr

def packed(kind, w, group=128):
    "What a checkpoint quantised like `kind` holds for the matrix `w` 'out in': name to tensor"
    (n,d),int32,half = w.shape,torch.int32,torch.float16
    if kind=='fp8': return dict(weight=w.to(torch.float8_e4m3fn), weight_scale_inv=torch.ones(-(-n//group), -(-d//group)))
    scales = dict(qzeros=torch.zeros(d//group, n//8, dtype=int32), scales=torch.ones(d//group, n, dtype=half))    # eight times 4 bits in an int32
    if kind=='awq': return dict(qweight=torch.zeros(d, n//8, dtype=int32), **scales)
    return dict(qweight=torch.zeros(d//8, n, dtype=int32), g_idx=torch.arange(d, dtype=int32)//group, **scales)

QUANTISED = dict(gptq=dict(bits=4, group_size=128, desc_act=False, sym=True), awq=dict(bits=4, group_size=128, zero_point=True, version='gemm'),
                 fp8=dict(activation_scheme='dynamic', fmt='e4m3', weight_block_size=[128,128]))

@pytest.mark.parametrize('kind', QUANTISED)
def test_plan_of_a_quantised_checkpoint(kind, tmp_path, monkeypatch):
    "The plan is the size of the files, and of the blocks in them by hand; what reads them and is not here is named"
    from safetensors.torch import load_file, save_file
    base,d = make_llama(tmp_path/'base', d=128, n=3),128
    seqs = extractor(base).conversations(rows.rows)
    whole = extractor(base).plan(seqs, [2], measure=False)
    tensors = {}
    for k,o in load_file(base/'model.safetensors').items():
        tensors |= {k.removesuffix('weight')+part: t for part,t in packed(kind, o).items()} if '_proj' in k else {k: o}
    save_file(tensors, base/'model.safetensors', metadata=dict(format='pt'))
    cfg = json.loads((base/'config.json').read_text())
    (base/'config.json').write_text(json.dumps(cfg|dict(quantization_config=dict(quant_method=kind, **QUANTISED[kind]))))
    unpacked = extractor(base).plan(seqs, [2], measure=False)
    if kind=='fp8': monkeypatch.setattr('persona_vectors.extraction.extractor.holds_fp8', lambda device: True)
    every,some = (extractor(base).plan(seqs, [k], measure=False) for k in (3,2))
    assert unpacked.weights==(whole if kind=='fp8' else some).weights
    raw = (base/'model.safetensors').read_bytes()
    assert every.weights==len(raw)-8-int.from_bytes(raw[:8], 'little')                                          # the file without its header
    linear,ins = 10*d*d,6*d+2*d                                                  # weights of the seven matrices; their inputs: six of width d, one of 2d
    groups = linear//128
    each = dict(fp8=linear+4*linear//128**2, awq=linear//2+groups*(2+1/2), gptq=linear//2+groups*(2+1/2)+4*ins)[kind]+4*2*d
    assert some.block==each and some.weights==every.weights-each and some.embedding==whole.embedding
    assert some.weights<whole.weights
    with pytest.raises(ValueError, match=f'quantised already .{kind}.: leave --quantize out'): find_model(str(base), quantize='4bit')
    def means(**kw): return ActivationExtractor(PersonaVectorConfig(model_name=str(base), device='cpu', **dict(dict(dtype='float32'), **kw))).means(seqs, [2], progress=False)
    if kind=='fp8':                                                             # without a GPU transformers makes wider numbers of it
        assert means().isfinite().all()
        assert torch.allclose(means(dtype='bfloat16').float(), means(), atol=.05*means().abs().max().item())
    else:
        with pytest.raises(ValueError, match=rf'it is quantised \({kind}\) and needs a package'): means()

# code of their own

code = '''from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel
class OwnConfig(LlamaConfig): model_type = 'own'
class OwnModel(LlamaModel): config_class = OwnConfig
class OwnForCausalLM(LlamaForCausalLM): config_class = OwnConfig
'''
def test_code_of_its_own(tmp_path):
    "It is run only by that name; its numbers are then those of the model"
    base = make_llama(tmp_path/'base', n=3)
    shutil.copytree(base, tmp_path/'own')
    (tmp_path/'own'/'modeling_own.py').write_text(code)
    cfg = json.loads((base/'config.json').read_text())
    maps = dict(AutoConfig='modeling_own.OwnConfig', AutoModel='modeling_own.OwnModel', AutoModelForCausalLM='modeling_own.OwnForCausalLM')
    (tmp_path/'own'/'config.json').write_text(json.dumps(cfg|dict(model_type='own', auto_map=maps, architectures=['OwnForCausalLM'])))
    rows.save(tmp_path/'r.json')
    def extract(*args): return run('extract', 'r.json', '--dtype', 'float32', '--layer', '1', *args, cwd=tmp_path, HF_HOME=str(tmp_path/'hf'))
    r = extract('--model', 'own')
    assert r.returncode==1 and 'code of its own' in r.stderr and '--trust-remote-code' in said(r)[-1], r.stderr
    assert not (tmp_path/'data').exists()
    r = extract('--model', 'own', '--trust-remote-code')
    assert r.returncode==0, r.stderr
    assert torch.equal(load_vectors(tmp_path/r.stdout.strip()).means, vectors(extractor(base), tmp_path/'v')[0].means)
