"Faults planted in the reading, each found by the probe when the model is loaded; without the fault it passes"
import copy, json, logging
from shutil import copytree
from unittest import mock
import pytest, torch
import transformers as tf
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel
from persona_vectors.config import PersonaVectorConfig
from persona_vectors.extraction import engine, packing, probe as probe_module, streaming
from persona_vectors.extraction.extractor import ActivationExtractor
from persona_vectors.models import EMBEDDED, ModelSource, find_model
from persona_vectors.prompts import Tokens
from tiny import make_llama

L,V = 4, 300
small = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=L, num_attention_heads=4, num_key_value_heads=2, vocab_size=V, max_position_embeddings=256,
             pad_token_id=0, bos_token_id=1, eos_token_id=2)
def rope(**kw): return dict(rope_theta=1e4, **kw)
old = dict(original_max_position_embeddings=64)
ropes = dict(linear=rope(rope_type='linear', factor=4.), yarn=rope(rope_type='yarn', factor=4., **old),
             llama3=rope(rope_type='llama3', factor=8., low_freq_factor=1., high_freq_factor=4., **old))
longrope = rope(rope_type='longrope', short_factor=[1.,1.2,1.5,2.], long_factor=[1.,2.,6.,12.], **old)
configs = {k: (lambda o=o: tf.LlamaConfig(**small, rope_parameters=o)) for k,o in ropes.items()} | dict(
    llama=lambda: tf.LlamaConfig(**small), bloom=lambda: tf.BloomConfig(hidden_size=32, n_head=4, n_layer=L, vocab_size=V),
    gemma2=lambda: tf.Gemma2Config(**small, head_dim=8, query_pre_attn_scalar=144), granite=lambda: tf.GraniteConfig(**small, attention_multiplier=.02),
    phi3=lambda: tf.Phi3Config(**small, original_max_position_embeddings=64, rope_parameters=longrope),
    mistral=lambda: tf.MistralConfig(**small, sliding_window=128), gemma2_window=lambda: tf.Gemma2Config(**small, head_dim=8, sliding_window=128),
    llama4=lambda: tf.Llama4TextConfig(**small, intermediate_size_mlp=64, num_local_experts=2, head_dim=8, attention_chunk_size=64),
    dynamic=lambda: tf.LlamaConfig(**small|dict(max_position_embeddings=64), rope_parameters=rope(rope_type='dynamic', factor=3.)))

@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "The folder of a random model, its weights large enough that attention matters"
    folder,there = tmp_path_factory.mktemp('models'),{}
    def make(arch):
        if arch not in there:
            torch.manual_seed(0)
            m = tf.AutoModelForCausalLM.from_config(configs[arch](), dtype=torch.float32)
            for p in m.parameters(): p.data += .1*torch.randn_like(p)
            m.save_pretrained(folder/arch)
            there[arch] = str(folder/arch)
        return there[arch]
    return make

g = torch.Generator().manual_seed(0)
def rnd(n): return torch.randint(3, V, (n,), generator=g).tolist()
start = rnd(9)
ids = [start+rnd(70), start+rnd(20), rnd(13), start+rnd(150), rnd(61)]
seqs = [Tokens(o, 0, len(o), [], '', f'number {i}') for i,o in enumerate(ids)]

def extractor(folder, stream=False, dtype='float32'):
    ex = ActivationExtractor(PersonaVectorConfig(model_name=folder, dtype=dtype, device='cpu', stream=stream))
    ex.tokenizer = find_model(EMBEDDED).tokenizer()                             # these models have none of their own, and need none
    return ex

def means(folder, **kw): return extractor(folder, **kw).means(seqs, [3], progress=False)

how = pytest.mark.parametrize('kw', [{}, dict(stream=True), dict(dtype='bfloat16')], ids=['whole','streamed','bfloat16'])
OTHERWISE = 'is read.* otherwise than by transformers alone'

def without(**kw):
    "Plant: the configuration that is read with lacks what `kw` says"
    text_config = ModelSource.text_config
    def planted(self):
        cfg = text_config(self)
        for k,v in kw.items(): setattr(cfg, k, v)
        return cfg
    return mock.patch.object(ModelSource, 'text_config', planted)

@how
@pytest.mark.parametrize('arch', configs)
def test_right(arch, kw, made, caplog):
    "Without a fault nothing is refused; what was compared is said, once for all readings"
    caplog.set_level(logging.INFO)
    ex = extractor(made(arch), **kw)
    for _ in range(2): ex.means(seqs, [3], progress=False)
    (about,) = ex.probed.values()
    assert about['differences']['float32'] < 5e-6 and about['layers'] == ([0,1,2] if kw.get('stream') else [0,1,3])
    assert caplog.text.count('of transformers alone, at layers') == 1

