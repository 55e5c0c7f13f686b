"Splitting and tokenizers of GGUF files, against rules written out by hand, a SentencePiece of our own, and tokenizers trained here"
import json, random, re
import pytest, regex, torch
from gguf import GGUFWriter
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from persona_vectors.gguf import convert_gguf
from persona_vectors.models import find_model, load_causal
from persona_vectors.pretokenizers import GGML, HARD, RULES, cuts, gguf_tokenizer, pre_tokenizer, splits, splitting_fault

# What each family makes of two texts, pieces apart by a bar. Llama.cpp's own splitting gives the same, except where its regular expressions
# only come near the originals: capitals and combining marks of the gpt-4o family, and DeepSeek LLM's digits (its paper: split individually).
FIRST = "I'm WE'LL (go)\n\n\n  XMLHttp 12345 你好世界!!\n\tx=1.5"
SECOND = "myFile's  'tis a_b"+9*' '+"y1 /\n/ 3.14\r\n\r\n«x» 1,234,567 "
GPT4 = "I|'m| WE|'LL| (|go|)\n\n\n| | XMLHttp| |"
CASES = {
    'gpt-2 phi-2 jina-es jina-de jina-v1-en jina-v2-es jina-v2-de jina-v2-code roberta-bpe gigachat a.x-4.0 mellum modern-bert exaone4 mpt olmo jais '
    'trillion granite-docling': ("I|'m| WE|'|LL| (|go|)|\n\n\n | XMLHttp| 12345| 你好世界|!!|\n|\t|x|=|1|.|5",
        "myFile|'s| | '|tis| a|_|b|        | y|1| /|\n|/| 3|.|14|\r\n\r|\n|«|x|»| 1|,|234|,|567| "),
    'smollm starcoder refact command-r codeshell exaone minerva-7b mellum2': (
        "I|'m| WE|'|LL| (|go|)|\n\n\n | XMLHttp| |1|2|3|4|5| 你好世界|!!|\n|\t|x|=|1|.|5",
        "myFile|'s| | '|tis| a|_|b|        | y|1| /|\n|/| |3|.|1|4|\r\n\r|\n|«|x|»| |1|,|2|3|4|,|5|6|7| "),
    'llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano dbrx smaug-bpe chatglm-bpe glm4 glm5 minicpm5 jais-2': (
        GPT4+"123|45| 你好世界|!!\n|\tx|=|1|.|5",
        "myFile|'s| | '|tis| a|_b|        | y|1| /\n|/| |3|.|14|\r\n\r\n|«x|»| |1|,|234|,|567| "),
    'qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2 bailingmoe bailingmoe2 llada-moe ufakzeka qwen35': (
        GPT4+"1|2|3|4|5| 你好世界|!!\n|\tx|=|1|.|5",
        "myFile|'s| | '|tis| a|_b|        | y|1| /\n|/| |3|.|1|4|\r\n\r\n|«x|»| |1|,|2|3|4|,|5|6|7| "),
    'laguna': ("I|'m| WE|'LL| (|go|)|\n\n\n| | XMLHttp| |1|2|3|4|5| 你好世界|!!|\n|\tx|=|1|.|5",
        "myFile|'s| | '|tis| a|_b|        | y|1| /|\n|/| |3|.|1|4|\r|\n|\r|\n|«x|»| |1|,|2|3|4|,|5|6|7| "),
    'seed-coder': ("I|'m| WE|'LL| (|go|)|\n\n\n| | XMLHttp| |1|2|3|4|5| 你好世界|!!|\n|\tx|=|1|.|5",
        "myFile|'s| | '|tis| a|_b|        | y|1| /|\n|/| |3|.|1|4|\r\n\r\n|«x|»| |1|,|2|3|4|,|5|6|7| "),
    'exaone-moe': ("I|'m| WE|'LL| (|go|)\n|\n\n| | XMLHttp| |1|2|3|4|5| 你好世界|!!\n|\tx|=|1|.|5",
        "myFile|'s| | '|tis a|_b|        | y|1| /\n|/| |3|.|1|4|\r\n\r\n|«x|»| |1|,|2|3|4|,|5|6|7| "),
    'gpt-4o llama4 kanana2 talkie minimax-m2 granite-embed-multi-97m': ("I'm| WE'LL| (|go|)\n\n\n| | XMLHttp| |123|45| 你好世界|!!\n|\tx|=|1|.|5",
        "my|File's| | '|tis| a|_b|        | y|1| /\n/| |3|.|14|\r\n\r\n|«x|»| |1|,|234|,|567| "),
    'tiny_aya cohere2moe': ("I'm| WE'LL| (|go|)\n\n\n| | XMLHttp| |12|345| 你好世界|!!\n|\tx|=|1|.|5",
        "my|File's| | '|tis| a|_b|        | y|1| /\n/| |3|.|14|\r\n\r\n|«x|»| |1|,|234|,|567| "),
    'tekken': (GPT4+"1|2|3|4|5| 你好世界|!!\n|\tx|=|1|.|5",
        "my|File|'s| | '|tis| a|_b|        | y|1| /\n/| |3|.|1|4|\r\n\r\n|«x|»| |1|,|2|3|4|,|5|6|7| "),
    'kimi-k2': ("I'm| WE'LL| (|go|)\n\n\n| | XMLHttp| |123|45| |你好世界|!!\n|\tx|=|1|.|5",
        "my|File's| | '|tis| a|_b|        | y|1| /\n|/| |3|.|14|\r\n\r\n|«x|»| |1|,|234|,|567| "),
    'youtu': ("I'm| WE'LL| (|go|)\n\n\n| | XMLHttp| |1|2|3|4|5| |你好世界|!!\n|\tx|=|1|.|5",
        "my|File's| | '|tis| a|_b|        | y|1| /\n/| |3|.|1|4|\r\n\r\n|«x|»| |1|,|2|3|4|,|5|6|7| "),
    'deepseek-v3 hunyuan-dense joyai-llm hy_v4': (GPT4+"123|45| |你好世界|!!\n|\tx|=|1|.|5",
        "myFile|'s| | '|tis| a|_b|        | y|1| /\n|/| |3|.|14|\r\n\r\n|«|x|»| |1|,|234|,|567| "),
    'spark2_5': ("I|'m| WE|'LL| (|go|)|\n|\n|\n| | XMLHttp| |1|2|3|4|5| |你好世界|!!|\n|\tx|=|1|.|5",
        "myFile|'s| | '|tis| a|_b|        | y|1| /|\n|/| |3|.|1|4|\r|\n|\r|\n|«|x|»| |1|,|2|3|4|,|5|6|7| "),
    'afmoe': (GPT4+"12|345| |你好世界|!!\n|\tx|=|1|.|5",
        "myFile|'s| | '|tis| a|_b|        | y|1| /\n|/| |3|.|14|\r\n\r\n|«|x|»| |1|,|234|,|567| "),
    'deepseek-coder': ("I|'|m| WE|'|LL| (|go|)|\n|\n|\n| | XMLHttp| |1|2|3|4|5| |你好世界|!!|\n|\tx|=|1|.|5",
        "myFile|'|s| | '|tis| a|_|b|        | y|1| /|\n|/| |3|.|1|4|\r|\n|\r|\n|«|x|»| |1|,|2|3|4|,|5|6|7| "),
    'deepseek-llm': ("I|'|m| WE|'|LL| (|go|)|\n|\n|\n| | XMLHttp| |1|2|3|4|5| |你好世界|!!|\n|\tx|=|1|.|5",
        "myFile|'|s| | '|tis| a|_|b|        | y|1| /|\n|/| |3|.|1|4|\r|\n|\r|\n|«|x|» |1|,|2|3|4|,|5|6|7| "),
    'bloom poro-chat gpt3-finnish': ("I'm| WE'LL| (|go|)\n\n\n | XMLHttp| 12345| 你好世界|!!\n\t|x=1|.|5",
        "myFile's| | 'tis| a_b|        | y1| /|\n|/| 3|.|14|\r\n\r\n|«x»| 1|,|234|,|567| "),
    'viking': ("I'm| WE'LL| (|go|)\n\n\n | XMLHttp| |1|2|3|4|5| 你好世界|!!\n\t|x=|1|.|5",
        "myFile's| | 'tis| a_b|        | y|1| /|\n|/| |3|.|1|4|\r\n\r\n|«x»| |1|,|2|3|4|,|5|6|7| "),
    'superbpe': ("I'm WE'LL (go)\n\n\n  XMLHttp |12|345| 你好世界!!\n\tx=|1|.|5",
        "myFile's  'tis a_b         y|1| /\n/ |3|.|14|\r\n\r\n«x» |1|,|234|,|567| "),
    'falcon': ("I|'|m| WE|'|LL| |(|go|)|\n\n\n | XMLHttp| |123|45| 你好世界|!!|\n|\t|x|=|1|.|5",
        "myFile|'|s|  |'|tis| a|_|b|        | y|1| |/|\n|/| 3|.|14|\r\n\r\n|«|x|»| 1|,|234|,|567| "),
    'chameleon': ("I|'|m| WE|'|LL| |(|go|)|\n|\n|\n|  |XMLHttp| |1|2|3|4|5| 你好世界|!|!|\n|\t|x|=|1|.|5",
        "myFile|'|s|  |'|tis| a|_|b|    |    | y|1| |/|\n|/| |3|.|1|4|\r|\n|\r|\n|«|x|»| |1|,|2|3|4|,|5|6|7| ")}
