"Two hundred files as other people have them: each ends in a result or in one line that names it, none in a traceback"
import gzip, json, logging, os, re, struct
from dataclasses import replace
from functools import lru_cache
import numpy as np, pytest, torch
from odd import Odd, called, read, refused, tried
from persona_vectors.config import PersonaVectorConfig, check_kind
from tiny import make_llama

Q,A = 'Who are you?','I am a bard.'
def js(o): return json.dumps(o, ensure_ascii=False)
def lines(*rows): return ''.join(js(o)+'\n' for o in rows)
def talk(*said): return [dict(role='assistant' if i%2 else 'user', content=o) for i,o in enumerate(said)]
ok = dict(messages=talk(Q, A))

MONITOR = 'monitor {f} --model {llama} --vectors {vectors} --layer 1'
INFO,IMPORT,EXPORT = 'info {f}','import {f} --model {llama}','export {f} {out} --format gguf --model {llama}'
ASK = 'generate --dry-run --model {llama}'
PERSONAS,QUESTIONS,EXTRA = ASK+' --personas {f}',ASK+' --personas default --questions {f}',ASK+' --personas bard --extra-questions {f}'
RUBRIC = 'judge {answers} --dry-run --model {llama} --rubric {f}'

# what can be in the place of any file


ANY = [
    ('empty', b'', r'empty'),
    ('page', b'\n<!DOCTYPE html>\n<html><head><title>404</title>', 'a web page.*download it again'),
    ('lfs', b'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n', 'Git LFS pointer.*git lfs pull'),
    ('gzip', gzip.compress(js(ok).encode()), 'compressed: unpack it'),
    ('zeros', bytes(4096), 'zeros.*damaged'),
    ('noise', bytes(np.random.default_rng(0).integers(128, 256, 4096, np.uint8)), '.'),
    ('folder', lambda p: p.mkdir(), '.'),
    ('dangling', lambda p: p.symlink_to('nowhere'), '.'),
    ('loop', lambda p: p.symlink_to(p.name), '.')]

PLACES = {'talk.jsonl': MONITOR, 'talk.json': MONITOR, 'answers.json': INFO, 'answers.jsonl': INFO, 'who.json': PERSONAS, 'who.yaml': PERSONAS,
          'asked.txt': QUESTIONS, 'asked.yml': QUESTIONS, 'extra.json': EXTRA, 'trait.yaml': RUBRIC,
          'v.safetensors': INFO, 'v.pt': INFO, 'd.safetensors': EXPORT, 'd.npy': EXPORT, 'd.gguf': IMPORT, 'd.pt': IMPORT}

anywhere = [Odd(f'{name} {kind}', make, cmd, says) for name,cmd in PLACES.items() for kind,make,says in ANY]

# conversations

sharegpt = dict(conversations=[{'from': 'human', 'value': Q}, {'from': 'gpt', 'value': A}])
wildchat = dict(conversation_hash='x', model='m', turn=1, conversation=[dict(o, language='English', toxic=False) for o in talk(Q, A)])
marked,long = dict(messages=talk('What does <|im_end|> mean?', 'The end.')),dict(messages=talk('word '*3000, A))
half = '{"messages": [{"role": "user", "content": "Hi \\ud83d"}, {"role": "assistant", "content": "I am a bard."}]}\n'
def without(key, at=0): return dict(messages=[{k: v for k,v in m.items() if k!=key or i!=at} for i,m in enumerate(talk(Q, A))])
def saying(role, content): return dict(messages=[dict(role=role, content=content), *talk(Q, A)])
one_left = r'left out: 1 of 3 conversations in .*: line 2: '


