"""An OpenAI-compatible server on the loopback that answers with the question, and whose faults are planned

    python tests/faulty_server.py --latency .2
    python tests/faulty_server.py --faults '{"429": 0.1, "drop": 0.05}' --log requests.jsonl

It prints its address. Which fault a request meets follows from the question and how often it was asked, so a run can be repeated.
"""
import argparse, asyncio, hashlib, json, sys, time
from collections import Counter

finished = 'ok', 'none', 'empty', 'other model', 'length', 'filter', 'refusal'       # what these were given to need not be asked again
passing = '429', 'retry-after', '500', '503', '408', '409', 'drop', 'cut body', 'slow', 'truncated', 'html', 'error body'

# how moderation refuses a prompt, by whose it is: status and body
refusals = {
    'openrouter': (403, dict(error=dict(code=403, message='Your input was flagged', metadata=dict(reasons=['violence'], flagged_input='...', provider_name='X')))),
    'openrouter raw': (400, dict(error=dict(code=400, message='Provider returned error', metadata=dict(raw='{"error":{"code":"content_filter"}}', provider_name='Azure')))),
    'azure': (400, dict(error=dict(code='content_filter', param='prompt', status=400, message="The response was filtered due to the prompt triggering Azure OpenAI's content "
        'management policy.', innererror=dict(code='ResponsibleAIPolicyViolation', content_filter_result=dict(violence=dict(filtered=True, severity='high')))))),
    'openai': (400, dict(error=dict(code='invalid_prompt', type='invalid_request_error', param=None, message='Invalid prompt: your prompt was flagged as potentially violating our usage policy.'))),
    'openai policy': (400, dict(error=dict(code='content_policy_violation', message='Your request was rejected as a result of our safety system.'))),
    'anthropic': (400, dict(error=dict(type='invalid_request_error', message='Output blocked by content filtering policy'))),
    'xai': (403, dict(code='The caller does not have permission', error='Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_BIO')),
    'deepseek': (400, dict(error=dict(message='Content Exists Risk', type='invalid_request_error', param=None, code='invalid_request_error'))),
    'deepseek detail': (400, dict(detail='Content Exists Risk')),
    'alibaba': (400, dict(error=dict(code='data_inspection_failed', type='data_inspection_failed', message='Input data may contain inappropriate content.'))),
    'alibaba code': (400, dict(error=dict(message='<400> InternalError.Algo.DataInspectionFailed: Input text data may contain inappropriate content.'))),
    'moonshot': (400, dict(error=dict(type='content_filter', message='The request was rejected because it was considered high risk'))),
    'zhipu': (400, dict(error=dict(code='1301', message='系统检测到输入或生成内容可能包含不安全或敏感内容'))),
    'stepfun': (451, dict(error=dict(type='censorship_blocked', message='The content you provided or machine outputted is blocked.'))),
    'bedrock': (400, dict(message='Guardrail was enabled and input is in violation of topic policy')),
    'unsafe': (400, dict(error=dict(message='unsafe content detected', type='invalid_request_error'))),
    'jailbreak': (400, dict(error='jailbreak detected')),
    'terms': (403, dict(error=dict(code=403, message='The request is prohibited due to a violation of provider Terms Of Service.'))),
    'nsfw': (400, dict(message='NSFW content detected')),
    'violations': (400, dict(error=dict(message="safety_violations=['sexual']"))),
    'by policy': (403, dict(error=dict(message='The request was blocked by policy.'))),
    'chinese': (400, dict(error=dict(message='内容安全检查未通过'))),
    'litellm': (400, dict(error=dict(message='litellm.ContentPolicyViolationError: VertexAIException', type=None, code='400'))),
    'google': (200, dict(promptFeedback=dict(blockReason='PROHIBITED_CONTENT'), usageMetadata=dict(promptTokenCount=9))),
    'google empty': (200, dict(id='x', object='chat.completion', choices=[], prompt_feedback=dict(block_reason='SAFETY'))),
    'sent': (200, dict(error=dict(code=403, message='Your input was flagged', metadata=dict(reasons=['sexual'])))),
    'withheld, no message': (200, dict(id='x', object='chat.completion', model='echo', choices=[dict(index=0, finish_reason='content_filter: PROHIBITED_CONTENT')])),
    'choice error': (200, dict(id='x', object='chat.completion', model='echo', choices=[dict(index=0, finish_reason='error', message=dict(role='assistant', content=''),
        error=dict(code=400, message='The content was blocked by our content policy'))]))}

