"Thinking apart from the answer in every family's marks, and turns that end where the template ends them, by models that say what they are told to"
import copy, re, time
from dataclasses import dataclass
from types import SimpleNamespace
import pytest, torch
from tokenizers import AddedToken
from persona_vectors.generation.local import LocalModel
from persona_vectors.prompts import first_turn, get_format, thinking, tokenize, turn_ends
from persona_vectors.responses import Response, spoken
from templates import tokenizer, zoo

cell = Response('bard', 'Who are you?', '', 'You are a bard.')
answer = 'A bard, hello there.'

class Scripted(torch.nn.Module):
    "A model that says `ids`, whatever it is asked, and then nothing but its first token"
    device,config,_can_compile_fullgraph = torch.device('cpu'), SimpleNamespace(), False
    def __init__(self, ids, vocab, ends):
        super().__init__()
        self.ids,self.vocab,self.asked,self.generation_config = ids,vocab,None,SimpleNamespace(eos_token_id=ends)
    def _supports_default_dynamic_cache(self): return False
    def forward(self, input_ids, attention_mask=None):
        n = input_ids.shape[1]
        self.asked = n if self.asked is None else self.asked
        x = torch.full((1, n, self.vocab), -50.)
        x[0,-1,self.ids[min(n-self.asked, len(self.ids)-1)]] = 50.
        return SimpleNamespace(logits=x)

def made(kind, template, special='', tags='', eos=None):
    "A tokenizer with these special tokens, ordinary ones, and template"
    tok = copy.deepcopy(tokenizer(kind, None))
    tok.add_tokens([AddedToken(o, special=True, normalized=False) for o in special.split()], special_tokens=True)
    tok.add_tokens([AddedToken(o, normalized=False) for o in tags.split()])
    tok.chat_template,tok.eos_token = template,eos
    return tok

def says(tok, text, ends, max_tokens=400, format='chat'):
    "The answer of a model that says `text`, and its format"
    ids = tok(text, add_special_tokens=False).input_ids
    lm = LocalModel.__new__(LocalModel)                                                 # a script has no other form of batch to compare with
    lm.model,lm.tokenizer,lm.format = Scripted(ids, len(tok), [tok.convert_tokens_to_ids(o) for o in ends.split()] or None),tok,get_format(format, tok)
    lm.generation_config = lm.model.generation_config
    return lm.answer([cell], max_tokens=min(max_tokens, len(ids)+3), temperature=0)[0],lm.format

def averaged(tok, fmt, r):
    "The text that is averaged, as its tokens have it"
    tk = tokenize(tok, fmt.full(r.system, r.question, r.text))
    return tok.decode(tk.ids[tk.start:tk.end]).strip()

# thinking

@dataclass(frozen=True)
class Family:
    "What a family writes: its thinking, up to the answer; what follows; its tokens; what opens its turn in the prompt and in a conversation"
    thinks:str
    after:str='<|im_end|>'
    special:str=''
    tags:str=''
    asks:str=''     # After the head of its turn, in the prompt
    head:str='<|im_start|>assistant\n'
    end:str='<|im_end|>' # Of its turn, in a conversation
    shows:str=''    # Before a past answer
    @property
    def template(self):
        def q(s): return '{{ '+repr(s)+' }}'
        return ("{% for m in messages %}{% if m.role!='assistant' %}<|im_start|>{{ m.role + '\n' + m.content }}<|im_end|>\n{% else %}" + q(self.head+self.shows) +
                "{{ m.content }}" + q(self.end) + "{% endif %}{% endfor %}{% if add_generation_prompt %}" + q(self.head+self.asks) + "{% endif %}")