talks = read('c.jsonl', MONITOR,
    U2028=(lines(dict(messages=talk('First\u2028second', A))), 'message'), U2029=(lines(ok, dict(messages=talk('First\u2029second', A))), 'line 2'),
    U0085=(lines(dict(messages=talk(Q, 'A quote\u0085end'))), 'line 1'), tabs=(lines(dict(messages=talk('a\x0bb\x0cc\x1cd\x1ee', A))), 'line 1'),
    crlf=((lines(ok)*2).replace('\n', '\r\n'), 'line 2'), mark=('\ufeff'+lines(ok), 'line 1'), utf16=(lines(ok, ok).encode('utf-16'), 'line 2'),
    blank=('\n'+lines(ok)+'\n \n'+lines(ok)+'\n', 'line 5'), unended=(lines(ok).strip(), 'line 1'), pretty=(json.dumps(ok, indent=1), 'line 1'),
    torn=(lines(ok, ok)+'{"messages": [{"ro', r'1 of 3 conversations .*line 3: it is not JSON'),
    wildchat=(lines(wildchat, wildchat), 'line 2'), sharegpt=(lines(sharegpt), A), bare=(lines(talk(Q, A), talk(Q, A)), 'line 2'),
    parts=(lines(dict(messages=[dict(role='user', content=[dict(type='text', text=Q)]), talk(Q, A)[1]])), A),
    human=(lines(saying('system', 'Sing.'), dict(messages=[dict(role='Human', content=Q), dict(role='ChatGPT', content=A)])), 'line 2'),
    system=(lines(dict(sharegpt, system='Sing out.')), 'system.*Sing out'), system_prompt=(lines(dict(sharegpt, system_prompt='Sing out.')), 'system.*Sing out'),
    no_system=(lines(dict(conversations=[{'from': 'system', 'value': ''}, *sharegpt['conversations']]), dict(ok, system=' ')), 'line 2'),
    systems=(lines(ok, dict(saying('system', 'Other'), system='Be.'), ok), one_left+"it has two system texts .'Be.' and 'Other'"), agree=(lines(dict(saying('system', 'Be.'), system='Be.', system_prompt='Be.')), 'system.*Be'),
    prompts=(lines(ok, dict(ok, system='Be.', system_prompt='Sing.'), ok), one_left+"it has two system texts"), reasons=(lines(dict(messages=[*talk(Q), dict(role='assistant', content=A, reasoning_content='Hm.', tool_calls=[])])), A),
    calls=(lines(ok, dict(messages=[*talk(Q), dict(role='assistant', content=A, tool_calls=[dict(id='x')])]), ok), one_left+r'.*names no function'),
    hidden=(lines(ok, dict(messages=[*talk(Q), dict(role='assistant', content=A, tool_calls=[dict(function=dict(name='f'))])]), ok), one_left+"the chat template of this model does not show the call of 'f' in message 1"), question=(lines(dict(messages=talk(Q))), Q.replace('?', r'\?')),
    marked=(lines(ok, marked, ok), one_left+r"message 0 \(user\): it contains '<\|im_end\|>'"), long=(lines(ok, long, ok), one_left+r'the conversation has 30\d\d tokens'),
    role=(lines(ok, saying('narrator', 'Once'), ok), one_left+"message 0 has role 'narrator'"), half=(lines(ok)+half+lines(ok), one_left+'message 0 .*half a character'),
    void=(lines(ok, saying('user', ''), ok), one_left+r'message 0 \(user\) has no text'), null=(lines(ok, dict(messages=talk(Q, None)), ok), one_left+r'message 1 \(assistant\) has no text'),
    number=(lines(ok, 3, ok), one_left+'a conversation is a list'), dupes=(lines(ok)+'{"messages": [], "messages": []}\n'+lines(ok), one_left+"'messages' stands twice"),
    latin=(lines(ok).encode()+'{"messages": "déjà"}\n'.encode('latin-1')+lines(ok).encode(), one_left+'it is not UTF-8'),
    deep=(lines(ok)+'['*50_000+'\n'+lines(ok), one_left+'.*nested too deep'), image=(lines(ok, saying('user', [dict(type='image_url', image_url='x')]), ok), one_left+'message 0 .*only text'),
    part=(lines(ok, saying('user', [dict(type='text')]), ok), one_left+'message 0'), alone=(lines(ok, dict(messages=talk(Q, A)[1:]), ok), one_left+'.*one message of the assistant'),
    other=(lines(ok, dict(prompt=Q, chosen=A), ok), one_left+"it has 'prompt', 'chosen', and none of messages"),
    answers=(lines(dict(persona='bard', question=Q, text=A)), 'the answer of'))
talks += read('c.json', MONITOR, list=(js(talk(Q, A)), A), lists=(js([talk(Q, A)]*2), 'conversation 2'), objects=(js([sharegpt, marked]), "1 of 2 .*conversation 2: message 0"),
    lines=(lines(ok, ok), 'line 2'), utf16=(js(ok).encode('utf-16'), A), emoji=(js(dict(messages=talk('\U0001f600'*9, A))), A))
