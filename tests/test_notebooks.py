"Every notebook runs from top to bottom, each in a process of its own; cells flagged slow or gpu only with `pytest --flags 'slow gpu'`"
import json
from pathlib import Path
import pytest
from run_notebooks import no_bars, notebooks, run_apart

root = Path(__file__).parent.parent

@pytest.mark.parametrize('nb', notebooks(), ids=lambda p: p.relative_to(root/'nbs').with_suffix('').as_posix())
def test_notebook(nb, pytestconfig):
    err = run_apart(nb, flags=pytestconfig.getoption('flags').split())
    if err: pytest.fail(err, pytrace=False)

def write_nb(path, *srcs):
    cells = [dict(cell_type='code', id=f'c{i}', metadata={}, source=o, outputs=[], execution_count=None) for i,o in enumerate(srcs)]
    path.write_text(json.dumps(dict(cells=cells, metadata={}, nbformat=4, nbformat_minor=5)))
    return path

@pytest.fixture
def project(tmp_path):
    (tmp_path/'settings.ini').write_text((root/'settings.ini').read_text())
    return tmp_path

def test_failure_is_seen(project):
    "A failing cell fails its notebook, and is shown with its source; cells of other tiers are left out unless asked for"
    nb = write_nb(project/'00_bad.ipynb', 'x = 41', '#| slow\nassert x==42, "slow ran"', 'assert x==41')
    assert run_apart(nb) is None
    err = run_apart(nb, flags=['slow'])
    assert '00_bad.ipynb, cell 1' in err and 'assert x==42' in err and 'AssertionError: slow ran' in err

def test_missing_package(project):
    "A cell that needs a package runs if all that it needs is installed, and is left out if not"
    nb = write_nb(project/'00_needs.ipynb', '#| needs: json\nx = 41', '#| needs: json no_such_package\nx = 0', 'assert x==41')
    assert run_apart(nb) is None
    assert 'it ran' in run_apart(write_nb(nb, '#| needs: json\nassert False, "it ran"'))

def test_lost_process_is_seen(project):
    assert 'died' in run_apart(write_nb(project/'00_dies.ipynb', 'import os', 'os._exit(3)'))

def test_outputs_kept(project):
    "Outputs are written back without progress bars, those of cells that were left out stay, and a second run changes nothing"
    nb = write_nb(project/'00_out.ipynb', 'import sys\nfrom tqdm import tqdm\nimport plotly.graph_objects as go',
                  'for i in tqdm(range(3), desc="Loading weights"): pass\nprint("a word", file=sys.stderr)', '#| slow\n1', 'go.Figure(go.Bar(y=[1,2]))')
    d = json.loads(nb.read_text())
    d['cells'][2]['outputs'] = kept = [dict(output_type='stream', name='stdout', text=['from a GPU\n'])]
    nb.write_text(json.dumps(d))
    assert run_apart(nb, keep=True) is None
    first = nb.read_text()
    _,bars,slow,fig = [o['outputs'] for o in json.loads(first)['cells']]
    assert bars == [dict(output_type='stream', name='stderr', text=['a word\n'])]
    assert slow == kept
    assert len(fig)==1 and 'plotly-graph-div' in ''.join(fig[0]['data']['text/html'])
    run_apart(nb, keep=True)
    assert nb.read_text() == first

def test_no_bars():
    assert no_bars('\r  0%|   | 0/3 [00:00<?, ?it/s]\r100%|###| 3/3 [00:00<00:00, 9it/s]\n') == ''
    assert no_bars('7it [00:01, 5.2it/s]\nkept [1, 2] 50%\n') == 'kept [1, 2] 50%\n'