harmony = '<|start|> <|channel|> <|message|> <|end|> <|return|> <|call|> <|constrain|>'
families = dict(
    harmony=Family('<|channel|>commentary<|message|>A song?<|end|><|start|>assistant<|channel|>analysis<|message|>Old kings.<|end|><|start|>assistant<|channel|>final<|message|>',
        '<|end|>', harmony, head='<|start|>assistant', end='<|end|>', shows='<|channel|>final<|message|>'),
    harmony_json=Family('<|channel|>analysis<|message|>Old kings.<|end|><|start|>assistant<|channel|>final <|constrain|>json<|message|>', '<|return|>', harmony,
        head='<|start|>assistant', end='<|return|>', shows='<|channel|>final<|message|>'),
    recipients=Family('to=self<|message|>Old kings.<|eom|><|start|>assistant to=user<|message|>', '<|eot|>', '<|start|> <|message|> <|eom|> <|eot|>',
        head='<|start|>assistant', end='<|eot|>', shows='to=user<|message|>'),
    solar=Family('<|think|>Old kings.<|end|><|begin|>assistant<|content|>', '<|end|>', '<|begin|> <|think|> <|content|> <|end|>', head='<|begin|>assistant', end='<|end|>', shows='<|content|>'),
    solar2=Family('Old kings.<|think:end|>', special='<|think:start|> <|think:end|>', asks='<|think:start|>', shows='<|think:start|><|think:end|>'),
    magistral=Family('[THINK]Old [kings].\nSongs.[/THINK]\n\n', '</s>', '[THINK] [/THINK] </s>', end='</s>'),
    cohere=Family('<|START_THINKING|>Old kings.<|END_THINKING|><|START_RESPONSE|>', '<|END_RESPONSE|><|END_OF_TURN_TOKEN|>',
        '<|START_THINKING|> <|END_THINKING|> <|START_RESPONSE|> <|END_RESPONSE|> <|END_OF_TURN_TOKEN|>', end='<|END_RESPONSE|><|END_OF_TURN_TOKEN|>', shows='<|START_RESPONSE|>'),
    cohere_opened=Family('Old kings.<|END_THINKING|>', '<|END_OF_TURN_TOKEN|>', '<|START_THINKING|> <|END_THINKING|> <|END_OF_TURN_TOKEN|>', asks='<|START_THINKING|>', end='<|END_OF_TURN_TOKEN|>'),
    bars=Family('<|thinking|>Old kings.<|/thinking|>\n', special='<|thinking|> <|/thinking|>'),
    bars_think=Family('<|think|>Old kings.<|/think|>\n', special='<|think|> <|/think|>'),
    chain=Family('<chain_of_thought>Old kings.</chain_of_thought>\n'),
    apertus=Family('<|inner_prefix|>Old kings.<|inner_suffix|>', '<|assistant_end|>', '<|inner_prefix|> <|inner_suffix|> <|assistant_start|> <|assistant_end|>',
        head='<|assistant_start|>', end='<|assistant_end|>'),
    gemma4=Family('<|channel>thought\nOld kings.<channel|>', '<turn|>', '<|channel> <channel|> <|turn> <turn|>', head='<|turn>model\n', end='<turn|>\n'),
    seed=Family('<seed:think>Old kings.</seed:think>', '<seed:eos>', '<seed:think> </seed:think> <seed:bos> <seed:eos>', end='<seed:eos>'),
    kimi_vl=Family('◁think▷Old kings.◁/think▷'),
    minimax=Family('<mm:think>Old kings.</mm:think>\n', tags='<mm:think> </mm:think>'),
    longcat=Family('Old kings.</longcat_think>', asks='<longcat_think>', special='<longcat_think> </longcat_think>'),
    exaone=Family('Old kings.\n</thought>\n\n', asks='<thought>\n', special='<thought> </thought>'),
    phi4=Family('<think>Old kings.</think>\n\n'),
    thinking=Family('<thinking>\nOld kings.\n</thinking>\n\n'),
    hunyuan=Family('<think>\nOld kings.\n</think>\n<answer>\n', '\n</answer><|im_end|>'),
    ernie=Family('\nOld kings.\n</think>\n\n<response>\n', '\n</response>\n<|im_end|>', asks='<think>', tags='<think> </think>'),
    openthinker=Family('<|begin_of_thought|>\n\nOld kings.\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\n', '\n\n<|end_of_solution|><|im_end|>'),
    granite=Family('Here is my thought process: Old kings.\n\nHere is my response: '),
    apriel=Family('Old kings.\n[BEGIN FINAL RESPONSE]\n', '<|im_end|>', asks='Here are my reasoning steps:\n'),
    pangu=Family('[unused16] Old kings. [unused17] ', special='[unused16] [unused17]'),
    twice=Family('<think>Old kings.</think>\n<think>Songs.</think>\n', special='<think> </think>'),
)
def every(names): return pytest.mark.parametrize('kind,name', [(k,n) for k in ('qwen','llama2') for n in names], ids=lambda o: o)
each = every(families)

