"Readings that hold something constant: one text under every prompt, and the last token of the prompt, where there is no text"
import re
import pytest, torch
from tiny import cli, make_llama, said
from templates import kinds, tokenizer, zoo
from persona_vectors import ActivationExtractor, PersonaVectorConfig, extract_persona_vectors, load_vectors, shipped_responses
from persona_vectors.analysis.controls import SHIPPED, first_tokens, last_prompt_token, prompt_baselines, shipped_readings, untrained_twin
from persona_vectors.config import data_dir
from persona_vectors.extraction.extractor import RULES, cached_vectors, vectors_file
from persona_vectors.models import EMBEDDED
from persona_vectors.personas import PERSONAS
from persona_vectors.prompts import get_format, tokenize, unanswered
from persona_vectors.responses import Response, Responses
from persona_vectors.selection import Unanswered, select

prompts,qs = {'default': '', 'bard': 'You are a bard.', 'ghost': ['You are a ghost.', 'You haunt.']},['Who are you?', 'Why?']

def answers(**texts):
    "Answers of every persona to both questions, 'Yes.' or what `texts` says"
    return Responses([Response(p, q, texts.get(p, f'I, {p}, say {len(q)}.'), s, i)
                      for p,ss in prompts.items() for i,s in enumerate([ss] if isinstance(ss, str) else ss) for q in qs])

@pytest.fixture(scope='module')
def folder(tmp_path_factory): return make_llama(tmp_path_factory.mktemp('model')/'m')

def extractor(folder, **kw): return ActivationExtractor(PersonaVectorConfig(model_name=str(folder), dtype='float32', device='cpu', **kw))

@pytest.fixture(scope='module')
def ex(folder): return extractor(folder)
@pytest.fixture(scope='module')
def last(folder): return extractor(folder, span='prompt_last')

def close(a, b): return torch.allclose(a, b, rtol=1e-4, atol=1e-5)

# keys

def test_stored_keys_are_what_they_were():
    "The tracked files are still found by their keys, and none of these holds `read_text`"
    ex,sel = ActivationExtractor(PersonaVectorConfig(model_name='smollm2-135m-instruct', dtype='float32')),select(shipped_responses())
    assert RULES==3
    for layers,under,name in (([0,20], None, 'a189b3fd'), ([20], 'default', 'a3b819c2')):
        key = ex.cache_key(sel, layers, under)
        assert 'read_text' not in key and vectors_file('', key).name==f'smollm2-135m-instruct-{name}.safetensors'
        meta = load_vectors(data_dir()/'persona_vectors'/vectors_file('', key)).meta
        assert {k: meta[k] for k in key}==key and 'read_text' not in meta

def test_the_key_holds_read_text_only_when_given(ex, last):
    sel = select(answers())
    plain,held = ex.cache_key(sel, [1]),ex.cache_key(sel, [1], None, 'bard')
    assert held=={**plain, 'read_text': 'bard'} and ex.cache_key(sel, [1], read_text=None)==plain
    assert last.cache_key(sel, [1])=={**plain, 'span': 'prompt_last'}                       # with answers, as it was before
    assert last_prompt_token(ex).cache_key(sel, [1])==last.cache_key(sel, [1])
    assert first_tokens(ex, 2).cache_key(sel, [1], None, 'bard')=={**held, 'span': 'answer, first 2 tokens'}
    assert untrained_twin(ex).cache_key(sel, [1], read_text='bard')['read_text']=='bard'

# one text

def test_every_prompt_over_one_text(ex):
    v = extract_persona_vectors(ex, responses=answers(), layer=1, read_text='bard', progress=False)
    by_hand = [Response(p, q, f'I, bard, say {len(q)}.', s, i) for p,ss in prompts.items() for i,s in enumerate([ss] if isinstance(ss, str) else ss) for q in qs]
    assert [(r.persona, r.question, r.prompt, r.sample) for r in v.rows]==[(r.persona, r.question, r.prompt, r.sample) for r in by_hand]
    assert close(v.means, extract_persona_vectors(ex, responses=Responses(by_hand), layer=1, progress=False).means)
    own = extract_persona_vectors(ex, responses=answers(), layer=1, progress=False)
    assert close(v['bard'], own['bard']) and not close(v['ghost'], own['ghost'])
    assert v.meta['read_text']=='bard' and 'read_text' not in own.meta
    texts = {r.n_tokens for r in v.rows if r.question==qs[0]}
    assert len(texts)==1 < len({r.n_tokens for r in own.rows if r.question==qs[0]})         # one text has one length

