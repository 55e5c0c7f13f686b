"Answer spans for every template and tokenizer of the zoo: the tokens, decoded, are the answer, and one token to either side they are not"
import copy, datetime, re, unicodedata
import pytest
from hypothesis import given, settings, strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils
from persona_vectors.config import SPANS
from persona_vectors.prompts import DATE, ChatFormat, RawFormat, chat_messages, get_format, preview, rendered_system, tokenize
from persona_vectors.responses import spoken
from templates import Template, kinds, tokenizer, zoo

system,question,answer = 'You are a bard.', 'Who are you?', 'A bard.'
pairs = [(k,n) for k in kinds for n in [*zoo, None]]
each = pytest.mark.parametrize('kind,name', pairs, ids=[f'{k}-{n or "raw"}' for k,n in pairs])
def fmt(kind, name): return get_format('chat' if name else 'raw', tokenizer(kind, name))

# what each template writes, by hand: up to the end of the question; then before an answer that is asked for, before one that is there; after it

im_head = '<|im_start|>system\nYou are a bard.<|im_end|>\n<|im_start|>user\nWho are you?<|im_end|>\n'
gemma_head = '<bos><start_of_turn>user\nYou are a bard.\n\nWho are you?<end_of_turn>\n'
llama_head = ('<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\nYou are a bard.<|eot_id|>'
              '<|start_header_id|>user<|end_header_id|>\n\nWho are you?<|eot_id|>')
oss_head = ('<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06\nCurrent date: 2024-07-26\n\n'
            'Reasoning: medium\n\n# Valid channels: analysis, commentary, final. Channel must be included for every message.<|end|>'
            '<|start|>developer<|message|># Instructions\n\nYou are a bard.<|end|><|start|>user<|message|>Who are you?<|end|>')
im_turn,gemma_turn,llama_turn = '<|im_start|>assistant\n', '<start_of_turn>model\n', '<|start_header_id|>assistant<|end_header_id|>\n\n'
written = dict(
    chatml      = (im_head, im_turn, im_turn, '<|im_end|>\n'),
    llama3      = (llama_head, llama_turn, llama_turn, '<|eot_id|>'),
    gemma2      = (gemma_head, gemma_turn, gemma_turn, '<end_of_turn>\n'),
    gemma3      = (gemma_head, gemma_turn, gemma_turn, '<end_of_turn>\n'),
    mistral     = ('<s>[INST] You are a bard.\n\nWho are you?', ' [/INST]', ' [/INST] ', '</s>'),
    mistral3    = ('<s>[INST] You are a bard.\n\nWho are you?', '[/INST]', '[/INST] ', '</s>'),
    phi3        = ('<|system|>\nYou are a bard.<|end|>\n<|user|>\nWho are you?<|end|>\n', '<|assistant|>\n', '<|assistant|>\n', '<|end|>\n<|endoftext|>'),
    qwen3       = (im_head, im_turn, im_turn+'<think>\n\n</think>\n\n', '<|im_end|>\n'),
    deepseek_r1 = ('<｜begin▁of▁sentence｜>You are a bard.<｜User｜>Who are you?', '<｜Assistant｜><think>\n', '<｜Assistant｜>', '<｜end▁of▁sentence｜>'),
    deepseek_v31 = ('<｜begin▁of▁sentence｜>You are a bard.<｜User｜>Who are you?', '<｜Assistant｜></think>', '<｜Assistant｜></think>', '<｜end▁of▁sentence｜>'),
    gpt_oss     = (oss_head, '<|start|>assistant', '<|start|>assistant<|channel|>final<|message|>', '<|return|>'),
    olmo3       = (im_head.replace('bard.', 'bard. <functions></functions>'), im_turn, im_turn, '<|endoftext|>'),
    olmo3_think = (im_head, im_turn+'<think>', im_turn, '<|endoftext|>'),
    zephyr      = ('<|system|>\nYou are a bard.</s>\n<|user|>\nWho are you?</s>\n', '<|assistant|>\n', '<|assistant|>\n', '</s>\n'),
)
written[None] = ('System: You are a bard.\n\nUser: Who are you?\n\n', 'Assistant:', 'Assistant: ', '')

@each
def test_the_text(kind, name):
    "The prompt and the conversation that is read back, character by character"
    head,asks,shows,post = written[name]
    f = fmt(kind, name)
    assert f.prompt(system, question)==head+asks
    t = f.full(system, question, answer)
    assert (t.text[:t.start], t.text[t.start:t.end], t.text[t.end:])==(head+shows, answer, post)
    assert f.folds_system==(name in zoo and zoo[name].folds)
    assert system in rendered_system(f, system)