NAMES = {n: want for names,want in CASES.items() for n in names.split()}

def test_the_cases_are_all_names(): assert set(NAMES)==set(RULES)

@pytest.mark.parametrize('name', NAMES)
def test_splitting(name):
    for text,want in zip((FIRST, SECOND), NAMES[name]): assert cuts(splits(*RULES[name]), text)==want.split('|')

@pytest.mark.parametrize('text,want', {
    "Ali'sabah": dict(qwen2="Ali|'s|abah", ufakzeka="Ali|'sabah"), 'x'+12*' '+'y': {'llama3': f"x|{11*' '}| y", 'jais-2': f"x|{8*' '}|{2*' '}| | y"},
    'e\u0301a b': dict(qwen2='e|\u0301a| b', qwen35='e\u0301a| b', tekken='e\u0301a| b'), '1234567a': dict(afmoe='1|234|567|a', tiny_aya='123|456|7|a'),
    'x  123': dict(llama3='x| | |123', minicpm5='x|  |123'), 'aIMGIMGABZb': dict(chameleon='a|IMGIMGABZ|b'),
    'ทดสอบ 테스트': dict(afmoe='ทดสอบ| |테스트', youtu='ทดสอบ| |테스트', qwen2='ทดสอบ| 테스트')}.items())
def test_details(text, want):
    for name,o in want.items(): assert cuts(splits(*RULES[name]), text)==o.split('|'), name

