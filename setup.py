"Package metadata, read from settings.ini; the wheel also carries the data that the repository tracks"
import shlex, shutil, subprocess
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

root = Path(__file__).resolve().parent
ini = ConfigParser(delimiters='=')
ini.read(root/'settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']
lib = cfg['lib_path']
statuses = ['1 - Planning', '2 - Pre-Alpha', '3 - Alpha', '4 - Beta', '5 - Production/Stable', '6 - Mature', '7 - Inactive']

def data_files():
    "The files of `data/` that are shipped: what git tracks, or in an unpacked sdist (made from that) what is there"
    fs = [p for p in (root/'data').rglob('*') if p.is_file()]
    if (root/'.git').exists() and shutil.which('git'):
        out = subprocess.run(['git','ls-files','-z','data'], cwd=root, check=True, capture_output=True, text=True).stdout
        fs = [p for p in fs if p.relative_to(root).as_posix() in out.split('\0')]
    return sorted(p.relative_to(root).as_posix() for p in fs)

class BuildWithData(build_py):
    "Copies `data/` to `persona_vectors/data/` of the build; an editable install reads it where it is"
    def _pairs(self): return [] if self.editable_mode else [(o, f'{self.build_lib}/{lib}/{o}') for o in data_files()]
    def run(self):
        super().run()
        shutil.rmtree(Path(self.build_lib)/lib/'data', ignore_errors=True)   # what an older build left there
        for src,dst in self._pairs():
            self.mkpath(str(Path(dst).parent))
            self.copy_file(str(root/src), dst, preserve_mode=False)
    def get_outputs(self, include_bytecode=1): return super().get_outputs(include_bytecode) + [d for _,d in self._pairs()]
    def get_output_mapping(self): return super().get_output_mapping() | {d:s for s,d in self._pairs()}
    def get_source_files(self): return super().get_source_files() + data_files()

readme = root/'README.md'
setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], keywords=cfg['keywords'].split(),
    author=cfg['author'], url=cfg['git_url'], project_urls={'Documentation': cfg['doc_host']+cfg['doc_baseurl']},
    license_expression='Apache-2.0', license_files=['LICENSE'], python_requires=f">={cfg['min_python']}",
    classifiers=[f"Development Status :: {statuses[int(cfg['status'])-1]}", f"Intended Audience :: {cfg['audience']}",
                 f"Natural Language :: {cfg['language']}", 'Programming Language :: Python :: 3',
                 'Topic :: Scientific/Engineering :: Artificial Intelligence'],
    long_description=readme.read_text(encoding='utf-8') if readme.exists() else cfg['description'],
    long_description_content_type='text/markdown',
    packages=find_packages(str(root), include=[lib, f'{lib}.*']), package_data={lib: ['*.pyi']}, zip_safe=False,
    install_requires=shlex.split(cfg['requirements']),
    extras_require={k: shlex.split(cfg[f'{k}_requirements']) for k in ('dev','page','ray','adapters','quantize','inspect')},
    entry_points={'console_scripts': shlex.split(cfg['console_scripts']), 'nbdev': [f'{lib}={lib}._modidx:d'], 'inspect_ai': [f'{lib}={lib}.steering.inspect_model'],
                  'vllm.general_plugins': [f'{lib}={lib}.steering.serving:register']},
    cmdclass={'build_py': BuildWithData})