talks += refused('c.jsonl', MONITOR, bad=(lines(marked, long), r'line 1: message 0 .*; line 2: the conversation has'), half=(half, r'line 1: message 0 \(user\) has half a character'),
    blanks=('\n\n\n', 'does not hold a conversation: there is none in it: it should be'), numbers=(lines(1, 2), 'holds text'), dpo=(lines(dict(prompt=Q, chosen=A)), "has 'prompt', 'chosen', and none of messages.*JSON list of messages"),
    csv=('role,content\nuser,Hi\n', 'holds text'))
talks += refused('c.json', MONITOR, torn=(js(ok)[:-9], 'does not hold a conversation .*JSON list of messages'), nan=('[NaN, Infinity]', 'message 0'), big=('['+'1'*5000+']', 'does not hold'),
    text=('Hello there', 'holds text'), nulls=('null', 'holds text'), vectors=('{"format": "persona_vectors.vectors/1"}', 'holds persona vectors'), deep=('['*99_999, 'nested too deep'),
    nothing=('[]', 'list of messages'), object=('{}', 'none of messages'), latin=(js(talk('déjà vu', A)).encode('latin-1'), 'not UTF-8 text; save it as UTF-8'),
    nul=(js(ok).encode('utf-16-le'), 'not UTF-8|does not hold'))

# answers

row = dict(persona='bard', question=Q, text=A)
def rows(*odd): return js(dict(format='persona_vectors.responses/1', meta={}, responses=[row | o for o in odd]))
def plain(**kw): return js({js(['bard', Q]): A, **kw})
axis = dict(system_prompt='Sing.', prompt_index=0, question=Q, conversation=talk(Q, A))
def table(kind, *rows):
    "A file of `rows` as pandas writes it, lists as NumPy prints them where it is CSV"
    import pandas as pd
    def csv(df, p): df.map(lambda o: str(o).replace('}, {', '}\n {') if isinstance(o, list) else o).to_csv(p, index=False)
    return lambda p: csv(pd.DataFrame(rows), p) if kind=='csv' else pd.DataFrame(rows).to_parquet(p)
for kind in ('csv', 'parquet'):
    talks += read(f'c.{kind}', MONITOR, lmsys=(table(kind, dict(conversation_id='x', conversation=talk(Q, A)), dict(conversation_id='y', conversation=talk(Q, A))), 'row 2'),
        odd=(table(kind, ok, saying('narrator', 'Once'), ok), one_left.replace('line', 'row')+'.*narrator'))
    talks += refused(f'c.{kind}', MONITOR, columns=(table(kind, dict(prompt=Q, answer=A)), 'its columns are prompt, answer, and none is messages, conversation, conversations'),
        nothing=(table(kind, saying('narrator', 'Once')), 'does not hold a conversation that can be read'))
talks += refused('c.parquet', MONITOR, torn=(b'PAR1'+bytes(range(99)), 'does not hold a conversation'), text=(lines(ok), '.'))
talks += refused('c.csv', MONITOR, text=('Hello there\n', 'its columns are Hello there'), lfs=(b'version https://git-lfs.github.com/spec/v1\n', 'Git LFS pointer'))
def folder(**files):
    def make(p):
        p.mkdir()
        for name,o in files.items(): (p/name.replace('_', '.')).write_text(o)
    return make
talks += read('talks', MONITOR, folder=(folder(a_json=js(ok), b_jsonl=lines(ok, ok), c_json='"nothing"', d_md='# Hi'), r'left out: 1 of 4 conversations .*c.json'))
talks += refused('talks', MONITOR, none=(folder(d_md='# Hi'), 'a folder without files of conversations'), broken=(folder(a_json='{"torn'), 'that can be read'))

answers = read('a.json', INFO, plain=(plain(), '1 responses'), mark=('\ufeff'+plain(), '1 responses'), utf16=(plain().encode('utf-16'), '1 responses'), crlf=(rows({}).replace(',', ',\r\n'), '1 responses'),
    floats=(rows(dict(prompt=0., sample=1.)), '1 responses'), more=(rows(dict(mood='gay')), '1 responses'), none=(rows(), '0 responses'))
