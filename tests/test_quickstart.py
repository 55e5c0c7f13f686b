"The Quick Start word for word, with a tiny checkpoint of the class that google/gemma-3-27b-it uses standing in for its weights"
import json, os, shutil, subprocess, sys
from pathlib import Path
import pytest, torch
from persona_vectors import EMBEDDED, EVAL_QUESTIONS, PERSONAS, find_model, load_responses, load_vectors

root = Path(__file__).parent.parent
fixture = 'data/test_fixtures/responses_cache.json'
model_name,commit = 'google/gemma-3-27b-it', '0123456789abcdef'*2+'01234567'

quick_start = '''from persona_vectors import (
    PersonaVectorConfig,
    ActivationExtractor,
    extract_persona_vectors,
    load_responses,
    PERSONAS,
    EVAL_QUESTIONS,
)

# Load cached responses (avoids API calls)
responses = load_responses("data/test_fixtures/responses_cache.json")

# Create extractor (lazy-loads model on first use)
config = PersonaVectorConfig()
extractor = ActivationExtractor(config)

# Extract persona vectors at layer 40
vectors = extract_persona_vectors(
    extractor=extractor,
    personas=PERSONAS,
    questions=EVAL_QUESTIONS,
    responses=responses,
    layer=40,
)
# vectors: {"persona_name": tensor(5376,), ...}
'''

def test_it_is_the_readmes():
    "What runs here is what the README shows"
    assert quick_start.strip() in (Path(__file__).parent.parent/'README.md').read_text(encoding='utf-8')

seen = '''
import json
from pathlib import Path
vectors.save('v.safetensors')
blocks = extractor._blocks[1]
Path('seen.json').write_text(json.dumps(dict(vars(config), layer=extractor.layer, num_layers=extractor.num_layers, dtype=extractor.dtype,
    weights=[n for n,_ in blocks.named_parameters()], shapes={k: list(v.shape) for k,v in dict(vectors).items()}, meta=vectors.meta)))
'''

# the stand-in

template = '''{{ bos_token }}{% if messages[0].role=='system' %}{% set before = messages[0].content + '\\n\\n' %}{% set messages = messages[1:] %}{% endif -%}
{% for m in messages %}{% if (m.role=='user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate user/assistant') }}{% endif -%}
{{ '<start_of_turn>' + ('model' if m.role=='assistant' else m.role) + '\\n' + ((before or '') if loop.first else '') }}{{ m.content | trim }}{{ '<end_of_turn>\\n' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}'''

def make_tokenizer(folder):
    "The embedded model's tokenizer with Gemma's markers and a template like Gemma's: no role for the system, texts trimmed"
    tok = find_model(EMBEDDED).tokenizer()
    tok.add_special_tokens(dict(bos_token='<bos>', eos_token='<end_of_turn>', additional_special_tokens=['<start_of_turn>', '<image>']))
    tok.chat_template = template
    tok.save_pretrained(folder)
    return tok

def make_model(folder, tok):
    "62 blocks of width 32 and a small vision tower, in bfloat16, with a config.json that says what the hub's says and no more"
    from transformers import AutoConfig, Gemma3ForConditionalGeneration
    cfg = dict(architectures=['Gemma3ForConditionalGeneration'], model_type='gemma3', torch_dtype='bfloat16', mm_tokens_per_image=4,
        eos_token_id=[tok.eos_token_id], image_token_index=tok.convert_tokens_to_ids('<image>'), initializer_range=.02,
        text_config=dict(model_type='gemma3_text', num_hidden_layers=62, hidden_size=32, intermediate_size=64, num_attention_heads=2, num_key_value_heads=1,
                         head_dim=8, query_pre_attn_scalar=8, vocab_size=len(tok), sliding_window=64, rope_scaling=dict(factor=8., rope_type='linear')),
        vision_config=dict(model_type='siglip_vision_model', hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                           image_size=56, patch_size=14, vision_use_head=False))
    (folder/'config.json').write_text(json.dumps(cfg))
    torch.manual_seed(0)
    model = Gemma3ForConditionalGeneration(AutoConfig.from_pretrained(folder))
    for n,p in model.model.language_model.named_parameters():                      # so that where and what a token is matters at layer 40
        if 'embed' in n: torch.nn.init.normal_(p, 0., .2)
        if 'norm' in n: torch.nn.init.normal_(p, .5 if 'q_norm' in n or 'k_norm' in n else -.7 if 'post_' in n else 0., .1)
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder/'config.json').write_text(json.dumps(cfg))

@pytest.fixture(scope='module')
def hub(tmp_path_factory):
    "A hub cache with the stand-in in it"
    home = tmp_path_factory.mktemp('hf')
    repo = home/'hub'/f'models--{model_name.replace("/", "--")}'
    snap = repo/'snapshots'/commit
    snap.mkdir(parents=True)
    (repo/'refs').mkdir()
    (repo/'refs'/'main').write_text(commit)
    make_model(snap, make_tokenizer(snap))
    return home,snap