@how
@pytest.mark.parametrize('kind', ropes)
def test_rope_scaling(kind, kw, made):
    with without(rope_parameters=rope(rope_type='default')), pytest.raises(ValueError, match=OTHERWISE): means(made(kind), **kw)

@how
@pytest.mark.parametrize('arch,own', [('gemma2', dict(query_pre_attn_scalar=8)), ('granite', dict(attention_multiplier=8**-.5))])
def test_attention_scale(arch, own, kw, made):
    with without(**own), pytest.raises(ValueError, match=OTHERWISE): means(made(arch), **kw)

@how
@pytest.mark.parametrize('arch,lost', [('mistral', dict(sliding_window=None)), ('gemma2_window', dict(sliding_window=4096)), ('llama4', dict(attention_chunk_size=8192))])
def test_window(arch, lost, kw, made):
    "A sliding window or chunks that the reading drops, whether a conversation crosses them or not; where none is as long and they are wide, nothing differs"
    own = extractor(made(arch), **kw)
    own.means(seqs, [3], progress=False)
    assert [max(o['tokens'])>64 for o in own.probed.values()] == [True]
    with without(**lost):
        for some in (seqs, seqs[1:3]):
            with pytest.raises(ValueError, match=OTHERWISE): extractor(made(arch), **kw).means(some, [3], progress=False)
        with mock.patch.object(probe_module, 'CHEAP', 16): extractor(made(arch), **kw).means(seqs[1:3], [3], progress=False)

@pytest.mark.parametrize('arch', ['mistral','gemma2_window'])
def test_window_of_packing(arch, made):
    "A mask of packed attention without its window"
    mask = packing.causal_mask
    def planted(n, m, window, *args): return mask(n, m, None, *args)
    planted.cache_clear = mask.cache_clear
    means(made(arch))
    with mock.patch.object(packing, 'causal_mask', planted), pytest.raises(ValueError, match=OTHERWISE): means(made(arch))

@pytest.mark.parametrize('stream', [False, True])
@pytest.mark.parametrize('arch', ['phi3','dynamic'])
def test_frequencies_of_a_batch(arch, stream, made):
    "All in one batch, whatever their lengths"
    with mock.patch.object(engine, 'batch_key', lambda model: None), mock.patch.object(streaming, 'batch_key', lambda model: None):
        with pytest.raises(ValueError, match=r'in company, though not by itself.*--batch-tokens 1\)'): means(made(arch), stream=stream)

def test_packed_wrong(made):
    "A packed sequence that misses the first token of its prefix"
    pack = packing.pack
    def planted(seqs, index):
        b = pack(seqs, index)
        b.where = [r if len(r)==1 else [(r[0][0]+1, r[0][1]), *r[1:]] for r in b.where]
        return b
    with mock.patch.object(packing, 'pack', planted), mock.patch.object(engine, 'can_pack', lambda *a: True):
        with pytest.raises(ValueError, match=OTHERWISE): means(made('llama'))

def test_padded_wrong(made):
    "Padding on the left, which is read"
    def planted(seqs, index):
        n = max(len(seqs[i]) for i in index)
        ids = torch.tensor([[0]*(n-len(seqs[i]))+seqs[i].ids for i in index])
        return packing._batch(seqs, index, ids, None, [[((j+1)*n-len(seqs[i]), (j+1)*n)] for j,i in enumerate(index)], False)
    with mock.patch.object(packing, 'pad', planted), pytest.raises(ValueError, match='in company, though not by itself'): means(made('bloom'))

def test_streamed_wrong(made):
    "A block that lacks a matrix"
    load = streaming.Weights.load
    def loaded(self, part=None):
        wait = load(self, part)
        if part==1: self.blocks[1].mlp.down_proj.weight.data = self.blocks[1].mlp.down_proj.weight.data*0
        return wait
    with mock.patch.object(streaming.Weights, 'load', loaded), pytest.raises(ValueError, match=OTHERWISE): means(made('llama'), stream=True)

