"""Write data/what_was_tried.json: every causal model type and encoder of the installed transformers, read as tests/architectures.py does,
and every named chat template of tests/templates.py, with the conversations of tests/test_templates.py. About five minutes on two cores."""
import json, sys, warnings
from pathlib import Path
root = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(root/'tests'))
warnings.filterwarnings('ignore')
import torch, transformers
transformers.logging.set_verbosity_error(); transformers.logging.disable_progress_bar()
import architectures, templates, test_templates

NOT_TRIED = 'no small model of this type could be made here'

def architecture(kind):
    "A row of the table; any exception but a refusal in one line stops the run"
    try: architectures.config_and_size(kind)
    except Exception: return dict(type=kind, not_tried=NOT_TRIED)                # of transformers, or of how a small model is made
    return architectures.tried(kind)

def template(name):
    "How many conversations were rendered with this template and five tokenizers; `check` raises if one token of a span is not the answer's"
    n = 0
    for kind in templates.kinds:
        for answer in test_templates.awkward:
            test_templates.check(kind, name, test_templates.question, answer)
            n += 1
    return dict(template=name or 'raw', conversations=n)

def main():
    rows = []
    for kind in architectures.KINDS:
        rows.append(architecture(kind))
        print(rows[-1], flush=True)
    rows += [o for k in architectures.OTHERS if (o := architectures.refused(k))]
    out = dict(versions=dict(transformers=transformers.__version__, torch=torch.__version__.partition('+')[0]), architectures=sorted(rows, key=lambda o: o['type']),
               templates=[template(o) for o in [*templates.zoo, None]])
    (root/'data'/'what_was_tried.json').write_text(json.dumps(out, indent=1)+'\n', encoding='utf-8')

if __name__=='__main__': main()
