"""Build the site in `_docs/` from the notebooks, without Quarto and without anything it would fetch from elsewhere: python tools/build_docs.py

nbdev turns the notebooks into `_proc/` as for Quarto, smalldocs renders that; the rest of this file is what differs between the two:
a page is called `config.html`, not `00_config.html`, as nbdev's own links expect; formulas become MathML and figures load the one
plotly.js that lies beside the pages, so that the site works offline."""
import html, json, os, re, shutil, subprocess, sys
from pathlib import Path
from tempfile import TemporaryDirectory
import plotly, yaml
from latex2mathml.converter import convert
from nbdev.config import get_config
from nbdev.doclinks import _nbpath2html
from nbdev.quarto import refresh_quarto_yml
from nbdev.serve import proc_nbs
from persona_vectors.config import data_dir
from persona_vectors.extraction.vectors import shipped_vectors
from persona_vectors.look import save_still

CHAPTERS = ['generation', 'extraction', 'analysis', 'steering', 'experiments']      # in reading order

def sidebar(nbs):
    "The site's sidebar in reading order: the index, the ground floor, the chapters, and what stands on all of them"
    def of(folder): return sorted(o.relative_to(nbs).as_posix() for o in (nbs/folder).glob('[0-9]*.ipynb'))
    ground,top = ([o for o in of('.') if (o>='9')==up and not o.startswith('00')] for up in (False,True))
    sections = [('Ground floor', ground), *((o.capitalize(), of(o)) for o in CHAPTERS[:-1]), ('On top', top), (CHAPTERS[-1].capitalize(), of(CHAPTERS[-1]))]
    return yaml.safe_dump(dict(website=dict(sidebar=dict(contents=['index.ipynb', *(o for o in of('.') if o.startswith('00')),
        *(dict(section=k, contents=v) for k,v in sections)]))), sort_keys=False)

def page_name(path): return _nbpath2html(Path(path)).with_suffix('.ipynb').as_posix()

def rename_links(text, names):
    "`text` with links to the notebooks in `names` going to what they are called on the site"
    return re.sub(r'[\w.-]+\.ipynb', lambda m: names.get(m[0], m[0]), text)

def rename_cell(cell, names):
    "Rename links in prose, and leave out the one front matter key that smalldocs does not know"
    if cell['cell_type']=='raw': cell['source'] = [o for o in cell['source'] if not o.startswith('output-file:')]
    if cell['cell_type']=='markdown': cell['source'] = [re.sub(r'\]\([^)]*\)', lambda m: rename_links(m[0], names), o) for o in cell['source']]

def stage(proc, dest):
    "Copy `proc` to `dest`, every notebook under the name of its page"
    shutil.copytree(proc, dest, ignore=shutil.ignore_patterns('_docs'))
    nbs = list(dest.rglob('*.ipynb'))
    names = {o.name: page_name(o.name) for o in nbs}
    for o in nbs:
        nb = json.loads(o.read_text(encoding='utf-8'))
        for c in nb['cells']: rename_cell(c, names)
        o.unlink()
        new = o.with_name(names[o.name])
        if new.exists(): sys.exit(f'{o.name}: another notebook has the page {new.name} already')
        new.write_text(json.dumps(nb), encoding='utf-8')
    side = dest/'sidebar.yml'
    side.write_text(rename_links(side.read_text(encoding='utf-8'), names), encoding='utf-8')

def mathml(page):
    "`page` with its formulas as MathML, and without the script that would have drawn them"
    def one(m):
        tex = html.unescape(m[2])[2:-2]                         # between \( and \), or \[ and \]
        res = convert(tex, display='block' if m[1]=='display' else 'inline')
        unknown = re.search(r'\\+[a-zA-Z]*', res)
        if unknown: sys.exit(f'latex2mathml does not know {unknown[0]} in the formula {tex}')
        return res
    page = re.sub(r'<span class="math (inline|display)">(.*?)</span>', one, page, flags=re.DOTALL)
    page = re.sub(r'<link [^>]*katex[^>]*>', '', page)
    return re.sub(r'<script [^>]*katex[^>]*></script>', '', page)

def local_plotly(page, up):
    "`page` with one local plotly.js before its first figure, in place of those from elsewhere, and without Plotly's MathJax"
    page = re.sub(r'<script src="[^"]*/mathjax/[^"]*"></script>', '', page)
    loader = re.compile(r'<script [^>]*src="https://cdn\.plot\.ly/[^"]*"[^>]*></script>')
    page = loader.sub(f'<script src="{up}plotly.min.js"></script>', page, count=1)
    return loader.sub('', page)

def local_links(page, up, site, ids):
    "`page` with nbdev's links to the published site made relative; to the page alone where a name has no entry of its own"
    def one(m):
        path,_,anchor = m[1].partition('#')
        path = path.strip('/') or 'index.html'
        return f'href="{up}{path}' + (f'#{anchor}"' if anchor in ids.get(path, ()) else '"')
    return re.sub(rf'(?<=<a )href="{re.escape(site)}/?([^"]*)"', one, page)

def plain_code(page, site):
    "`page` without the markdown links to the site that nbdev writes into signatures, where they are only text"
    link = re.compile(rf'\[`([^`\]]+)`\]\({re.escape(site)}[^)\s]*\)')
    return re.sub(r'<pre[^>]*>.*?</pre>', lambda m: link.sub(r'\1', m[0]), page, flags=re.DOTALL)

def finish(docs, site):
    "Make the rendered pages in `docs` complete in themselves"
    pages = {o.relative_to(docs).as_posix(): o.read_text(encoding='utf-8') for o in docs.rglob('*.html') if 'site_libs' not in o.parts}
    ids = {k: set(re.findall(r'\bid="([^"]+)"', v)) for k,v in pages.items()}
    for k,v in pages.items():
        up = '../'*k.count('/')
        (docs/k).write_text(local_links(local_plotly(plain_code(mathml(v), site), up), up, site, ids), encoding='utf-8')
    if any('plotly.min.js' in (docs/k).read_text(encoding='utf-8') for k in pages):
        shutil.copy(Path(plotly.__file__).parent/'package_data'/'plotly.min.js', docs)

def main():
    cfg = get_config()
    os.chdir(cfg.config_path)
    refresh_quarto_yml()                    # nbs/nbdev.yml from settings.ini
    (cfg.nbs_path/'sidebar.yml').write_text(sidebar(cfg.nbs_path))      # tracked, so that nbdev_docs makes the same
    proc = proc_nbs(cfg.nbs_path, force=True)
    with TemporaryDirectory() as tmp:
        tmp = Path(tmp).resolve()/'site'
        stage(proc, tmp)
        r = subprocess.run(['smalldocs', 'render', '-q', str(tmp)], capture_output=True, text=True)
        # two lines of the stock _quarto.yml are for Quarto alone
        print(''.join(f'{o}\n' for o in r.stderr.splitlines() if 'commonmark' not in o and 'keep-md' not in o), end='', file=sys.stderr)
        if r.returncode: sys.exit(r.returncode)
        docs = tmp/cfg.doc_path.name
        finish(docs, cfg.doc_host + cfg.doc_baseurl)
        save_still(shipped_vectors(), docs/'explore.html', data_dir()/'reports'/'smollm2-135m-instruct-layer-20.csv')
        shutil.rmtree(cfg.doc_path, ignore_errors=True)
        shutil.move(docs, cfg.doc_path)
    print(f'{len(list(cfg.doc_path.rglob("*.html")))} pages in {cfg.doc_path.name}/')

if __name__ == '__main__': main()           # proc_nbs starts processes that import this file again
