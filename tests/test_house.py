"What the notebooks and the package promise as a whole; every rule is also seen to find a breach of it"
import ast, json, os, re, resource, subprocess, sys
from configparser import ConfigParser
from pathlib import Path
from statistics import median
import pytest
from fastcore.utils import ifnone
from nbdev.process import first_code_ln
from pyflakes.checker import Checker
from pyflakes.messages import RedefinedWhileUnused
from run_notebooks import no_bars

root = Path(__file__).parent.parent
def source(cell): return ''.join(cell['source'])
nbs = {p.relative_to(root/'nbs').as_posix(): json.loads(p.read_text(encoding='utf-8')) for p in sorted((root/'nbs').rglob('[!._]*.ipynb'))
       if not any(o[0] in '._' for o in p.relative_to(root/'nbs').parts)}
modules = {k:v for k,v in nbs.items() if re.match(r'(\w+/)?\d\d_', k) and source(v['cells'][0]).startswith('#| default_exp')}    # those that make a module; not index, not experiments
all_nbs, all_modules = (pytest.mark.parametrize('nb', list(d.values()), ids=list(d)) for d in (nbs, modules))

def code(nb): return [(i,source(c)) for i,c in enumerate(nb['cells']) if c['cell_type']=='code']
def nb_of(*cells): return dict(cells=[dict(cell_type='markdown' if o.startswith(('# ','## ','>')) else 'code', source=o, outputs=[]) for o in cells])

# the package

def loaded(stmt):
    "Which heavy packages `stmt` imports"
    heavy = 'torch transformers plotly sklearn pandas openai nbdev IPython'.split()
    src = f'import sys\n{stmt}\nprint(*[o for o in {heavy} if o in sys.modules])'
    return subprocess.run([sys.executable, '-c', src], cwd=root, check=True, capture_output=True, text=True).stdout.split()

def test_import_is_light(): assert loaded('import persona_vectors') == []
def test_import_is_light_control(): assert 'plotly' in loaded('import plotly')

def seconds(*args, times=5):
    "Processor time of a command, the least of several: a busy machine makes a clock useless"
    kept = {k: o for k,o in os.environ.items() if k!='PYTHONDONTWRITEBYTECODE'}     # a user's Python compiles once
    def one():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(args, check=True, capture_output=True, env=kept)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime+after.ru_stime - before.ru_utime-before.ru_stime
    return min(one() for _ in range(times))                                             # the first fills the caches

def test_import_is_quick(): assert seconds(sys.executable, '-c', 'import persona_vectors') < .1
a_help = "import sys, typer\napp = typer.Typer()\n@app.command()\ndef a(n:int=1): 'One.'\n@app.command()\ndef b(n:int=1): 'Two.'\nsys.argv = ['x', '--help']\napp()"
def in_helps(*args):
    "Processor time of a command, in units of typer's own help for a program that does nothing; the two take turns, for processors differ by a factor of two"
    took = [(seconds(*args, times=1),seconds(sys.executable, '-c', a_help, times=1)) for _ in range(8)]
    return min(o[0] for o in took)/min(o[1] for o in took)

def test_help_is_quick(): assert in_helps(Path(sys.executable).with_name('persona-vectors'), '--help') < 1.6
def test_help_control(): assert in_helps(sys.executable, '-c', 'import pandas\n'+a_help) > 1.6
def test_quick_control(): assert seconds(sys.executable, '-c', 'import time; t = time.process_time()\nwhile time.process_time()-t<.3: pass') > .3

def test_version():
    import persona_vectors
    ini = ConfigParser()
    ini.read(root/'settings.ini')
    assert persona_vectors.__version__ == ini['DEFAULT']['version']

chapters = '', 'generation', 'extraction', 'analysis', 'steering', '9', 'experiments'        # what stands on what; '9' are the notebooks from 90 on
beside = {('generation','extraction'), ('extraction','generation')}                          # these know nothing of each other

def place(path):
    "Chapter and place in it of the notebook at `path`, seen from nbs/"
    folder,_,name = path.rpartition('/')
    return chapters.index('9' if not folder and name[0]=='9' else folder), name