# a prompt that is too long: status and body
too_long = {
    'long openai': (400, dict(error=dict(code='context_length_exceeded', type='invalid_request_error', message="This model's maximum context length is 8192 tokens. "
        'However, you requested 9001 tokens (8993 in the messages, 8 in the completion).'))),
    'long vllm': (400, dict(object='error', type='BadRequestError', code=400, message="This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.")),
    'long llama.cpp': (400, dict(error=dict(code=400, type='exceed_context_size_error', n_ctx=4096, message='the request exceeds the available context size, try increasing it'))),
    'long anthropic': (400, dict(error=dict(type='invalid_request_error', message='prompt is too long: 210000 tokens > 200000 maximum'))),
    'long google': (400, [dict(error=dict(code=400, status='INVALID_ARGUMENT', message='The input token count (40000) exceeds the maximum number of tokens allowed (32768).'))]),
    'long': (413, dict(error='Payload too large'))}

# faults of every request, in words that resemble those of one: status and body
of_all = {
    'account': (403, dict(error=dict(message='Your account has been flagged for violating our usage policies', code='account_flagged'))),
    'guardrail': (404, dict(error=dict(code=404, message='No endpoints available matching your guardrail restrictions and data policy'))),
    'parameter': (400, dict(error=dict(message="Unrecognized request argument supplied: moderation", type='invalid_request_error'))),
    'no parameter': (400, dict(error=dict(message='content_filter is not a valid parameter'))),
    'boolean': (400, dict(error=dict(message='`moderation` must be boolean'))),
    'accept': (403, dict(error=dict(message='You must accept the usage policy of this model before use'))),
    'no chat': (400, dict(error=dict(message="model 'omni-moderation-latest' does not support chat completions"))),
    'no guardrail': (400, dict(message='The guardrail identifier or version provided in the request does not exist.')),
    'max tokens': (400, dict(error=dict(code='context_length_exceeded', message="'max_tokens' is too large: 8. This model's maximum context length is 8 tokens and your request has 2."))),
    'model': (404, dict(error=dict(code='model_not_found', message='The model `echo` does not exist'))),
    'sent 401': (200, dict(error=dict(code=401, message='No auth credentials found')))}

# how a system message is refused: status and body
no_system = {
    'google': (400, [dict(error=dict(code=400, message='Developer instruction is not enabled for models/gemma-3-27b-it', status='INVALID_ARGUMENT'))]),
    'vllm': (400, dict(object='error', message='System role not supported', type='BadRequestError', param=None, code=400)),
    'mistral': (400, dict(object='error', message='Only user and assistant roles are supported!', type='BadRequestError', param=None, code=400)),
    'alternate': (400, dict(object='error', message='Conversation roles must alternate user/assistant/user/assistant/...', type='BadRequestError', code=None)),
    'llama.cpp': (500, dict(error=dict(code=500, type='server_error', message='\n------------\nWhile executing CallExpression at line 1, column 32\nError: Jinja Exception: System role not supported'))),
    'ministral': (500, dict(error=dict(code=500, type='server_error', message='Only user, assistant and tool roles are supported, got system.'))),
    'first': (400, dict(error=dict(message="'messages[0].role' must be 'user'"))),
    'in': (400, dict(detail='Role must be in [user, assistant]')),
    'pydantic': (422, dict(detail=[dict(type='literal_error', loc=['body','messages',0,'role'], msg="Input should be 'user' or 'assistant'", input='system')])),
    'from': (400, dict(error=dict(message='first message must be from user'))),
    'lm studio': (400, dict(error='Error rendering prompt with jinja template: "Conversation roles must alternate user/assistant/user/assistant/..."')),
    'openai': (400, dict(error=dict(code='unsupported_value', param='messages[0].role', message="Unsupported value: 'messages[0].role' does not support 'system' with this model."))),
    'openrouter': (400, dict(error=dict(code=400, message='Provider returned error', metadata=dict(raw='{"error":{"message":"Developer instruction is not enabled for models/gemma-3-4b-it"}}'))))}