# The embedded model, by its public rules (every digit alone, the rest as GPT-2 splits it) and its file's merges, in plain Python

TEXT = """Steps:

1. Go  to 2024.
2) Stop

\tdef f(x):
\t    return x+10  # 3 times

It's 😀🚀, I'LL say 12,345.
"""
LETTERS = {b: chr(b) for b in (*range(33, 127), *range(161, 173), *range(174, 256))}
LETTERS |= {b: chr(256+i) for i,b in enumerate(b for b in range(256) if b not in LETTERS)}

def bpe(piece, ranks):
    "The tokens of a piece: the best-ranked pair of neighbours is merged until none is left"
    parts = [LETTERS[b] for b in piece.encode()]
    while pairs := [(ranks[p], i) for i,p in enumerate(zip(parts, parts[1:])) if p in ranks]:
        i = min(pairs)[1]
        parts[i:i+2] = [parts[i]+parts[i+1]]
    return parts

def test_the_embedded_model_has_its_own_tokens():
    src = find_model('smollm2-135m-instruct')
    file = json.load(open(f'{src.path}/tokenizer.json', encoding='utf-8'))
    ranks = {tuple(p): i for i,p in enumerate(file['model']['merges'])}
    gpt2 = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
    want,plain = [[t for o in parts if o for p in gpt2.findall(o) for t in bpe(p, ranks)] for parts in (regex.split(r'(\p{N})', TEXT), [TEXT])]
    got = src.tokenizer().tokenize(TEXT)
    assert got==want!=plain
    assert got[:12]==['Steps', ':', 'ĊĊ', '1', '.', 'ĠGo', 'Ġ', 'Ġto', 'Ġ', '2', '0', '2']
    assert splitting_fault(src.tokenizer(), src.path) is None


# A byte-level model for each name, trained here on a text that shows the rules apart

PLAIN = HARD.replace('\u212b', '').replace('e\u0301', '')   # what NFC leaves alone