def test_pre_tokenizer(tmp_path):
    "A tokenizer that splits otherwise than the file beside the weights"
    folder = str(make_llama(tmp_path/'llama'))
    own = ActivationExtractor(PersonaVectorConfig(model_name=folder, dtype='float32', device='cpu'))
    own.means(seqs, [1], progress=False)
    wrong = ActivationExtractor(PersonaVectorConfig(model_name=folder, dtype='float32', device='cpu'))
    wrong.tokenizer = copy.deepcopy(own.tokenizer)
    wrong.tokenizer.backend_tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    with pytest.raises(ValueError, match='the tokenizer splits .*PreTrainedTokenizerFast'): wrong.means(seqs, [1], progress=False)

def test_adapter(made, tmp_path):
    "An adapter beside the model that was not applied, even if the load lets it pass"
    folder = copytree(made('llama'), tmp_path/'adapted')
    (folder/'adapter_config.json').write_text(json.dumps(dict(peft_type='LORA', r=2, lora_alpha=4, base_model_name_or_path='x', target_modules=['q_proj'])))
    lora = {f'base_model.model.model.layers.{i}.self_attn.q_proj.lora_{o}.weight': torch.randn(2, 32) if o=='A' else torch.randn(32, 2) for i in range(L) for o in 'AB'}
    save_file(lora, folder/'adapter_model.safetensors')
    with mock.patch.object(ModelSource, 'adapter', None, create=True), pytest.raises(ValueError, match='the adapter in its folder is not applied.*pip install peft'):
        means(str(folder))

def test_large(made, caplog):
    "Of a large model two blocks are compared; where memory is short, none, which is said"
    with mock.patch.object(probe_module, 'WHOLE', 1000):
        ex = extractor(made('linear'))
        ex.means(seqs, [3], progress=False)
        assert [o['against'] for o in ex.probed.values()] == ['LlamaForCausalLM, 2 blocks']
        with without(rope_parameters=rope(rope_type='default')), pytest.raises(ValueError, match='at layer [12] a text of .*'+OTHERWISE): means(made('linear'))
    with mock.patch.object(probe_module, 'blocks_to_compare', lambda *a: 0), mock.patch('persona_vectors.extraction.extractor.blocks_to_compare', lambda *a: 0):
        means(made('linear'))
    assert 'its numbers are not compared with those of transformers alone: the memory' in caplog.text

def test_rounding(made, caplog):
    "Where bfloat16 alone makes the difference, that is a warning; a fault in bfloat16 only is not"
    read = extractor(made('llama'), dtype='bfloat16')
    with mock.patch.dict(probe_module.LIMITS, bfloat16=1e-4):
        read.means(seqs, [3], progress=False)
        assert "bfloat16 rounds much: at layer" in caplog.text and "give dtype='float32' (--dtype float32)" in caplog.text
        load = probe_module.ordinary
        exact = lambda source, k, device, blocks, dtype='float32': load(source, k, device, blocks)       # as if transformers did not round
        with mock.patch.object(probe_module, 'ordinary', exact):
            with pytest.raises(ValueError, match=OTHERWISE+r".*in bfloat16.*in float32 it is read as by transformers: take that \(dtype='float32'"):
                means(made('llama'), dtype='bfloat16')

def test_files_of_a_large_model(tmp_path):
    "What costs nothing is checked where the memory holds no ordinary model"
    ex = ActivationExtractor(PersonaVectorConfig(model_name=str(make_llama(tmp_path/'llama')), dtype='float32', device='cpu'))
    with mock.patch('persona_vectors.extraction.extractor.blocks_to_compare', lambda *a: 0):
        ex.tokenizer.backend_tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
        with pytest.raises(ValueError, match='the tokenizer splits'): ex.means(seqs, [1], progress=False)

def test_what_is_caught(made):
    "Only the load of the ordinary model may fail; an error of the comparison is not taken for that"
    tok = find_model(EMBEDDED).tokenizer()
    with mock.patch.object(ModelSource, 'load', side_effect=KeyError('odd')):
        assert probe_module.probe(find_model(made('llama')), tok, seqs, [3], None) == dict(against=None, why="'odd'")
    for part in ('probe_texts','ordinary_means'):
        with mock.patch.object(probe_module, part, side_effect=KeyError('a bug')), pytest.raises(KeyError): means(made('llama'))

def test_zeros(tmp_path):
    "An embedding of zeros is equal to itself"
    torch.manual_seed(0)
    m = tf.GPT2LMHeadModel(tf.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=V))
    for p in (m.transformer.wte.weight, m.transformer.wpe.weight): p.data.zero_()
    m.save_pretrained(tmp_path)
    assert not extractor(str(tmp_path)).means(seqs, [0,1], progress=False)[:,0].any()