def test_samples_and_wordings_of_the_text(ex):
    "All samples under the first prompt, the same for every persona, however many answers that has"
    rs = Responses([Response('ghost', 'Why?', 'Boo.', 'You are a ghost.'), Response('ghost', 'Why?', 'Hoo.', 'You are a ghost.', sample=1),
                    Response('ghost', 'Why?', 'Other.', 'You haunt.', 1), Response('default', 'Why?', 'So.', '')])
    rows = select(rs).over_text_of('ghost')
    assert [(r.persona, r.prompt, r.sample, r.text) for r in rows]==[
        (p, i, n, t) for p,i in (('ghost',0), ('ghost',1), ('default',0)) for n,t in enumerate(('Boo.', 'Hoo.'))]

def test_a_question_without_the_text_is_left_out_in_one_line(ex, caplog):
    rows = [r for r in answers().rows if (r.persona,r.question)!=('bard','Why?')] + [Response('bard', 'Why?', 'No.', prompts['bard'], finish_reason='refusal')]
    caplog.set_level('INFO', 'persona_vectors')
    v = extract_persona_vectors(ex, responses=Responses(rows), layer=1, read_text='bard', progress=False)
    assert v.questions==['Who are you?'] and list(v)==list(prompts)
    assert [o for o in caplog.messages if 'not read' in o]==["1 of 2 questions are not read: 'bard' has no answer to them, the first is 'Why?'"]
    assert len(extract_persona_vectors(ex, responses=Responses(rows), layer=1, read_text='ghost', progress=False).questions)==2      # who refused has this text

@pytest.mark.parametrize('kw,says', [(dict(read_text='imp'), "read_text='imp' is not a persona with answers here: there are default, bard, ghost"),
    (dict(read_text='bard', read_under='bard'), "read_under='bard' and read_text='bard': then nothing differs between personas, so give one")])
def test_refused(ex, kw, says):
    with pytest.raises(ValueError) as e: extract_persona_vectors(ex, responses=answers(), layer=1, progress=False, **kw)
    assert str(e.value)==says

def test_from_its_file(ex, tmp_path, monkeypatch):
    sel = select(answers())
    v,path = cached_vectors(ex, sel, [1], tmp_path, read_text='bard')
    monkeypatch.setattr(ActivationExtractor, 'read_rest', None)
    again,same = cached_vectors(ex, sel, [1], tmp_path, read_text='bard')
    assert same==path and torch.equal(again.means, v.means) and again.meta['read_text']=='bard'
    with pytest.raises(TypeError): cached_vectors(ex, sel, [1], tmp_path)                     # the control: another reading has a file of its own
    assert not any(str(tmp_path) in str(o) for k,o in v.meta.items() if k!='model')

# the last prompt token

def states(folder, ids, layer):
    "Hidden states of the whole conversation by transformers alone"
    from transformers import AutoModelForCausalLM
    with torch.no_grad(): return AutoModelForCausalLM.from_pretrained(folder)(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer][0]

def test_the_prompt_alone_gives_what_the_whole_conversation_gave(folder, last):
    v = extract_persona_vectors(last, responses=answers(), layer=1, progress=False)
    for x,r in zip(v.means[:,0], answers().rows):
        t = tokenize(last.tokenizer, last.format.full(r.system, r.question, r.text))
        h = states(folder, t.ids, 1)
        assert close(x, h[t.start-1]) and not close(x, h[t.start-2]) and not close(x, h[t.start])      # the controls are one token off
    assert all(len(t.ids)==t.end==t.start+1 for t in last.conversations(answers().rows))               # nothing behind it is read

def test_no_answers_are_needed(last):
    v = extract_persona_vectors(last, prompts, qs, layer=1, progress=False)
    given = extract_persona_vectors(last, responses=answers(bard='<think>Hm.</think>1', default='x'*20000), layer=1, progress=False)
    assert [(r.persona, r.question, r.prompt, r.n_tokens) for r in v.rows]==[(r.persona, r.question, r.prompt, 1) for r in given.rows]
    assert torch.equal(v.means, given.means)
    assert v.meta['responses'] is None and v.meta['span']=='prompt_last' and given.meta['responses']

@pytest.mark.parametrize('kw,says', [({}, 'without answers, name the personas and the questions'), (dict(personas=prompts), 'name the personas and the questions'),
    (dict(personas=prompts, questions=qs, min_score=2), 'there are no answers to select from: leave min_score out'),
    (dict(responses=answers(), read_text='bard'), "read_text='bard': with span='prompt_last' no answer is read, so leave it out")])
def test_what_needs_answers_is_refused(last, kw, says):
    with pytest.raises(ValueError, match=re.escape(says)): extract_persona_vectors(last, layer=1, progress=False, **kw)

def test_other_spans_need_answers(ex):
    with pytest.raises(ValueError, match='responses is a NoneType: give'): extract_persona_vectors(ex, prompts, qs, layer=1, progress=False)