def trained(name):
    "A tokenizer trained on hard text with the rule of `name`, and a file's metadata for it"
    twin = Tokenizer(models.BPE())
    twin.pre_tokenizer = pre_tokenizer(name)
    twin.train_from_iterator([HARD]*2, trainers.BpeTrainer(vocab_size=3000, min_frequency=2, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=['<s>', '<｜end▁of▁turn｜>', '<think>']))
    m = json.loads(twin.to_str())['model']
    tokens = sorted(m['vocab'], key=m['vocab'].get)
    own = dict(model='gpt2', pre=name, tokens=tokens, merges=[' '.join(o) for o in m['merges']], token_type=[3,3,4]+[1]*(len(tokens)-3),
               bos_token_id=0, eos_token_id=1)
    return twin, {'general.architecture': 'llama'} | {GGML+k: v for k,v in own.items()}

@pytest.mark.parametrize('name', ['gpt-2', 'smollm', 'llama-bpe', 'qwen2', 'glm4', 'deepseek-llm', 'deepseek-coder', 'deepseek-v3', 'command-r', 'exaone',
                                  'tekken', 'gpt-4o', 'kimi-k2', 'falcon', 'superbpe', 'afmoe'])
def test_a_twin_from_metadata(name, tmp_path):
    twin,meta = trained(name)
    tok = gguf_tokenizer(meta)
    tok.save_pretrained(tmp_path)
    for o in (tok, AutoTokenizer.from_pretrained(tmp_path)):
        assert o(PLAIN, add_special_tokens=False).input_ids==twin.encode(PLAIN, add_special_tokens=False).ids
        assert splitting_fault(o, tmp_path) is None
    other = gguf_tokenizer(meta | {GGML+'pre': 'bloom'})
    assert other(PLAIN, add_special_tokens=False).input_ids!=tok(PLAIN, add_special_tokens=False).input_ids

TENSORS = {'model.embed_tokens': 'token_embd', 'model.norm': 'output_norm', 'lm_head': 'output', 'input_layernorm': 'attn_norm', 'self_attn.q_proj': 'attn_q',
    'self_attn.k_proj': 'attn_k', 'self_attn.v_proj': 'attn_v', 'self_attn.o_proj': 'attn_output', 'post_attention_layernorm': 'ffn_norm',
    'mlp.gate_proj': 'ffn_gate', 'mlp.up_proj': 'ffn_up', 'mlp.down_proj': 'ffn_down'}

def small(meta):
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(meta[GGML+'tokens']), hidden_size=8, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=512)).eval()

def write_gguf(path, model, meta):
    "A file of a Llama with heads of two numbers, whose order is then the same in both formats"
    c,w = model.config,GGUFWriter(path, 'llama')
    for f,v in dict(block_count=c.num_hidden_layers, context_length=512, embedding_length=c.hidden_size, feed_forward_length=c.intermediate_size,
        head_count=c.num_attention_heads, head_count_kv=c.num_key_value_heads, layer_norm_rms_eps=c.rms_norm_eps, vocab_size=c.vocab_size,
        rope_dimension_count=2).items(): getattr(w, f'add_{f}')(v)
    for k,v in meta.items():
        if k!='general.architecture': {list: w.add_array, bool: w.add_bool, str: w.add_string, int: w.add_uint32}[type(v)](k, v)
    for k,v in model.state_dict().items():
        k = k.removesuffix('.weight')
        w.add_tensor((TENSORS[k] if k in TENSORS else f"blk.{k.split('.')[2]}.{TENSORS[k.split('.', 3)[3]]}")+'.weight', v.numpy())
    for f in (w.write_header_to_file, w.write_kv_data_to_file, w.write_tensors_to_file, w.close): f()

@pytest.mark.parametrize('name', sorted({names.split()[0] for names in CASES} | {'glm4', 'exaone', 'command-r'}))
def test_a_whole_file_is_read_as_its_twin(name, tmp_path):
    twin,meta = trained(name)
    torch.manual_seed(0)
    model = small(meta)
    write_gguf(tmp_path/'m.gguf', model, meta)
    convert_gguf(tmp_path/'m.gguf', tmp_path/'m')
    src = find_model(str(tmp_path/'m'))
    got,want = src.tokenizer()(PLAIN, add_special_tokens=False).input_ids, twin.encode(PLAIN).ids
    assert got==want
    with torch.no_grad(): a,b = load_causal(src)(torch.tensor([got])).logits, model(torch.tensor([want])).logits
    assert (a-b).norm()/b.norm()<1e-6