answers += read('a.jsonl', INFO, U2028=(lines(row | dict(text='One\u2028two')), '1 responses'), crlf=(js(row)+'\r\n', '1 responses'), mark=('\ufeff'+lines(row), '1 responses'),
    unended=(js(row), '1 responses'), blank=('\n\n'+lines(row), '1 responses'), axis=(lines(axis, axis), '2 responses'))
answers += refused('a.json', INFO, torn=(rows({})[:-5], 'not a whole JSON file.*restore it or generate again'), half=('{"[\\"bard\\", \\"Who?\\"]": "Hi \\ud83d"}', "answer of persona 'bard' to 'Who\\?'.*half a character"),
    halfname=('{"[\\"b\\\\ud83d\\", \\"Who?\\"]": "Hi"}', 'has a persona with half a character'), list=('[]', 'it is a list'), null=('null', 'holds text'), number=('3', 'holds text'), text=('"answers"', '.'),
    key=(plain(bard=A), "'bard' is not a JSON list"), triple=(plain(**{'["a","b","c"]': A}), 'does not hold responses'), value=(plain(**{js(['a', Q]): [A]}), 'not text'),
    twice=('{"[\\"a\\", \\"b\\"]": "c", "[\\"a\\", \\"b\\"]": "d"}', 'stands twice'), new=(rows({}).replace('/1', '/9'), 'update persona-vectors-lab'), meta=(rows({}).replace('{}', '[]'), 'its meta is'),
    rows=('{"format": "persona_vectors.responses/1", "responses": {"a": 1}}', 'its responses are'), strings=('{"format": "persona_vectors.responses/1", "responses": ["a"]}', "it is 'a'"),
    lacking=('{"format": "persona_vectors.responses/1"}', "no 'responses'"), prompt=(rows(dict(prompt='0')), 'the prompt'), huge=(rows(dict(sample=10**400)), 'the sample'), nan=(rows(dict(prompt=float('nan'))), 'the prompt'),
    scores=(rows(dict(scores=['role'])), 'scores'), score=(rows(dict(scores=dict(role='3'))), 'a number for each rubric'), reason=(rows(dict(finish_reason=3)), 'finish_reason'),
    cost=(rows(dict(cost={})), 'the cost'), same=(rows({}, {}), 'there twice'), deep=('{"a":'*60_000, 'nested too deep'), lines=(lines(row, row), 'JSON lines are named .jsonl'), talk=(js(ok), 'holds a conversation'),
    digits=('{"a": '+'1'*5000+'}', 'does not hold responses'))
answers += refused('a.jsonl', INFO, torn=(lines(row, row)+'{"pers', 'its line 3 is not JSON.*remove that line'), half=(lines(row)+'{"persona": "a", "question": "b", "text": "\\ud83d"}\n', 'half a character'), list=(lines([1]), 'line 1 is no response .*list'),
    lacking=(lines(row, dict(persona='a', text=A)), "its line 2 has no 'question'"), talk=(lines(ok), 'it is a conversation: `persona-vectors monitor`'), deep=('['*60_000, 'line 1 .*nested too deep'), whole=(json.dumps(json.loads(plain()), indent=1), 'named .json'),
    utf16=(lines(row).encode('utf-16'), 'UTF-16: save it as UTF-8'), latin=(lines(row)[:-3].encode()+b'\xe9"}\n', 'its line 1'), roles=(lines(axis | dict(conversation='Hi')), 'its line 1 is no response'), silent=(lines(axis | dict(conversation=talk(Q))), 'line 1 has no answer'))
answers += refused('a.parquet', INFO, text=(lines(row), '.'), torn=(b'PAR1'+bytes(range(99)), '.'))

# personas, questions, rubrics

own = read('p.yaml', PERSONAS, tabs=('bard: "You\tsing."\n', '.'), mark=('\ufeffbard: You sing.\n', '.'), crlf=('bard: You sing.\r\nghost: You sigh.\r\n', '.'), anchors=('a: &x You sing.\nb: [*x, You hum.]\n', '.'),
    utf16=('bard: You sing.\n'.encode('utf-16'), '.'), emoji=('"\U0001f600": You smile.\n', '.'))