@pytest.mark.parametrize('name', ['chatml', 'gemma2', 'gemma3', 'phi3', 'olmo3', 'zephyr'])
@pytest.mark.parametrize('kind', ['smollm2', 'qwen', 'unigram'])
def test_what_was_generated_is_what_is_read(kind, name):
    "The tokens before the answer are those of the prompt"
    tok,f = tokenizer(kind, name),fmt(kind, name)
    tk = tokenize(tok, f.full(system, question, answer))
    assert tk.ids[:tk.start]==tok(f.prompt(system, question), add_special_tokens=False).input_ids

# the property

def text_of(tok, ids):
    "What `ids` stand for, the space in front of them too"
    x = tok.convert_tokens_to_ids(['a'])
    return tok.decode([*x, *ids], clean_up_tokenization_spaces=False)[1:]

def fails(kind, name, t, tk, shift=0):
    "Why the tokens of the span are not the answer's; None if they are"
    tok,z = tokenizer(kind, name),zoo.get(name, Template(''))
    ids,pre,want,post = tk.ids[tk.start+shift:tk.end+shift],t.text[:t.start],t.text[t.start:t.end],t.text[t.end:]
    markers = (*z.markers.split(), *z.tags.split())
    if z.swallows and pre.rstrip().endswith(markers): pre,want = pre.rstrip(),want.lstrip()      # the marker has the white space
    if kind=='qwen': want = unicodedata.normalize('NFC', want)
    if kind in ('llama2', 'gemma', 'unigram'): want = want.replace('▁', ' ')                     # they know no other ▁
    if kind=='llama2' and z.tags: want = re.sub(r'(</?think>)(?!</?think>|\Z)', r'\1 ', want)    # a ▁ of its own after what is one token
    own = ' ' if kind=='llama2' and pre.endswith(markers) else ''
    got = text_of(tok, ids)
    before,there,after = got.partition(own+want)
    if not there: return f'{got!r} lacks some of {want!r}'
    if not own and want in text_of(tok, ids[1:]): return f'{got!r} has a token too many in front'
    if want in text_of(tok, ids[:-1]): return f'{got!r} has a token too many at the end'
    if not (pre.endswith(before) and post.startswith(after)): return f'{got!r} is not in the text'

def said(answer):
    "An answer without the thinking that it opens with; where that ends is tested in tests/test_reasoning.py"
    return answer[slice(*spoken(answer))]

def special(kind, name): return (zoo[name].markers.split() if name else []) + ['<|im_start|>', '<|im_end|>', '<|endoftext|>']*(kind=='smollm2')

def check(kind, name, question, answer):
    "All that is asked of one conversation"
    tok,f = tokenizer(kind, name),fmt(kind, name)
    if not said(answer).strip():
        with pytest.raises(ValueError, match='the answer is empty'): f.full(system, question, answer)
        return
    t = f.full(system, question, answer)
    assert t.text[t.start:t.end]==said(answer)
    if found := [o for o in special(kind, name) if o in said(answer)]:
        with pytest.raises(ValueError, match='not read as text') as e: tokenize(tok, t)
        assert any(o in str(e.value) for o in found)
        return
    tk = tokenize(tok, t)
    assert fails(kind, name, t, tk) is None
    def text(shift): return text_of(tok, tk.ids[tk.start+shift:tk.end+shift]).strip()
    for shift in (-1,1): assert fails(kind, name, t, tk, shift) or text(shift)==text(0)          # the control; beside an `a` there may be another
    a,b,n = tk.start,tk.end,len(tk)
    assert [(o.start,o.end) for o in (tokenize(tok, t, s) for s in SPANS[:4])]==[(a,b), (a,n), (b-1,b), (a-1,a)]
    begun = tokenize(tok, t, 'thinking+answer')
    assert begun.end==b and (begun.start<=a if t.thinks is not None else begun.start==a)
    before,marked,after = preview(tok, f, system, question, answer).pieces()
    assert before+''.join(marked)+after==t.text

