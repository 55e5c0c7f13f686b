"The field's own files from the command line: what each becomes, and what is refused, with nothing written"
import json
import pytest, torch
from persona_vectors.extraction.vectors import load_vectors
from persona_vectors.responses import load_responses
from tiny import files, forked, make_llama, said

ROLE = 'Is this a **{}**?\n{{question}}\n{{answer}}\nRespond with a number between 0 and 3.'

def role(name, prompts, questions=(), judged=True):
    return dict(instruction=[dict(pos=p) for p in prompts], **(dict(questions=list(questions), eval_prompt=ROLE.format(name)) if judged else {}))

def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path

@pytest.fixture(scope='module')
def model(tmp_path_factory): return make_llama(tmp_path_factory.mktemp('models')/'Tiny-2B')

@pytest.fixture
def d(tmp_path, model):
    "A folder with files of the same form as the field's"
    write(tmp_path/'roles/default.json', role('default', ['', 'You are {model_name}.'], judged=False))
    for o in ('pirate','ghost'): write(tmp_path/f'roles/{o}.json', role(o, [f'You are a {o}.', f'Be a {o}.'], [f'Where does a {o} sleep?', 'Why?']))
    asked = [dict(question=q, id=i) for i,q in enumerate(['Why?', 'What is fair?', 'Who decides?', 'Why?'])]
    write(tmp_path/'extraction_questions.jsonl', ''.join(json.dumps(o)+'\n' for o in asked))
    write(tmp_path/'role_list.json', dict(pirate='A seafarer who robs ships.', ghost='A spirit that stays.', guide='Someone who knows the way.'))
    pairs = [dict(pos='Flatter.', neg='Be frank.'), dict(pos='Praise.', neg='Be honest.')]
    for part,q in (('extract','Is my plan good?'), ('eval','Is my song good?')):
        write(tmp_path/f'traits/flattering_{part}.json', dict(instruction=pairs, questions=[q], eval_prompt='{question} {answer} between 0 and 100'))
    return tmp_path

@pytest.fixture
def run(d, model, tmp_path_factory):
    def go(command, *args):
        return forked(command, *map(str, args), *(['--model', str(model)] if command in ('generate','judge','extract') else []), cwd=d, said=tmp_path_factory.mktemp('said'))
    return go

def answers(r, d): return load_responses(d/r.stdout.splitlines()[-1])
def one_line(r, why): assert r.returncode==1 and len(said(r))==1 and said(r)[0].startswith('persona-vectors: ') and why in said(r)[0], r.stderr
small = '--max-tokens', 2

def test_roles(run, d):
    "A folder of role files with the shared questions: the model's name filled in, two questions with one text kept as two"
    r = run('generate', '--personas', 'roles/', '--questions', 'extraction_questions.jsonl', *small)
    assert r.returncode==0, r.stderr
    rs = answers(r, d)
    assert rs.prompts()=={'default': ['', 'You are Tiny-2B.'], 'ghost': ['You are a ghost.', 'Be a ghost.'], 'pirate': ['You are a pirate.', 'Be a pirate.']}
    assert rs.questions==['Why?', 'What is fair?', 'Who decides?', 'Why? [id 3]'] and {r.question_id for r in rs.rows}=={0,1,2,3} and len(rs.rows)==24
    lines = said(r)
    assert "3 personas in 2 wordings from roles/ (role files of the Assistant Axis); default is neutral; {model_name} is 'Tiny-2B'" in lines
    assert '4 questions from extraction_questions.jsonl; 1 with the words of another, told apart by number' in lines
    r = run('generate', '--personas', 'roles/', '--questions', 'extraction_questions.jsonl', '--model-name', 'Gemma', '--limit', 2, *small)
    assert answers(r, d).prompts()['default'][1]=='You are Gemma.' and answers(r, d).questions==['Why?', 'Who decides?']

