"What concerns one cell leaves the others alone, what concerns all stops at once, and an endpoint without a system role gets the system text in the question"
import json, re
from collections import Counter
import pytest
from persona_vectors import PersonaVectorConfig, generate_responses
from persona_vectors.generation import endpoint
from persona_vectors.generation.answers import Unanswered
from persona_vectors.generation.endpoint import GREETING, REMEDIES
from persona_vectors.responses import load_responses
from faulty_server import everyone, no_system, not_system, of_all, refusals, too_long
from tiny import faulty, journal, lines

personas = {'default': '', 'pirate': 'You are a pirate.', 'bard': 'You are a bard.'}

@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for o,secs in dict(FIRST_BACKOFF=.01, MAX_BACKOFF=.1).items(): monkeypatch.setattr(endpoint, o, secs)

def ask(url, questions, out, personas={'a': 'x'}, **kw):
    c = PersonaVectorConfig(**dict(base_url=url, openrouter_model='echo', max_tokens=8, max_retries=1) | kw)
    return generate_responses(c, personas, questions, out, api=True)

def warnings(caplog): return [o.getMessage() for o in caplog.records if o.levelname=='WARNING']

def asked(log): return [o['item'] for o in lines(log) if o['item']!=GREETING.question]

def always(faults): return json.dumps({f'{o}!': o for o in faults})

def test_refused(tmp_path, caplog):
    "Each refused prompt is recorded as filtered after one request, the others are asked for, and a second run asks for nothing"
    withheld,log = [*refusals, 'null filter', 'safety', 'filter'],tmp_path/'log'
    qs = [q for o in withheld for q in (f'bad {o}!', f'good {o}')]
    with faulty(log, '--always', always(withheld)) as url:
        for _ in range(2):
            rs = ask(url, qs, tmp_path/'out')
            assert {r.question: r.outcome for r in rs.rows}=={q: 'filtered' if 'bad' in q else 'complete' for q in qs}
            assert sorted(asked(log))==sorted(qs) and len(lines(log))<=len(qs)+1
    assert load_responses(rs.path).rows==rs.rows
    assert {r.question for r in rs.rows if not r.text}=={f'bad {o}!' for o in [*refusals, 'null filter']}   # these two end an answer that has begun
    said, = warnings(caplog)
    assert f"moderation refused {len(refusals)} prompts, the first of persona 'a', question 'bad " in said and '\n' not in said

@pytest.mark.parametrize('first', [True, False])
def test_many_refused(first, tmp_path):
    "Also where the first thirty cells are refused, with ten requests under way"
    qs = [f'a bad one {i}' for i in range(30)]
    with faulty(tmp_path/'log', '--always', '{"bad": "azure"}') as url: rs = ask(url, [*qs, 'one'] if first else ['one', *qs], tmp_path/'out')
    assert rs.outcomes=={'filtered': 30, 'complete': 1} and len(asked(tmp_path/'log'))==31 and len(lines(tmp_path/'log'))<=32

def test_only_refused(tmp_path):
    "A run whose every prompt is refused ends well where a greeting passes, and is not asked for again"
    with faulty(tmp_path/'log', '--always', '{"bad": "azure"}') as url:
        for _ in range(2): assert ask(url, [f'a bad one {i}' for i in range(12)], tmp_path/'out').outcomes=={'filtered': 12}
    assert len(asked(tmp_path/'log'))==12 and len(lines(tmp_path/'log'))==13

@pytest.mark.parametrize('what', everyone)
def test_all_refused(what, tmp_path):
    "Where a greeting is refused as well, the run stops with the endpoint's words; nothing is recorded, and a further run asks again"
    log = tmp_path/'log'
    for n in (1,2):
        with faulty(log, '--status', what) as url:
            with pytest.raises(RuntimeError, match='refuses every prompt, even') as e: ask(url, [f'question {i}' for i in range(50)], tmp_path/'out', max_concurrent_requests=4)
        assert '\n' not in str(e.value) and not lines(journal(tmp_path/'out')) and len(lines(log))<=5*n and len(lines(log))-len(asked(log))==n
    with faulty(log) as url: assert ask(url, [f'question {i}' for i in range(50)], tmp_path/'out').outcomes=={'complete': 50}

def test_too_long(tmp_path):
    "Prompts that are too long are listed, and asked for again by the next run; the others are answered"
    log,good = tmp_path/'log',['one','two','three']
    with faulty(log, '--always', always(too_long)) as url:
        for n in (1,2):
            with pytest.raises(Unanswered) as e: ask(url, ['one', *(f'{o}!' for o in too_long), 'two', 'three'], tmp_path/'out', max_concurrent_requests=1)
            assert [r.question for r,_ in e.value.failed]==[f'{o}!' for o in too_long] and len(lines(log))==3+n*len(too_long)
    assert [o['question'] for o in lines(journal(tmp_path/'out'))]==good

@pytest.mark.parametrize('what', of_all)
@pytest.mark.parametrize('after', [0, 3])
def test_stops(what, after, tmp_path):
    "The same words, of what every request would meet: the run stops at the first, also where others passed before"
    log = tmp_path/'log'
    with faulty(log, '--status', what, '--after', after) as url:
        with pytest.raises(RuntimeError, match='refused the request') as e: ask(url, [f'question {i}' for i in range(20)], tmp_path/'out', max_concurrent_requests=1)
    status,body = of_all[what]
    assert REMEDIES[status if status!=200 else body['error']['code']] in str(e.value) and '\n' not in str(e.value)
    assert len(lines(log))==after+1 and len(lines(journal(tmp_path/'out')))==after

