import os
import pytest

tiers = 'slow', 'gpu'

def pytest_addoption(parser): parser.addoption('--flags', default='', help='tiers to run besides the default one: "slow gpu"')

def pytest_configure(config):
    for o in tiers: config.addinivalue_line('markers', f'{o}: runs only with --flags {o}')
    if n := os.environ.get('PYTEST_XDIST_WORKER_COUNT'): os.environ.setdefault('OMP_NUM_THREADS', str(max(1, os.cpu_count()//int(n))))   # before torch is there

def pytest_collection_modifyitems(config, items):
    for o in set(tiers) - set(config.getoption('flags').split()):
        for item in items:
            if item.get_closest_marker(o): item.add_marker(pytest.mark.skip(reason=f'--flags {o} runs it'))
    items.sort(key=lambda o: o.path.name=='test_notebooks.py')                      # those last, one by one

@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    "The tests of a file stay in one process, for what they share; a notebook is a test by itself"
    from xdist.scheduler import LoadScopeScheduling
    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid): return nodeid if 'test_notebooks.py' in nodeid else nodeid.split('::')[0]
    return ByFile(config, log)
