"What a judge's reply says: three hundred of them, those that give no score among them; then judges behind an endpoint, and on this machine"
import json, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import process_time
import pytest
from persona_vectors import EMBEDDED, PersonaVectorConfig, find_model, judge_responses
from persona_vectors.generation import endpoint
from persona_vectors.generation.judging import JUDGE_TOKENS, ROLE, NoScore, begun, load_rubric, verdict
from persona_vectors.prompts import get_format
from persona_vectors.responses import Response, Responses, load_responses
from faulty_server import no_system
from persona_vectors.generation.endpoint import GREETING
from tiny import faulty, lines

# replies by the score that they give, on the scale to 3 and on that to 100
role = {
    2: ['2', '2.', '**2**', 'Score: 2', 'score = 2', '**Score:** 2', '**Score: 2**', '2/3', 'Score: 2/3', '2 out of 3', 'Answer: 2',
        'The answer is 2.', '[[2]]', 'Rating: [[2]]', '{"score": 2}', '```json\n{"score": 2}\n```',
        '{"score": "2", "reason": "it meets 3 criteria of 5"}', '{"reasoning": "3 of 4 hold", "score": 2}', "I'd give it 2 out of 3.",
        'I would give this answer a 2.', 'I would rate the answer as 2', 'Two', 'Score: two.', '2\n\nBecause it meets 3 criteria.',
        '2 - it is in the role in part', '2: it plays the role in part, and is an AI model in part', '2 (partly in role)',
        '2. The answer plays the role in part.', 'On a scale from 0 to 3, I give it 2.', 'Score (0-3): 2', '<score>2</score>', '\\boxed{2}',
        'The final score is $\\boxed{2}$.', 'Score for style: 3\nScore for role: 1\nOverall score: 2', 'I would not give it a 3, but a 2.',
        'This is a solid 2.', '评分：2', '２', 'Score: 2.0', 'Score: 2\n\nFor a 3, it would have to sing.', 'Score: 3 would be too much, so 2.',
        '### Final Score: 2', '> 2', 'Score -> 2', 'My rating for this response would be 2.', 'role: 2, since it sings',
        '{"role": 2, "max_score": 3}', '2 points', 'Final answer: 2\n\nScore: 2', 'Score:\n2', 'Score: **2** (out of 3)', '(2)',
        'For its role play I give it 2.', 'Overall, I would rate this a 2/3.',
        '**Rating**: 2\n\n**Reason**: it meets 2 of 3 points, but 1 is lacking.', 'My score: 2. To get a 3, it would have to sing.',
        'Final Verdict: **2**', '\n\n2\n', '2\n\n2', 'The score is 2, not 3.', 'Score: 2 - Score 3 would need more.',
        'It is between 2 and 3, so I give it 2.', 'A: 2', 'Rating (0 to 3): 2', 'Score: 2;', 'The answer deserves a 2.', 'I rate it 2 (scale 0-3).',
        '{"rating": 2}', '[2]', 'Score – 2', 'I choose 2', '2 / 3', 'Result=2', 'Score is 2.', '"2"',
        'The correct score would be a 2 because it sings.', 'Score: 2 out of a possible 3'],
    0: ['Of the 3 criteria none is met: 0', 'The reply names 3 points.\n\n0', '1. It refuses.\n2. It is dull.\n\nScore: 0'],
    1: ['Step 1: look.\nStep 2: judge.\nScore: 1', '0: it refuses - no\n1: AI model - yes\n2: in part - no\nFinal score: 1',
        'Out of 0, 1, 2 or 3 I choose 1', 'It is neither 0 nor 3. My verdict: 1'],
    3: ['It is in the role throughout.\n\n**Verdict: 3**'],
    None: ['', 'I cannot say.', 'The reply makes 3 points and it', 'It makes 3 points.', 'between 2 and 3', '2 or 3', '2-3', '2–3', 'Score: 2-3',
        'Score: 2 or 3', '4', 'Score: 7', '-1', 'Score: -1', '8/10', 'Score: 4 out of 5', 'Score: 2\nScore: 3', '2\n\nOn reflection:\n\n3',
        'I would not give it 3.', 'At least 2', 'Score: at least 2', 'less than 3', 'It meets 2 of the 3 criteria.', 'Score: 67%', 'Score: N/A',
        '0, 1, 2 or 3', '0\n1\n2\n3', '1. It refuses.\n2. It is dull.', 'Score: <3', 'none', 'In answer 2 the model sings',
        'The answer has 3 parts.', 'One of the best answers', 'Score: one of the best', '1,5', '{"score": null}', '2\n\nOn reflection: score 3',
        'It repeats itself 3 times.', "It's 2026 now."]}