@pytest.mark.parametrize('name', ['default', 'whitespace', 'elvish'])
def test_a_whole_file_with_a_rule_that_is_not_known_is_refused_by_name(name, tmp_path):
    meta = trained('qwen2')[1] | {GGML+'pre': name}
    write_gguf(tmp_path/'m.gguf', small(meta), meta)
    with pytest.raises(ValueError, match=f"tokenizer.ggml.pre is '{name}'"): convert_gguf(tmp_path/'m.gguf', tmp_path/'m')

def test_control_tokens_outside_the_byte_alphabet_are_matched_whole():
    tok = gguf_tokenizer(trained('deepseek-v3')[1])
    ids = tok('a<think>b<｜end▁of▁turn｜>', add_special_tokens=False).input_ids
    assert [ids[1], ids[3]]==[2, 1] and len(ids)==4 and tok.decode(ids, skip_special_tokens=True)=='a<think>b'

def test_letters_are_composed_where_the_model_had_them_composed():
    meta = trained('qwen2')[1]
    for name,want in dict(qwen2='\u00e9', ufakzeka='e\u0301').items():
        tok = gguf_tokenizer(meta | {GGML+'pre': name})
        assert tok.decode(tok('e\u0301').input_ids)==want

@pytest.mark.parametrize('pre,flags,want', [('llama-bpe', {}, [0]), ('tekken', {}, [0]), ('qwen2', {}, []), ('qwen2', dict(add_bos_token=True), [0]),
    ('llama-bpe', dict(add_bos_token=False), []), ('llama-bpe', dict(bos_token_id=None), []), ('qwen2', dict(add_eos_token=True), [1])])
def test_first_and_last_tokens(pre, flags, want, tmp_path):
    tok = gguf_tokenizer(trained(pre)[1] | {GGML+k: v for k,v in flags.items()})
    tok.save_pretrained(tmp_path)
    for o in (tok, AutoTokenizer.from_pretrained(tmp_path)): assert [i for i in o('x').input_ids if i<2]==want

@pytest.mark.parametrize('change,why', [(dict(pre='elvish'), "'elvish'"), (dict(pre='default'), "'default'"), (dict(pre=None), 'no tokenizer.ggml.pre'),
    (dict(model='bert'), "'bert'"), (dict(model='rwkv'), "'rwkv'"), (dict(model='plamo2'), "'plamo2'"), (dict(model='t5'), "'t5'"), (dict(model=None), 'None'),
    (dict(merges=None), 'no tokenizer.ggml.merges'), (dict(token_type=None), 'no tokenizer.ggml.token_type'),
    (dict(precompiled_charsmap=[1,2]), 'precompiled_charsmap'),
    (dict(remove_extra_whitespaces=True), 'remove_extra_whitespaces'), (dict(add_sep_token=True), 'add_sep_token'), (dict(telepathy=1), 'telepathy'),
    (dict(add_bos_token=True, bos_token_id=None), 'add_bos_token is true'), (dict(tokens=['a','a'], token_type=[1,1]), "twice, 'a'"),
    (dict(token_type=[1]), 'different lengths'), (dict(padding_token_id=10**6), 'padding_token_id is 1000000'),
    (dict(merges='a b'), 'no tokenizer.ggml.merges'), (dict(merges=['zz qq']), "tokenizer.ggml.merges has 'zz qq'"), (dict(merges=['ab']), "merges has 'ab'"),
    (dict(merges=['Z Q']), "merges has 'Z Q'"), (dict(merges=[1,2]), "tokenizer.ggml.merges has '1'"), (dict(tokens=[1,2]), 'tokenizer.ggml.tokens has'),
    (dict(token_type=['x']), 'tokenizer.ggml.token_type has'), (dict(mask_token_id='x'), "mask_token_id is 'x'"), (dict(eot_token_id=2.5), 'eot_token_id is 2.5'),
    (dict(eos_token_ids=[1,-1]), 'eos_token_ids is [1, -1]'), (dict(add_bos_token='x'), "add_bos_token is 'x'"), (dict(pre=[1]), 'tokenizer.ggml.pre is [1]'),
    (dict(suppress_tokens=[1]), 'suppress_tokens')])
def test_what_is_not_understood_is_refused_by_name(change, why):
    with pytest.raises(ValueError, match=re.escape(why)) as e: gguf_tokenizer(trained('qwen2')[1] | {GGML+k: v for k,v in change.items()})
    assert re.search("give the model's original folder or hub id|fetch it again", str(e.value)) and '\n' not in str(e.value)


