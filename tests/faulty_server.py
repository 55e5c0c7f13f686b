"""An OpenAI-compatible server on the loopback that answers with the question, and whose faults are planned

    python tests/faulty_server.py --latency .2
    python tests/faulty_server.py --faults '{"429": 0.1, "drop": 0.05}' --log requests.jsonl

It prints its address. Which fault a request meets follows from the question and how often it was asked, so a run can be repeated.
"""
import argparse, asyncio, hashlib, json, sys, time
from collections import Counter

finished = 'ok', 'none', 'empty', 'other model', 'length', 'filter', 'refusal'       # what these were given to need not be asked again
passing = '429', 'retry-after', '500', '503', '408', '409', 'drop', 'cut body', 'slow', 'truncated', 'html', 'error body'

def share(*what):
    "A number in [0,1) that `what` decides"
    return int.from_bytes(hashlib.sha256(json.dumps(what).encode()).digest()[:6])/2**48

def digest(key): return hashlib.sha256(key.encode()).hexdigest()

class Server:
    def __init__(self, faults=None, always=None, latency=0, key=None, status=None, after=0, retry_after='0.05', log=None, seed=0, says=None):
        self.faults,self.always,self.latency,self.key,self.status,self.after,self.retry_after,self.seed,self.says = faults or {}, always or {}, latency, key, status, after, retry_after, seed, says
        self.log,self.asked,self.total,self.now,self.most = open(log, 'a', buffering=1) if log else None, Counter(), 0, 0, 0
    def fault(self, item, attempt):
        for word,f in self.always.items():
            if word in item: return f
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
    text = {'none': None, 'empty': '', 'surrogate': says+'\ud83d'}.get(did, says)   # half an emoji, as cut by max_tokens
    reason = {'length': 'length', 'filter': 'content_filter'}.get(did, 'stop')
    if raw: choice = dict(index=0, text=text or '', finish_reason=reason)
    else: choice = dict(index=0, finish_reason=reason, message=dict(role='assistant', content=None if did=='refusal' else text, refusal='I will not.' if did=='refusal' else None))
    usage = dict(prompt_tokens=len(item.split()), completion_tokens=len((text or '').split()), total_tokens=0, cost=.0001)
    return dict(id='x', object='chat.completion', created=1, model='another/model' if did=='other model' else body.get('model'), choices=[choice], usage=usage)

async def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--faults', type=json.loads, help='fault to its share of requests')
    p.add_argument('--always', type=json.loads, help='word to the fault that every question with it meets')
    p.add_argument('--latency', type=float, default=0, help='seconds before each answer')
    p.add_argument('--key', help='the only key that is let in; with it, every error repeats the key it was sent')
    p.add_argument('--status', help='answer every request with this status or fault')
    p.add_argument('--after', type=int, default=0, help='... but for the first so many')
    p.add_argument('--retry-after', default='0.05', help='what the header says, in seconds or as a date')
    p.add_argument('--log', help='a file that receives a line for every request')
    p.add_argument('--says', help='what it answers, in place of the question')
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