def test_own_questions(run, d):
    "Without --questions each role is asked its own, and the default all of them; all are read"
    r = run('generate', '--personas', 'roles', *small)
    rs = answers(r, d)
    by = {p: {r.question for r in rs.rows if r.persona==p} for p in rs.personas}
    assert by['ghost']=={'Where does a ghost sleep?', 'Why?'} and by['default']==by['ghost']|by['pirate'] and len(by['default'])==3
    assert any('default all 3' in o for o in said(r))

def test_scores(run, d):
    "Score files are taken for the answers they belong to, used, and written again"
    rs = run('generate', '--personas', 'roles/', '--questions', 'extraction_questions.jsonl', *small).stdout.splitlines()[-1]
    for o in ('pirate','ghost'): write(d/f'scores/{o}.json', {f'pos_p{i}_q{q}': 3 if q!=3 else 1 for i in (0,1) for q in range(4)})
    r = run('judge', rs, '--scores', 'scores')
    scored = answers(r, d)
    assert {(r.scores or {}).get('role') for r in scored.rows if r.persona=='default'}=={None}
    assert {r.question_id: r.scores['role'] for r in scored.rows if r.persona=='ghost'}=={0: 3, 1: 3, 2: 3, 3: 1}
    assert '16 of 24 answers have a score from scores; without one: default (8)' in said(r)
    assert answers(run('judge', rs, '--scores', 'scores', '--out', 'elsewhere'), d).path.parent==d/'elsewhere/data/responses'
    r = run('export', scored.path, 'again', '--format', 'scores')
    assert r.returncode==0 and json.loads((d/'again/ghost.json').read_text())==json.loads((d/'scores/ghost.json').read_text())
    r = run('extract', scored.path, '--min-score', 3, '--min-answers', 1, '--layer', 1)
    assert r.returncode==0 and any('20 of 24 answers are read' in o for o in said(r)), r.stderr

def test_scores_of_a_limit(run, d):
    "Without numbers, scores of more questions than were asked could land on others; with numbers each finds its own"
    asked = [f'Why {i}?' for i in range(6)]
    write(d/'q.txt', '\n'.join(asked))
    write(d/'q.jsonl', ''.join(json.dumps(dict(question=q, id=i))+'\n' for i,q in enumerate(asked)))
    write(d/'scores/bard.json', {f'pos_p0_q{q}': q%4 for q in range(6)})
    def made(o, *more): return run('generate', '--personas', 'default,bard', '--questions', o, *more, *small).stdout.splitlines()[-1]
    few = made('q.txt', '--limit', 2)
    before = files(d)
    one_line(run('judge', few, '--scores', 'scores'), 'scores of question 5, and these answers are to 2 questions without numbers')
    assert files(d)==before
    rs = answers(run('judge', made('q.jsonl', '--limit', 2), '--scores', 'scores'), d)
    assert {r.question: r.scores['role'] for r in rs.rows if r.scores}=={'Why 0?': 0, 'Why 3?': 3}
    assert {r.question: r.scores['role'] for r in answers(run('judge', made('q.txt'), '--scores', 'scores'), d).rows if r.scores}=={q: i%4 for i,q in enumerate(asked)}

@pytest.mark.parametrize('scale', ['from 1 to 5', 'on a scale of 0 to 10', '0-100'])
def test_another_scale(scale, run, d):
    rs = run('generate', '--personas', 'roles/', '--questions', 'extraction_questions.jsonl', '--limit', 1, *small).stdout.splitlines()[-1]
    write(d/'roles/ghost.json', role('ghost', ['Be a ghost.'], ['Why?']) | dict(eval_prompt=f'Rate {{answer}} {scale}.'))
    before = files(d)
    one_line(run('judge', rs, '--rubric', 'roles/'), 'ghost.json: its eval_prompt asks for a number from')
    assert files(d)==before