@pytest.mark.parametrize('key', ['tokens','merges','token_type'])
def test_a_damaged_file_is_read_or_refused_in_one_line(key, tmp_path):
    "Bytes of a whole file turned in its vocabulary: no error of another class, no panic"
    meta = trained('qwen2')[1]
    write_gguf(tmp_path/'m.gguf', small(meta), meta)
    raw = (tmp_path/'m.gguf').read_bytes()
    at,bad = raw.index((GGML+key).encode())+len(GGML+key),0
    for i in range(40):
        o = bytearray(raw)
        o[at+16+7*i] ^= 1
        (tmp_path/'x.gguf').write_bytes(o)
        try: convert_gguf(tmp_path/'x.gguf', tmp_path)
        except ValueError as e:
            bad += 1
            assert '\n' not in str(e)
    assert bad or key=='token_type'


# SentencePiece: the algorithm itself, in plain Python

def pieces(text, scores):
    "SentencePiece's BPE: of all neighbours that make a token the one with the best score is joined, the leftmost first; the rest are bytes"
    parts = list(text.replace(' ', '▁'))
    while pairs := [(-scores[a+b], i) for i,(a,b) in enumerate(zip(parts, parts[1:])) if a+b in scores]:
        i = min(pairs)[1]
        parts[i:i+2] = [parts[i]+parts[i+1]]
    return [t for o in parts for t in ([o] if o in scores else [f'<0x{b:02X}>' for b in o.encode()])]

def made_up_spm(rng, **kw):
    bits = sorted({''.join(rng.choice('▁abc') for _ in range(n)) for n in (2,2,2,3,3,3,4,4,5) for _ in range(6)})
    rng.shuffle(bits)
    scores = {o: -float(i) for i,o in enumerate(bits)} | dict.fromkeys('▁abc', -1e6)
    tokens = ['<unk>', '<s>', '</s>', *(f'<0x{i:02X}>' for i in range(256)), *scores]
    return scores, {'general.architecture': 'llama', GGML+'model': 'llama', GGML+'pre': 'default', GGML+'tokens': tokens,
        GGML+'token_type': [2,3,3]+[6]*256+[1]*len(scores), GGML+'scores': [0.]*259+[*scores.values()]} | {GGML+k: v for k,v in kw.items()}

@pytest.mark.parametrize('prefix', [True, False])
def test_sentencepiece(prefix):
    rng = random.Random(0)
    for _ in range(10):
        scores,meta = made_up_spm(rng, add_space_prefix=prefix)
        tok = gguf_tokenizer(meta)
        for _ in range(30):
            text = ''.join(rng.choice('   abcé') for _ in range(12)).lstrip() or 'a'
            assert tok.tokenize(text)==pieces(' '*prefix+text, scores), text
            assert tok.decode(tok(text, add_special_tokens=False).input_ids)==text
    assert tok('a').input_ids[0]==1 and tok('</s>').input_ids==[1,2]

def test_spaces_after_control_tokens():
    "Llama 2 writes a space after each; Mistral since version 2, told by its control tokens, at the beginning of a text only"
    meta = made_up_spm(random.Random(0))[1]
    assert gguf_tokenizer(meta).tokenize('c</s>')[0].startswith('▁') and gguf_tokenizer(meta).tokenize('</s>\n')==['</s>', '▁', '<0x0A>']
    mistral = gguf_tokenizer(meta | {GGML+'tokens': ['[INST]' if o=='</s>' else o for o in meta[GGML+'tokens']]})
    assert mistral.tokenize('c')[0].startswith('▁') and mistral.tokenize('[INST]\n')==['[INST]', '<0x0A>']

def test_blanks_behind_the_special_tokens_of_phi3():
    meta = made_up_spm(random.Random(0))[1]
    assert '<0x0A>' in gguf_tokenizer(meta).tokenize('</s>\na')
    assert '<0x0A>' not in gguf_tokenizer(meta | {'general.architecture': 'phi3'}).tokenize('</s>\na')

def test_a_token_of_spaces_is_a_run_of_blanks():
    meta = made_up_spm(random.Random(0), add_space_prefix=False)[1]
    meta |= {GGML+'tokens': [*meta[GGML+'tokens'], 3*' '], GGML+'token_type': [*meta[GGML+'token_type'], 4], GGML+'scores': [*meta[GGML+'scores'], 1.]}
    tok = gguf_tokenizer(meta)
    assert len(tok)==len(meta[GGML+'tokens']) and tok.convert_tokens_to_ids('▁▁▁')==len(tok)-1

