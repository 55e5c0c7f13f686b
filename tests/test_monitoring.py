"The turns of a conversation for every template and tokenizer of the zoo, and streaming on tiny models of every architecture"
import re
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from transformers import AutoModelForCausalLM
from persona_vectors.analysis.axis import Direction
from persona_vectors.steering.monitoring import Monitor
from persona_vectors.prompts import as_messages, conversation_tokens, get_format, thinking
from templates import kinds, tokenizer, zoo
from test_architectures import L, configs

pairs = [(k,n) for k in kinds for n in [*zoo, None]]
each = pytest.mark.parametrize('kind,name', pairs, ids=[f'{k}-{n or "raw"}' for k,n in pairs])
def fmt(kind, name): return get_format('chat' if name else 'raw', tokenizer(kind, name))
def msg(*texts, system=None): return [dict(role='system', content=system)]*bool(system) + [dict(role='assistant' if i%2 else 'user', content=o) for i,o in enumerate(texts)]

talk = msg('Who are you?', 'A bard.', 'a', 'Who are you? A bard.', 'A bard.', 'a')       # what is said is said again: to search for it would find another
block = '<think>\nA bard?\n</think>\n\n'

def check(kind, name, msgs):
    "Each message has its own place, and the text before the last answer is what the template makes of the messages before it"
    tok,f = tokenizer(kind, name),fmt(kind, name)
    text,at = f.conversation(msgs)
    assert [text[a:b].strip() for a,b in at]==[m['content'].strip() for m in msgs]
    assert all(b<=a for (_,b),(a,_) in zip(at, at[1:]))
    if name and msgs[-1]['role']!='assistant': assert text==tok.apply_chat_template(f.fold(msgs), chat_template=f.template, tokenize=False, add_generation_prompt=True)
    return text,at

@each
@pytest.mark.parametrize('system', [None, 'You are a bard.'])
def test_one_turn_is_as_prompts_has_it(kind, name, system):
    f = fmt(kind, name)
    one = f.full(system or '', 'Who are you?', 'A bard.')
    text,at = f.conversation(msg('Who are you?', 'A bard.', system=system))
    assert (text,at[-1])==(one.text,(one.start,one.end))

@each
def test_many_turns(kind, name):
    text,at = check(kind, name, talk)
    asked,before = check(kind, name, talk[:-1])
    assert before==at[:-1] and asked[:at[-2][1]]==text[:at[-2][1]]
    _,spans = conversation_tokens(tokenizer(kind, name), fmt(kind, name), talk)
    assert all(a[1]<=b[0] for a,b in zip(spans, spans[1:]))

@each
def test_with_a_system_prompt(kind, name):
    "Mistral's third template moves the system text to the last question: that is refused, and nothing else is"
    msgs = msg('Who are you?', 'A bard.', 'a', 'Who are you?', system='You are a bard.')
    if name!='mistral3': check(kind, name, msgs)
    else:
        with pytest.raises(ValueError, match="out of its order: use prompt_format='raw'"): fmt(kind, name).conversation(msgs)

@pytest.mark.parametrize('name', [*zoo, None])
def test_thinking(name):
    "Of the last turn it is read and not part of the turn; of an earlier one it is that too, or refused where the template drops it"
    f,drops = fmt('qwen', name),('qwen3', 'deepseek_r1', 'deepseek_v31')
    text,at = f.conversation(msg('Who are you?', 'A bard.', 'a', block+'Who?'))
    assert text[slice(*at[-1])]=='Who?' and 'A bard?' in text[at[-2][1]:at[-1][0]]
    earlier = msg('Who are you?', block+'A bard.', 'a', 'Who?')
    if name in drops:
        with pytest.raises(ValueError, match=r'message 1 \(assistant\) opens with thinking, which the chat template leaves out'): f.conversation(earlier)
    else: assert [f.conversation(earlier)[0][a:b] for a,b in f.conversation(earlier)[1]]==['Who are you?', 'A bard.', 'a', 'Who?']

@pytest.mark.parametrize('name', [*zoo, None])
def test_white_space(name):
    "A template may trim what came before; the last answer is word for word"
    text,at = check('qwen', name, msg(' Who? ', '\nA bard.\n', 'a ', ' b \n'))
    assert text[slice(*at[-1])]==' b \n'

pieces = st.sampled_from(['a', 'Who?', ' ', '\n\n', '<|im_end|>', '[/INST]', '<think>', '</think>', 'MESSAGE0STANDS', 'User:', '{{ x }}', 'Answer:'])
anything = st.lists(pieces, min_size=1, max_size=5).map(''.join).filter(str.strip)

@pytest.mark.parametrize('name', [*zoo, None])
@settings(deadline=None, max_examples=40, derandomize=True, database=None)
@given(texts=st.lists(anything, min_size=2, max_size=5, unique=True))
def test_anything_said(name, texts):
    "Whatever is said, each message has its place, or the reason why not is one of those that are known (unique: the zoo's Qwen 3 takes like messages for one another)"
    f,msgs = fmt('qwen', name),msg(*texts)
    try: text,at = f.conversation(msgs)
    except ValueError as e:
        assert re.search('the answer is empty|opens with thinking|changes the text of message', str(e))
        return
    for m,(a,b) in zip(msgs, at):
        n = thinking(m['content']) if m['role']=='assistant' else 0
        assert text[a:b].strip()==m['content'][n:].strip()
    if name and msgs[-1]['role']!='assistant': assert text==tokenizer('qwen', name).apply_chat_template(f.fold(msgs), chat_template=f.template, tokenize=False, add_generation_prompt=True)

