"Answers through a real OpenAI-compatible server on this machine: `transformers serve` with the embedded model"
import asyncio, json, signal, subprocess, sys, time
from pathlib import Path
from urllib.request import urlopen
import pytest
from persona_vectors import EMBEDDED, EVAL_QUESTIONS, PERSONAS, PersonaVectorConfig, find_model, generate_responses
from persona_vectors.generation.answers import agenerate_responses
from persona_vectors.responses import load_responses
from tiny import env, final, free_port, journal, lines, script, stop, until

pytest.importorskip('fastapi', reason='needs transformers[serving], which [dev] brings')
personas = {p: PERSONAS[p] for p in ('default','bard')}

class Server:
    "`transformers serve` on the loopback, from when it says that it is well until `stop`"
    def __init__(self, folder):
        self.log,self.model,port = folder/'log', find_model(EMBEDDED).path, free_port()
        self.url = f'http://127.0.0.1:{port}/v1'
        cmd = [Path(sys.executable).with_name('transformers'), 'serve', self.model, *f'--device cpu --dtype float32 --host 127.0.0.1 --port {port}'.split()]
        with open(self.log, 'w') as f: self.p = subprocess.Popen(cmd, cwd=folder, env=env(HF_HOME=str(folder)), stdout=f, stderr=subprocess.STDOUT)
        try: self.wait(port)
        except BaseException:
            self.stop()
            raise
    def wait(self, port, secs=120):
        end = time.monotonic()+secs
        while True:
            if self.p.poll() is not None or time.monotonic()>end: pytest.fail(f'the server did not start:\n{self.log.read_text()}')
            try: return urlopen(f'http://127.0.0.1:{port}/health', timeout=5).read()
            except OSError: time.sleep(.1)
    @property
    def asked(self): return self.log.read_text().count('[Request received]')
    def still(self):
        "`asked` once nothing more comes in"
        n = None
        while n!=(n := self.asked): time.sleep(.5)
        return n
    def stop(self):
        self.p.terminate()
        try: self.p.wait(10)
        except subprocess.TimeoutExpired: self.p.kill()
    def config(self, **kw): return PersonaVectorConfig(base_url=self.url, openrouter_model=self.model, max_concurrent_requests=2, max_tokens=12, **kw)

@pytest.fixture(scope='module')
def server(tmp_path_factory):
    s = Server(tmp_path_factory.mktemp('server'))
    yield s
    s.stop()

def test_inside_a_running_loop(server, tmp_path):
    "As in Jupyter: the function is called from a coroutine, and does not mind"
    async def main(): return generate_responses(server.config(), dict(default=''), EVAL_QUESTIONS[4:6], tmp_path, api=True)
    rs = asyncio.run(main())
    assert [r.question for r in rs.rows]==EVAL_QUESTIONS[4:6] and all(r.text.strip() for r in rs.rows)

def test_awaited(server, tmp_path):
    "The one to be awaited, beside other work of the same loop"
    async def main():
        rs = asyncio.create_task(agenerate_responses(server.config(), dict(default=''), EVAL_QUESTIONS[6:8], tmp_path))
        ticks = 0
        while not rs.done(): ticks += await asyncio.sleep(.05, 1)
        return rs.result(),ticks
    rs,ticks = asyncio.run(main())
    assert [r.question for r in rs.rows]==EVAL_QUESTIONS[6:8] and all(r.text.strip() for r in rs.rows) and ticks>2

in_a_loop = '''import asyncio, sys
from persona_vectors import PersonaVectorConfig, generate_responses
from persona_vectors.generation.answers import agenerate_responses
config = PersonaVectorConfig(base_url=sys.argv[2], openrouter_model=sys.argv[3], max_tokens=12, max_concurrent_requests=2)
async def main():
    if sys.argv[1]=='awaited': await agenerate_responses(config, 'default,bard', 'q.json')
    else: generate_responses(config, 'default,bard', 'q.json', api=True)
asyncio.run(main())'''