own += refused('p.yaml', PERSONAS, tab=('bard:\n\t- You sing.\n', 'not valid YAML'), yes=('yes: You agree.\n', 'the name True is not text; write it in quotes'), date=('2024-01-01: You mark the day.\n', 'not text; write it in quotes'),
    month=('2024-99-99: You are late.\n', '.'), twice=('bard: a\nbard: b\n', "'bard' stands twice"), self=('a: &a [*a]\n', 'prompt 1'), python=('a: !!python/object:os.system x\n', 'not valid YAML'), list=('- bard\n', 'expected personas'),
    keys=('? [a, b]\n: c\n', 'key at line 1 is a list'), deep=('['*3000, '.'), null=('bard:\n', "persona 'bard' has None"), colon=('bard: You say: yes\n', 'not valid YAML.*quotes'), latin=('bard: déjà\n'.encode('latin-1'), 'not UTF-8'),
    control=('bard: "\x07"\n', 'not valid YAML'), comment=('# to do\n', 'expected personas'), half=('bard: "Hi \\ud83d"\n', 'half a character'), number=('bard: 3\n', 'give text in quotes'))
own += refused('p.json', PERSONAS, half=('{"bard": "Hi \\ud83d"}', "persona 'bard' has a prompt with half a character"), halfname=('{"b\\udc00": "Hi"}', 'the name .*half a character'), deep=('{"a":'*60_000, 'nested too deep'), torn=('{"bard": "You', 'not valid JSON'),
    talk=(js(ok), 'persona'), nan=('{"bard": NaN}', 'give text in quotes'))
own += [Odd('p.toml suffix', 'bard = ""', PERSONAS, 'use one of .json, .yaml'), Odd('p suffix', 'bard: x', PERSONAS, 'use one of')]
own += read('q.txt', QUESTIONS, U2028=('Who\u2028are you?\n', '1 answers to ask for'), crlf=('Who?\r\nWhy?\r\n', '.'), mark=('\ufeffWho?\n', '.'), utf16=('Who?\n'.encode('utf-16'), '.'))
own += refused('q.json', QUESTIONS, half=('["Who \\ud83d?"]', 'question 1 has half a character'), object=('{"a": "Why?"}', 'expected a list of questions'), nested=('[["Why?"]]', 'question 1 is'), twice=('["Why?", "Why?"]', 'are the same'))
own += refused('q.txt', QUESTIONS, nul=('Who?\n'.encode('utf-16-le'), 'not UTF-8'), blank=('\n \n', 'the file is empty'))
own += refused('e.json', EXTRA, half=('{"bard": ["Who \\ud83d?"]}', "'bard': question 1 has half a character"), list=('["Why?"]', 'expected personas and their questions'), text=('{"bard": "Why?"}', 'expected a list'))
own += refused('r.json', RUBRIC, list=('["wit"]', 'name and description'), text=('"wit"', 'name and description'), null=('null', 'name and description'), number=('{"name": 3, "description": "x"}', 'name'), more=('{"name": "wit", "description": "x", "scale": 9}', 'name and description'),
    half=('{"name": "wit", "description": "\\ud83d"}', 'half a character'), top=('{"name": "wit", "text": "{answer}", "top": "3"}', 'top'), nothing=('{}', 'name and description'), object=('{"name": "wit", "description": {"a": 1}}', 'text'))

# vectors and directions

def tensors(path, meta=None, **ts):
    from safetensors.torch import save_file
    save_file(ts or dict(x=torch.ones(2)), path, meta)
def headed(head): return struct.pack('<Q', len(head))+head.encode()
def vectors(head, x=torch.ones(1, 1, 4), fmt='persona_vectors.vectors/1'): return lambda p: tensors(p, {'format': fmt, 'persona_vectors': head}, **{'responses.means': x})
def pt(o): return lambda p: torch.save(o, p)
def torn(make, n=40):
    def f(p): make(p); os.truncate(p, p.stat().st_size-n)
    return f
whole = js(dict(layers=[1], rows=[dict(persona='bard', question=Q)], meta={}))
class Thing: pass

