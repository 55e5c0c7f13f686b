"The console script in this process, on files as other people have them: a result, or one line that names the file and what to do"
import logging, re, sys, traceback
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from subprocess import CompletedProcess
from unittest.mock import patch
from run_notebooks import no_bars

@dataclass(frozen=True)
class Odd:
    "A file, how it is made, what takes it, and what is expected"
    name:str # The file's name, a space, and what is odd about it
    make:object # Bytes, text, or a function that makes the file at a path
    command:str # Of the console script; {f} is the file, other names in braces are inputs
    says:str # A pattern: of the one line, or of what is printed where the file is read
    read:bool=False # Is it read?
    file:str=None # Its name, if there are spaces in it

def read(name, command, **files): return [Odd(f'{name} {k}', make, command, says, True) for k,(make,says) in files.items()]
def refused(name, command, **files): return [Odd(f'{name} {k}', make, command, says) for k,(make,says) in files.items()]

def put(o, folder):
    "Make the file of `o` in `folder`; its path"
    path = folder/(o.file or o.name.split()[0])
    if callable(o.make): o.make(path)
    else: path.write_bytes(o.make if isinstance(o.make, bytes) else o.make.encode())
    return path

def called(*args, cwd):
    "What `persona-vectors args` does in the folder `cwd`, without a process of its own; what would end it is printed as Python prints it"
    from persona_vectors.cli import main
    out,err,code = StringIO(),StringIO(),0
    shown,log = logging.StreamHandler(err),logging.getLogger('persona_vectors')
    log.addHandler(shown)
    try:
        with redirect_stdout(out), redirect_stderr(err), chdir(cwd), patch.object(sys, 'argv', ['persona-vectors', *map(str, args)]): main()
    except SystemExit as e: code = e.code or 0
    except BaseException:
        code = 1
        traceback.print_exc(file=err)
    finally: log.removeHandler(shown)
    return CompletedProcess(args, code, out.getvalue(), err.getvalue())

def check(r, o, path):
    "Is `r` a result, or one line that names the file and what is expected?"
    said = no_bars(r.stderr).splitlines()
    assert 'Traceback' not in r.stderr, r.stderr
    if o.read:
        assert r.returncode==0 and re.search(o.says, r.stdout+r.stderr), r.stdout+r.stderr
        return
    assert r.returncode==1 and r.stdout=='', (r.returncode, r.stdout, r.stderr)
    assert len(said)==1 and said[0].startswith('persona-vectors: '), r.stderr
    assert ' '.join(path.name.split()) in said[0], said[0]
    assert re.search(o.says, said[0]), said[0]

def tried(o, folder, **inputs):
    "Make the file of `o` in `folder`, give it to its command, and check what comes of it"
    path = put(o, folder)
    check(called(*(w.format(f=path, **inputs) for w in o.command.split()), cwd=folder), o, path)
