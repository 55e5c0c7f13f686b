"""Follow every link of the built site that stays within it, to pages, anchors and assets, and name what is loaded from elsewhere:
python tools/check_links.py [_docs]"""
import re, sys
from pathlib import Path
from urllib.parse import unquote, urlsplit
from bs4 import BeautifulSoup

def loads(tag): return tag.name in ('script', 'img', 'source', 'iframe') or tag.name=='link' and 'stylesheet' in tag.get('rel', [])

def check(docs, site=None):
    "What is wrong with the links of the pages in `docs`, one line each; links to `site`, where it will be published, count as its own"
    docs = Path(docs).resolve()
    soups = {o: BeautifulSoup(o.read_text(encoding='utf-8'), 'html.parser') for o in sorted(docs.rglob('*.html'))}
    ids = {o: {t.get('id') or t['name'] for t in s.select('[id], a[name]')} for o,s in soups.items()}
    bad, n = [], 0
    for page,soup in soups.items():
        bad += [f'{page.relative_to(docs)}: {o} is no link: a name in backticks links itself' for o in re.findall(r'\]\([^)\s]*\.ipynb[^)]*\)', soup.get_text())]
        for tag in soup.select('[href], [src]'):
            url = tag.get('href') or tag.get('src')
            if site and url.startswith(site): target, frag = docs/unquote(urlsplit(url[len(site):].lstrip('/')).path), urlsplit(url).fragment
            else:
                u = urlsplit(url)
                if u.scheme or u.netloc:
                    if loads(tag) and u.scheme!='data': bad.append(f'{page.relative_to(docs)}: loads {url} from elsewhere')
                    continue
                target, frag = page.parent/unquote(u.path) if u.path else page, u.fragment
            n += 1
            target = target.resolve()
            if target.is_dir(): target /= 'index.html'
            if docs not in target.parents: bad.append(f'{page.relative_to(docs)}: {url} leads out of the site')
            elif not target.is_file(): bad.append(f'{page.relative_to(docs)}: {url} is not there')
            elif frag and target in ids and unquote(frag) not in ids[target]: bad.append(f'{page.relative_to(docs)}: {url} has no such anchor')
    return bad, n

def main():
    docs = Path(sys.argv[1] if len(sys.argv)>1 else '_docs')
    site = None
    if Path('settings.ini').exists():
        from nbdev.config import get_config
        site = get_config().doc_host + get_config().doc_baseurl
    bad, n = check(docs, site)
    if not n: sys.exit(f'{docs}: no links, so no site')
    if bad: sys.exit('\n'.join(bad))
    print(f'{n} links within {docs} lead somewhere')

if __name__ == '__main__': main()