def test_all_too_long(tmp_path):
    "If no cell passes, it is not the prompts: the run stops"
    with faulty(tmp_path/'log', '--status', 'long openai') as url:
        with pytest.raises(RuntimeError, match='check max_tokens'): ask(url, [f'question {i}' for i in range(50)], tmp_path/'out', max_concurrent_requests=2)
    assert len(lines(tmp_path/'log'))<=12

def test_a_prompt_that_is_repeated(tmp_path):
    "An error that repeats the prompt is not judged by the prompt's own words"
    assert not endpoint.is_withheld(422, endpoint.words(dict(detail=[dict(msg='Field required', input='Was content moderation flagged?')])))

def test_contents(tmp_path):
    "Content as parts, tool calls in place of content, none, and a refusal in its own field"
    want = {'parts': ('complete','You said: parts!'), 'tool calls': ('empty',''), 'none': ('empty',''), 'refusal': ('refused','I will not.'), 'ok': ('complete','You said: ok!')}
    with faulty(tmp_path/'log', '--always', always(want)) as url: rs = ask(url, [f'{o}!' for o in want], tmp_path/'out')
    assert {r.question[:-1]: (r.outcome, r.text) for r in rs.rows}==want and len(lines(tmp_path/'log'))==5

def test_no_choices(tmp_path):
    "No choice and no reason: tried again, then listed; the others are answered"
    with faulty(tmp_path/'log', '--always', '{"odd": "error body"}') as url:
        with pytest.raises(Unanswered) as e: ask(url, ['one','odd'], tmp_path/'out')
    assert [r.question for r,_ in e.value.failed]==['odd'] and Counter(o['item'] for o in lines(tmp_path/'log'))=={'one': 1, 'odd': 2}

# no system role

def split(rs): return {(r.persona, r.question): (r.system, r.text, r.folded) for r in rs.rows}

@pytest.mark.parametrize('whose', no_system)
def test_no_system(whose, tmp_path, caplog, n=6):
    "The system text stands in front of the question, which is said once and in each answer; without a system prompt nothing changes"
    log = tmp_path/'log'
    with faulty(log, '--no-system', whose, '--latency', .02) as url: rs = ask(url, ['Who?','Why?'], tmp_path/'out', personas, max_concurrent_requests=n)
    want = {(p,q): (s, f'You said: {s}\n\n{q}' if s else f'You said: {q}', True if s else None) for p,s in personas.items() for q in ('Who?','Why?')}
    assert split(rs)==want==split(load_responses(rs.path))
    asked = lines(log)
    assert not any(o['system'] for o in asked if o['did']=='ok') and sum(bool(o['system']) for o in asked)<=min(n, 4) and len(asked)<=6+min(n, 4)
    said, = warnings(caplog)
    assert 'has no system role (' in said and '\n' not in said

def test_no_system_resumed(tmp_path):
    "A further run, with more questions, folds from the start, without trying"
    log = tmp_path/'log'
    with faulty(log, '--no-system', 'google') as url:
        ask(url, ['Who?'], tmp_path/'out', personas)
        n = len(lines(log))
        rs = ask(url, ['Who?','Why?'], tmp_path/'out', personas)
    assert [o['did'] for o in lines(log)[n:]]==['ok']*3 and [r.folded for r in rs.rows]==[None, None, True, True, True, True]

def test_mixed(tmp_path):
    "Where a system message was taken before, another that is refused stops the run, for the answers would not be of one kind"
    log = tmp_path/'log'
    with faulty(log) as url:
        ask(url, ['Who?'], tmp_path/'out', personas)
        port = int(re.search(r':(\d+)/', url)[1])
    with faulty(log, '--no-system', 'vllm', port=port) as url:
        with pytest.raises(RuntimeError, match='took system messages before, and now refuses one .400 System role not supported'):
            ask(url, ['Who?','Why?'], tmp_path/'out', personas, max_concurrent_requests=1)

@pytest.mark.parametrize('what', not_system)
@pytest.mark.parametrize('at', ['Who?','Why?'])
def test_a_system_that_passes(what, at, tmp_path, caplog):
    "An error of the server's system, once, is tried again: nothing is folded, whether it comes first or later"
    log = tmp_path/'log'
    with faulty(log, '--once', json.dumps({at: what})) as url: rs = ask(url, ['Who?','Why?'], tmp_path/'out', {'bard': 'You are a bard.'}, max_concurrent_requests=1)
    assert [r.folded for r in rs.rows]==[None]*2 and rs.outcomes=={'complete': 2} and not warnings(caplog)
    assert sorted(o['did'] for o in lines(log))==sorted([what,'ok','ok'])

def test_not_for_that(tmp_path):
    "An error in such words that folding does not mend ends the run, and nothing is folded (the control)"
    with faulty(tmp_path/'log', '--no-system', 'google', '--status', '400', '--after', 1) as url:
        with pytest.raises(RuntimeError, match='planned 400'): ask(url, ['Who?'], tmp_path/'out', {'bard': 'You are a bard.'}, max_concurrent_requests=1)
    assert [o['did'] for o in lines(tmp_path/'log')]==['no system', '400'] and not lines(journal(tmp_path/'out'))
