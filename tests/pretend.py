"""Code for a GPU, run where there is none: all memory is ordinary memory, and every tensor says on which device it is pretended to be

    with pretend('cuda', devices=2, memory=80e9) as gpu: ...     # or 'mps'. The numbers are those of the CPU
    gpu.syncs, gpu.launches, gpu.peak                            # what a real GPU would have had to do, and where the host would have waited

It fails where a GPU would: devices are mixed; `.numpy()` of what is there; a generator of another device; float64 on MPS; an operation that torch has
no kernel for on the device; a stream reads what another may still be writing, or memory is freed that another may still be using; the memory is full.
It cannot see what kernels make of numbers, or their speed.

Two modes of torch do it. `Calls` sees every call from Python: it names the device that a tensor is asked for, and makes what is wanted on `cuda` on the
CPU. `Ops` sees every operation behind it, and compares devices. Where a tensor is stands on its storage, which all its views and parameters share.
`tests/test_devices.py` runs the package's functions on such devices, and with planted faults, which must be found. Written for torch 2.13.
"""
import re, sys, threading, weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace as Obj
from unittest.mock import patch
import torch, torch.nn.attention.bias, torch.nn.attention.varlen, torchgen
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten,Device,SDPA = torch.ops.aten,torch.device,torch.nn.functional.scaled_dot_product_attention
CPU = Device('cpu')

class WrongPlace(AssertionError): "What would go wrong on a GPU. No RuntimeError, which the code that is tested might take for something else"

def plain(t):
    while torch._C._functorch.is_functorch_wrapped_tensor(t): t = torch._C._functorch.get_unwrapped(t)   # within vmap
    return t

def note(t): return None if (t := plain(t)).is_meta else getattr(t.untyped_storage(), 'note', None)
def where(t): return n.device if (n := note(t)) else plain(t).device

class Stream:
    "Kernels in their order: `n` were launched, the host has waited for `done` of them, and this stream for `seen` of each other one"
    def __init__(self, device): self.device,self.n,self.done,self.seen = device,0,0,{}
    def record_event(self, e=None): return (e or Event()).record(self)
    def wait_event(self, e): self.seen = {s: max(self.seen.get(s, 0), e.seen.get(s, 0)) for s in {*self.seen, *e.seen}}
    def wait_stream(self, s): self.wait_event(s.record_event())
    def synchronize(self): self.done = self.n
    def after(self, s, n): return s is self or n<=max(s.done, self.seen.get(s, 0))

class Event:
    def __init__(self, **kw): self.seen = {}
    def record(self, s): self.seen = {**s.seen, s: s.n}; return self
    def wait(self, s): s.wait_event(self)
    def synchronize(self):
        for s,n in self.seen.items(): s.done = max(s.done, n)

def coming(s): return Obj(device=CPU, wrote=(s,s.n), users={}, kept=set(), forget=Obj(detach=lambda: None))     # on the CPU, from stream `s`

class GPU:
    "What is pretended, and what was asked of it"
    def __init__(self, kind, devices, memory):
        self.kind,self.count,self.memory,self.local,self.default,self.faults = kind,devices,memory,threading.local(),{},[]
        self.launches,self.syncs,self.used,self.peak = 0,Counter(),Counter(),Counter()
    at = property(lambda self: getattr(self.local, 'at', 0))     # the current device, of each thread
    def has(self, d): return d.type==self.kind
    def named(self, d):
        "A device with its number; None stays None"
        if d is None: return None
        d = Device(self.kind, d) if isinstance(d, int) else Device(d)
        if self.has(d): d = Device(d.type, self.at if d.index is None else d.index)
        if self.has(d) and d.index>=self.count: raise WrongPlace(f'there is no {d}')
        return d
    def current(self, d=None):
        d = self.named(self.kind if d is None else d)
        return getattr(self.local, 'streams', {}).get(d) or self.default.setdefault(d, Stream(d))
    @contextmanager
    def stream(self, s):
        was,at = getattr(self.local, 'streams', {}),self.at
        self.local.streams,self.local.at = {**was, s.device: s},s.device.index
        try: yield
        finally: self.local.streams,self.local.at = was,at
    def sync(self, s, why):
        "The host waits for `s`, because of the line of code that is outside torch"
        f = sys._getframe(1)
        while f.f_back and f.f_globals.get('__name__', '').split('.')[0] in ('torch', __name__): f = f.f_back
        self.syncs[f"{f.f_globals.get('__name__')}:{f.f_lineno} {why}"] += 1
        s.synchronize()
    def put(self, t, d):
        "Say that the memory of `t` is on `d`, and made by the stream that is current there"
        store = t.untyped_storage()
        if old := note(t): old.forget.detach()
        if old and self.has(old.device): self.used[old.device] -= store.nbytes()
        if not self.has(d): store.note = None; return t
        if d.type=='mps' and t.dtype in (torch.float64, torch.complex128): raise WrongPlace('there is no float64 on MPS')
        s,size = self.current(d),store.nbytes()
        if self.used[d]+size>self.memory: raise torch.OutOfMemoryError(f'{d.type.upper()} out of memory. Tried to allocate {size:,} bytes')
        self.used[d] += size
        self.peak[d] = max(self.peak[d], self.used[d])
        n = store.note = Obj(device=d, wrote=(s,s.n), users={}, kept={s})
        n.forget = weakref.finalize(store, self.freed, d, size, s, n)
        return t
    def freed(self, d, size, s, n):
        self.used[d] -= size
        if any(u not in n.kept and not s.after(u, k) for u,k in n.users.items()):
            self.faults.append(f"memory on {d} was freed while another stream may still be using it: record_stream")
    def use(self, t, s, who):
        "Stream `s`, or the host if None, reads `t`"
        if (n := note(t)) is None: return
        by,k = n.wrote
        if not (s.after(by, k) if s else k<=by.done): raise WrongPlace(f"{who} reads what a stream may still be writing: wait for its event")
        if s: n.users[s] = s.n+1
    def copied(self, x, to, later):
        "`x` goes to device `to`; which stream writes there"
        src,dst = (self.current(d) if self.has(d) else None for d in (where(x), to))
        later = later and (src is not None or getattr(x.untyped_storage(), 'pinned', False))
        self.use(x, src or (dst if later else None), 'a copy')       # in the order of its stream
        for s in {src, dst}-{None}: s.n += 1
        if src and dst: dst.wait_stream(src)
        elif not later: self.sync(src or dst, f"copy {'from' if src else 'to'} the device")
        return dst or src