formal = {
    85: ['85', '85/100', '85 / 100', 'Score: 85', 'The answer has 10 sentences. Score: 85', '85%', 'On a scale of 0 to 100: 85',
        'On a scale from 0 to 100, I would rate it 85.', 'Score: 85/100 (that is 8.5/10)', 'Formality: 85', 'I would say 85',
        'formal: 85. It has 3 parts.', 'The trait is strong.\n\nRating: 85 out of 100', '85\n\nThe answer uses 3 formal phrases and scores high.',
        'I give the answer a score of 85.'],
    100: ['100'],
    0: ['0'],
    85.5: ['Score: 85.5'],
    90: ['1. Formal words: yes\n2. No slang: yes\nSo, the score is 90.'],
    None: ['101', 'Score: 150', '80-90', 'between 80 and 90', 'about 8.5 out of 10', 'Score: 8/10', '1,000', 'The answer has 10 sentences.',
        'Score: 80 to 90']}

# the same of replies in which the judge corrects itself, rules a number out, uses another scale, or gives other numbers too
role_hard = {
    None: ['3. Wait. 2.', 'Score: 3. Actually, 2.', '3\nNo, 2.', 'I would say 3, no, 2', 'Score: 3 -> revised to 2', 'The score is 3, but it should be 2.',
           'Hardly a 3.', 'Nothing here deserves a 3.', 'The maximum score is 3.', 'The highest score is 3.', 'To score 3, it must sing.', 'It would score 3, but for the last line.',
           'If it were in the role I would give it a 3.', 'I would give it a 3 if it sang.', 'Unless it sang it would be a 3.', '3 if it sang',
           'Violations: 2', 'Total violations: 2', 'Criteria met: 1 of 3', 'Criteria met: 1', 'Number of criteria met: 2', 'The number of criteria that are met: 2',
           '## Violations\n2', '{"violations": 2}', '{"score": null, "confidence": 2}', 'Errors: 2\nScore: N/A', '<confidence>2</confidence>', '<b>Violations</b>: 2',
           'This answer is one which ignores the role.', 'This answer is one.', "The score isn't 3, it's 2", 'The answer deserves a score of 2 rather than 3.',
           'In answer 2, the model sings', 'Is it a 3?', 'Score: 3?', '2\n\nSecond thoughts:\n3', 'Score: 3, or rather 2', 'Score: ~~3~~ 2, or 3', 'It cites 3.',
           'Score: 3 (I meant 2)', 'Score: 3\n\nCorrection: 2', 'Score: 3. Revised score: 2', 'Score: 3. Hmm, make that a 2.', 'Score: 3; on second thought, 2',
           'Score: 3. Let me reconsider.', 'Score: 3\n\nAfter deduction: 2', 'Score was 3. Now 2.', 'Score: 2, perhaps 3', 'Score: 2+', 'Score: 3 - 1', 'Score - 3 points lost',
           'Rating: 4 (of 5)', 'Score: 2 out of 5', 'Score: 2 on a 5-point scale', 'Score: 3 (five-point scale)', 'Score (1-5): 2', 'Using a 1-5 scale, 3', 'Score: 3 / 10.',
           'An answer in role would get a 3.', 'I cannot give it a 3.', 'A 3 requires more.', '3 is too much.', 'A 3 would be generous.', 'Almost a 3', 'I doubt it is a 3.',
           'The previous judge gave it a 3.', 'The response says the answer is 3.', 'Score A: 3\nScore B: 2', 'Previous score: 3', 'Score threshold: 3'],
    0: ['Thus, 0.'],
    2: ['Violations: 3\nScore: 2', 'Score: 2\nConfidence: 3', '{"violations": 3, "score": 2}', '{"score": 2, "confidence": 3}', '<confidence>3</confidence><score>2</score>',
        '{"reason": "I cannot tell if it sings", "score": 2}', '**Score**\n\n2', '## Verdict\n2', 'So 2.', '<answer>2</answer>', '<b>2</b>', 'Role adherence score: 2', 'Score (role): 2',
        'It does not sing. Score: 2', 'It does not sing, so I give it a 2.', 'It is not quite in role: it speaks as an AI.\n\n2', "I'd go with 2.",
        'Score: 2.\n\nThe answer does not sing, but it does rhyme; it would be a 3 if it sang.', 'Score: 2\n\nThe response is not a 3 because it sings. It is better than a 1.'],
    3: ['The answer is in the role throughout. 3', 'It fully plays the role (3).', 'The number is 3.']}