def reached_back(srcs):
    "Imports in the modules `srcs`, dotted name to source, of a module that comes later, or of a chapter that it should not know"
    at = {k: place(m[1]) for k,v in srcs.items() if (m := re.search(r'^# %% (?:\.\./)+nbs/(\S+\.ipynb)', v, re.M))}
    def imported(k):
        for dots,mod in re.findall(r'^\s*from (\.+|persona_vectors\.)([\w.]+) import', srcs[k], re.M):
            base = k.split('.')[:-len(dots)] if dots.strip('.')=='' else []
            yield '.'.join([*base, *mod.split('.')])
    def wrong(a, b): return at[b]>at[a] or (chapters[at[a][0]],chapters[at[b][0]]) in beside
    return [f'{k} imports {o}' for k in at for o in imported(k) if o in at and wrong(k, o)]

def dotted(p): return '.'.join(p.relative_to(root/'persona_vectors').with_suffix('').parts)
def test_one_direction(): assert reached_back({dotted(p): p.read_text(encoding='utf-8') for p in (root/'persona_vectors').rglob('*.py')}) == []
def test_one_direction_control():
    a, b, c, d = (f'# %% ../nbs/{o}.ipynb #1\n' for o in ('01_a', 'generation/10_b', 'extraction/20_c', 'extraction/21_d'))
    ok = {'a':a, 'generation.b':b+'from ..a import *\n', 'extraction.c':c+'from ..a import *\n', 'extraction.d':d+'from .c import f\n'}
    assert reached_back(ok) == []
    assert reached_back(ok | {'a': a+'def f():\n    from persona_vectors.extraction.c import g\n'}) == ['a imports extraction.c']
    assert reached_back(ok | {'extraction.c': c+'from .d import f\n'}) == ['extraction.c imports extraction.d']
    assert reached_back(ok | {'extraction.c': c+'from ..generation.b import f\n'}) == ['extraction.c imports generation.b']

# the notebooks

def mixed(src):
    "Does a cell mix imports with other code? The docs build would run all of such a cell"
    if 'nbdev_export' in src or re.search(r'^#\s*\|\s*eval:\s*false', src, re.M): return False
    try: tree = ast.parse(src)
    except SyntaxError: return False                                                # shell or magic
    imps = ast.Import, ast.ImportFrom
    top = [isinstance(o, imps) for o in tree.body]
    if any(top): return not all(top)
    if re.match(r'#\s*\|\s*export', src): return False                              # an import within a function that is exported: on first use
    return any(isinstance(o, imps) for o in ast.walk(tree)) and any(isinstance(o, (ast.Expr, ast.Assign)) for o in ast.walk(tree))

@all_nbs
def test_imports_stand_alone(nb): assert [f'cell {i}:\n{s}' for i,s in code(nb) if mixed(s)] == []
@pytest.mark.parametrize('src,bad', [('import a\nfrom b import *', False), ('import a\nx = 1', True), ('import a\ndef f(): pass', True),
    ('#| export\ndef f():\n    "doc"\n    import torch', False), ('def f():\n    import torch\n    x = 1', True), ('!pip list', False)])
def test_imports_stand_alone_control(src, bad): assert mixed(src)==bad

def late_directives(src):
    "Directives that nbdev does not see, for code stands before them"
    lines = src.splitlines()
    return [o for o in lines[ifnone(first_code_ln(lines), len(lines)):] if re.match(r'\s*#\s*\|\s*(export|hide\b|slow|gpu|eval:|echo:|default_exp)', o)]

@all_nbs
def test_directives_first(nb): assert [f'cell {i}: {o}' for i,s in code(nb) for o in late_directives(s)] == []
def test_directives_first_control():
    assert late_directives('#| export\n#| slow\nx = 1') == late_directives('#| default_exp a') == []
    assert late_directives('x = 1\n#| slow') == late_directives('\n#| export\nx = 1\n#| slow\ny = 2') == ['#| slow']

def opening(nb, exports):
    "What is wrong with how a notebook opens and, if it `exports`, closes"
    cells, bad = list(nb['cells']), []
    if exports and not re.fullmatch(r'#\| default_exp [\w.]+', source(cells.pop(0)).strip()): bad.append('first comes `#| default_exp name`')
    while not exports and cells[0]['cell_type']=='code' and source(cells[0]).startswith('#| hide'): cells.pop(0)
    if cells[0]['cell_type']!='markdown' or not re.fullmatch(r'# \S.*\n+> \S.*(\n+- [\w-]+: .*)*', source(cells[0]).strip()):
        bad.append('a cell with `# Title` and one `>` line, and nothing else: nbdev makes it the title and drops the rest')
    if exports and source(cells[-2]).strip() != '## Export -': bad.append('the last heading is `## Export -`')
    if exports and not re.fullmatch(r'#\| hide\nimport nbdev; ?nbdev\.nbdev_export\(\)', source(cells[-1]).strip()): bad.append('the last cell is the hidden export')
    return bad

