"Steering, capping and reading inside a real vLLM on a CPU, beside transformers in float32; runs in the environment that tools/vllm_cpu_env.py makes"
import gc, json, os, signal, socket, subprocess, sys, time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from unittest.mock import patch
from urllib.error import HTTPError
from urllib.request import Request, urlopen
import pytest

pytest.importorskip('vllm', reason='needs a vLLM beside this package (tools/vllm_cpu_env.py)')
os.environ |= dict(VLLM_ENABLE_V1_MULTIPROCESSING='0', VLLM_CPU_KVCACHE_SPACE='1', VLLM_CPU_OMP_THREADS_BIND='nobind', VLLM_NO_USAGE_STATS='1',
                   HF_HUB_OFFLINE='1', OMP_NUM_THREADS='1', VLLM_LOGGING_LEVEL='ERROR')

import torch
from persona_vectors import (EMBEDDED, ActivationExtractor, Direction, PersonaVectorConfig, Steer, assistant_axis, extract_persona_vectors, find_model, select,
                             shipped_responses, shipped_vectors)
from persona_vectors.extraction.blocks import find_blocks, residual_hooks
from persona_vectors.extraction.vectors import load_vectors
from persona_vectors.models import load_causal
from persona_vectors.steering import serving
from persona_vectors.steering.capping import Capping
from persona_vectors.steering.served import verify_served
from persona_vectors.generation.vllm_engine import Engine
from persona_vectors.steering.serving import (EXTENSION, KEY, Pass, VllmExtractor, add_stream_hook, serve_command, served_reading, serving_env, steering_files, steers_in,
                                              watching, whole)
from persona_vectors.steering.steer import Gate, save_steers, steered
from transformers import AutoModelForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig, GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

WIDTH,N,VOCAB = 64,3,200

def checkpoint(kind, folder):
    "A random model of `N` blocks in float32; its folder"
    small = dict(vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=2*WIDTH, num_hidden_layers=N, num_attention_heads=2, num_key_value_heads=1,
                 head_dim=32, max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    torch.manual_seed(0)
    m = (GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=WIDTH, n_layer=N, n_head=2, n_positions=512, bos_token_id=1, eos_token_id=2)) if kind=='gpt2' else
         Gemma3ForCausalLM(Gemma3TextConfig(**small, query_pre_attn_scalar=32, sliding_window=64, layer_types=['sliding_attention']*2+['full_attention'])) if kind=='gemma3' else
         Qwen3ForCausalLM(Qwen3Config(**small, tie_word_embeddings=True)))
    with torch.no_grad():
        for o in m.parameters(): o.mul_(3 if o.ndim>1 else 1)              # streams that change from block to block
    m.save_pretrained(folder)
    return folder