# streaming

@pytest.mark.parametrize('arch', [o for o in configs if o!='gemma3'])
def test_streaming(arch):
    "Values while an answer is written are those of one forward over it, at every layer; shifted by a token they are not"
    tok = tokenizer('qwen', 'chatml')
    cfg = configs[arch]()
    cfg.vocab_size = len(tok)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(cfg, dtype=torch.float32).eval()
    for p in model.parameters(): p.data += .1*torch.randn_like(p)
    m = Monitor(model, tok, {f'{k}': Direction(torch.randn(cfg.hidden_size), 'random', k, arch) for k in range(L+1)})
    out = list(m.stream(talk[:-1], 12, temperature=5.))
    prompt = m._tokens_of(as_messages(talk[:-1]))[0].ids
    got = np.array([list(t.projections.values()) for t in out])
    want = m.project(prompt+[t.id for t in out])
    assert len(out)>3 and abs(got-want[len(prompt):]).max() < 1e-5*abs(want).max()
    assert abs(got-want[len(prompt)-1:-1]).max() > 1e-3*abs(want).max()
    assert out==list(m.stream(talk[:-1], 12, temperature=5.)) and out!=list(m.stream(talk[:-1], 12, temperature=5., seed=1))

# calls of tools

head = '''{%- if tools %}<|im_start|>system\n{{ messages[0].content if messages[0].role=='system' else 'You help.' }}\n# Tools\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|im_end|>\n
{%- elif messages[0].role=='system' %}<|im_start|>system\n{{ messages[0].content }}<|im_end|>\n{% endif %}'''
turn = "{{ '<|im_start|>' + m.role + '\n' + m.content }}<|im_end|>\n"
like_qwen = head + '''{%- for m in messages if m.role!='system' %}{% if m.role=='tool' %}{% if messages[messages.index(m)-1].role!='tool' %}<|im_start|>user{% endif %}
<tool_response>\n{{ m.content }}\n</tool_response>{% if loop.last or loop.nextitem.role!='tool' %}<|im_end|>\n{% endif %}
{%- elif m.tool_calls %}<|im_start|>assistant{{ '\n' + m.content if m.content }}{% for c in m.tool_calls %}\n<tool_call>\n{{ c.function | tojson }}\n</tool_call>{% endfor %}<|im_end|>\n
{%- else %}TURN{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}'''.replace('TURN', turn)
like_llama = head + '''{%- for m in messages if m.role!='system' %}{% if m.role=='tool' %}<|im_start|>ipython\n{{ m.content | tojson }}<|im_end|>\n
{%- elif m.tool_calls %}{% if m.tool_calls|length!=1 %}{{ raise_exception('one call at a time') }}{% endif %}<|im_start|>assistant\n{{ m.tool_calls[0].function | tojson }}<|im_end|>\n
{%- else %}TURN{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}'''.replace('TURN', turn)

def calling(*names, content=None): return dict(role='assistant', content=content, tool_calls=[dict(id=o, type='function', function=dict(name=o, arguments='{"herb": "basil"}')) for o in names])
def agent(*middle, tools=True):
    first = dict(role='user', content='Say a') | (dict(tools=[dict(type='function', function=dict(name='look_up'))]) if tools else {})
    return as_messages([first, *middle, dict(role='assistant', content='a'), dict(role='user', content='a?'), dict(role='assistant', content='Say a')])
def read_by(template, msgs):
    tok = tokenizer('qwen', 'chatml')
    kept,tok.chat_template = tok.chat_template,template
    try: text,at = get_format('chat', tok).conversation(msgs)
    finally: tok.chat_template = kept
    return text,[text[a:b] for a,b in at]

@pytest.mark.parametrize('template', [like_qwen, like_llama], ids=['qwen', 'llama'])
@pytest.mark.parametrize('tools', [True, False])
def test_calls_are_rendered(template, tools):
    text,said = read_by(template, agent(calling('look_up'), dict(role='tool', content='{"sun": "6 h"}', tool_call_id='look_up'), tools=tools))
    assert said[0]=='Say a' and said[1]=='' and 'sun' in said[2] and said[3:]==['a', 'a?', 'Say a']
    assert text.count('basil')==1 and ('# Tools' in text)==tools
    assert text.index('Say a') < text.index('basil') < text.index('6 h') < text.index(said[2]) + len(said[2]) < text.rindex('Say a')

def test_what_a_template_does_not_show_of_a_call_is_named():
    assert read_by(like_qwen, agent(calling('look_up', 'ask', content='a moment'), dict(role='tool', content='x'), dict(role='tool', content='y')))[1][1]=='a moment'
    for template,middle,why in ((like_llama, [calling('look_up', 'ask')], 'one call at a time'), (like_llama, [calling('look_up', content='a moment')], r'message 1 \(assistant\) 0 times'),
                                (None, [calling('look_up')], "does not show the tool 'look_up'")):
        with pytest.raises(ValueError, match=why): read_by(template or tokenizer('qwen', 'chatml').chat_template, agent(*middle))
    assert read_by(like_qwen, [*agent(), as_messages([calling('look_up')])[0]])[1][-1]==''                # it ends with a call