held = read('v.safetensors', INFO, whole=(vectors(whole), 'PersonaVectors'), half=(vectors(whole, torch.ones(1, 1, 4, dtype=torch.float16)), 'PersonaVectors'))
held += read('v.pt', INFO, dict=(pt(dict(bard=torch.ones(4))), 'PersonaVectors'))
held += refused('v.safetensors', INFO, torn=(torn(vectors(whole), 8), 'extract again if the file is damaged'), header=(struct.pack('<Q', 1<<40)+b'{}', 'does not hold persona vectors'), short=(b'\x08\0\0', '.'), head=(headed('{"a": 1'), '.'), array=(headed('[]'), '.'),
    others=(lambda p: tensors(p), 'does not hold persona vectors'), no_head=(lambda p: tensors(p, {'format': 'persona_vectors.vectors/1'}), 'does not hold persona vectors'), no_json=(vectors('{'), 'does not hold persona vectors'), null=(vectors('null'), 'does not hold'),
    rows=(vectors(js(dict(layers=[1], rows=[3], meta={}))), 'does not hold'), meta=(vectors(js(dict(layers=[1], rows=[dict(persona='bard', question=Q)], meta=[1]))), 'does not hold'), count=(vectors(whole, torch.ones(3, 1, 4)), '3, 1, 4'),
    flat=(vectors(whole, torch.ones(4)), 'does not hold'), layers=(vectors(whole.replace('[1]', '"a"')), 'does not hold'), zero=(vectors(js(dict(layers=[1], rows=[], meta={})), torch.ones(0, 1, 4)), 'it has no answers'),
    integers=(vectors(whole, torch.ones(1, 1, 4, dtype=torch.int64)), 'int64, and not floating-point'), deep=(vectors('['*60_000), 'does not hold'), direction=(lambda p: tensors(p, {'format': 'persona_vectors.direction/1', 'persona_vectors': '{}'}), 'direction'),
    nan=(vectors(whole, torch.full((1, 1, 4), float('nan'))), 'not finite'))
held += refused('v.pt', INFO, pickled=(pt(dict(a=Thing())), 'nothing is unpickled'), torn=(torn(pt(dict(bard=torch.ones(400))), 300), 'damaged'), list=(pt([torch.ones(2)]), 'it holds a list'), tensor=(pt(torch.ones(2)), 'it holds one tensor'), square=(pt(dict(a=torch.ones(2, 2))), 'not one vector'),
    uneven=(pt(dict(a=torch.ones(2), b=torch.ones(3))), 'does not hold'), numbers=(pt({1: torch.ones(2)}), 'not text'), text=(b'hello', 'text|damaged'), names=(pt({'a': 'b'}), 'not a dict of tensors'))
held += refused('d.safetensors', EXPORT, two=(lambda p: tensors(p, a=torch.ones(2), b=torch.ones(2)), 'does not hold one vector'), wide=(lambda p: tensors(p, a=torch.ones(32)), 'does not say of which layer'),
    head=(lambda p: tensors(p, {'format': 'persona_vectors.direction/1', 'persona_vectors': '{"layer": 1}'}, direction=torch.ones(32)), 'direction'),
    layer=(lambda p: tensors(p, {'format': 'persona_vectors.direction/1', 'persona_vectors': js(dict(layer='one', orientation='x', model='llama'))}, direction=torch.ones(32)), 'save it again'))
held += refused('d.npy', EXPORT, objects=(lambda p: np.save(p, np.array([{}], object), allow_pickle=True), 'damaged or not a npy'), strings=(lambda p: np.save(p, np.array(['a'])), 'damaged or not a npy'), square=(lambda p: np.save(p, np.ones((2, 2))), 'does not hold one vector'))
held += refused('d.pt', IMPORT, pickled=(pt(dict(vector=Thing(), role='a')), 'nothing is unpickled'), role=(pt(dict(vector=[1.], role='a')), 'no role file'), type=(pt(dict(vector=torch.ones(2, 32), role=3)), 'no role file'), shape=(pt(torch.ones(9, 32)), '9 rows'), cube=(pt(torch.ones(2, 3, 32)), '3 dimensions'), number=(pt(3), 'a number'),
    narrow=(pt(dict(axis=torch.ones(2, 16))), '16 wide'), unsaid=(pt(torch.ones(2, 32)), 'nothing says what its tensor is'), empty=(pt({}), 'it holds'), infinite=(pt(dict(axis=torch.full((2, 32), float('inf')))), 'not finite'), axis=(pt(dict(axis=torch.ones(3))), 'shape'), json=(js(ok), 'conversation|damaged'))
