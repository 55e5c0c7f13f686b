"Run All in an ordinary Jupyter: every notebook from top to bottom in an environment with the package, jupyterlab and nothing else"
import os, subprocess, sys, time
from pathlib import Path
import pytest
from run_notebooks import notebooks

root = Path(__file__).parent.parent
LIMIT = 180                                                      # seconds a notebook, on two cores

@pytest.fixture(scope='module')
def jupyter(tmp_path_factory):
    "`jupyter` of a new environment that has the package, as a user installs it"
    d = tmp_path_factory.mktemp('lab')
    subprocess.run([sys.executable, '-m', 'venv', d], check=True)
    subprocess.run([d/'bin/pip', 'install', '-qq', '-c', root/'constraints.txt', root, 'jupyterlab>=4'], check=True)
    return d/'bin/jupyter'

def run_all(jupyter, nb, out):
    "Execute a notebook in its folder, from a fresh kernel; returns what went wrong, and the seconds it took"
    t = time.perf_counter()
    env = {k: v for k,v in os.environ.items() if k not in ('OMP_NUM_THREADS', 'IN_TEST', 'PYTHONPATH') and 'API_KEY' not in k}
    env['PATH'] = f"{Path(jupyter).parent}:{env['PATH']}"        # as in an activated environment: the kernel is the first python there
    r = subprocess.run([jupyter, 'nbconvert', '--execute', '--to', 'notebook', '--output-dir', out, nb], capture_output=True, text=True, env=env)
    return r.stderr if r.returncode else None, time.perf_counter()-t

@pytest.mark.slow
@pytest.mark.parametrize('nb', notebooks(), ids=lambda p: p.relative_to(root/'nbs').with_suffix('').as_posix())
def test_run_all(nb, jupyter, tmp_path):
    err,seconds = run_all(jupyter, nb, tmp_path)
    if err: pytest.fail(err[-3000:], pytrace=False)
    assert seconds < LIMIT

@pytest.mark.slow
def test_run_all_control(jupyter, tmp_path):
    "A notebook that fails is seen, and so is one whose slow cell is not left out"
    import json
    def write(name, *srcs):
        cells = [dict(cell_type='code', id=f'c{i}', metadata={}, source=o, outputs=[], execution_count=None) for i,o in enumerate(srcs)]
        (tmp_path/name).write_text(json.dumps(dict(cells=cells, metadata={}, nbformat=4, nbformat_minor=5)))
        return tmp_path/name
    (out := tmp_path/'out').mkdir()
    slow = '#| slow\nraise ValueError("it ran")'
    assert run_all(jupyter, write('a.ipynb', '%load_ext persona_vectors.notebooks', slow), out)[0] is None
    assert 'it ran' in run_all(jupyter, write('b.ipynb', slow), out)[0]
