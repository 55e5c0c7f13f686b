"What the notebooks and the package promise as a whole; every rule is also seen to find a breach of it"
import ast, json, re, subprocess, sys, time
from configparser import ConfigParser
from pathlib import Path
from statistics import median
import pytest
from fastcore.utils import ifnone
from nbdev.process import first_code_ln
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

def seconds(*args):
    def one():
        t = time.perf_counter()
        subprocess.run(args, check=True, capture_output=True)
        return time.perf_counter() - t
    return median([one() for _ in range(4)][1:])                                    # the first fills the caches

def test_help_is_quick(): assert seconds(Path(sys.executable).with_name('persona-vectors'), '--help') < 1
def test_help_is_quick_control(): assert seconds(sys.executable, '-c', 'import time; time.sleep(1)') > 1

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

def test_there_are_notebooks(): assert 'index.ipynb' in nbs and modules