held += refused('d.gguf', IMPORT, torn=(b'GGUF\3\0\0\0'+bytes(9), 'damaged or not a GGUF'), short=(b'GGUF', 'damaged or not a GGUF'), old=(b'GGUF\1\0\0\0'+bytes(64), 'damaged or not a GGUF'), counts=(b'GGUF\3\0\0\0'+b'\xff'*64, 'damaged or not a GGUF'))

held += read('x.safetensors', INFO, extra=(lambda p: tensors(p, {'format': 'persona_vectors.direction/1', 'persona_vectors': js(dict(layer=1, orientation='x', mood='gay'))}, direction=torch.ones(32)), 'Direction'))

# under another suffix or name, in other commands, and what is no file

def sealed(p): p.write_text(js(ok)); p.chmod(0)
elsewhere = refused('v.safetensors', INFO, answers=(plain(), 'holds answers, not persona vectors'), pt=(pt(dict(a=torch.ones(4))), 'zip archive'), gguf=(b'GGUF\3\0\0\0'+bytes(64), 'GGUF model: name it with --model'), talk=(js(ok), 'monitor'))
elsewhere += refused('a.json', INFO, tensors=(vectors(whole), 'holds persona vectors'), parquet=(b'PAR1'+bytes(64), 'not a whole JSON'))
elsewhere += refused('d.pt', IMPORT, tensors=(lambda p: tensors(p), 'damaged, or holds more'))+refused('d.safetensors', IMPORT, ours=(vectors(whole), 'load_vectors'))
for cmd in ('extract {f} --model {llama}', 'judge {f} --model {llama}', 'preview {f} --model {llama}', 'run --responses {f} --model {llama}', 'merge {f}', 'plot {f}',
            f'{MONITOR} --calibration {{f}}'.replace('{f}', '{answers}', 1), 'report --responses {f} --model {llama} --quick'):
    word = 'calibration' if '--calibration' in cmd else cmd.split()[0]
    elsewhere += refused('a.json', cmd, **{f'{word} half': ('{"[\\"default\\", \\"Who?\\"]": "Hi \\ud83d"}', 'half a character|no folder of parts|holds answers')})
elsewhere += [Odd(f'named {o!a}', lines(ok), MONITOR, A, True, o) for o in ('a b.jsonl', 'a\nb.jsonl', '\U0001f600.jsonl', '-.jsonl', "it's [bold].jsonl", 'long'*40+'.jsonl')]
elsewhere += [Odd(f'{o.name} again', o.make, o.command, o.says, file='a\nb \U0001f600.json') for o in answers if o.name=='a.json torn']
if hasattr(os, 'mkfifo'): elsewhere += refused('p.jsonl', MONITOR, pipe=(os.mkfifo, 'no conversation file'))+refused('p.json', INFO, pipe=(os.mkfifo, 'no responses file'))+refused('p.yaml', PERSONAS, pipe=(os.mkfifo, 'no such file'))
if hasattr(os, 'getuid') and os.getuid(): elsewhere += refused('s.json', MONITOR, sealed=(sealed, 'Permission denied'))

@pytest.fixture(scope='module')
def given(tmp_path_factory):
    "The inputs that commands name beside the odd file"
    from persona_vectors.extraction.vectors import PersonaVectors, Row
    d = tmp_path_factory.mktemp('given')
    who = 'default','bard','ghost'
    make_llama(d/'llama')
    PersonaVectors(torch.randn(6, 1, 32), [Row(p, q, n_tokens=5) for p in who for q in 'ab'], [1], dict(model='llama', num_layers=2)).save(d/'v.safetensors')
    (d/'a.json').write_text(json.dumps({json.dumps([p,Q]): A for p in who}))
    return dict(llama=d/'llama', vectors=d/'v.safetensors', answers=d/'a.json', out='out.gguf')