# every operation

INDEX = {aten.index.Tensor, aten._unsafe_index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
WAITS = {aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default, aten._unique2.default, aten.repeat_interleave.Tensor} # for a size
BARE = {aten.empty_like.default, aten.new_empty.default, aten.new_empty_strided.default} # neither read nor written
ANY = {aten.set_.source_Tensor, aten.set_.source_Storage_storage_offset}                 # another memory, wherever it is

@lru_cache
def lacking(kind)->set:
    "The operations that torch has kernels for, but none on `kind`, by its own table of them"
    text = (Path(torchgen.__file__).parent/'packaged/ATen/native/native_functions.yaml').read_text()
    parts = {o[:o.index('(')]: o for o in text.split('\n- func: ')[1:]}
    def there(o):
        if m := re.search('structured_delegate: (\\S+)', o): return there(parts[m[1]])
        m = re.search('^  dispatch:\n((?:    .*\n)+)', o, re.M)
        return not m or 'ufunc_inner_loop' in o or bool(re.search(f'\\b{kind.upper()}\\b.*:|Composite', m[1]))
    return {k for k,o in parts.items() if not there(o) and not re.search('_for_cpu|mkldnn', k)}      # these two stand for others

def common(func, args, ts):
    "The one device of an operation's tensors; indices, and single numbers, may be on the CPU beside it"
    if func in INDEX: ts = [args[0], *args[2:3], *(i for i in args[1] if i is not None and where(i)!=CPU)]
    number = func not in (aten.cat.default, aten.stack.default)
    ds = dict.fromkeys(d for t in ts if (d := where(t))!=CPU or not (number and t.dim()==0)) or dict.fromkeys(map(where, ts))
    if len(ds)>1 and func not in ANY: raise WrongPlace(f"{func}: expected all tensors to be on the same device, but they are on {' and '.join(map(str, ds))}")
    return next(iter(ds), CPU)

class Ops(TorchDispatchMode):
    def __init__(self, gpu): super().__init__(); self.gpu = gpu
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        g,kwargs = self.gpu,kwargs or {}
        with torch._C.DisableTorchFunction():
            ts = [o for o in tree_leaves((args, kwargs)) if isinstance(o, Tensor)]
            if func is aten.copy_.default and where(args[0])!=where(args[1]): return self.across(func, args, kwargs)
            d,work = common(func, args, ts),not (func.is_view or func in BARE)
            s = g.current(d) if g.has(d) else None
            if s and str(func)[5:].removesuffix('.default') in lacking(g.kind): raise WrongPlace(f'torch has no kernel for {func} on {g.kind}')
            for t in ts if work else (): g.use(t, s, func)
            if s and work: g.launches += 1; s.n += 1
            if s and (func in WAITS or func in INDEX and any(i is not None and (i.dtype==torch.bool or where(i)==CPU) for i in args[1])):
                g.sync(s, func.__name__)
            out = func(*args, **kwargs)
            for o in tree_leaves(out) if s else ():
                if isinstance(o, Tensor) and not o.is_meta:
                    if note(o) is None: g.put(o, d)
                    if work: note(o).wrote = s,s.n
            return out
    def across(self, func, args, kwargs):
        x,later = args[0].untyped_storage(),(*args[2:], kwargs.get('non_blocking', False))[0]
        s = self.gpu.copied(args[1], where(args[0]), later and (where(args[0])!=CPU or getattr(x, 'pinned', False)))
        if n := note(args[0]): n.wrote = s,s.n
        elif later and getattr(x, 'pinned', False): x.note = coming(s)
        return func(*args, **kwargs)

# every call from Python

def to(g, f, x, *args, device=None, dtype=None, non_blocking=False, copy=False, memory_format=None):
    flags = [a for a in args if isinstance(a, bool)]
    for a in args:
        if isinstance(a, Tensor): device,dtype = where(a),a.dtype
        elif isinstance(a, torch.dtype): dtype = a
        elif a is not None and not isinstance(a, bool): device = a
    d,was,fmt = g.named(device),where(x),{} if memory_format is None else dict(memory_format=memory_format)
    if d is not None and d.type=='meta': return f(x, 'meta')
    if d in (None, was): return f(x, dtype or x.dtype, copy=(flags[1:] or [copy])[0], **fmt)
    later = (flags or [non_blocking])[0]
    s = g.copied(x, d, later)
    store = plain(x).untyped_storage()
    n = getattr(store, 'note', None)
    if later and n and not g.has(was): store.note = None         # the stream reads it, not the host
    out = g.put(f(x, dtype or x.dtype, copy=True, **fmt), d)
    if n: store.note = n
    if later and not g.has(d): out.untyped_storage().note = coming(s)                    # it is not there yet
    return out

def host(g, f, x, *args, **kw):
    if where(x)!=CPU: raise WrongPlace(f"can't convert a tensor on {where(x)} to numpy: use .cpu() first")
    g.use(x, None, f.__name__)
    return f(x, *args, **kw)

def tolist(g, f, x):
    if g.has(where(x)): g.sync(g.current(where(x)), 'tolist')
    return f(x)

def pin(g, f, x, *args):
    out = x.clone()
    out.untyped_storage().pinned = True
    return out

def pinned(g, f, x, *args): return getattr(x.untyped_storage(), 'pinned', False)
def cpu(g, f, x, **kw): return to(g, Tensor.to, x, 'cpu', **kw)
def cuda(g, f, x, d='cuda', **kw): return to(g, Tensor.to, x, g.named(d), **kw)
def device(g, f, *args, **kw): return Device(g.kind, *args) if args and isinstance(args[0], int) else Device(*args, **kw)
def kind(k): return lambda g,f,x: where(x).type==k

OWN = {Tensor.to: to, Tensor.cpu: cpu, Tensor.cuda: cuda, Tensor.numpy: host, Tensor.__array__: host, Tensor.tolist: tolist, Tensor.pin_memory: pin, Tensor.is_pinned: pinned,
       Tensor.device.__get__: lambda g,f,x: where(x), Tensor.is_cuda.__get__: kind('cuda'), Tensor.is_mps.__get__: kind('mps'), Tensor.is_cpu.__get__: kind('cpu'),
       Tensor.get_device: lambda g,f,x: -1 if where(x)==CPU else where(x).index, Device: device}

class Calls(TorchFunctionMode):
    def __init__(self, gpu): super().__init__(); self.gpu = gpu
    def __torch_function__(self, f, types, args=(), kwargs=None):
        g,kwargs = self.gpu,dict(kwargs or {})
        if f in OWN: return OWN[f](g, f, *args, **kwargs)
        if kwargs.pop('pin_memory', False): return pin(g, None, f(*args, **kwargs))
        d,gen = g.named(kwargs.get('device')),kwargs.get('generator')
        if d is None or d.type=='meta': return f(*args, **kwargs)
        if gen is not None and gen.device.type!=d.type: raise WrongPlace(f"a generator of {gen.device} for numbers on {d}")
        out = f(*args, **kwargs | dict(device='cpu'))
        if not isinstance(out, Tensor) or where(out)==d: return out
        given = {a.untyped_storage()._cdata for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor)}
        if g.has(d) and f in (torch.tensor, torch.as_tensor, Tensor.new_tensor): g.sync(g.current(d), 'copy to the device')
        return g.put(out.clone() if out.untyped_storage()._cdata in given else out, d)