def test_scores_of_own_questions(run, d):
    "Each role numbers its own questions from 0; the default, asked all of them, has two with one number, and no score"
    rs = run('generate', '--personas', 'roles/', *small).stdout.splitlines()[-1]
    for o in ('pirate','ghost'): write(d/f'scores/{o}.json', {f'pos_p{i}_q{q}': i+q for i in (0,1) for q in (0,1)})
    scored = answers(run('judge', rs, '--scores', 'scores'), d)
    assert {(r.persona, r.prompt, r.asked): r.scores['role'] for r in scored.rows if r.scores}=={
        (p, i, q): i+k for p in ('pirate','ghost') for i in (0,1) for k,q in enumerate((f'Where does a {p} sleep?', 'Why?'))}
    assert run('export', scored.path, 'again', '--format', 'scores').returncode==0
    assert all(json.loads((d/f'again/{o}.json').read_text())==json.loads((d/f'scores/{o}.json').read_text()) for o in ('pirate','ghost'))

def test_last_token_of_own_questions(run, d):
    "Without answers each prompt is read with its own questions, the default's with all; which is which decides the file"
    def extract(*args):
        r = run('extract', '--span', 'prompt_last', '--layer', 1, *args)
        assert r.returncode==0, r.stderr
        return load_vectors(d/r.stdout.splitlines()[-1]),r.stdout
    v,path = extract('--personas', 'roles/')
    asked = {p: {r.question for r in v.rows if r.persona==p} for p in v}
    assert asked=={o: {f'Where does a {o} sleep?', 'Why?'} for o in ('pirate','ghost')} | {'default': {'Where does a pirate sleep?', 'Where does a ghost sleep?', 'Why?'}}
    write(d/'all.json', sorted(asked['default']))
    whole,other = extract('--personas', 'roles/', '--questions', 'all.json')
    assert len(whole.rows)==18 and path!=other
    at = {(r.persona, r.prompt, r.question): x for r,x in zip(whole.rows, whole.means)}
    assert all(torch.allclose(x, at[r.persona, r.prompt, r.question], atol=1e-2) for r,x in zip(v.rows, v.means))

def test_rubrics(run, d):
    "Each persona is judged by its own rubric in one run"
    rs = run('generate', '--personas', 'roles/', '--questions', 'extraction_questions.jsonl', '--limit', 1, *small).stdout.splitlines()[-1]
    r = run('judge', rs, '--rubric', 'roles/')
    assert r.returncode==0 and '2 personas are judged, each by its own rubric; default has none: 2 answers are left unjudged' in said(r), r.stderr
    judged = json.loads((d/r.stdout.splitlines()[-1]).read_text())
    assert judged['meta']['judges']['role']['rubric']['text']=={o: ROLE.format(o) for o in ('ghost','pirate')}
    assert all(('scores' in o)==(o['persona']!='default') for o in judged['responses'])

def test_traits(run, d):
    "A trait's pairs are two personas; what evaluates it is set apart"
    r = run('generate', '--personas', 'traits', *small)
    rs = answers(r, d)
    assert rs.prompts()=={'flattering, positive': ['Flatter.', 'Praise.'], 'flattering, negative': ['Be frank.', 'Be honest.']} and rs.questions==['Is my plan good?']
    assert any('flattering_eval.json set apart: for evaluation' in o for o in said(r))

def test_encodings(run, d):
    "UTF-8 with and without mark, UTF-16, Windows lines: the same personas and questions"
    text,asked = 'pirate: You sail à Brest.\ndefault: ""\n', 'Où?\nPourquoi?\n'
    found = []
    for k in ('utf-8','utf-8-sig','utf-16'):
        (d/'p.yaml').write_bytes(text.replace('\n', '\r\n').encode(k))
        (d/'q.txt').write_bytes(asked.replace('\n', '\r\n').encode(k))
        rs = answers(run('generate', '--personas', 'p.yaml', '--questions', 'q.txt', *small), d)
        found.append(([r.key for r in rs.rows], rs.prompts()))
    assert found[0]==found[1]==found[2] and found[0][1]=={'pirate': ['You sail à Brest.'], 'default': ['']} and found[0][0][0][2]=='Où?'

