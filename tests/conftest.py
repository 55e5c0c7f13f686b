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
    def alone(item): return item.path.name=='test_notebooks.py'                     # its tests are long, and share nothing
    for item in items:
        if not alone(item): item.add_marker(pytest.mark.xdist_group(item.path.stem))
    items.sort(key=alone)