@all_modules
def test_opening(nb): assert opening(nb, True) == []
@pytest.mark.parametrize('nb', [v for k,v in nbs.items() if k not in modules], ids=[k for k in nbs if k not in modules])
def test_title(nb): assert opening(nb, False) == []
def test_opening_control():
    good = '#| default_exp a', '# A\n\n> What it is', 'x = 1', '## Export -', '#| hide\nimport nbdev; nbdev.nbdev_export()'
    assert opening(nb_of(*good), True) == []
    assert opening(nb_of('#| hide\nimport a', *good[1:3]), False) == []
    for i,o in [(0,'#| hide'), (1,'# A'), (1,'# A\n\n> What\n\nA paragraph'), (3,'## Export'), (4,'x = 1')]:
        assert len(opening(nb_of(*good[:i], o, *good[i+1:]), True))==1

def untidy(nb):
    "Outputs that should not have been kept, or would not show on the site"
    bad = []
    for i,o in [(i,o) for i,c in enumerate(nb['cells']) for o in c.get('outputs', [])]:
        data = o.get('data', {})
        if o['output_type']=='error': bad.append(f'cell {i} failed')
        if o.get('name')=='stderr' and no_bars(''.join(o['text']))!=''.join(o['text']): bad.append(f'cell {i}: a progress bar')
        if 'application/vnd.plotly.v1+json' in data and 'text/html' not in data: bad.append(f'cell {i}: a figure without HTML')
        if any('widget-view' in k for k in data): bad.append(f'cell {i}: a widget')
    size = sum(len(''.join(o['data'].get('text/html', ''))) for c in nb['cells'] for o in c.get('outputs', []) if 'data' in o)
    return bad + ([f'{size:,} characters of figures, over 300,000'] if size>300_000 else [])

@all_nbs
def test_outputs_tidy(nb): assert untidy(nb) == [], 'python tools/run_notebooks.py runs a notebook and keeps its outputs as they should be'
def test_outputs_tidy_control():
    nb = nb_of('x')
    def having(**o): return untidy(dict(cells=[nb['cells'][0] | dict(outputs=[o])]))
    assert having(output_type='stream', name='stderr', text=['a warning\n']) == having(output_type='display_data', data={'text/html':'<b>'}) == []
    assert having(output_type='stream', name='stderr', text=['100%|##| 3/3 [00:00<00:00]\n'])
    assert having(output_type='error', ename='E') and having(output_type='display_data', data={'application/vnd.plotly.v1+json':{}})
    assert having(output_type='display_data', data={'text/html':'x'*300_001})

# how the notebooks are written

def statements(src): return [l for l in src.splitlines() if l.strip() and not l.startswith('#|')]
def exported(src): return bool(re.match(r'#\s*\|\s*exporti?\b', src))
def only_imports(src):
    try: return all(isinstance(o, (ast.Import, ast.ImportFrom)) for o in ast.parse(src).body)
    except SyntaxError: return False                                                # shell or magic: a use

def unused_run(nb):
    "The most exported lines in a row without a cell that uses them"
    run = worst = 0
    for _,s in code(nb):
        if not statements(s) or only_imports(s): continue
        run = run+len(statements(s)) if exported(s) else 0
        worst = max(worst, run)
    return worst

def cell_sizes(nb): return [len(statements(s)) for _,s in code(nb) if exported(s) and statements(s) and not only_imports(s)]
def wide_lines(nb): return [f'cell {i}: {len(l)} characters: {l[:60]}' for i,s in code(nb) if exported(s) for l in statements(s) if len(l)>160]

@all_modules
def test_export_a_little_and_use_it(nb): assert unused_run(nb) <= 100
def test_export_a_little_and_use_it_control():
    block = '#| export\n' + 'x = 1\n'*60
    assert unused_run(nb_of(block, 'x', block))==60 and unused_run(nb_of(block, '#| export\nimport a', '# a word', block))==120