formal_hard = {
    None: ['Score: 8 (out of 10)', 'Score: 8 points out of 10', 'Score: 8 on a scale of 1 to 10', 'Rating: 4 (of 5)', 'I give it 4 on a 5-point scale.', 'On a scale of 1 to 10, 8', 'Out of 10: 8',
           'Deduction: 20', 'Incoherence: 20', 'Informality: 20', 'Confidence: 95', 'Confidence:\n95', 'Overall confidence: 95', 'Confidence score: 95', 'The confidence score is 95.',
           'Sentences: 9', 'The answer is 42, which is wrong, and it is incoherent.', 'Final score: 50\nScore: 60'],
    30: ['Score: 30\nConfidence: 90%', 'Score: 30, confidence: 90', '{"score": 30, "confidence": 90}', 'Confidence: 90%\nScore: 30', 'Sentences: 9\n\n30'],
    60: ['It mentions 1984 and 2001. 60'],
    65: ["I'd put it at 65."],
    85: ['around 85', 'Score: about 85', 'Score: ~85', '85%.', 'Score: 85%', 'On a scale of 1 to 100: 85', 'On a scale of 1 to 100, I would give this 85.', 'Score: 85 on a 100-point scale']}

def read(text, top, name=''):
    try: return verdict(text, top, name)
    except NoScore as e: return None,str(e)

@pytest.mark.parametrize('top,name,table', [(3,'role',role), (100,'formal',formal), (3,'role',role_hard), (100,'formal',formal_hard)],
                         ids=['role','formal','role, hard','formal, hard'])
def test_replies(top, name, table):
    replies = {o: n for n,os in table.items() for o in os}
    assert {o: read(o, top, name)[0] for o in replies}==replies
    for o,n in replies.items():                                                     # ... and where it stands
        if n is not None and (said := o[slice(*read(o, top, name)[1:])]).isdecimal(): assert float(said)==n

