"""All that a GPU has to show, in ten minutes, the table last: python tools/on_gpu.py [--steps verify,attention,...] [--minutes 10]
Needs a CUDA device and the embedded model in the cache (or the network). Writes data/benchmarks/on-gpu-DEVICE-DATE.json.
`--rehearse` runs the same steps with tiny shapes on a pretended device (tests/pretend.py), to see that nothing in them fails."""
import argparse, json, sys, tempfile, time, traceback
from contextlib import nullcontext
from pathlib import Path
root = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(root), str(root/'tests')]
import torch

LLAMA = dict(model_type='llama', architectures=['LlamaForCausalLM'], vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
             num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=8192, rms_norm_eps=1e-5, torch_dtype='bfloat16')
GEMMA = dict(model_type='gemma3_text', architectures=['Gemma3ForCausalLM'], vocab_size=262208, hidden_size=5376, intermediate_size=21504, num_hidden_layers=62,
             num_attention_heads=32, num_key_value_heads=16, head_dim=128, query_pre_attn_scalar=168, sliding_window=1024, max_position_embeddings=8192)
SMOL = LLAMA | dict(vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3)
TINY = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, vocab_size=49152)

class Run:
    def __init__(self, small): self.small,self.rows,self.folder = small,[],tempfile.TemporaryDirectory()
    def note(self, step, what, value, unit=''):
        self.rows.append(dict(step=step, what=what, value=value if isinstance(value, str) else float(f'{value:.4g}'), unit=unit))
        print(f'  {what}: {self.rows[-1]["value"]} {unit}', flush=True)
    def shape(self, cfg): # A folder with a configuration
        from persona_vectors.models import find_model
        cfg = cfg | (TINY | (dict(head_dim=8, sliding_window=16) if 'head_dim' in cfg else {}) if self.small else {})
        p = Path(self.folder.name)/f"{cfg['model_type']}-{cfg['hidden_size']}"
        p.mkdir(exist_ok=True)
        (p/'config.json').write_text(json.dumps(cfg))
        return find_model(str(p))
    def seqs(self):
        from persona_vectors import ActivationExtractor, PersonaVectorConfig
        from persona_vectors.verification import shipped_conversations
        return shipped_conversations(ActivationExtractor(PersonaVectorConfig(model_name='smollm2-135m-instruct')), 12 if self.small else 1)[:8 if self.small else None]

def verify(r):
    "The tracked answers by the fast path, against the reference vectors"
    from persona_vectors.verification import verify
    for dtype in ('float32','bfloat16'):
        if r.small: continue                                                  # four minutes on a pretended device
        v = verify('cuda', dtype, progress=False)
        r.note('verify', f'smallest centred cosine, {dtype}', v['smallest_centred_cosine'], 'passed' if v['passed'] else 'FAILED')