def family(kind, name):
    f = families[name]
    ends = [o for o in f.special.split() if o in f.after]
    return f,made(kind, f.template, f'<|im_start|> <|im_end|> {f.special}', f.tags),ends[-1] if ends else '<|im_end|>'

@each
def test_thinking_is_apart(kind, name):
    "The answer alone is averaged, after the text that the model had when it wrote it"
    f,tok,end = family(kind, name)
    r,fmt = says(tok, f.thinks+answer+f.after, end)
    assert r.outcome=='complete' and averaged(tok, fmt, r)==answer
    assert 'kings' in r.text[:thinking(r.text)]
    if kind=='qwen':                                                                # the other adds spaces of its own
        t = fmt.full(r.system, r.question, r.text)
        assert t.text[:t.start].strip()==(fmt.prompt(r.system, r.question)+f.thinks).strip() and t.text[t.start:t.end]==answer

@each
def test_cut_while_it_thinks(kind, name):
    f,tok,end = family(kind, name)
    r,fmt = says(tok, f.thinks[:f.thinks.index('kings')]+' kings'*50, end, 40)
    assert (r.finish_reason,r.outcome)==('length','empty')
    if f.thinks[0]!='H' and name!='apriel' and not re.match(r'\s*(<[\w:]+>|\[\w+\]) ', r.text):   # words, and tags with a space, count where they are closed
        with pytest.raises(ValueError, match='the answer is empty'): fmt.full(r.system, r.question, r.text)

granite,apriel = '\n\nHere is my response: ', '\n[BEGIN FINAL RESPONSE]\n'
@pytest.mark.parametrize('answer,closes', [('Here is my thought process: first the roof.', granite), ('Here are my reasoning steps: one, two.', apriel), ("Here's my thought process:", granite)])
def test_words_that_anybody_may_say(answer, closes):
    assert spoken(answer)==(0, len(answer)) and Response('analyst', 'Why?', answer, '', finish_reason='stop').outcome=='complete'
    assert Response('analyst', 'Why?', answer, '', finish_reason='length').outcome=='empty'
    assert apart(answer+closes+'Yes.')=='Yes.'                                            # closed, it is thinking
    if closes==apriel: assert apart(answer+granite+'Yes.')==answer+granite+'Yes.'         # another's words do not close it

def apart(text): return text[slice(*spoken(text))]
def outcome(text, reason): return Response('p', 'q', text, finish_reason=reason).outcome

@pytest.mark.parametrize('answer', ['[THINK] like a hacker: that is my motto.', '<reason> is what I follow.', 'to=alice<|message|>Dear', 'In XML you close with </think>. Then go on.',
    'Close it:\n```\nHm.\n</think>\n```\nThat is all.', 'So </think> is a tag, `</think>` too', '</think> closes a block'])
def test_tags_that_anybody_may_write(answer):
    assert apart(answer)==answer and outcome(answer, 'stop')=='complete'
    if answer.startswith(('[','<r','to')): assert outcome(answer, 'length')=='empty'      # cut off while it thinks

@pytest.mark.parametrize('thinks', ['<Thought>Hm.</Thought>\n<Output>', '<unused94>thought\nHm.<unused95>', '<analysis>Hm.</analysis>', '<reasoning_content>\nHm.\n</reasoning_content>\n',
    '<think_start>Hm.<think_end>', '<thinking>Hm.</think>', '<think>Hm.</thinking>', 'Hm.\n</think>\n\n', 'Hm.</think>', 'Hm.</longcat_think> ', '</think>\n\n', 'assistantanalysisHm.assistantfinal'])
def test_other_marks(thinks):
    assert apart(thinks+answer+'</Output>'*('Output' in thinks))==answer
    assert 'Hm' not in thinks or thinks.startswith(('Hm', 'assistant')) or not apart(thinks[:thinks.index('Hm')+2])

@pytest.mark.parametrize('text', ['analysisPersona: bard. We need', 'assistantanalysisWe need', '<think>\nHm', '<think> Hm', '[THINK] Hm'])
def test_thinking_that_was_cut(text):
    assert outcome(text, 'length')=='empty'
    assert outcome('analysis of a poem', 'length')=='cut'                                 # control