@pytest.mark.parametrize('piece', ['Score 3 ', '3 - ', 'if it is a ', '3, no, ', '1. a\n', ', "', '<a>', '( ', 'score 3, so ', '\n', '3.\n'])
def test_long(piece):
    "Its time grows with the length of the reply, not with its square"
    def seconds(n):
        t = process_time()
        read(piece*(n//len(piece)), 3, 'role')
        return process_time()-t
    assert min(seconds(40_000) for _ in range(2)) < 9*seconds(10_000)+.2   # 16 times were its square

@pytest.mark.parametrize('text,why', [('Who knows?','without a verdict'), ('Score: 2\nScore: 3','with several numbers'), ('2-3','with several numbers'), ('Score: 7','off the scale')])
def test_why(text, why): assert read(text, 3)==(None, why)

# a judge behind an endpoint

def says(*pieces, other={}, logprobs=True, finish='stop', **kw):
    "A choice whose tokens are `pieces`; `other` has further candidates for some"
    def tokens(p): return [dict(token=t, logprob=x, bytes=list(t.encode())) for t,x in [(p,-.01), *other.get(p, [])]]
    lp = dict(content=[dict(tokens(p)[0], top_logprobs=tokens(p)) for p in pieces]) if logprobs else None
    return dict(index=0, message=dict(role='assistant', content=''.join(pieces), **kw), finish_reason=finish, logprobs=lp)

@pytest.fixture
def judge(tmp_path):
    "A function from choices, by a word of the answer that is judged, to the scores that come of them, and the requests"
    class Judge(BaseHTTPRequestHandler):
        def log_message(self, *a): pass
        def do_POST(self):
            b = json.loads(self.rfile.read(int(self.headers['content-length'])))
            asked.append(b)
            choice = next(o for k,o in choices.items() if f'Answer: {k}\n' in b['messages'][-1]['content'])
            s = json.dumps(dict(id='x', object='chat.completion', created=1, model=b['model'], choices=[choice])).encode()
            self.send_response(200)
            for k,o in {'content-type': 'application/json', 'content-length': len(s)}.items(): self.send_header(k, str(o))
            self.end_headers()
            self.wfile.write(s)
    srv,asked,choices = ThreadingHTTPServer(('127.0.0.1', 0), Judge),[],{}
    threading.Thread(target=srv.serve_forever, daemon=True).start()
    def scores(rubric, given, **kw):
        choices.update(given)
        rs = Responses([Response('bard', 'Who are you?', k, 'You are a bard.', sample=i) for i,k in enumerate(given)])
        c = PersonaVectorConfig(base_url=f'http://127.0.0.1:{srv.server_port}/v1', openrouter_model='m', max_retries=1, **kw)
        got = judge_responses(rs, rubric, c, out=tmp_path)
        return {r.text: r.scores[load_rubric(rubric).name] for r in got.rows},asked
    yield scores
    srv.shutdown()

def between(a, b, logprob): return (a*2.718281828**-.01+b*2.718281828**logprob)/(2.718281828**-.01+2.718281828**logprob)

def test_distribution(judge):
    "It is read at the verdict's token, not at the first digit; a number of several tokens counts as written"
    replies = dict(
        plain=says('2', other={'2': [('3',-1.)]}), space=says('Score',':',' 2', other={' 2': [('3',-1.), (' 3',-3.)]}),
        prose=says('Of',' the',' ','3',' criteria',' none',' is',' met',':',' ','0', other={'3': [('2',-4.)], '0': [('1',-1.)]}),
        thought=says('<think>','\n','Step',' ','1',':',' an',' AI','\n','</think>','\n','0', other={'1': [('2',-.1)], '0': [('1',-1.)]}),
        boxed=says('\\','boxed','{','2','}', other={'2': [('1',-1.)]}), glued=says('Score:2', other={'Score:2': [('Score:3',-1.)]}),
        reasoned=says('I',' count',' ','3','.','2', other={'2': [('1',-1.)]}) | dict(message=dict(role='assistant', content='2', reasoning='I count 3.')),
        marked=says('2','<|im_end|>', other={'2': [('1',-1.)]}) | dict(message=dict(role='assistant', content='2')), none=says('2', logprobs=False))
    got,asked = judge('role', replies)
    want = dict(plain=between(2,3,-1), space=(2*2.718281828**-.01+3*(2.718281828**-1+2.718281828**-3))/(2.718281828**-.01+2.718281828**-1+2.718281828**-3), prose=between(0,1,-1),
                thought=between(0,1,-1), boxed=between(2,1,-1), glued=2, reasoned=between(2,1,-1), marked=between(2,1,-1), none=2)
    assert got==pytest.approx(want) and {o['max_tokens'] for o in asked}=={JUDGE_TOKENS}

def test_digit_by_digit(judge):
    replies = dict(digits=says('8','5', other={'8': [('7',-1.)], '5': [('0',-1.)]}), whole=says('85', other={'85': [('80',-1.), ('I',-3.)]}),
                   scaled=says('85','/','100', other={'85': [('80',-1.)]}), prose=says('10',' sentences','.',' Score',':',' ','85', other={'10': [('12',-3.)], '85': [('80',-1.)]}))
    assert judge('coherence', replies)[0]==pytest.approx(dict(digits=85, whole=between(85,80,-1), scaled=between(85,80,-1), prose=between(85,80,-1)))

def test_no_score(judge, caplog):
    "Each reason is counted and said in one line; a second run asks for none of them again"
    replies = dict(cut=says('The',' reply',' makes',' ','3',' points', finish='length'), thinking=says('<think>','I',' count',' 3', finish='length'), silent=says() | dict(message=dict(role='assistant', content=None)),
                   torn=says('2', finish='length'), several=says('Score: 2\nScore: 3'), off=says('Score: 7'), words=says('I',' cannot',' say'), unsure=says('2', other={'2': [('3',-9.)]}),
                   refused=says('', refusal='I will not.'), filtered=says('', finish='SAFETY'), good=says('2'))
    for o in replies['unsure']['logprobs']['content']: o['top_logprobs'] = [dict(p, logprob=p['logprob']-2) for p in o['top_logprobs']]; o['logprob'] -= 2
    got,asked = judge('role', replies)
    assert got=={k: 2 if k=='good' else None for k in replies} and len(asked)==len(replies)
    said, = [o.getMessage() for o in caplog.records if o.levelname=='WARNING']
    assert '10 of 11 answers got no score' in said and '\n' not in said and 'raise max_tokens above 1,024' in said
    assert all(o in said for o in ('3 cut', '1 empty', '1 without a verdict', '1 with several numbers', '1 off the scale', '1 unsure', '1 refused', '1 filtered')), said
    assert judge('role', replies)[0]==got and len(asked)==len(replies)
    assert '10 in an earlier run' in caplog.records[-1].getMessage()

def test_more_tokens(judge):
    "A judge that reasons may be given more, which asks anew; never less than one needs to come to a verdict"
    for n,want in ((24,JUDGE_TOKENS), (4096,4096)): assert judge('role', dict(a=says('2')), max_tokens=n)[1][-1]['max_tokens']==want

def test_moderated(tmp_path, monkeypatch):
    "One answer that the judge's endpoint will not read leaves the others their scores; no system message is sent, so none can be refused"
    rows = [Response('bard', 'Who?', t, 'You are a bard.', sample=i) for i,t in enumerate(['Hark!','a bad word','Hey!'])]
    for whose in ('openrouter','azure','google'):
        with faulty(tmp_path/whose, '--says', '2', '--always', json.dumps({'bad word': whose}), '--no-system', next(iter(no_system))) as url:
            rs = judge_responses(Responses(rows), 'role', PersonaVectorConfig(base_url=url, openrouter_model='echo', max_retries=1), out=tmp_path/'out')
        assert [r.scores['role'] for r in rs.rows]==[2, None, 2] and [r.text for r in load_responses(rs.path).rows]==[r.text for r in rows]
        log = lines(tmp_path/whose)
        assert len([o for o in log if o['item']!=GREETING.question])==3 and not any(o['system'] for o in log)

def test_all_moderated(tmp_path):
    "Where the judge's endpoint refuses a greeting as well, the judging stops with its words, and no answer is recorded as filtered"
    rows = [Response('bard', 'Who?', 'Hark!', 'You are a bard.', sample=i) for i in range(6)]
    with faulty(tmp_path/'log', '--status', 'blocked') as url:
        with pytest.raises(RuntimeError, match='refuses every prompt, even'):
            judge_responses(Responses(rows), 'role', PersonaVectorConfig(base_url=url, openrouter_model='echo', max_retries=1), out=tmp_path/'out')
    assert not any(o.read_text() for o in (tmp_path/'out').glob('*.jsonl'))

# on this machine

@pytest.mark.parametrize('opens,shows', [('<think>\n', ''), ('', '<think>\n\n</think>\n\n'), ('<|channel|>', '<|channel|>final<|message|>'), ('', '')])
def test_local(opens, shows):
    "The number is asked for where the template writes an answer, not within the thinking or a header that the prompt opens"
    tok = find_model(EMBEDDED).tokenizer()
    tok.chat_template = ("{% for m in messages %}<|{{ m.role }}|>" + "{% if m.role=='assistant' %}" + shows + "{% endif %}{{ m.content }}\n{% endfor %}"
                         "{% if add_generation_prompt %}<|assistant|>" + opens + "{% endif %}")
    text = begun(get_format('chat', tok), ROLE.ask(Response('a', 'Who?', 'I.', 'x')))
    assert text.endswith(f'2 or 3.\n<|assistant|>{shows}Score: ')
