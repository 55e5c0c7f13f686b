import pytest

tiers = 'slow', 'gpu'

def pytest_addoption(parser): parser.addoption('--flags', default='', help='tiers to run besides the default one: "slow gpu"')

def pytest_configure(config):
    for o in tiers: config.addinivalue_line('markers', f'{o}: runs only with --flags {o}')

def pytest_collection_modifyitems(config, items):
    for o in set(tiers) - set(config.getoption('flags').split()):
        for item in items:
            if item.get_closest_marker(o): item.add_marker(pytest.mark.skip(reason=f'--flags {o} runs it'))