awkward = ['a', '.', ' leading', 'trailing \n', '\n\n both \n\n', '  ', question, f'{system}\n\n{question}', 'User: Hi\n\nAssistant: ', 'assistant\n', 'tab\there',
    '🙂', '👩‍👩‍👧 family 🙂', 'مرحبا بالعالم', 'שלום, world', 'e\u0301 and é', '日本語です', 'x'*10_000, 'A bard. '*1250, '🙂'*10_000, ' \n'*5000+'x',
    '[INST] hi [/INST]', '<end_of_turn>', '<|im_end|>', '<|eot_id|>\n', 'a <|end|> b', '</s>', '<|user|>\nHi', '<unk>', '<｜User｜>',
    '<think>hm</think>\n\nHello', 'hm\n</think>\n\nHello', '<think>cut in the mid', '<think>\n</think>', 'I <think>\n', 'a </think> b </think> c']

@each
def test_awkward_answers(kind, name):
    for o in awkward: check(kind, name, question, o)

chars = st.characters(exclude_categories=['Cs','Cc','Cn'], include_characters='\n\t')
pieces = [*(o for o in awkward if len(o)<100), *(o for z in zoo.values() for o in (z.markers+' '+z.tags).split()), system, ' ', '\n', '\n\n']
mixed = st.lists(st.one_of(st.sampled_from(pieces), st.text(chars, max_size=6)), min_size=1, max_size=6).map(''.join)
channels = '<|channel|>', '<|start|>'                                                    # what opens with one is thinking: tests/test_reasoning.py
answers = st.one_of(st.text(chars, min_size=1, max_size=60), mixed).filter(lambda o: not o.lstrip().startswith(channels))

@each
@settings(deadline=None, max_examples=40, derandomize=True, database=None)
@given(question=st.sampled_from([question, 'a', ' Say: assistant \n', 'Hi [/INST] <think>']), answer=answers)
def test_any_answer(kind, name, question, answer): check(kind, name, question, answer)

# thinking

block = '<think>\nA bard?\n</think>\n\n'
brought = dict(qwen3=im_turn+block, deepseek_r1='<｜Assistant｜>'+block, olmo3_think=im_turn+block, chatml=im_turn+block, mistral3='[/INST] '+block,
    gpt_oss='<|start|>assistant<|channel|>analysis<|message|>A bard?<|end|><|start|>assistant<|channel|>final<|message|>')
brought[None] = 'Assistant: '+block

@pytest.mark.parametrize('name', brought)
def test_thinking_is_read_and_not_averaged(name):
    "An answer that brings its thinking is read after it, as it was generated"
    t = fmt('qwen', name).full(system, question, block+answer)
    assert (t.text[:t.start], t.text[t.start:t.end], t.text[t.end:])==(written[name][0]+brought[name], answer, written[name][3])

@pytest.mark.parametrize('name', ['deepseek_r1', 'olmo3_think'])
def test_thinking_opened_by_the_prompt(name):
    "The answer goes on from the prompt, with and without the tag that opens the block; it is not opened twice"
    f = fmt('qwen', name)
    p = f.prompt(system, question)
    rest = block.removeprefix('<think>\n' if p.endswith('\n') else '<think>')+answer
    assert f.full(system, question, rest)==f.full(system, question, block+answer)
    assert f.full(system, question, rest).text.startswith(p+rest)

# what goes wrong otherwise

def naive(kind, name):
    "The answer by the usual way: the prompt's tokens are counted, and taken from those of the conversation rendered in one piece"
    tok,f = tokenizer(kind, name),fmt(kind, name)
    if name: full = tok.apply_chat_template(f.fold(chat_messages(system, question, answer)), tokenize=False)
    else: full = f.full(system, question, answer).text
    def ids(s): return tok(s, add_special_tokens=False).input_ids
    return tok.decode(ids(full)[len(ids(f.prompt(system, question)+' '*(not name))):], skip_special_tokens=True).strip()

def test_counting_the_prompts_tokens():
    assert {n for n in [*zoo, None] if naive('smollm2', n)!=answer}=={'qwen3', 'deepseek_r1', 'gpt_oss', 'olmo3_think', 'mistral3', None}

def test_the_system_text_is_not_lost():
    "Mistral's third template puts the system text in front of the last message: in a finished conversation it goes missing"
    tok,f = tokenizer('qwen', 'mistral3'),fmt('qwen', 'mistral3')
    whole = tok.apply_chat_template(f.fold(chat_messages(system, question, answer)), tokenize=False)
    assert system not in whole and system in f.full(system, question, answer).text

