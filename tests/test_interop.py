"Files of other projects: of models of other shapes, files that would run something, and files that cannot be written"
import os, pickle
from pathlib import Path
import pytest, torch
from transformers import AutoConfig, Gemma3Config, GPT2Config, LlamaConfig, Qwen3MoeConfig
from persona_vectors.extraction.vectors import Direction
from persona_vectors.steering.interop import export_direction, fitting, import_file

small = dict(hidden_size=16, num_hidden_layers=5, num_attention_heads=2, intermediate_size=8)
shapes = dict(llama=lambda: LlamaConfig(**small), qwen=lambda: Qwen3MoeConfig(**small), gpt2=lambda: GPT2Config(n_embd=16, n_layer=5, n_head=2),
              gemma=lambda: Gemma3Config(text_config=small | dict(head_dim=8), vision_config=dict(hidden_size=8, num_hidden_layers=3, num_attention_heads=2, intermediate_size=8)))

@pytest.fixture(params=shapes)
def model(request, tmp_path):
    shapes[request.param]().save_pretrained(tmp_path/request.param)
    return str(tmp_path/request.param)

@pytest.fixture
def llama(tmp_path):
    shapes['llama']().save_pretrained(tmp_path/'llama')
    return str(tmp_path/'llama')

def directions(format, name):
    g = torch.Generator().manual_seed(0)
    return {k: Direction(torch.randn(16, generator=g), 'mean of default minus mean of 3 roles', k, name, dict(kind='axis', plus=['default'], minus=['bard'], responses=None)) for k in fitting(range(6), format, 5)}

named = {'gguf': 'a', 'assistant-axis': 'an_axis.pt', 'persona_vectors': 'a_response_avg_diff.pt'}

@pytest.mark.parametrize('format', ['gguf', 'assistant-axis', 'persona_vectors'])
def test_round_trip(model, format, tmp_path):
    ds = directions(format, Path(model).name)
    export_direction(ds, tmp_path/named[format], format, model)
    got = import_file(tmp_path/named[format], model)
    assert list(got)==list(ds) and all(torch.equal(got[k].vector, ds[k].vector) for k in ds)
    assert not any(torch.equal(got[k].vector, ds[k+1].vector) for k in ds if k+1 in ds)   # control

def test_kind_of_a_model_that_sees(tmp_path):
    "A hint names the whole model or its text part"
    shapes['gemma']().save_pretrained(tmp_path/'gemma')
    from gguf import GGUFWriter
    def written(hint):
        w = GGUFWriter(tmp_path/f'{hint}.gguf', 'controlvector')
        w.add_string('controlvector.model_hint', hint)
        w.add_uint32('controlvector.layer_count', 1)
        w.add_tensor('direction.2', torch.ones(16).numpy())
        for step in (w.write_header_to_file, w.write_kv_data_to_file, w.write_tensors_to_file, w.close): step()
        return tmp_path/f'{hint}.gguf'
    assert AutoConfig.from_pretrained(tmp_path/'gemma').model_type=='gemma3'
    for hint in ('gemma3', 'gemma3_text'): assert list(import_file(written(hint), str(tmp_path/'gemma')))==[3]
    with pytest.raises(ValueError, match="of kind 'gemma2'"): import_file(written('gemma2'), str(tmp_path/'gemma'))

class Runs:
    def __init__(self, mark): self.mark = mark
    def __reduce__(self): return os.mkdir, (str(self.mark),)

@pytest.mark.filterwarnings('ignore:Detected pickle protocol')
def test_nothing_is_unpickled(llama, tmp_path):
    mark = tmp_path/'it ran'
    with open(tmp_path/'bad.pt', 'wb') as f: pickle.dump(Runs(mark), f)
    torch.save(Runs(mark), tmp_path/'worse.pt')
    torch.save(dict(vector=torch.zeros(5,16), role='bard', type=Runs(mark)), tmp_path/'worst.pt')
    for name in ('bad.pt', 'worse.pt', 'worst.pt'):
        with pytest.raises(ValueError, match='unpickled'): import_file(tmp_path/name, llama)
    assert not mark.exists()
    torch.load(tmp_path/'worse.pt', weights_only=False)                                 # control: it would have
    assert mark.exists()

@pytest.mark.parametrize('format', ['gguf', 'assistant-axis'])
def test_what_cannot_be_written_leaves_the_old_file(format, llama, tmp_path, monkeypatch):
    d = list(directions(format, 'llama').values())[-1]
    (out := tmp_path/'out').write_text('old')
    def full(*args): raise OSError(28, 'No space left on device')
    with monkeypatch.context() as m:
        m.setattr('os.fsync', full)
        with pytest.raises(OSError, match='No space'): export_direction(d, out, format, llama)
    assert out.read_text()=='old' and sorted(p.name for p in tmp_path.iterdir() if p.is_file())==['out']
    export_direction(d, out, format, llama)
    assert out.read_bytes()!=b'old'                                                     # control