@pytest.fixture(scope='module')
def ran(hub, tmp_path_factory):
    "What the Quick Start made, in a folder that has only the fixture"
    cwd = tmp_path_factory.mktemp('quickstart')
    (cwd/fixture).parent.mkdir(parents=True)
    shutil.copy(root/fixture, cwd/fixture)
    env = {k:v for k,v in os.environ.items() if not k.startswith(('HF_', 'OPENROUTER'))} | dict(HF_HOME=str(hub[0]), HF_HUB_OFFLINE='1', OMP_NUM_THREADS='1')
    r = subprocess.run([sys.executable, '-c', quick_start+seen], cwd=cwd, env=env, capture_output=True, text=True)
    assert r.returncode==0, r.stderr
    return json.loads((cwd/'seen.json').read_text()), load_vectors(cwd/'v.safetensors')

# the tests

def test_stand_in_is_of_that_class(hub):
    "The weights have the names that the hub's checkpoint has, among them those of the vision tower"
    from safetensors import safe_open
    with safe_open(hub[1]/'model.safetensors', 'pt') as f: names = set(f.keys())
    assert {'language_model.model.embed_tokens.weight', 'language_model.model.layers.61.self_attn.q_norm.weight', 'language_model.model.norm.weight',
            'multi_modal_projector.mm_input_projection_weight'} <= names and any(o.startswith('vision_tower.') for o in names)

def test_defaults(ran):
    "62 blocks give layer 40 without being told; the template finds a place for the system prompt by itself"
    got,_ = ran
    assert (got['model_name'], got['num_layers'], got['layer'], got['meta']['folds_system']) == (model_name, 62, 40, False)
    assert PERSONAS['bard'] in got['meta']['rendered']['bard'][0] and got['meta']['rendered']['default']==['<bos><start_of_turn>user\n']

def test_names_the_commit(ran):
    "The vectors say which commit of the hub's repository was read, so that another one is another model"
    assert ran[0]['meta']['fingerprint'] == commit

def test_vectors(ran):
    "A tensor of the model's width for each of the 23 personas, in their order, all different"
    got,v = ran
    assert got['shapes'] == {p: [32] for p in PERSONAS} and len(PERSONAS)==23 and list(v)==list(PERSONAS)
    assert len(v.rows)==23*18 and len(torch.stack(list(v.values())).unique(dim=0))==23

def test_loads_40_blocks(ran):
    "Blocks 0 to 39 and the embedding; no head, no vision tower"
    ws = ran[0]['weights']
    assert {int(n.split('.')[1]) for n in ws if n.startswith('layers.')} == set(range(40))
    assert {n for n in ws if not n.startswith('layers.')} == {'embed_tokens.weight', 'norm.weight'}

def by_hand(model, tok, persona, question, text):
    "Mean over the answer's tokens of every hidden state: one conversation, the full multimodal model, float32"
    msgs = [dict(role='system', content=PERSONAS[persona])]*bool(PERSONAS[persona]) + [dict(role='user', content=question)]
    def ids(msgs, ask): return tok(tok.apply_chat_template(msgs, tokenize=False, add_generation_prompt=ask), add_special_tokens=False).input_ids
    before,full = ids(msgs, True), ids([*msgs, dict(role='assistant', content=text)], False)
    end = len(full) - full[::-1].index(tok.eos_token_id) - 1
    assert full[:len(before)]==before and tok.decode(full[len(before):end])==text
    with torch.inference_mode(): hs = model(input_ids=torch.tensor([full]), output_hidden_states=True).hidden_states
    return torch.stack([h[0,len(before):end].mean(0) for h in hs]), end-len(before)

@pytest.fixture(scope='module')
def slow(hub):
    "Two answers of each of four personas, read by hand: {(persona, question): (means at every layer, tokens)}"
    from transformers import AutoTokenizer, Gemma3ForConditionalGeneration
    model,tok = Gemma3ForConditionalGeneration.from_pretrained(hub[1], dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(hub[1])
    rs,threads = load_responses(root/fixture), torch.get_num_threads()
    torch.set_num_threads(1)                                                        # the work is too small to be shared out
    pick = [[(p,q) for q in EVAL_QUESTIONS if rs[p,q]==rs[p,q].strip()][:2] for p in ('default', 'analyst', 'bard', 'ghost')]
    yield {k: by_hand(model, tok, *k, rs[k]) for ks in pick for k in ks}
    torch.set_num_threads(threads)

def centred_cosines(a, b): return torch.cosine_similarity(a-a.mean(0), b-b.mean(0), dim=-1)

def test_same_as_by_hand(ran, slow):
    "The means at layer 40 are those of the full model's `hidden_states[40]`, and nearer to them than to those of any other layer"
    v = ran[1]
    at = {(r.persona,r.question): i for i,r in enumerate(v.rows)}
    got,want = v.means[[at[k] for k in slow],0], torch.stack([m for m,_ in slow.values()])
    assert [v.rows[at[k]].n_tokens for k in slow] == [n for _,n in slow.values()]
    cos = torch.stack([centred_cosines(got, want[:,l]) for l in range(63)], 1)     # answer × layer
    err = (got[:,None]-want).norm(dim=-1)
    assert cos[:,40].min() > (.9999 if ran[0]['dtype']=='float32' else .999)
    assert (err.argmin(1)==40).all() and (cos.argmax(1)==40).all()

def test_same_as_by_hand_control(ran, slow):
    "The answers of a persona under the name of another fall short"
    v,want = ran[1], torch.stack([m[40] for m,_ in slow.values()])
    at = {(r.persona,r.question): i for i,r in enumerate(v.rows)}
    assert centred_cosines(v.means[[at[k] for k in slow],0], want.roll(2, 0)).max() < .9