def attention(r):
    "Packed reading by each kernel, against one sequence at a time on the CPU in float32"
    from transformers import AutoModelForCausalLM, Gemma2Config, Gemma3TextConfig, LlamaConfig
    from persona_vectors.extraction import engine, packing
    from persona_vectors.prompts import Tokens
    shape = TINY | dict(vocab_size=128, max_position_embeddings=2048)
    wide = shape | dict(hidden_size=256, num_attention_heads=4, num_key_value_heads=2)
    n = 60 if r.small else 700
    seqs = [Tokens([5,6,7,8]*(3+i//8) + [(7*i+3*j)%128 for j in range(20+(37*i)%n)], 12, 30, [], f'{i}') for i in range(24)]
    for name,cfg in dict(llama=LlamaConfig(**wide), windows=Gemma3TextConfig(**wide, head_dim=64, sliding_window=64),
                         capped=Gemma2Config(**wide, head_dim=64, sliding_window=64, attn_logit_softcapping=2.)).items():
        torch.manual_seed(0)
        m = AutoModelForCausalLM.from_config(cfg).eval().requires_grad_(False)
        want = torch.cat([engine.read(m.get_decoder(), [s], [4], progress=False) for s in seqs])
        for dtype in (torch.float32, torch.bfloat16):
            d = AutoModelForCausalLM.from_config(cfg).eval().requires_grad_(False)
            d.load_state_dict(m.state_dict())
            d = d.to(dtype).to('cuda').get_decoder()
            got = engine.read(d, seqs, [4], 4000, False)
            r.note('attention', f'{name}, {str(dtype)[6:]}, largest relative difference', ((got-want).norm(dim=-1)/want.norm(dim=-1)).max().item(),
                   '' if d.packs=={None: True} else 'PADDED')
            if not r.small and dtype==torch.bfloat16 and name!='capped' and packing._varlen(torch.empty(4, 1, 64, dtype=dtype, device='cuda'), torch.empty(2, 1, 64, dtype=dtype)) is None:
                r.note('attention', f'{name}: varlen_attn is not taken', 'NO', '')

def speed(r):
    "Reading against the seed's algorithm at three shapes with random weights: share of the matrix rate, waits, where the time goes"
    from persona_vectors.extraction.engine import read
    from persona_vectors.verification import bench_shape, random_model, waits_in
    from persona_vectors.extraction.blocks import cut_auto
    for name,cfg,layer in (('0.1B',SMOL,20), ('8B',LLAMA,21), ('27B',GEMMA,40)):
        src,k = r.shape(cfg),2 if r.small else layer
        b = bench_shape(src, k, 'bfloat16', 'cuda', 12 if r.small else 1, 1 if r.small else 3)
        t = b.table()
        r.note('speed', f'{name}: tokens a second', t.loc['read','tokens_a_second'])
        r.note('speed', f'{name}: share of the measured matrix rate', t.loc['read','share of limit'])
        r.note('speed', f'{name}: times as fast as one answer at a time through the whole model', t.loc['read','times plain, bfloat16'])
        for what,o in b.profile.items(): r.note('speed', f'{name}: {what}', o, 'a block and batch' if what=='launches' else 'a batch' if what=='waits' else 'of the time')
        m,seqs = random_model(cut_auto(src.text_config(), k), src.text_config(), 'bfloat16', 'cuda'),r.seqs()
        at = waits_in(lambda: read(m, seqs, [k], progress=False))
        r.note('speed', f'{name}: lines that wait', len(at), ', '.join(sorted(set(at)))[:200])
        del m
        torch.cuda.empty_cache()

def generation(r):
    "Local generation, 52 prompts at a time"
    from persona_vectors import EVAL_QUESTIONS, load_local
    from persona_vectors.generation.local import uniforms
    from persona_vectors.responses import Response
    lm = load_local('smollm2-135m-instruct', device='cuda')
    qs,n = (EVAL_QUESTIONS*3)[:2 if r.small else 52],4 if r.small else 128
    prompts = lm.encode([lm.format.prompt('', q) for q in qs])
    us = torch.stack([uniforms(Response('', q, '', sample=i), n, 0) for i,q in enumerate(qs)])
    lm.generate(prompts, us[:,:2], .7)
    start = time.time()
    out = lm.generate(prompts, us, .7)
    r.note('generation', 'tokens a second', sum(map(len, out))/(time.time()-start))
    r.note('generation', 'first words', lm.finished(out[0], '')['text'][:60].replace('\n', ' '))

def steering(r):
    "A steered answer, and whether steering leaves the model as it was"
    from persona_vectors import Steer, assistant_axis, load_local, shipped_vectors, steered
    from persona_vectors.steering.steer import answers_at
    lm,axis = load_local('smollm2-135m-instruct', device='cuda'),assistant_axis(shipped_vectors().at(20))
    ids = torch.arange(40, device='cuda')[None]
    with torch.no_grad():
        before = lm.model(ids).logits
        with steered(lm.model, Steer(axis, -3)): moved = lm.model(ids).logits
        after = lm.model(ids).logits
    r.note('steering', 'logits after it, largest difference', (after-before).abs().max().item())
    r.note('steering', 'logits within it, largest difference', (moved-before).abs().max().item())
    for o in answers_at(lm, [dict(role='user', content='Who are you?')], axis, [0.,-3.], max_tokens=4 if r.small else 40): r.note('steering', 'answer', o[:80].replace('\n', ' '))

def streaming(r):
    "A checkpoint read block by block, with its hidden states on the GPU and in pinned memory, against the resident model"
    from persona_vectors.extraction.blocks import load_blocks
    from persona_vectors.extraction.engine import read
    from persona_vectors.extraction.streaming import read_streamed
    from persona_vectors.verification import random_model
    from transformers import AutoModel
    from persona_vectors.models import find_model
    cfg = LLAMA | dict(num_hidden_layers=12, vocab_size=49152)
    src = r.shape(cfg)
    folder,k = Path(r.folder.name)/'streamed',2 if r.small else 12
    m = random_model(AutoModel, src.text_config(), 'bfloat16', 'cuda')
    m.cpu().save_pretrained(folder)
    del m
    src,seqs = find_model(str(folder)),r.seqs()
    def timed(f):
        f(seqs[:4]); start = time.time(); got = f(seqs); return got,time.time()-start
    resident = load_blocks(src, k, 'bfloat16', 'cuda')
    want,t = timed(lambda s: read(resident, s, [k], progress=False))
    del resident
    for place in ('device','memory'):
        got,own = timed(lambda s: read_streamed(src, s, [k], 'bfloat16', 'cuda', progress=False, place=place))
        r.note('streaming', f'{place}: speed, of the resident model', t/own)
        r.note('streaming', f'{place}: largest relative difference', ((got-want).norm(dim=-1)/want.norm(dim=-1)).max().item())

STEPS = dict(attention=attention, verify=verify, streaming=streaming, generation=generation, steering=steering, speed=speed)

def main():
    a = argparse.ArgumentParser(description=__doc__)
    a.add_argument('--steps', default=','.join(STEPS)); a.add_argument('--minutes', type=float, default=10); a.add_argument('--rehearse', action='store_true')
    a = a.parse_args()
    if not a.rehearse and not torch.cuda.is_available(): sys.exit('torch finds no CUDA device here: --rehearse runs the same on a pretended one')
    from persona_vectors.verification import machine
    r,start = Run(a.rehearse),time.time()
    if a.rehearse: from pretend import pretend
    for name in a.steps.split(','):
        if time.time()-start>60*a.minutes: r.note(name, 'not run', 'out of time'); continue
        print(f'{name}: {STEPS[name].__doc__}', flush=True)
        began = time.time()
        try:
            with pretend() if a.rehearse else nullcontext(): STEPS[name](r)
        except Exception:
            traceback.print_exc()
            r.note(name, 'failed', traceback.format_exc().strip().splitlines()[-1][:150])
            if a.rehearse: raise
        r.note(name, 'seconds', time.time()-began)
    out = dict(machine(), rows=r.rows)
    if not a.rehearse:
        p = root/'data'/'benchmarks'/f"on-gpu-{''.join(c if c.isalnum() else '-' for c in out['device'].lower())}-{out['date']}.json"
        p.write_text(json.dumps(out, indent=1)+'\n')
        print(p)
    import pandas as pd
    print(pd.DataFrame(r.rows).to_string(index=False))

if __name__=='__main__': main()
