"Small things that several tests share: a random checkpoint, the console script in a folder of its own, a server that misbehaves, runs that are stopped"
import hashlib, json, os, signal, socket, subprocess, sys, time
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from subprocess import CompletedProcess
from unittest.mock import patch
from run_notebooks import no_bars

script = Path(sys.executable).with_name('persona-vectors')

def make_llama(folder, d=32, n=2):
    "A random Llama of `n` blocks and width `d` with the embedded model's tokenizer, in float32; returns the folder"
    import torch
    from persona_vectors import EMBEDDED, find_model
    from transformers import LlamaConfig, LlamaForCausalLM
    tok = find_model(EMBEDDED).tokenizer()
    torch.manual_seed(0)
    cfg = LlamaConfig(vocab_size=len(tok), hidden_size=d, intermediate_size=2*d, num_hidden_layers=n, num_attention_heads=2, max_position_embeddings=2048,
                      tie_word_embeddings=True, bos_token_id=tok.bos_token_id, eos_token_id=tok.eos_token_id, pad_token_id=tok.pad_token_id)
    LlamaForCausalLM(cfg).save_pretrained(folder)
    tok.save_pretrained(folder)
    return folder

def env(**kw):
    "This environment without what could lead elsewhere; no hub, and one thread, for the work is too small to be shared out"
    keep = {k:v for k,v in os.environ.items() if not k.startswith(('HF_', 'OPENROUTER'))}
    return keep | dict(HF_HUB_OFFLINE='1', OMP_NUM_THREADS='1') | kw

def cli(*args, cwd, **kw):
    "Run the console script in the folder `cwd`"
    return subprocess.run([script, *map(str, args)], cwd=cwd, env=env(), capture_output=True, text=True, **kw)

# the same without waiting for the imports: a process forked from one that has done them, and nothing else

def _main(args, cwd, said):
    os.chdir(cwd)
    for fd,name in enumerate(('out', 'err'), 1): os.dup2(os.open(said/name, os.O_WRONLY|os.O_CREAT), fd)
    sys.argv = [str(script), *args]
    from persona_vectors.cli import main
    main()

def forked(*args, cwd, said):
    "Run what the console script runs in the folder `cwd`; what it says goes to the folder `said`"
    ctx = get_context('forkserver')
    ctx.set_forkserver_preload([*(f'persona_vectors.{o}' for o in ('cli', 'pipeline', 'extraction', 'generation')), 'transformers.models.auto.modeling_auto'])
    with patch.dict(os.environ, env(), clear=True):                                 # the server is started once, with this environment
        p = ctx.Process(target=_main, args=(args, cwd, said))
        p.start()
    p.join()
    return CompletedProcess(args, p.exitcode, (said/'out').read_text(), (said/'err').read_text())

def said(r):
    "The lines on standard error, apart from progress bars"
    return no_bars(r.stderr).splitlines()

def files(folder):
    "What is in a folder: relative path to hash of the content"
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(Path(folder).rglob('*')) if p.is_file()}

# an endpoint, and a run that goes through it

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

@contextmanager
def faulty(log, *args, port=0):
    "tests/faulty_server.py in a process of its own for as long as the block lasts; its address. A line for each request is added to `log`"
    cmd = [sys.executable, Path(__file__).with_name('faulty_server.py'), '--log', log, '--port', port, *args]
    with subprocess.Popen([*map(str, cmd)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as p:
        try: yield p.stdout.readline().strip()
        finally: p.kill()

def lines(path):
    "The whole lines of a file of JSON objects; none if there is no file"
    raw = path.read_bytes() if path and path.exists() else b''
    return [json.loads(o) for o in raw[:raw.rfind(b'\n')+1].split(b'\n')[:-1]]

def journal(out): return next(iter(out.glob('*.jsonl')), None)
def final(out): return next(iter(out.glob('*.json')), None)

def heeds():
    "For `preexec_fn`: what a shell starts in the background does not heed Ctrl-C by itself"
    signal.signal(signal.SIGINT, signal.SIG_DFL)

def until(what, p, secs=120):
    "Wait until `what()` holds, while the process `p` goes on"
    end = time.monotonic()+secs
    while not what():
        if p.poll() is not None: raise AssertionError(f"it ended with {p.poll()}: {p.stderr.read() if p.stderr else ''}")
        assert time.monotonic()<end, 'it did not happen'
        time.sleep(.005)

def stop(p, sig, secs=60):
    "Send `sig` to `p`; its exit status"
    p.send_signal(sig)
    p.communicate(timeout=secs)
    return p.returncode