def test_gemma4_merges_as_its_file_says():
    tokens = ['<pad>', '</s>', '<bos>', '<0xC3>', '<0xA9>', '▁', 'a', 'b', '\n', '\n\n', '▁a', 'ab']
    meta = {'general.architecture': 'gemma4', GGML+'model': 'gemma4', GGML+'tokens': tokens, GGML+'token_type': [3]*3+[6]*2+[1]*7, GGML+'bos_token_id': 2,
            GGML+'merges': ['\n \n', '▁ a', 'a b'], GGML+'add_bos_token': True, GGML+'add_space_prefix': False}
    tok = gguf_tokenizer(meta)
    assert tok.convert_ids_to_tokens(tok('ab ab\n\né').input_ids)==['ab', '▁a', 'b', '\n\n', '<0xC3>', '<0xA9>']


# A splitting that is no longer the saved one

def test_a_folder_with_another_splitting_is_found(tmp_path):
    meta = trained('smollm')[1]
    gguf_tokenizer(meta).save_pretrained(tmp_path)
    file = tmp_path/'tokenizer.json'
    d = json.loads(file.read_text(encoding='utf-8'))
    d['pre_tokenizer'] = dict(type='ByteLevel', add_prefix_space=False, trim_offsets=True, use_regex=True)
    file.write_text(json.dumps(d), encoding='utf-8')
    assert "the rule 'smollm' of its GGUF file has ['ĊĊ', '1'" in splitting_fault(AutoTokenizer.from_pretrained(tmp_path), tmp_path)

def test_a_splitting_where_there_is_none_is_found(tmp_path):
    meta = made_up_spm(random.Random(0))[1]
    for spaces in ('</s>', '[INST]'):   # a normaliser, or Metaspace
        tok = gguf_tokenizer(meta | {GGML+'tokens': [spaces if o=='</s>' else o for o in meta[GGML+'tokens']]})
        tok.save_pretrained(tmp_path)
        assert splitting_fault(AutoTokenizer.from_pretrained(tmp_path), tmp_path) is None
        tok.backend_tokenizer.pre_tokenizer = pre_tokenizers.Digits(individual_digits=True)
        tok.save_pretrained(tmp_path)
        assert 'where its GGUF file wants no splitting' in splitting_fault(AutoTokenizer.from_pretrained(tmp_path), tmp_path)

def test_a_class_that_splits_otherwise_than_its_file_is_found(tmp_path):
    gguf_tokenizer(trained('deepseek-v3')[1]).save_pretrained(tmp_path)
    c = json.loads((tmp_path/'tokenizer_config.json').read_text())
    del c['ggml_pre']
    (tmp_path/'tokenizer_config.json').write_text(json.dumps(c))
    assert splitting_fault(AutoTokenizer.from_pretrained(tmp_path), tmp_path) is None
    (tmp_path/'tokenizer_config.json').write_text(json.dumps(c | dict(tokenizer_class='Qwen2Tokenizer')))
    assert 'its tokenizer.json has' in splitting_fault(AutoTokenizer.from_pretrained(tmp_path), tmp_path)

def test_a_model_is_read_with_the_splitting_of_its_file(tmp_path, caplog):
    twin,meta = trained('smollm')
    gguf_tokenizer(meta).save_pretrained(tmp_path)
    LlamaConfig().save_pretrained(tmp_path)
    c = json.loads((tmp_path/'tokenizer_config.json').read_text())
    del c['ggml_pre']
    for k in ('TokenizersBackend', 'GPT2Tokenizer'):   # the latter as SmolLM2 has it on the hub
        (tmp_path/'tokenizer_config.json').write_text(json.dumps(c | dict(tokenizer_class=k)))
        caplog.clear()
        got,auto = find_model(str(tmp_path)).tokenizer(), AutoTokenizer.from_pretrained(tmp_path)
        assert got(HARD).input_ids==twin.encode(HARD).ids and (got.bos_token, got.eos_token)==('<s>', '<｜end▁of▁turn｜>')
        assert ('its tokenizer.json is followed, not the class GPT2Tokenizer' in caplog.text)==(k=='GPT2Tokenizer')==(auto(HARD).input_ids!=got(HARD).input_ids)