def api(g, room):
    "What `torch.cuda` or `torch.mps` is in the meantime"
    def used(d=None): return g.used[g.named(g.kind if d is None else d)]
    total = room+(2<<30)                                         # 2 GB are somebody else's: transformers leaves 1.2 GB of the total free
    both = dict(synchronize=lambda d=None: g.sync(g.current(d), 'synchronize'), empty_cache=lambda: None)
    if g.kind=='mps': return both | dict(recommended_max_memory=lambda: room, current_allocated_memory=used)
    made = type('Stream', (Stream,), dict(__init__=lambda self, d=None, **kw: Stream.__init__(self, g.current(d).device)))     # a class: it stands in type hints
    about = Obj(name='pretended', major=9, minor=0, is_integrated=False, total_memory=total)
    return both | dict(is_available=lambda: True, is_initialized=lambda: True, is_bf16_supported=lambda *a, **kw: True, device_count=lambda: g.count,
        current_device=lambda: g.at, set_device=lambda d: setattr(g.local, 'at', g.named(d).index), get_device_name=lambda d=None: about.name,
        get_device_capability=lambda d=None: (9,0), get_device_properties=lambda d=None: about, mem_get_info=lambda d=None: (room-used(d), total),
        memory_allocated=used, memory_reserved=used, current_stream=g.current, stream=g.stream, Stream=made, Event=Event)