@pytest.mark.parametrize('name,day', [('llama3', '%d %b %Y'), ('gpt_oss', '%Y-%m-%d')])
def test_the_date_stands_still(name, day, monkeypatch):
    "The text is the same in another year, where the template alone would write another; and it says which day it is"
    class Later(datetime.datetime):
        @classmethod
        def now(cls, tz=None): return cls(2031, 3, 9)
    tok,f = tokenizer('qwen', name),fmt('qwen', name)
    now = f.full(system, question, answer)
    monkeypatch.setattr(chat_template_utils, 'datetime', Later)
    assert f.full(system, question, answer)==now and DATE.strftime(day) in rendered_system(f, '')
    alone = tok.apply_chat_template(f.fold(chat_messages(system, question)), tokenize=False, add_generation_prompt=True)
    assert Later.now().strftime(day) in alone and alone.replace(Later.now().strftime(day), DATE.strftime(day))==f.prompt(system, question)

def test_the_date_in_a_format_of_its_own():
    "The format of the date may be a variable"
    tok = copy.deepcopy(tokenizer('qwen', None))
    tok.chat_template = "{% set f='%d.%m.%Y' %}{{ strftime_now(f) }} "+one
    assert ChatFormat(tok).prompt('', question).startswith('26.07.2024 <user>')

# refusals

one = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
refused = {
    'refuses this conversation: Not today': "{{ raise_exception('Not today') }}",
    'refuses this conversation: no answers': one+"{% if messages[-1].role=='assistant' %}{{ raise_exception('no answers') }}{% endif %}",
    'shows the answer 0 times': "{% for m in messages if m.role!='assistant' %}{{ m.content }}{% endfor %}",
    'shows the answer 2 times': one+"{{ messages[-1].content if messages[-1].role=='assistant' }}",
    'shows the question 0 times': "{% for m in messages if m.role!='user' %}{{ m.content }}{% endfor %}",
    'shows the question 2 times': "{% for m in messages+messages %}{{ m.content }}{% endfor %}",
    'shows the answer before the question': "{% for m in messages|reverse %}<{{ m.role }}>{{ m.content }}{% endfor %}",
    'writes something else around this answer': "{% for m in messages %}<{{ m.role }} {{ m.content|length if m.role=='assistant' }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant >{% endif %}",
    "'foo' is undefined: use prompt_format='raw'": one+"{{ foo.bar }}",
    'writes something else after this question': one+"{% if add_generation_prompt %}<assistant>{{ '<think>' if 'Who' in messages[-1].content }}{% endif %}",
}

@pytest.mark.parametrize('why', refused)
def test_a_template_that_cannot_be_read_back_is_refused(why):
    tok = copy.deepcopy(tokenizer('qwen', None))
    tok.chat_template = refused[why]
    with pytest.raises(ValueError, match=why): ChatFormat(tok).full(system, question, answer)
    assert RawFormat(tok).full(system, question, answer)                 # what the message says helps

def test_other_refusals():
    tok = copy.deepcopy(tokenizer('qwen', 'chatml'))
    with pytest.raises(ValueError, match="no chat template: use prompt_format='raw'"): ChatFormat(tokenizer('unigram', None))
    for o in ('', ' \n', '<think>hm</think>\n', '<think>cut in the mid'):
        for n in (*zoo, None):
            with pytest.raises(ValueError, match='the answer is empty'): fmt('qwen', n).full(system, question, o)
    tok.chat_template = zoo['gpt_oss'].jinja.replace('m.thinking', 'm.nothing')
    with pytest.raises(ValueError, match='shows no thinking'): ChatFormat(tok).full(system, question, block+answer)

def test_one_of_several_templates():
    "Of named templates the default one is used"
    tok = copy.deepcopy(tokenizer('qwen', 'chatml'))
    tok.chat_template = dict(default=tok.chat_template, tool_use='{{ messages }}')
    assert ChatFormat(tok).full(system, question, answer)==fmt('qwen', 'chatml').full(system, question, answer)

def test_a_character_that_the_tokenizer_does_not_know():
    t = Tokenizer(models.WordLevel({'<unk>': 0, 'A': 1, 'bard': 2, '.': 3}, '<unk>'))
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    tok = PreTrainedTokenizerFast(tokenizer_object=t, unk_token='<unk>')
    f = RawFormat(tok)
    tk = tokenize(tok, f.full('', 'A', 'A bard.'))
    assert tok.decode(tk.ids[tk.start:tk.end])=='A bard .'
    with pytest.raises(ValueError, match="'ghost', which this tokenizer does not read as text but as <unk>"): tokenize(tok, f.full('', 'A', 'A ghost.'))