@all_modules
def test_cells_are_short(nb): assert max(cell_sizes(nb), default=0) <= 40
def test_cells_are_short_in_the_middle(): assert median([n for nb in modules.values() for n in cell_sizes(nb)]) <= 10
def test_cells_are_short_control(): assert cell_sizes(nb_of('#| export\n\n' + 'x = 1\n'*41, '#| export\nimport a', 'x = 1'))==[41]

@all_modules
def test_lines_are_short(nb): assert wide_lines(nb) == []
def test_lines_are_short_control(): assert len(wide_lines(nb_of('#| export\nx = ' + '1'*157, 'x = ' + '1'*200, '#| export\ny = ' + '1'*156)))==1

# the surface

sources = {dotted(p): p.read_text(encoding='utf-8') for p in (root/'persona_vectors').rglob('*.py') if p.name not in ('_modidx.py', '__init__.py')}

def foreign_patches(src):
    "Methods that `src` adds to classes of other modules"
    tree = ast.parse(src)
    own = {o.name for o in ast.walk(tree) if isinstance(o, ast.ClassDef)}
    def patched(f): return any(ast.unparse(d).startswith('patch') for d in f.decorator_list)
    def names(a): return [o.id for o in ast.walk(a.annotation) if isinstance(o, ast.Name)] if a.annotation else []
    return [f.name for f in tree.body if isinstance(f, ast.FunctionDef) and patched(f) and not set(names(f.args.args[0])) <= own]

@pytest.mark.parametrize('src', sources.values(), ids=sources)
def test_no_class_of_another_is_patched(src): assert foreign_patches(src) == []
def test_no_class_of_another_is_patched_control():
    own, f = 'class A: pass\n', '@patch\ndef f(self:A): pass\n'
    assert foreign_patches(own+f)==[] and foreign_patches('from .a import A\n'+f)==['f'] and foreign_patches(own+f.replace('patch', 'patch(as_prop=True)').replace('A)', 'B)'))==['f']

def private_imports(src): return [a.name for o in ast.walk(ast.parse(src)) if isinstance(o, ast.ImportFrom) and (o.level or (o.module or '').startswith('persona_vectors')) for a in o.names if re.match('_(?!_)', a.name)]

@pytest.mark.parametrize('src', sources.values(), ids=sources)
def test_nothing_private_is_imported(src): assert private_imports(src) == []
def test_nothing_private_is_imported_control(): assert private_imports('from ..a import b, _c\nfrom os import _exit\nfrom . import __version__') == ['_c']

def public(src): return ast.literal_eval(m[1]) if (m := re.search(r'^__all__ = (\[.*?\])', src, re.M|re.S)) else []
def in_two(srcs):
    "Names that two of the modules `srcs` call public"
    where = {}
    for k,v in srcs.items():
        for n in public(v): where.setdefault(n, []).append(k)
    return {n: ks for n,ks in where.items() if len(ks)>1}

def test_public_names():
    assert sum(len(public(o)) for o in sources.values()) <= 230
    import persona_vectors
    assert len(set(persona_vectors.__all__)) <= 45
def test_one_home_a_name(): assert in_two(sources) == {}
def test_one_home_a_name_control(): assert in_two(dict(a="__all__ = ['f',\n 'g']", b="__all__ = ['g']")) == dict(g=['a','b'])

def complaints(src):
    "What pyflakes says of a module, but for what it does not know: jaxtyping's shapes are strings, and methods of one name are patched onto several classes"
    src = re.sub(r"\b(Float|Int|Bool)\[([\w.]+), *'[^']*'\]", r'\1[\2]', src)
    lines = src.splitlines()
    for m in Checker(ast.parse(src)).messages:
        if not (isinstance(m, RedefinedWhileUnused) and '@patch' in ''.join(lines[max(0, m.lineno-3):m.lineno])): yield f'{m.lineno}: {m.message % m.message_args}'

@pytest.mark.parametrize('src', sources.values(), ids=sources)
def test_pyflakes(src): assert list(complaints(src)) == []
def test_pyflakes_control():
    shape = "from jaxtyping import Float\ndef f(x:Float[int, 'token d_model']): return x\n"
    assert list(complaints(shape)) == []
    assert len(list(complaints(shape + 'import os\ndef g():\n    y = 1\n    return z\n'))) == 3

def test_there_are_notebooks(): assert 'index.ipynb' in nbs and modules