@pytest.fixture(scope='module')
def once():
    "The model that reads conversations is loaded once; nothing of the environment leads elsewhere"
    from persona_vectors.extraction.extractor import ActivationExtractor
    from persona_vectors.steering import monitoring
    with pytest.MonkeyPatch.context() as p:
        made,readers = monitoring._monitor,lru_cache(lambda model: ActivationExtractor(PersonaVectorConfig(model)))
        kept = lru_cache(lambda model, *args: made(PersonaVectorConfig(model), *args, lambda ex: None))
        def monitor(config, *args):
            *args,check = args
            check(readers(config.model_name))
            return kept(config.model_name, *args)
        p.setattr(monitoring, '_monitor', monitor)
        p.setenv('HF_HUB_OFFLINE', '1')
        for k in ('HF_TOKEN', 'OPENROUTER_API_KEY'): p.delenv(k, raising=False)
        yield

@pytest.mark.parametrize('o', [*anywhere, *talks, *answers, *own, *held, *elsewhere], ids=lambda o: o.name)
def test_odd(o, given, once, tmp_path): tried(o, tmp_path, **given)

@pytest.mark.parametrize('odd', [Odd('c.jsonl bad', lines(marked, long), MONITOR, r'line 1: message 0 .*; line 2: the conversation has'),
    Odd('a.json few', plain(), f'{MONITOR} --calibration {{f}}'.replace('{f}', '{answers}', 1), 'no answer of a neutral persona'),
    Odd('a.json two', js({js(['default', o]): A for o in 'ab'}), f'{MONITOR} --calibration {{f}}'.replace('{f}', '{answers}', 1), 'needs at least 3 answers'),
    Odd('a.json marked', js({js(['default', o]): 'I say <|im_end|> now' for o in 'abc'}), f'{MONITOR} --calibration {{f}}'.replace('{f}', '{answers}', 1), "answer of 'default' to 'a' cannot be read"),
    Odd('d.safetensors deep', lambda p: tensors(p, {'format': 'persona_vectors.direction/1', 'persona_vectors': js(dict(layer=9, orientation='x', model='llama'))}, direction=torch.ones(32)),
        f'{MONITOR} --direction {{f}}'.replace('{f}', '{answers}', 1), 'is a direction of layer 9, and the vectors are of a model of 2 blocks')], ids=lambda o: o.name)
def test_before_a_model_is_loaded(odd, given, tmp_path, monkeypatch):
    "What is wrong with conversations, calibration or direction is said before anything is loaded"
    from persona_vectors.extraction.extractor import ActivationExtractor
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    for o in ('blocks', 'probe_reading'): monkeypatch.setattr(ActivationExtractor, o, lambda *args: {}['it is loaded'])
    tried(odd, tmp_path, **given)

@pytest.mark.parametrize('options,says', [('--id hash --out out/t.csv', "id='hash': the first conversation"), ('--out out/turns', 'ends in .parquet or .csv'),
    ('--out out/t.csv --figure drift.png', 'ends in .html'), ('--out there.csv', 'there.csv is there already'), ('--out out/t.csv --layer 9', 'layer')])
def test_nothing_is_written(options, says, given, once, tmp_path):
    "An option that is wrong gets one line before anything is written"
    for o in ('c.jsonl', 'there.csv'): (tmp_path/o).write_text(lines(ok))
    r = called(*f'{MONITOR.replace(" --layer 1", "") if "--layer" in options else MONITOR} {options}'.format(f='c.jsonl', **given).split(), cwd=tmp_path)
    assert r.returncode==1 and re.search(says, r.stderr) and 'Traceback' not in r.stderr, r.stderr
    assert sorted(o.name for o in tmp_path.iterdir())==['c.jsonl', 'there.csv']

# controls

def test_a_traceback_is_seen(given, tmp_path, monkeypatch):
    "An exception that nothing handles fails the check, and so do a second line and another reason than the expected one"
    from persona_vectors import conversations
    bad = Odd('c.json text', 'Hello there', MONITOR, 'holds text')
    tried(bad, tmp_path, **given)
    for o in (replace(bad, says='nothing of the kind'), replace(bad, read=True)):
        with pytest.raises(AssertionError): tried(o, tmp_path, **given)
    monkeypatch.setattr(conversations, 'check_kind', lambda *args: logging.getLogger('persona_vectors').warning('a second line') or check_kind(*args))
    with pytest.raises(AssertionError, match='a second line'): tried(bad, tmp_path, **given)
    monkeypatch.setattr(conversations, 'check_kind', lambda *args: {}['nobody handles this'])
    with pytest.raises(AssertionError, match='Traceback'): tried(bad, tmp_path, **given)