@pytest.mark.parametrize('how', ['console', 'awaited', 'called'])
def test_killed(how, server, tmp_path):
    "Twelve answers by the console script, and within a running event loop: killed after three and started again, what was on the disk is not asked for"
    (tmp_path/'q.json').write_text(json.dumps(EVAL_QUESTIONS[8:14]))
    words = f'--max-tokens 12 --max-concurrent-requests 2 --base-url {server.url} --api-model {server.model}'
    cmd = [script, *f'generate --personas default,bard --questions q.json {words}'.split()] if how=='console' else [sys.executable, '-c', in_a_loop, how, server.url, server.model]
    out,before = tmp_path/'data/responses', server.still()
    p = subprocess.Popen(cmd, cwd=tmp_path, env=env(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: len(lines(journal(out)))>=3, p)
    assert stop(p, signal.SIGKILL)==-signal.SIGKILL
    n,kept = server.still(), lines(journal(out))
    assert 3<=len(kept)<=n-before<=len(kept)+2<12 and final(out) is None            # at most two were under way
    assert subprocess.run(cmd, cwd=tmp_path, env=env(), capture_output=True).returncode==0
    rs = load_responses(final(out))
    assert server.asked-n==12-len(kept) and len(rs.rows)==12 and journal(out) is None
    assert {(r.persona, r.question): r.text for r in rs.rows}.items() >= {(o['persona'], o['question']): o['text'] for o in kept}.items()

def test_judged_by_own_rubrics(server, tmp_path):
    "Each persona by the rubric of its own role file, in one run of the console script; the neutral one has none"
    for p in personas:
        own = {} if p=='default' else dict(eval_prompt='Is this by a {}? {{question}} {{answer}} Respond with a number between 0 and 3.'.format(p))
        (tmp_path/'roles').mkdir(exist_ok=True)
        (tmp_path/f'roles/{p}.json').write_text(json.dumps(dict(instruction=[dict(pos=personas[p])], **own)))
    rs = generate_responses(server.config(), personas, EVAL_QUESTIONS[14:16], tmp_path, api=True)
    before = server.still()
    cmd = [script, 'judge', rs.path, '--rubric', 'roles/', '--base-url', server.url, '--api-model', server.model]
    r = subprocess.run(cmd, cwd=tmp_path, env=env(), capture_output=True, text=True)
    assert r.returncode==0 and '1 persona is judged, each by its own rubric; default has none: 2 answers are left unjudged' in r.stderr, r.stderr
    judged = load_responses(r.stdout.split()[-1])
    assert server.asked-before==2 and [set(o.scores or ()) for o in judged.rows]==[set(),set(),{'role'},{'role'}]

def test_raw(server, tmp_path):
    "Plain text goes to the completions endpoint, and stops where a user's turn would begin"
    rs = generate_responses(server.config(prompt_format='raw'), dict(default=''), EVAL_QUESTIONS[:2], tmp_path, api=True)
    assert all(r.text.strip() and 'User:' not in r.text and r.finish_reason in ('stop','length') for r in rs.rows)
    assert server.log.read_text().count('POST /v1/completions')==2

def test_generates_and_asks_once(server, tmp_path):
    "Eight answers, each with how it ended, in a file that says where they came from; once they are there, no server is needed"
    before = server.asked
    def generate(): return generate_responses(server.config(), personas, EVAL_QUESTIONS[:4], tmp_path, api=True)
    rs = generate()
    assert [(r.persona,r.question) for r in rs.rows] == [(p,q) for p in personas for q in EVAL_QUESTIONS[:4]]
    assert all(r.text.strip() and r.finish_reason in ('stop','length') and r.system==personas[r.persona] for r in rs.rows)
    assert len({r.text for r in rs.rows})==8 and server.asked-before==8
    d = json.loads(rs.path.read_text())
    assert [p.name for p in tmp_path.iterdir()]==[rs.path.name] and len(d['responses'])==8
    assert d['meta']['settings']['endpoint']==server.url and d['meta']['settings']['max_tokens']==12
    server.stop()
    with pytest.raises(OSError): urlopen(server.url, timeout=5)                     # the control: it is gone
    assert generate().rows==rs.rows