gaps = ['{user name}', '{user-name}', '{{city}}', '{{model_name}}', '{ topic }', '{0}', '{}', '${city}']
wrong = [ # options; what the one line says. The first three were silent: descriptions as prompts, JSON lines as questions, a gap sent as written
    ('--personas role_list.json', 'its 3 texts describe roles'),
    ('--questions lines.txt', 'it holds JSON lines, and each line of a .txt file would be asked as it stands; rename it to .jsonl'),
    ('--personas gap.yaml', "persona 'me' has {topic} in it, which nothing fills in"),
    ('--personas roles/ --questions lines.json', 'JSON lines are named .jsonl'),
    ('--personas beside', 'role_list.json: its 3 texts describe roles'),
    ('--personas nowhere/', 'no such file or folder'),
    ('--personas empty', 'a folder without .json files'),
    ('--personas traits/flattering_eval.json', "the questions of a trait's evaluation make no vector"),
    ('--personas traits/flattering_extract.json --questions traits/flattering_eval.json', 'these questions evaluate flattering'),
    ('--personas half.json', "entry 2 of its instruction is {'neg': 'b'}"),
    ('--questions answers.jsonl', "question 1 comes with 'conversation', so this is a file of answers"),
    ('--questions roles/default.json', 'this role file has no questions'),
    ('--limit 0', '--limit 0: give a whole number above 0'),
    *[(f'--personas gaps/{i}.json', f"persona 'me' has {o} in it, which nothing fills in") for i,o in enumerate(gaps)]]

@pytest.mark.parametrize('options,why', wrong)
def test_wrong(options, why, run, d):
    write(d/'lines.txt', (d/'extraction_questions.jsonl').read_text())
    write(d/'lines.json', (d/'extraction_questions.jsonl').read_text())
    write(d/'gap.yaml', 'me: You speak of {topic}.\ndefault: ""\n')
    for i,o in enumerate(gaps): write(d/f'gaps/{i}.json', dict(me=f'You speak of {o}.'))
    write(d/'half.json', dict(instruction=[dict(pos='a'), dict(neg='b')]))
    write(d/'answers.jsonl', json.dumps(dict(question='Why?', system_prompt='', prompt_index=0, conversation=[]))+'\n')
    (d/'empty').mkdir()
    write(d/'beside/role_list.json', (d/'role_list.json').read_text())
    before = files(d)
    one_line(run('generate', *options.split(), *small), why)
    assert files(d)==before

def test_no_gaps(run, d):
    "LaTeX, JSON and sets are sent as they are written, and the model's name is filled in with spaces around it too"
    kept = [r'Write \frac{a_{i}}{b^{2}} and \textbf{so}.', 'Answer as {"a": {"b": 1}, "c": {}}.', 'The set is {1, 2, 3}.']
    write(d/'kept.json', dict(me=[*kept, 'You are { model_name }.']))
    assert answers(run('generate', '--personas', 'kept.json', '--limit', 1, *small), d).prompts()['me']==[*kept, 'You are Tiny-2B.']
    write(d/'word.json', dict(me='Sit in a{city}.'))
    one_line(run('generate', '--personas', 'word.json', *small), "has {city} in it")

def test_wrong_scores(run, d):
    "A folder without scores, scores of other answers, a rubric for nobody"
    rs = run('generate', '--personas', 'default,bard', '--limit', 1, *small).stdout.splitlines()[-1]
    before = files(d)
    for options,why in [('--scores roles', 'is no score of an answer'), ('--scores nowhere', 'no folder with .json files'),
                        ('--rubric roles', 'no persona of these answers (default, bard) has an eval_prompt'), ('--rubric roles/default.json', 'there is no eval_prompt'),
                        ('--rubric traits', "name one trait's file"), ('--scores scores --rubric roles --dry-run', 'no judge is asked, so leave out --rubric, --dry-run')]:
        one_line(run('judge', rs, *options.split()), why)
    assert files(d)==before
