"Run notebooks, each in a process of its own, and keep their outputs: python tools/run_notebooks.py [--flags gpu] [nbs/08_prompts.ipynb ...]"
import argparse, os, re, sys, time, uuid
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

def notebooks():
    "All notebooks of the project, in reading order"
    from nbdev.doclinks import nbglob
    return sorted(o.resolve() for o in nbglob(as_path=True))

re_bar = re.compile(r'\d+%\||\[\d+:\d\d(:\d\d)?[<,]')            # tqdm with a total, and without
re_uuid = re.compile(r'[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}')

def no_bars(text):
    "`text` without the lines that a progress bar drew"
    return ''.join(f'{o}\n' for o in re.split(r'[\r\n]+', text.replace('\x1b[A', '')) if o.strip() and not re_bar.search(o))

def tidy(cell):
    "Drop progress bars and Plotly's loader from the outputs, and give figures ids that stay the same from run to run"
    outs, ids = [], {}
    def stable(m): return ids.setdefault(m[0], str(uuid.uuid5(uuid.NAMESPACE_OID, f'{cell.id}-{len(ids)}')))
    for o in cell.outputs:
        if o.output_type=='stream' and o.name=='stderr': o['text'] = no_bars(''.join(o.text)).splitlines(True)
        html = ''.join(o.get('data', {}).get('text/html', ''))
        if 'PlotlyConfig' in html and 'plotly-graph-div' not in html: continue       # each figure loads plotly.js itself
        if 'plotly-graph-div' in html: o.data['text/html'] = re_uuid.sub(stable, html).splitlines(True)
        if o.get('text') or o.get('data'): outs.append(o)
    cell.outputs = outs

def run(path, flags=(), keep=False):
    """Run the notebook at `path` but for cells of other tiers than `flags` and those that need a package which is not installed;
    returns what went wrong, and writes the outputs back if `keep`"""
    os.environ |= {'IN_TEST':'1', 'PLOTLY_RENDERER':'notebook_connected'}
    from execnb.nbio import write_nb
    from execnb.shell import CaptureShell, format_exc
    from fastcore.utils import str2bool, working_directory
    from nbdev.config import get_config
    from nbdev.frontmatter import FrontmatterProc
    from nbdev.process import NBProcessor
    cfg = get_config(path=path.parent)
    skips = set(cfg.tst_flags.split()) - set(flags)
    front = getattr(NBProcessor(path, procs=FrontmatterProc, process=True).nb, 'frontmatter_', {})
    if str2bool(front.get('skip_exec', False)): return
    nb = NBProcessor(path, rm_directives=False, process=True).nb
    k = CaptureShell(path, mpl_format='png')
    sys.path.insert(0, str(cfg.config_path))
    def skip(c):
        return (c.cell_type!='code' or 'nbdev_export(' in c.source or skips & c.directives_.keys()
                or c.directives_.get('eval:', [''])[0].lower()=='false' or not all(map(find_spec, c.directives_.get('needs:', []))))
    with working_directory(path.parent):
        for i,c in enumerate(nb.cells):
            if skip(c): continue
            c.outputs = []
            k.cell(c)
            if k.exc: return f'{path.name}, cell {i}:\n\n{c.source}\n\n{"".join(format_exc(k.exc))}'
            tidy(c)
    if keep: write_nb(nb, path)

def run_apart(path, **kwargs):
    "`run` in a process of its own"
    with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as ex:
        try: return ex.submit(run, path, **kwargs).result()
        except BrokenProcessPool: return f'{path.name}: its process died (out of memory?)'

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('notebooks', nargs='*', type=Path, help='all of them if none is named')
    p.add_argument('--flags', default='', help='tiers to run besides the default one: "slow gpu"')
    a = p.parse_args()
    bad = []
    for nb in [o.resolve() for o in a.notebooks] or notebooks():
        t = time.time()
        err = run_apart(nb, flags=a.flags.split(), keep=True)
        print(f'{nb.name}: {"failed" if err else "ok"}, {time.time()-t:.1f} s', flush=True)
        if err: bad.append(err)
    sys.exit('\n\n'.join(bad) or 0)

if __name__ == '__main__': main()