# kernels that a CPU has not

def lower_right(n, m): return n,m                                # needs no memory, and so is on no device

def attention(q, k, v, attn_mask=None, dropout_p=0., is_causal=False, **kw):
    if isinstance(attn_mask, tuple): attn_mask = torch.ones(*attn_mask, dtype=torch.bool, device=q.device).tril(attn_mask[1]-attn_mask[0])
    return SDPA(q, k, v, attn_mask, dropout_p, is_causal, **kw)

def varlen(g):
    "`torch.nn.attention.varlen.varlen_attn` of what the GPU `g` holds: one launch, and no wait"
    def attend(q, k, v, starts_q, starts_k, most_q, most_k, *, scale=None, window_size=(-1,-1), enable_gqa=False):
        if q.dtype not in (torch.bfloat16, torch.float16) or q.shape[-1]>256 or q.shape[-1]%8: raise WrongPlace('flash attention takes no such heads')
        if starts_q.dtype!=torch.int32 or starts_k.dtype!=torch.int32 or not q.shape[1]==len(k[0])*(1 if not enable_gqa else q.shape[1]//len(k[0])): raise WrongPlace('int32, or heads')
        common(None, (), [q, k, v, starts_q, starts_k])
        with torch.utils._python_dispatch._disable_current_modes(), torch._C.DisableTorchFunction():
            out,(a,b) = torch.zeros_like(q),(o.tolist() for o in (starts_q, starts_k))
            if max(y-x for x,y in zip(a, a[1:]))>most_q or max(y-x for x,y in zip(b, b[1:]))>most_k: raise WrongPlace('a sequence is longer than was said')
            for x,y,c,d in zip(a, a[1:], b, b[1:]):
                i,j = torch.arange(d-c-(y-x), d-c)[:,None],torch.arange(d-c)[None]
                left,right = (torch.inf if w<0 else w for w in window_size)
                seen = (j>=i-left) & (j<=i+right)
                ks,vs = (o[c:d].repeat_interleave(q.shape[1]//o.shape[1], 1).transpose(0, 1) for o in (k,v))
                out[x:y] = torch.nn.functional.scaled_dot_product_attention(q[x:y].transpose(0, 1), ks, vs, seen, scale=scale).transpose(0, 1)
        g.launches += 1
        g.current(where(q)).n += 1
        g.put(out, where(q))
        note(out).wrote = g.current(where(q)),g.current(where(q)).n
        return out
    return attend

@contextmanager
def pretend(kind='cuda', devices=1, memory=float('inf')):
    "Within the block there are `devices` of `kind`, with `memory` bytes each; gives the `GPU` that counts what they do"
    g,init = GPU(kind, devices, memory),ThreadPoolExecutor.__init__
    def modes(): return Calls(g).__enter__(),Ops(g).__enter__()  # they are of a thread
    def pool(self, *args, initializer=lambda *a: None, initargs=(), **kw): init(self, *args, initializer=lambda: (modes(), initializer(*initargs)), **kw)
    with ExitStack() as stack:
        stack.enter_context(patch.object(ThreadPoolExecutor, '__init__', pool))
        stack.enter_context(patch.object(Tensor, 'record_stream', lambda x,s: note(x).kept.add(s)))       # C would want a stream of its own
        stack.enter_context(patch.multiple(getattr(torch, kind), **api(g, int(min(memory, 1<<50)))))
        stack.enter_context(patch.object(torch.nn.attention.bias, 'causal_lower_right', lower_right))
        stack.enter_context(patch.object(torch.nn.functional, 'scaled_dot_product_attention', attention))
        stack.enter_context(patch.object(torch.nn.attention.varlen, 'varlen_attn', varlen(g)))
        stack.enter_context(patch.object(torch.backends.mps, 'is_available', lambda: kind=='mps'))
        stack.enter_context(Calls(g))
        stack.enter_context(Ops(g))
        yield g
    if g.faults: raise WrongPlace(g.faults[0])
