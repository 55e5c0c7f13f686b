"""Write README.md from nbs/index.ipynb, without Quarto: python tools/readme.py [--check]

Prose stays as it is, links and pictures turned to where they lie seen from the README. Code is fenced, and so is what it printed; a table stays
a table. A picture among the outputs becomes a file in images/readme/; a Plotly figure cannot show on a README page, so put a picture
of it (`![...](images/axis.svg)`) into the prose. Hidden cells and `#| echo: false`, `#| output: false` are kept to."""
import argparse, base64, os, re, sys
from pathlib import Path
from execnb.nbio import read_nb
from fastcore.utils import str2bool
from nbdev.config import get_config
from nbdev.process import NBProcessor

pics, exts = 'images/readme', {'image/svg+xml':'svg', 'image/png':'png', 'image/jpeg':'jpg'}

def text(o): return o if isinstance(o, str) else ''.join(o)

def from_root(md, nbs):
    "`md` with its relative links, written for the folder `nbs`, as seen from above it; code is left alone"
    def one(m): return m[0] if re.match(r'[a-z]+:|/|#', m[2]) else m[1] + os.path.normpath(f'{nbs}/{m[2]}').replace(os.sep, '/')
    parts = re.split(r'(```.*?```|`[^`\n]*`)', md, flags=re.DOTALL)
    return ''.join(o if i%2 else re.sub(r'''(\]\(|\b(?:src|href)=["'])([^)"'\s]+)''', one, o) for i,o in enumerate(parts))

def fence(s, lang=''):
    ticks = '`'*max([3, *(len(o)+1 for o in re.findall('`{3,}', s))])
    return f'{ticks}{lang}\n{s.rstrip()}\n{ticks}'

def output(o, name, files):
    "One output of a cell as markdown; a picture is added to `files`"
    if o.output_type=='stream': return fence(re.sub(r'\x1b\[[0-9;]*m', '', text(o.text)))
    d = o.get('data', {})
    for mime,ext in exts.items():
        if mime in d:
            files[f'{pics}/{name}.{ext}'] = text(d[mime]).encode() if ext=='svg' else base64.b64decode(text(d[mime]))
            return f'![]({pics}/{name}.{ext})'
    if 'text/markdown' in d: return text(d['text/markdown'])
    html = text(d.get('text/html', ''))
    if '<table' in html: return re.sub(r'\s*\n\s*', '\n', re.sub(r'<style.*?</style>', '', html, flags=re.DOTALL)).strip()
    if '<script' in html: sys.exit(f'{name}: a README cannot show what needs a script; hide the output and put a picture into the prose')
    return fence(re.sub(r'\x1b\[[0-9;]*m', '', text(d['text/plain']))) if 'text/plain' in d else ''

def readme(path, nbs='nbs'):
    "The markdown for the notebook at `path` in the folder `nbs`, and the picture files it needs"
    files, parts = {}, [f'<!-- Written by tools/readme.py from {nbs}/{path.name}: edit that. -->']
    for i,c in enumerate(NBProcessor(nb=read_nb(path)).nb.cells):
        d = c.directives_
        def off(k): return not str2bool((d.get(f'{k}:') or ['true'])[0])
        if c.cell_type=='markdown':
            if not re.match(r'#+ .* -$', c.source.strip()): parts.append(from_root(c.source.strip(), nbs))
        if c.cell_type!='code' or {'hide','default_exp'} & d.keys() or off('include'): continue
        src = '\n'.join(o for o in c.source.splitlines() if not o.startswith('#|')).strip()
        if src and not off('echo'): parts.append(fence(src, 'python'))
        if not off('output'): parts += [output(o, f'cell-{i}' + f'-{j}'*(j>0), files) for j,o in enumerate(c.outputs)]
    return '\n\n'.join(o for o in parts if o) + '\n', files

def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--check', action='store_true', help='write nothing; exit 1 if what is there differs')
    check, cfg = p.parse_args().check, get_config()
    os.chdir(cfg.config_path)
    md, files = readme(cfg.nbs_path/cfg.readme_nb, cfg.nbs_path.name)
    files = {'README.md': md.encode()} | files
    stale = [o.as_posix() for o in Path(pics).glob('*') if o.as_posix() not in files]
    old = [k for k,v in files.items() if not Path(k).is_file() or Path(k).read_bytes()!=v]
    if check:
        if old or stale: sys.exit(f'not as {cfg.readme_nb} has it: {", ".join(old+stale)}. Run: python tools/readme.py')
        return print(f'README.md is as {cfg.readme_nb} has it')
    for o in stale: Path(o).unlink()
    for k in old:
        Path(k).parent.mkdir(parents=True, exist_ok=True)
        Path(k).write_bytes(files[k])
    print(f'wrote {", ".join(old) or "nothing, all was as it should be"}')

if __name__ == '__main__': main()