@pytest.mark.parametrize('text', ['ChatML:\n```\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n```\nThat is all.', 'It ends with </s>', 'The last token is <|endoftext|>',
    'Write `a<|im_end|><|im_start|>b`.'])
def test_ends_that_are_talked_about(text):
    assert first_turn(text)==text
    assert first_turn(text+' Yes.<|im_end|>\n<|im_start|>user\nAnd?')==text+' Yes.'   # control: what follows is none of it

@pytest.mark.parametrize('part', ['<think>', '</think>', '<thinking></think> ', '```', '`a\n', '<|think|>a<|end|>', 'to=a<|message|>x<|end|>', '[THINK] ', '<|im_end|>', '</s> x', '"a', '“', "'<", 'analysisX', '\n '])
def test_long_texts(part):
    "100,000 characters of marks are read at once"
    t,now = part*(100_000//len(part)),time.perf_counter()
    for o in (t, 'a '+t, '<think>'+t): spoken(o), spoken(o, True), first_turn(o)
    assert time.perf_counter()-now<5

@pytest.mark.parametrize('name', [o for o in families if families[o].thinks[0]=='<'])
def test_the_thinking_ends_the_turn(name):
    "A model that ends its turn before it has answered has not answered"
    f,tok,end = family('qwen', name)
    r,_ = says(tok, f.thinks+f.after, end)
    assert (r.finish_reason,r.outcome)==('stop','empty')

@every(n for n,f in families.items() if not (f.asks or f.shows))                           # these always think, or open what they say
def test_no_thinking(kind, name):
    "Control: an answer of the same model that does not think is whole, and so is one that talks about the marks"
    f,tok,end = family(kind, name)
    for o in (answer, 'Tags: `<think>` and `</think>`.', 'Then x = "[THINK]a[/THINK]"', 'I am thinking. Here is my response: none'):
        r,fmt = says(tok, o+f.after.removeprefix('\n</answer>').removeprefix('\n\n<|end_of_solution|>'), end)
        if not any(m in o for m in f.special.split()): assert r.text==o and averaged(tok, fmt, r)==o

def test_a_block_that_the_prompt_has_closed():
    "DeepSeek 3.1's and Gemma 4's prompts close the thinking: the answer is all that is written; one with thinking is read after a block of its own"
    for f in (Family('', asks='</think>', shows='</think>', special='<think> </think>'), Family('', asks='<|channel>thought\n<channel|>', special='<|channel> <channel|>')):
        tok = made('qwen', f.template, f'<|im_start|> <|im_end|> {f.special}')
        r,fmt = says(tok, answer+'<|im_end|>', '<|im_end|>')
        assert r.text==answer and averaged(tok, fmt, r)==answer
        a,b = f.special.split()
        block = f'{a}thought\nOld kings.{b}' if a[1]=='|' else f'{a}Old kings.{b}'
        t = fmt.full('', cell.question, block+answer)
        assert t.text[:t.start]==fmt.prompt('', cell.question).removesuffix(f.asks)+block and t.text[t.start:t.end]==answer

@pytest.mark.parametrize('thinks', [f.thinks for f in families.values() if not f.asks])
@pytest.mark.parametrize('name', ['chatml', 'llama3', 'phi3', 'qwen3', 'gpt_oss', 'deepseek_r1', 'mistral3', None])
def test_thinking_of_another_model(name, thinks):
    "A model that reads another's answer reads its thinking as text, without that model's special tokens"
    tok = tokenizer('qwen', name)
    fmt = get_format('chat' if name else 'raw', tok)
    t = fmt.full('', cell.question, thinks+answer)
    assert t.text[t.start:t.end]==answer and 'kings' in t.text[:t.start]
    tk = tokenize(tok, t)
    assert tok.decode(tk.ids[tk.start:tk.end]).strip()==answer
    if name not in ('gpt_oss', None): assert '<|channel|>' not in t.text and '<|message|>' not in t.text

def test_channels_decoded_away():
    "What is left of channels when a server decodes the marks away; a text about analysis is none"
    r = Response('p', 'q', 'analysisOld kings.assistantfinalA bard.', finish_reason='stop')
    assert r.text[thinking(r.text):]=='A bard.'
    assert thinking('analysis of the assistant: final')==0

def test_a_field_of_the_template():
    "A template that shows thinking given in a field gets it there"
    jinja = "{% for m in messages %}<{{ m.role }}>{{ '<mull>' + m.reasoning_content + '</mull>' if m.reasoning_content }}{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    fmt = get_format('chat', made('qwen', jinja))
    t = fmt.full('', cell.question, '<think>\nOld kings.\n</think>\n\n'+answer)
    assert t.text==f'<user>{cell.question}<assistant><mull>Old kings.</mull>{answer}' and t.text[t.start:t.end]==answer

@pytest.mark.parametrize('special', ['', '<|mull|> <|/mull|>'])
def test_marks_of_no_known_kind(special):
    "The template's field tells them; they are read back as the template writes them"
    shows = "{{ '<|mull|>' + m.reasoning_content + '<|/mull|>' if m.reasoning_content }}"
    tok = made('qwen', zoo['chatml'].jinja.replace("+ m.content }}", "}}"+shows+"{{ m.content }}"), f'<|im_start|> <|im_end|> {special}')
    r,fmt = says(tok, f'<|mull|>Old kings.<|/mull|>{answer}<|im_end|>', '<|im_end|>')
    t = fmt.full(r.system, r.question, r.text)
    assert r.outcome=='complete' and averaged(tok, fmt, r)==answer and t.text[:t.start].endswith('<|mull|>Old kings.<|/mull|>')
    assert says(tok, '<|mull|>Old'+' kings'*50, '<|im_end|>', 20)[0].outcome=='empty'
    for o in ('I mull: <mull>', answer): assert says(tok, o+'<|im_end|>', '<|im_end|>')[0].text==o

# thinking on and off

switches = dict(qwen3='enable_thinking', deepseek_v31='thinking')
def switched(name, on): return get_format('chat', tokenizer('qwen', name), {switches[name]: on})

@pytest.mark.parametrize('on', [True, False])
@pytest.mark.parametrize('name', switches)
def test_thinking_on_and_off(name, on):
    "The text begins as the prompt did, and the answer alone is averaged, whether its thinking stands in the text, in a field, or nowhere"
    fmt = switched(name, on)
    tok = fmt.tokenizer
    prompt = fmt.prompt(cell.system, cell.question)
    assert prompt.rstrip().endswith('</think>')!=on
    texts = ['<think>\nOld kings.\n</think>\n\n'+answer, Response(cell.persona, cell.question, answer, reasoning='Old kings.').whole] if on else [answer]
    for o in texts:
        t = fmt.full(cell.system, cell.question, o)
        tk = tokenize(tok, t)
        assert t.text.startswith(prompt) and tok.decode(tk.ids[tk.start:tk.end]).strip()==answer
        assert (t.text.count('Old kings.'), t.text.count('<think>')<2)==(on, True)
        aloud = tokenize(tok, t, 'thinking+answer')
        assert tok.decode(aloud.ids[aloud.start:aloud.end]).strip().startswith('Old kings.' if on else answer)
        assert aloud.end==tk.end

@pytest.mark.parametrize('name', switches)
def test_files_of_thinking_on_and_off(name, tmp_path):
    "The answers' and the vectors' files say which, and neither is used for the other"
    from persona_vectors import ActivationExtractor, PersonaVectorConfig, generate_responses
    from persona_vectors.extraction.extractor import cached_vectors
    from persona_vectors.responses import Responses
    from persona_vectors.selection import select
    from tiny import make_llama
    make_llama(tmp_path/'model')
    (tmp_path/'model'/'chat_template.jinja').write_text(zoo[name].jinja)
    cs = [PersonaVectorConfig(model_name=str(tmp_path/'model'), dtype='float32', max_tokens=2, **o)
          for o in ({}, *(dict(chat_template_kwargs={switches[name]: on}) for on in (True, False)))]
    asked = [generate_responses(c, {'bard': 'You sing.'}, ['Who are you?'], tmp_path/'out') for c in cs]
    assert len({rs.path for rs in asked})==3
    assert [rs.meta['settings'].get('chat_template_kwargs') for rs in asked]==[c.chat_template_kwargs for c in cs]
    texts = ['Hello there.', '<think>\nHm.\n</think>\n\nHello there.', 'Hello there.']
    found = [cached_vectors(ActivationExtractor(c), select(Responses([Response('bard', 'Who are you?', t, 'You sing.')])), [1], tmp_path/'v') for c,t in zip(cs, texts)]
    same = cached_vectors(ActivationExtractor(cs[2]), select(Responses([Response('bard', 'Who are you?', texts[0], 'You sing.')])), [1], tmp_path/'v')
    assert len({p for _,p in found})==3 and same[1]==found[2][1]                          # the control: its own is used again
    assert [v.meta.get('chat_template_kwargs') for v,_ in found]==[c.chat_template_kwargs for c in cs]
    with pytest.raises(ValueError, match="no argument 'enable_thinkin'"):
        generate_responses(PersonaVectorConfig(model_name=str(tmp_path/'model'), chat_template_kwargs={'enable_thinkin': True}), {'a': ''}, ['q'], tmp_path/'none')
    assert not (tmp_path/'none').exists()

@pytest.mark.parametrize('name', switches)
def test_read_as_they_were_made(name, tmp_path):
    "Answers made with a template argument are read with it by every command that reads them; what is read otherwise is warned of"
    from odd import called
    from tiny import make_llama
    make_llama(tmp_path/'model')
    (tmp_path/'model'/'chat_template.jinja').write_text(zoo[name].jinja)
    (tmp_path/'q.json').write_text('["Who are you?", "Why?"]')
    def pv(*args):
        r = called(*args, cwd=tmp_path)
        assert r.returncode==0, r.stderr
        return r.stdout.splitlines()[-1],r.stderr
    off,on = (('--template-arg', f'{switches[name]}={o}') for o in ('false','true'))
    read = '--model', 'model', '--layer', 1
    made,_ = pv('generate', '--model', 'model', '--personas', 'default,bard', '--questions', 'q.json', '--max-tokens', 2, *off)
    path,_ = pv('extract', made, *read, *off)
    again,said = pv('extract', made, *read)
    assert again==path and f"reads the answers with the template arguments that they were made with: {{'{switches[name]}': False}}" in said
    parts,said = pv('extract', made, *read, '--shard', '1/1')
    assert 'that they were made with' in said
    merged,_ = pv('merge', parts)
    from persona_vectors.extraction.vectors import load_vectors
    assert load_vectors(tmp_path/merged).meta['chat_template_kwargs']=={switches[name]: False}
    assert 'that they were made with' in pv('preview', made, '--model', 'model')[1]
    for _ in range(2):                                                                  # the second time from the file
        other,said = pv('extract', made, *read, *on)
        assert other!=path and f"made with the template arguments {{'{switches[name]}': False}}, and are read with {{'{switches[name]}': True}}" in said
    (tmp_path/'model'/'chat_template.jinja').write_text(zoo['chatml'].jinja)
    assert 'template arguments' not in pv('preview', made, '--model', 'model')[1]         # a template without such an argument

# ends of turns

turns = "{% for m in messages %}%s{% endfor %}{% if add_generation_prompt %}%s{% endif %}"
def plainly(say, ask): return turns.replace('%s', say, 1).replace('%s', ask)
vicuna = plainly("{% if m.role=='user' %}USER: {{ m.content }} {% elif m.role=='assistant' %}ASSISTANT: {{ m.content }}</s>{% else %}{{ m.content }}\n\n{% endif %}", 'ASSISTANT:')
alpaca = plainly("{% if m.role=='user' %}### Instruction:\n{{ m.content }}\n\n{% elif m.role=='assistant' %}### Response:\n{{ m.content }}\n\n{% else %}{{ m.content }}\n\n{% endif %}", '### Response:\n')
script = plainly("{{ '\n' if not loop.first }}{{ m.role | title }}: {{ m.content }}", '\nAssistant:')
glm = plainly("<|{{ m.role }}|>\n{{ m.content }}", '<|assistant|>\n')
fine_tunes = dict( # template, special tokens, ordinary ones, end of the generation configuration, what follows the answer
    llama3=(zoo['llama3'].jinja, zoo['llama3'].markers+' <|end_of_text|>', '', '<|end_of_text|>', '<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nSing!<|eot_id|>'),
    llama3_tools=(zoo['llama3'].jinja, zoo['llama3'].markers+' <|eom_id|> <|end_of_text|>', '', '<|end_of_text|>', '<|eom_id|><|start_header_id|>user'),
    gemma=(zoo['gemma3'].jinja, zoo['gemma3'].markers, '', '<eos>', '<end_of_turn>\n<start_of_turn>user\nSing!<end_of_turn>'),
    phi=(zoo['phi3'].jinja, zoo['phi3'].markers, '', '<|endoftext|>', '<|end|>\n<|user|>\nSing!<|end|>'),
    olmo=(zoo['olmo3'].jinja, zoo['olmo3'].markers+' <x>', '', '<x>', '<|im_end|>\n<|im_start|>user\nSing!'),
    zephyr=(zoo['zephyr'].jinja.replace('eos_token', "'</s>'"), '</s> <x>', '', '<x>', '</s>\n<|user|>\nSing!'),
    ordinary=(zoo['chatml'].jinja, '<x>', '<|im_start|> <|im_end|>', '<x>', '<|im_end|>\n<|im_start|>user\nSing!'),
    no_tokens=(zoo['chatml'].jinja, '<x>', '', '<x>', '<|im_end|>\n<|im_start|>user\nSing!'),
    glm=(glm, '<|user|> <|assistant|> <|system|> <x>', '', '<x>', '<|user|>\nSing!<|assistant|>\nLa.'),
    vicuna=(vicuna, '</s> <x>', '', '<x>', '</s>USER: Sing!'),
    alpaca=(alpaca, '<x>', '', '<x>', '\n\n### Instruction:\nSing!\n\n### Response:\nLa.'),
    script=(script, '<x>', '', '<x>', '\nUser: Sing!\nAssistant: La.'),
    none=(zoo['chatml'].jinja, '<|im_start|> <|im_end|>', '', '', '<|im_end|>\n<|im_start|>user\nSing!'))

@pytest.mark.parametrize('kind', ['qwen', 'llama2'])
@pytest.mark.parametrize('name', fine_tunes)
def test_the_template_ends_the_turn(kind, name):
    jinja,special,tags,end,goes_on = fine_tunes[name]
    tok = made(kind, jinja, special, tags)
    r,fmt = says(tok, answer+goes_on, end)
    assert (r.text.strip(),r.finish_reason)==(answer,'stop') and averaged(tok, fmt, r)==answer

roles = {' ': (), '\n': ('\nuser\n',)}
@pytest.mark.parametrize('sep', roles)
def test_a_role_that_is_a_word(sep):
    "A role alone on its line ends the turn; the word within a line does not"
    jinja = plainly('{{ m.role }}%{{ m.content }}%', 'assistant%').replace('%}', '@').replace('{%', '#').replace('%', sep).replace('@', '%}').replace('#', '{%')
    tok = made('qwen', jinja, '<x>')
    assert turn_ends(get_format('chat', tok))==((), roles[sep])
    for o in ('The app has\nusers who sing.', 'As a user of words.'): assert says(tok, o+'<x>', '<x>')[0].text==o
    if sep=='\n': assert says(tok, answer+'\nuser\nSing!', '<x>')[0].text==answer           # control

def test_the_tokenizers_end():
    "An end that only the tokenizer names"
    r,_ = says(made('qwen', zoo['chatml'].jinja, '<|im_start|> <|im_end|> <e> <x>', eos='<e>'), answer+'<e> and on', '<x>')
    assert (r.text,r.finish_reason)==(answer,'stop')

def test_a_mark_of_another_template():
    "Control: what ends another model's turn is text"
    said = 'A bard <|eot_id|> and on [/INST]'
    for tok in (made('qwen', zoo['chatml'].jinja, '<|im_start|> <|im_end|>'), made('qwen', alpaca, '<|im_end|>')):
        assert says(tok, said+'<|im_end|>', '<|im_end|>')[0].text==said

def test_plain_text_format():
    "Control: in the raw format the template ends nothing"
    tok = made('qwen', zoo['chatml'].jinja, '<|im_start|> <|im_end|> <x>')
    r,_ = says(tok, ' A bard<|im_end|> and on\n\nUser: Sing!', '<x>', format='raw')
    assert (r.text,r.finish_reason)==('A bard and on','stop')