# errors that pass, in words that resemble a refused system message: status and body
not_system = {
    'away': (500, dict(error=dict(code=500, message='The system is currently not available, try again'))),
    'unknown': (500, dict(error=dict(code=500, message='Unknown error in our system')))}

# what every request meets, in words that nobody has told us
everyone = {
    'suspended': (403, dict(error=dict(message='Moderation is unavailable in your country'))),
    'blocked': (200, dict(promptFeedback=dict(blockReason='OTHER')))}

planned = refusals | too_long | of_all | not_system | everyone

def share(*what):
    "A number in [0,1) that `what` decides"
    return int.from_bytes(hashlib.sha256(json.dumps(what).encode()).digest()[:6])/2**48

def digest(key): return hashlib.sha256(key.encode()).hexdigest()

class Server:
    def __init__(self, faults=None, always=None, latency=0, key=None, status=None, after=0, retry_after='0.05', log=None, seed=0, says=None, no_system=None, once=None):
        self.no_system,self.once = no_system,once or {}
        self.faults,self.always,self.latency,self.key,self.status,self.after,self.retry_after,self.seed,self.says = faults or {}, always or {}, latency, key, status, after, retry_after, seed, says
        self.log,self.asked,self.total,self.now,self.most = open(log, 'a', buffering=1) if log else None, Counter(), 0, 0, 0
    def fault(self, item, attempt):
        for word,f in self.always.items():
            if word in item: return f
        for word,f in self.once.items():
            if word in item and attempt==1: return f
        x = share(self.seed, item, attempt)
        for f,p in self.faults.items():
            x -= p
            if x<0: return f
        return 'ok'
    async def client(self, reader, writer):
        try:
            while await self.one(reader, writer): pass
        except (ConnectionError, asyncio.IncompleteReadError): pass
        finally: writer.close()
    async def one(self, reader, writer):
        try: head = (await reader.readuntil(b'\r\n\r\n')).decode()
        except asyncio.IncompleteReadError: return False
        headers = {k.lower(): v for k,v in (l.split(': ', 1) for l in head.split('\r\n')[1:] if ': ' in l)}
        body = json.loads(await reader.readexactly(int(headers.get('content-length', 0))) or '{}')
        raw = 'prompt' in body
        item = body['prompt'] if raw else body['messages'][-1]['content'] if 'messages' in body else ''
        system = next((m['content'] for m in body.get('messages', []) if m['role']=='system'), '')
        key = headers.get('authorization', '').removeprefix('Bearer ')
        self.total += 1
        self.asked[item] += 1
        did = self.status if self.status and self.total>self.after else self.fault(item, self.asked[item])
        if self.key and key!=self.key: did = 'key'
        if self.no_system and system and did=='ok': did = 'no system'
        self.now += 1
        self.most = max(self.most, self.now)
        line = dict(system=system, item=item, attempt=self.asked[item], did=did, t=time.time(), seed=body.get('seed'), now=self.now, key=digest(key))
        if self.log: self.log.write(json.dumps(line)+'\n')
        try:
            await asyncio.sleep(self.latency)
            return await self.answer(writer, did, item, raw, body, f', said {key}' if self.key else '')
        finally: self.now -= 1
    async def answer(self, writer, did, item, raw, body, said):
        if did.isdigit(): return await self.send(writer, int(did), dict(error=dict(message=f'planned {did}{said}')))
        if did=='no system': return await self.send(writer, *no_system[self.no_system])
        if did in planned: return await self.send(writer, *planned[did])
        if did=='key': return await self.send(writer, 401, dict(error=dict(message=f'Incorrect API key provided: {said[7:]}')))
        if did=='quota': return await self.send(writer, 429, dict(error=dict(message=f'no credit left{said}', code='insufficient_quota')))
        if did=='retry-after': return await self.send(writer, 429, dict(error=dict(message=f'wait{said}')), {'Retry-After': self.retry_after})
        if did=='drop': return False
        if did=='html': return await self.send(writer, 200, f'<html>busy{said}</html>', {'Content-Type': 'text/html'})
        if did=='error body': return await self.send(writer, 200, dict(error=dict(message=f'upstream is busy{said}', code=502)))
        if did=='no message': return await self.send(writer, 200, dict(choices=[dict(index=0, finish_reason='stop')]))
        data = json.dumps(completion(did, self.says or f'You said: {item}', item, raw, body))
        if did=='truncated': data = data[:len(data)//2]
        if did=='cut body':
            await self.send(writer, 200, data[:20], length=len(data))
            return False
        if did=='slow':
            await self.send(writer, 200, data[:1], length=len(data))
            for c in data[1:]:
                await asyncio.sleep(1)
                writer.write(c.encode())
                await writer.drain()
            return True
        return await self.send(writer, 200, data)
    async def send(self, writer, status, data, headers=None, length=None):
        data = (data if isinstance(data, str) else json.dumps(data)).encode()
        head = {'Content-Type': 'application/json', 'Content-Length': length or len(data)} | (headers or {})
        writer.write(f'HTTP/1.1 {status} X\r\n'.encode() + ''.join(f'{k}: {v}\r\n' for k,v in head.items()).encode() + b'\r\n' + data)
        await writer.drain()
        return True

def completion(did, says, item, raw, body):
    parts = [dict(type='thinking', thinking=[dict(type='text', text='Hm.')]), dict(type='text', text=says)]
    text = {'none': None, 'null filter': None, 'tool calls': None, 'empty': '', 'surrogate': says+'\ud83d', 'parts': parts}.get(did, says)   # half an emoji, as cut by max_tokens
    reason = {'length': 'length', 'filter': 'content_filter', 'null filter': 'content_filter', 'safety': 'SAFETY', 'tool calls': 'tool_calls'}.get(did, 'stop')
    if raw: choice = dict(index=0, text=text or '', finish_reason=reason)
    else: choice = dict(index=0, finish_reason=reason, message=dict(role='assistant', content=None if did=='refusal' else text, refusal='I will not.' if did=='refusal' else None))
    usage = dict(prompt_tokens=len(item.split()), completion_tokens=len(str(text or '').split()), total_tokens=0, cost=.0001)
    return dict(id='x', object='chat.completion', created=1, model='another/model' if did=='other model' else body.get('model'), choices=[choice], usage=usage)

async def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--faults', type=json.loads, help='fault to its share of requests')
    p.add_argument('--always', type=json.loads, help='word to the fault that every question with it meets')
    p.add_argument('--once', type=json.loads, help='word to the fault that the first request with it meets')
    p.add_argument('--latency', type=float, default=0, help='seconds before each answer')
    p.add_argument('--key', help='the only key that is let in; with it, every error repeats the key it was sent')
    p.add_argument('--status', help='answer every request with this status or fault')
    p.add_argument('--after', type=int, default=0, help='... but for the first so many')
    p.add_argument('--retry-after', default='0.05', help='what the header says, in seconds or as a date')
    p.add_argument('--log', help='a file that receives a line for every request')
    p.add_argument('--says', help='what it answers, in place of the question')
    p.add_argument('--no-system', help='how it refuses a system message', choices=no_system)
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--port', type=int, default=0, help='0: one that is free')
    args = vars(p.parse_args())
    port = args.pop('port')
    srv = await asyncio.start_server(Server(**args).client, '127.0.0.1', port)
    print(f'http://127.0.0.1:{srv.sockets[0].getsockname()[1]}/v1', flush=True)
    await asyncio.to_thread(sys.stdin.read)                                          # until whoever started it lets go

if __name__=='__main__':
    try: asyncio.run(main())
    except KeyboardInterrupt: pass