@pytest.mark.parametrize('name', [*zoo, None])
@pytest.mark.parametrize('kind', kinds)
def test_for_every_template(kind, name):
    "The tokens up to the last of the prompt are those of the whole conversation, whatever stands there for thinking"
    tok = tokenizer(kind, name)
    f = get_format('chat' if name else 'raw', tok)
    t = tokenize(tok, unanswered(f, 'You are a bard.', 'Who are you?'), 'prompt_last')
    for answer in ('A bard.', 'Yes, and so on.'):
        whole = tokenize(tok, f.full('You are a bard.', 'Who are you?', answer))
        assert t.ids==whole.ids[:whole.start] and t.ids!=whole.ids[:whole.start-1] and (t.start, t.end)==(len(t.ids)-1, len(t.ids))

def test_where_prompt_and_conversation_differ():
    "The token in front of the answer as it is read: behind an empty block of thinking, and not in one that the prompt has opened"
    def end(name):
        tok = tokenizer('smollm2', name)
        f = get_format('chat', tok)
        ids = tokenize(tok, unanswered(f, 'You are a bard.', 'Who are you?'), 'prompt_last').ids
        return tok.decode(ids).endswith('</think>\n\n'),'<think>' in tok.decode(ids),f.prompt('You are a bard.', 'Who are you?').rstrip().endswith('<think>')
    assert end('qwen3')==(True, True, False) and end('deepseek_r1')==(False, False, True) and end('chatml')==(False, False, False)

# the words of the prompts

def test_prompt_baselines():
    got = prompt_baselines(prompts)
    assert list(got)==['TF-IDF of the prompts', 'length of the prompts', 'characters of the prompts', 'function words of the prompts']
    for v in got.values():
        assert list(v)==list(prompts) and v.questions==['the system prompt'] and v.layers==[None] and v.meta['kind']=='prompt_text'
    one,two = (prompt_baselines({**prompts, 'ghost': s})['length of the prompts']['ghost'] for s in prompts['ghost'])
    assert torch.allclose(got['length of the prompts']['ghost'], (one+two)/2) and not torch.equal(one, two)      # wordings are averaged

# the command line

def test_the_command_line(folder, tmp_path):
    answers().save(tmp_path/'answers.json')
    base = '--model', folder, '--dtype', 'float32', '--layer', '1'
    one = cli('extract', 'answers.json', *base, '--read-text', 'default', cwd=tmp_path)
    assert one.returncode==0 and load_vectors(tmp_path/one.stdout.strip()).meta['read_text']=='default', one.stderr
    (tmp_path/'p.json').write_text('{"default": "", "bard": "You are a bard."}')
    (tmp_path/'q.txt').write_text('Who are you?\nWhy?\n')
    none = cli('extract', *base, '--span', 'prompt_last', '--personas', 'p.json', '--questions', 'q.txt', cwd=tmp_path)
    v = load_vectors(tmp_path/none.stdout.strip())
    assert none.returncode==0 and (list(v), v.questions, v.meta['span'])==(['default','bard'], qs, 'prompt_last'), none.stderr

@pytest.mark.parametrize('args,says', [('extract', 'only --span prompt_last needs none'), ('extract --span prompt_last --shard 1/2', 'go with a responses file'),
    ('extract --span prompt_last --keep refused', '--keep: there are no answers to select from'), ('run --span prompt_last', 'no answer in it')])
def test_refused_in_one_line(args, says, tmp_path):
    r = cli(*args.split(), cwd=tmp_path)
    assert r.returncode==1 and len(said(r))==1 and says in said(r)[0] and not r.stdout and not list(tmp_path.iterdir())

def test_questions_decide_where_no_answer_does():
    "Without answers the questions are in the key; with answers they are in the answers' hash, and the key is as it was"
    ex = ActivationExtractor(PersonaVectorConfig(model_name=EMBEDDED, span='prompt_last'))
    keys = [ex.cache_key(Unanswered(PERSONAS, qs), [20]) for qs in (['Who?','Why?'], ['Other?','Where?'], ['Who?','Why?'])]
    assert vectors_file('d', keys[0])!=vectors_file('d', keys[1]) and keys[0]==keys[2]
    assert 'questions' not in ex.cache_key(select(shipped_responses()), [20])

def test_shipped_prompt_readings_have_their_keys():
    "What comes with the package is found under the key that would make it again"
    v = shipped_readings()['the last prompt token']
    ex = ActivationExtractor(PersonaVectorConfig(model_name=EMBEDDED, span='prompt_last', dtype='bfloat16'))
    key = ex.cache_key(Unanswered(v.meta['prompts'], v.questions), [20])
    assert vectors_file('d', key).name.endswith(SHIPPED['the last prompt token']+'.safetensors')
    assert {k: v.meta.get(k) for k in key}==key

def test_one_prompt_before_no_answer_is_refused():
    ex = ActivationExtractor(PersonaVectorConfig(model_name=EMBEDDED, span='prompt_last'))
    with pytest.raises(ValueError, match='nothing differs between personas'): extract_persona_vectors(ex, PERSONAS, ['Who?'], read_under='default')