def steerings(folder, width, n, size):
    "Files of steerings of each kind, of a model of `n` blocks whose stream is about `size` long; name to path"
    g,made = torch.Generator().manual_seed(1),{}
    def direction(k, l): v = torch.randn(width, generator=g); return Direction(v/v.norm()*size/2, k, l, 'made here')
    one,two,three = (direction(*o) for o in (('one', n//2), ('two', n-1), ('three', n//2)))
    all = dict(added=[Steer(one, 1.5, positions='answer')], prompted=[Steer(one, -2, positions='prompt'), Steer(two)], ablated=[Steer([one, three], op='ablate')],
               floored=[Steer(one, .2, 'floor'), Steer(two, .1, 'floor')], clamped=[Steer(one, .3, 'clamp', [0,n], 'answer')],
               sinks=[Steer(one, .5, layers=[0,1,n], positions='all+sinks'), Steer(three, .5, layers=[1])], gated=[Steer(two, 1, when=Gate(one, 0., layer=1))])
    for k,ss in all.items():
        made[k] = str(folder/f'{k}.safetensors')
        save_steers(made[k], ss)
    return made

@contextmanager
def engine(folder, own=None, **kw):
    "vLLM in this process, with the extension if there are settings `own` for it"
    from vllm import LLM
    from vllm.distributed import cleanup_dist_env_and_memory
    extra = {} if own is None else dict(worker_extension_cls=EXTENSION, additional_config={KEY: own})
    usual = dict(dtype='float32', enforce_eager=True, max_model_len=256, block_size=32, skip_tokenizer_init=True, max_num_seqs=16)
    llm = LLM(str(folder), **usual | extra | kw)
    try: yield llm
    finally:
        kind = type(worker(llm))
        kind.__bases__ = tuple(o for o in kind.__bases__ if o is not serving.Worker)         # the next may be without it
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()
        cleanup_dist_env_and_memory()

def core(llm): return llm.llm_engine.engine_core.engine_core
def worker(llm): return core(llm).model_executor.driver_worker.worker

def answers(llm, prompts, names, n=12, **kw):
    "The greedy answers to `prompts`, as token ids, for each the steering of `names`"
    from vllm import SamplingParams
    ps = [SamplingParams(temperature=0, max_tokens=n, ignore_eos=True, detokenize=False, extra_args=o and {KEY: o}, **kw) for o in names]
    return [list(o.outputs[0].token_ids) for o in llm.generate([dict(prompt_token_ids=p) for p in prompts], ps, use_tqdm=False)]

@contextmanager
def recorded(llm):
    "Collects the residual stream of every token that vLLM computes: request to layer to place to state"
    w,seen = worker(llm),{}
    served,found = vars(w)[KEY],find_blocks(w.model_runner.model)
    def keep(k, h, r):
        if not served.running: return
        x = whole(h, r)
        for o,(a,s,e) in Pass(served.order or w.model_runner.input_batch.req_ids, served.counts, served.before, served.requests).spans.items():
            for i in range(s, e): seen.setdefault(o, {}).setdefault(k, {})[i] = x[a+i-s].clone()
    hooks = [add_stream_hook(found, k, keep) for k in range(len(found)+1)]
    try: yield seen
    finally:
        for h in hooks: h.remove()

def of(seen):
    "The recorded requests in the order in which they were sent"
    return [seen[k] for k in sorted(seen, key=lambda o: int(o.split('-')[0]))]

def by_transformers(model, ids, steers, prompt):
    "Layer to the residual stream of the tokens `ids`"
    got = {}
    with torch.no_grad(), residual_hooks(model.get_decoder(), range(len(find_blocks(model.get_decoder()))+1), lambda k,h: got.update({k: h[0].clone()})):
        if not steers: model(torch.tensor([ids]))
        else:
            with steered(model, *steers, prompt_len=prompt): model(torch.tensor([ids]))
    return got

def apart(got, want):
    "The largest relative difference of a token at a layer, of those that were computed"
    return max(((x-want[k][i]).norm()/want[k][i].norm()).item() for k,at in got.items() for i,x in at.items())

def some_prompts(n, seed=0, shared=70):
    "Prompts of which most begin with the same `shared` tokens"
    g = torch.Generator().manual_seed(seed)
    def ids(k): return torch.randint(3, VOCAB, (k,), generator=g).tolist()
    first = ids(shared)
    return [(first if i%4 else ids(20))+ids(5+i%7) for i in range(n)]

KINDS = 'qwen3', 'gemma3', 'gpt2'

@pytest.fixture(scope='module', params=KINDS)
def made(request, tmp_path_factory):
    d = tmp_path_factory.mktemp(request.param)
    folder = checkpoint(request.param, d/'model')
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    size = by_transformers(model, some_prompts(1)[0], [], 1)[N//2].norm(dim=-1).median().item()
    return folder,model,steerings(d/'steer', WIDTH, N, size)

NAMES = None, 'added', 'prompted', 'ablated', 'floored', 'clamped', 'sinks', 'added,floored', None, 'gated'

def check(llm, model, files, prompts, names, said, seen, least=1):
    "Every state that vLLM computed is the one that is meant; controls: one token on, and unsteered"
    load = lambda o: [s for k in o.split(',') for s in steers_in(files[k])] if o else []
    assert len(seen)==len(prompts)
    for p,o,a,got in zip(prompts, names, said, of(seen)):
        ids = [*p, *a[:-1]]
        assert {i for at in got.values() for i in at} >= set(range(len(ids)-least, len(ids)))
        want = by_transformers(model, ids, load(o), len(p))
        assert apart({k: {i: x for i,x in at.items() if i<len(ids)} for k,at in got.items()}, want) < 1e-4, (o, len(p))
        if o in ('added','prompted','clamped'):
            there = {k: {i: x for i,x in at.items() if i<len(ids)} for k,at in got.items()}
            assert apart(there, by_transformers(model, ids, load(o), len(p)+1)) > 1e-3
            assert apart(there, by_transformers(model, ids, [], len(p))) > 1e-3

def test_streams(made):
    "Mixed batches: prefill in chunks of 48 tokens, shared prefixes in the cache, requests preempted and resumed"
    folder,model,files = made
    prompts,names = some_prompts(20),[NAMES[i%len(NAMES)] for i in range(20)]
    with engine(folder) as llm: plain = answers(llm, prompts[8:9]+prompts[18:19], [None]*2)
    with engine(folder, dict(steer=files), max_num_batched_tokens=48, num_gpu_blocks_override=24) as llm:
        held,own = [],core(llm).scheduler._preempt_request
        with patch.object(core(llm).scheduler, '_preempt_request', lambda *a,**k: (held.append(1), own(*a, **k))[1]), recorded(llm) as seen:
            said = answers(llm, prompts, names, 40)
        assert held, 'no request was preempted'
        check(llm, model, files, prompts, names, said, seen)
        p = some_prompts(2, seed=5, shared=150)[1:]*2
        with recorded(llm) as seen: said2 = [answers(llm, [o], ['added'])[0] for o in p]
        check(llm, model, files, p, ['added']*2, said2, seen)
        assert min(of(seen)[0][0])==0<min(of(seen)[1][0]), 'nothing came from the cache'
        assert plain[0]==said[8][:12] and plain[1]==said[18][:12]

@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    d = tmp_path_factory.mktemp('tiny')
    folder = checkpoint('qwen3', d/'model')
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return folder,model,steerings(d/'steer', WIDTH, N, by_transformers(model, some_prompts(1)[0], [], 1)[N//2].norm(dim=-1).median().item())

def test_cached_prefix_is_not_shared(tiny):
    "The same prompt plain, steered, plain again; control: without the salt a steered request uses what was cached plain"
    folder,model,files = tiny
    p = some_prompts(2, shared=120)[1:]*3
    with engine(folder, dict(steer=files)) as llm:
        with recorded(llm) as seen: said = [answers(llm, p[:1], [o])[0] for o in (None, 'prompted', None)]
        check(llm, model, files, p, [None,'prompted',None], said, seen)
        assert said[0]==said[2]!=said[1] and [min(at[0]) for at in of(seen)]==[0,0,96]
        with patch.object(serving, 'admitted', lambda request, config: request), recorded(llm) as seen: answers(llm, p[:1], ['prompted'])
        got, = of(seen)
        assert min(got[0])==96 and apart(got, by_transformers(model, [*p[0], *said[1]], steers_in(files['prompted']), len(p[0]))) > 1e-3

def test_unknown_steering_is_refused(tiny):
    folder,_,files = tiny
    with engine(folder, dict(steer=files)) as llm:
        with pytest.raises(Exception, match="no steering 'west' here: there are added"): answers(llm, some_prompts(1), ['west'])
        assert len(answers(llm, some_prompts(1), [None])[0])==12
    for own,kw,why in ((dict(steer=files), dict(enforce_eager=False), 'enforce-eager'), (dict(steer=dict(files, wide=str(folder.parent/'wide.safetensors'))), {}, 'has width 8')):
        save_steers(folder.parent/'wide.safetensors', [Steer(Direction(torch.ones(8), 'wide', 1, 'another'))])
        with pytest.raises(Exception, match=why), engine(folder, own, **kw): pass

def test_every_answer_is_that_of_a_single_run(tiny):
    "500 requests, a third steered, a third capped, a third plain, 16 at a time"
    folder,_,files = tiny
    prompts,names = some_prompts(500, seed=2),[(None,'added','floored')[i%3] for i in range(500)]
    with engine(folder, dict(steer=files)) as llm:
        said = answers(llm, prompts, names, 8)
        assert said==[answers(llm, [p], [o], 8)[0] for p,o in zip(prompts, names)]
        assert sum(a!=b for a,b in zip(said, answers(llm, prompts, [None]*500, 8)))>100      # what they name matters
        assert said!=answers(llm, prompts, [*names[1:], None], 8)

def chances(llm, prompts, n=8):
    "The log-probabilities that the greedy answers were chosen by"
    from vllm import SamplingParams
    p = SamplingParams(temperature=0, max_tokens=n, ignore_eos=True, detokenize=False, logprobs=5)
    return [[{k: x.logprob for k,x in at.items()} for at in o.outputs[0].logprobs] for o in llm.generate([dict(prompt_token_ids=p) for p in prompts], p, use_tqdm=False)]

def test_plain_to_the_bit(tiny):
    "A vLLM without the extension, and one with it and with steerings; control: weights that differ in the last digits"
    folder,_,files = tiny
    prompts = some_prompts(40, seed=3)
    with engine(folder) as llm: assert KEY not in vars(worker(llm)); want = chances(llm, prompts)
    with engine(folder, dict(steer=files)) as llm:
        assert KEY in vars(worker(llm)) and chances(llm, prompts)==want
        answers(llm, prompts, ['sinks']*40)
        llm.reset_prefix_cache()
        assert chances(llm, prompts)==want
        next(worker(llm).model_runner.model.parameters()).mul_(1+1e-6)
        llm.reset_prefix_cache()
        assert chances(llm, prompts)!=want

def test_embedded_model(tmp_path):
    source = find_model(EMBEDDED)
    model = AutoModelForCausalLM.from_pretrained(source.path, dtype=torch.float32)
    axis = assistant_axis(shipped_vectors().at(20))
    files = dict(away=str(tmp_path/'away.safetensors'), capped=str(tmp_path/'capped.safetensors'))
    save_steers(files['away'], [Steer(axis, -2, positions='answer')])
    save_steers(files['capped'], [Steer(replace(axis, layer=k), 5, 'floor', unit='raw') for k in (19,20,21)])
    prompts = [source.tokenizer().apply_chat_template([dict(role='user', content=o)], add_generation_prompt=True, return_dict=False)
               for o in ('Who are you?', 'What is a comet made of?', 'Tell me about yourself, in the voice of a pirate.')]*2
    names = [None,'away','capped','capped,away','away',None]
    with engine(source.path, dict(steer=files), max_num_batched_tokens=32) as llm, recorded(llm) as seen:
        said = answers(llm, prompts, names)
        assert said[0]!=said[3]
        for p,o,a,got in zip(prompts, names, said, of(seen)):
            want = by_transformers(model, [*p, *a[:-1]], [s for k in o.split(',') for s in steers_in(files[k])] if o else [], len(p))
            there = {k: {i: x for i,x in at.items() if i<len(p)+len(a)-1} for k,at in got.items()}
            assert max(there[20])==len(p)+len(a)-2 and apart(there, want) < 1e-4

def test_extract_by_vllm(tmp_path):
    "The vectors are those of our own engine; a reading that was stopped goes on"
    config = PersonaVectorConfig(model_name=EMBEDDED, dtype='float32', device='cpu')
    few = select(shipped_responses(), ['default','bard','ghost'], questions=shipped_responses().questions[:2])
    ours = extract_persona_vectors(ActivationExtractor(config), responses=few, layer=[0,10,20,30], progress=False)
    ex,real,got = VllmExtractor(config, dict(max_num_seqs=2)),Engine.receive,[]
    def stops(self):
        if len(got)==2: raise RuntimeError('stopped')
        got.append(o := real(self))
        return o
    def read(): return extract_persona_vectors(ex, responses=few, layer=[0,10,20,30], progress=False, partial=tmp_path/'partial')
    with patch.dict(os.environ, {'VLLM_ENABLE_V1_MULTIPROCESSING': '1'}):
        with patch.object(Engine, 'receive', stops), pytest.raises(RuntimeError, match='stopped'): read()
        n = (tmp_path/'partial').stat().st_size
        assert n>2*4*4*576
        theirs = read()
    assert theirs.meta['engine']=='vllm' and 'vllm' in theirs.meta['versions'] and [r.n_tokens for r in ours.rows]==[r.n_tokens for r in theirs.rows]
    a,b = (o.means-o.means.mean(0) for o in (ours, theirs))
    cos = torch.nn.functional.cosine_similarity(a[:,1:], b[:,1:], dim=-1)
    assert cos.min()>.9999 and torch.nn.functional.cosine_similarity(a[:,1:], b.roll(1, 0)[:,1:], dim=-1).max()<.9

@pytest.mark.slow
def test_extract_killed(tmp_path):
    "The command is killed in the middle, without a word to vLLM; the same command goes on, and its vectors are those of one run"
    few = select(shipped_responses(), ['default','bard','ghost'], questions=shipped_responses().questions[:6])
    few.responses.save(tmp_path/'few.json')
    code = 'from persona_vectors.cli import main; main()'
    cmd = [sys.executable, '-c', code, 'extract', tmp_path/'few.json', '--engine', 'vllm', '--engine-arg', 'max_num_seqs=2', '--layer', '0,20', '--dtype', 'float32', '--out', tmp_path]
    keep = {k: o for k,o in os.environ.items() if k!='VLLM_ENABLE_V1_MULTIPROCESSING'}
    def written(): return sum(p.stat().st_size for p in tmp_path.rglob('*.partial'))
    with open(tmp_path/'log', 'w') as f: p = subprocess.Popen(cmd, env=keep, stdout=f, stderr=f)
    while written()<6*2*4*576:
        assert p.poll() is None, (tmp_path/'log').read_text()[-3000:]
        time.sleep(.01)
    p.kill()
    assert p.wait()==-signal.SIGKILL and not list(tmp_path.rglob('*.safetensors'))
    assert written()<18*2*4*576, 'it was killed too late'
    subprocess.run(cmd, env=keep, check=True, capture_output=True)
    got, = map(load_vectors, tmp_path.rglob('*.safetensors'))
    ours = extract_persona_vectors(ActivationExtractor(PersonaVectorConfig(model_name=EMBEDDED, dtype='float32', device='cpu')), responses=few, layer=[0,20], progress=False)
    assert not written() and [(r.persona,r.question,r.n_tokens) for r in got.rows]==[(r.persona,r.question,r.n_tokens) for r in ours.rows]
    assert torch.nn.functional.cosine_similarity(got.means, ours.means, dim=-1).min()>.99999

@pytest.mark.slow
def test_extract_all(tmp_path):
    "All tracked answers, read by vLLM and by our engine; control: the next persona's vector"
    config,rs = PersonaVectorConfig(model_name=EMBEDDED, dtype='float32', device='cpu'),shipped_responses()
    assert len(rs)==414
    with patch.dict(os.environ, {'VLLM_ENABLE_V1_MULTIPROCESSING': '1'}): theirs = extract_persona_vectors(VllmExtractor(config), responses=rs, layer=[20], progress=False)
    ours = extract_persona_vectors(ActivationExtractor(config), responses=rs, layer=[20], progress=False)
    a,b = (o.stacked()-o.stacked().mean(0) for o in (ours, theirs))
    cos,other = (torch.nn.functional.cosine_similarity(a, o, dim=-1) for o in (b, b.roll(1, 0)))
    print(f'{len(a)} personas, {len(ours.rows)} answers: centred cosines at least 1-{1-cos.double().min():.1e}; of the next persona at most {other.max():.2f}')
    assert cos.min()>.9999 and other.max()<.99

@contextmanager
def server(cmd, log):
    "`cmd`, with a port of its own, until the block ends; the address"
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    keep = {k: o for k,o in os.environ.items() if k!='VLLM_ENABLE_V1_MULTIPROCESSING'}
    with open(log, 'w') as f:
        p = subprocess.Popen([*cmd, '--host', '127.0.0.1', '--port', str(port)], env=keep | serving_env(dict(out=str(log.parent/'readings'))), stdout=f, stderr=f, start_new_session=True)
    try:
        while True:
            if p.poll() is not None: pytest.fail(log.read_text()[-3000:])
            try: urlopen(f'http://127.0.0.1:{port}/health'); break
            except OSError: time.sleep(.5)
        yield f'http://127.0.0.1:{port}'
    finally:
        os.killpg(p.pid, signal.SIGKILL)
        p.wait()

def test_server(tmp_path):
    "One command serves; a request names its steering; what was read of an answer comes with it"
    source,axis = find_model(EMBEDDED),assistant_axis(shipped_vectors().at(20))
    axis.save(tmp_path/'axis.safetensors')
    save_steers(tmp_path/'away.safetensors', [Steer(axis, -2, positions='answer')])
    own = watching(PersonaVectorConfig(model_name=EMBEDDED, dtype='float32'), [tmp_path/'axis.safetensors'], tmp_path/'readings')
    cmd = serve_command(source, steering_files([tmp_path/'away.safetensors']), ['--dtype', 'float32', '--max-model-len', '512'], own)
    if not Path(cmd[0]).exists(): pytest.skip('vLLM has no command here')
    def ask(name=None, **kw):
        body = dict(model=EMBEDDED, messages=[dict(role='user', content='Who are you?')], temperature=0, max_tokens=12, **(dict(vllm_xargs={KEY: name}) if name else {}))|kw
        return json.loads(urlopen(Request(f'{url}/v1/chat/completions', json.dumps(body).encode(), {'Content-Type': 'application/json'})).read())
    with server(cmd, tmp_path/'log') as url:
        plain,away,again = ask(),ask('away'),ask()
        with pytest.raises(HTTPError) as e: ask('west')
        refused = e.value.read().decode()   # while the server lives: its answer may still be on the way
        with pytest.raises(HTTPError) as beams: ask('away', use_beam_search=True, n=2)
        dropped = beams.value.read().decode()
        two,stop = ask(n=2, temperature=1., seed=1),plain['choices'][0]['message']['content'].split()[3]
        short = ask(stop=[stop], max_tokens=40)
    assert beams.value.code==400 and 'beam search drops' in dropped
    tok = source.tokenizer()
    for r,o in zip(two[KEY], two['choices'], strict=True): assert o['message']['content'].startswith(tok.decode(r['ids'][r['prompt']:]).strip()), 'in the order of the choices'
    assert two['choices'][0]['message']['content']!=two['choices'][1]['message']['content']
    (r,),o = short[KEY],short['choices'][0]
    assert o['finish_reason']=='stop' and len(r['ids'])==r['prompt']+short['usage']['completion_tokens']-1<r['prompt']+12
    assert e.value.code==400 and "no steering 'west' here: there are away" in refused
    said = [o['choices'][0]['message']['content'] for o in (plain,away,again)]
    assert said[0]==said[2]!=said[1]
    model = AutoModelForCausalLM.from_pretrained(source.path, dtype=torch.float32)
    for o,ss in ((plain,[]), (away,steers_in(tmp_path/'away.safetensors'))):
        (r,) = o[KEY]
        x = torch.tensor([float('nan') if x is None else x for x in r['projections']['axis']])
        want = by_transformers(model, r['ids'], ss, r['prompt'])[20]@axis.unit
        there = ~x.isnan() & (torch.arange(len(x))>0)
        assert len(x)==r['prompt']+11 and there[r['prompt']:].all() and (x-want)[there].abs().max()<1e-3*want[1:].abs().max()
        assert abs(r['turn']['axis']-want[r['prompt']:].mean())<1e-2 and r['steering']==('away' if ss else '')
    seen = served_reading(next((tmp_path/'readings').glob(f"*{away['id']}*")), source.tokenizer())
    assert said[1].startswith(seen.messages[1]['content'].strip()[:20]) and len(seen.turns)==2

def rounded(folder, bits=4):
    "The embedded model with the rows of its matrices rounded to so many `bits`; its folder"
    source = find_model(EMBEDDED)
    m = load_causal(source)
    with torch.no_grad():
        for o in m.modules():
            if not isinstance(o, torch.nn.Linear) or o is m.lm_head: continue
            step = o.weight.abs().amax(1, keepdim=True)/(2**(bits-1)-1)
            o.weight.copy_((o.weight/step).round()*step)
    m.save_pretrained(folder)
    source.tokenizer().save_pretrained(folder)
    return folder

@contextmanager
def capped(model, cap, log, dtype='float32'):
    "A server of `model` that has the file `cap` and watches it; the address"
    own = watching(PersonaVectorConfig(model_name=str(model), dtype='float32'), [cap], log.parent/'readings')
    cmd = serve_command(find_model(str(model)), steering_files([cap]), ['--dtype', dtype, '--max-model-len', '512'], own)
    if not Path(cmd[0]).exists(): pytest.skip('vLLM has no command here')
    with server(cmd, log) as url: yield url

def capping(folder, d, t=-6.967):
    "A file with a floor along `d`; the quartile of the shipped neutral answers is -6.967"
    folder.mkdir()
    Capping((d,), (t,), 'percentile 25 of the shipped answers').save(folder/'cap.safetensors')
    return folder/'cap.safetensors'

def verified(url, cap, limit=8, **kw): return verify_served(url, PersonaVectorConfig(model_name=EMBEDDED, device='cpu'), cap, tokens=32, limit=limit, **kw)

def test_verify_served(tmp_path):
    "The same in float32; a file that is off by a layer or turned round is not, and a threshold that the server's file does not have"
    axis = assistant_axis(shipped_vectors().at(20))
    cap = capping(tmp_path/'own', axis)
    faulty = dict(layer=capping(tmp_path/'off', replace(axis, layer=21)), sign=capping(tmp_path/'turned', replace(axis, vector=-axis.vector)),
                  capping=capping(tmp_path/'higher', axis, 0.))
    with capped(EMBEDDED, cap, tmp_path/'log') as url:
        got = verified(url, cap)
        assert got.passed and got.projections.apart.max()<1e-3 and got.predictions.kl.max()<1e-6 and (got.predictions.same==1).all(), got
        for k,o in faulty.items(): assert {w for w,_ in verified(url, o, 4).reasons}=={k}, k
    with capped(EMBEDDED, cap, tmp_path/'log2', 'bfloat16') as url:
        got = verified(url, cap)
        assert got.passed and 1e-3<got.projections.apart.max()<.1, got

@pytest.mark.slow
def test_verify_other_weights(tmp_path):
    "A server of rounded weights fails, and passes with the thresholds that are made there"
    cap,folder = capping(tmp_path/'own', assistant_axis(shipped_vectors().at(20))),rounded(tmp_path/EMBEDDED)
    new = tmp_path/'new'/'cap.safetensors'
    new.parent.mkdir()
    with capped(folder, cap, tmp_path/'log') as url: got = verified(url, cap, 18, out=new)
    assert {'weights','stale'}=={k for k,_ in got.reasons}, got
    with capped(folder, new, tmp_path/'log2') as url: again = verified(url, new, 18)
    assert again.passed and abs(again.thresholds.by).max()<abs(got.thresholds.by).min(), again

@pytest.mark.slow
def test_throughput(tmp_path):
    "In processor time, in turn: 16 requests by a plain vLLM, with the extension and nothing loaded, and each steered along one direction"
    source = find_model(EMBEDDED)
    save_steers(tmp_path/'away.safetensors', [Steer(assistant_axis(shipped_vectors().at(20)), -1)])
    g = torch.Generator().manual_seed(0)
    prompts = [torch.randint(100, 40000, (40,), generator=g).tolist() for _ in range(16)]
    def seconds(llm, names):
        t = time.process_time()
        answers(llm, prompts, names, 48)
        return time.process_time()-t
    with engine(source.path) as a, engine(source.path, dict(steer={})) as b, engine(source.path, dict(steer=dict(away=str(tmp_path/'away.safetensors')))) as c:
        runs = dict(plain=(a, [None]*16), nothing=(b, [None]*16), loaded=(c, [None]*16), one=(c, ['away']*16))
        for o in runs.values(): seconds(*o)
        got = [{k: seconds(*o) for k,o in runs.items()} for _ in range(7)]
    rate = {k: median(o['plain']/o[k] for o in got) for k in runs}
    print(rate, f"{16*48/median(o['plain'] for o in got):.0f} tokens a second")
    assert rate['nothing']>=.98 and rate['one']>=.9
