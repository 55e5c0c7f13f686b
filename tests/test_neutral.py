"Neutral personas may have any name: what the vectors say of themselves is heard by every analysis"
from dataclasses import replace
import numpy as np, pandas as pd, pytest
from persona_vectors.analysis.axis import assistant_axis, centred, cosine_matrix, held_out, project, rank_personas, role_pca
from persona_vectors.analysis.comparison import compare, cross_cosine, joint_pca
from persona_vectors.analysis.controls import against_nulls, contrasts, matched_length, pseudo_defaults, random_directions
from persona_vectors.analysis.coordinates import massive_activations, outlier_dimensions, probe_direction, sensitivity, separation, transform
from persona_vectors.analysis.simulation import planted
from persona_vectors.analysis.uncertainty import (axis_strength, crossvalidated, crossvalidated_cosine, rank_intervals,
                                                  reliability, variance_components)
from persona_vectors.extraction.vectors import PersonaVectors, load_vectors

other = dict(default='helper', default_assistant='plain', default_llm='machine', default_helpful='nobody')
def renamed(v, meta=True):
    "The same with other names for the neutral personas, and whether the file says so"
    rows = [replace(r, persona=other.get(r.persona, r.persona)) for r in v.rows]
    return PersonaVectors(v.means, rows, v.layers, {**v.meta, 'neutral': list(other.values())} if meta else v.meta)

def frame(x):
    "Numbers of `x` with the original names"
    x = pd.DataFrame(x)
    back = {b:a for a,b in other.items()}
    return x.rename(index=back, columns=back).select_dtypes('number')

analyses = dict(
    axis=lambda v: assistant_axis(v).vector.numpy(), centred=centred, cosines=cosine_matrix, projections=lambda v: project(v, assistant_axis(v)),
    held_out=held_out, ranking=lambda v: rank_personas(v).drop(columns='category'), components=lambda v: role_pca(v).scores,
    intervals=lambda v: rank_intervals(v, n=20).drop(columns='category'), products=crossvalidated,
    crossvalidated_cosines=crossvalidated_cosine, strength=lambda v: [axis_strength(v, over=('questions','personas'), n=20).low],
    reliability=lambda v: reliability(v, splits=5), variance=variance_components,
    pseudo_defaults=pseudo_defaults, random_directions=lambda v: random_directions(v, 5), contrasts=lambda v: contrasts(v)[0].vector.numpy(),
    nulls=lambda v: against_nulls(lambda u: abs(u[0]), v, n=20), matched=lambda v: centred(matched_length(v)),
    massive_activations=massive_activations, outliers=lambda v: outlier_dimensions(v, 1.5), masked=lambda v: transform(v, 'masked', top=3).means[:,0].numpy(),
    probe=lambda v: probe_direction(v).vector.numpy(), separation=lambda v: separation(v, kinds=('mean',)), sensitivity=sensitivity,
    comparison=lambda v: compare(dict(a=v, b=transform(v, 'standardised')), transform(v, 'masked', top=2), n=5).table.drop(columns='p'),
    cross_cosine=lambda v: cross_cosine(v, transform(v, 'standardised')), joint=lambda v: joint_pca(dict(a=v, b=transform(v, 'standardised'))).variance_ratio)

v = planted(n_roles=6, n_neutral=4, n_questions=8, d=12)[0]

@pytest.mark.parametrize('name', analyses)
def test_any_name(name):
    f = analyses[name]
    a,b = frame(f(v)),frame(f(renamed(v)))
    assert list(a.index)==list(b.index) and a.shape==b.shape
    np.testing.assert_allclose(b.values, a.values, rtol=1e-9, atol=1e-12)

@pytest.mark.parametrize('name', analyses)
def test_any_name_control(name):
    "Where nobody says so, the renamed ones are roles: there is no axis, or another number comes out"
    f,plain = analyses[name],renamed(v, meta=False)
    try: a,b = frame(f(v)),frame(f(plain))
    except ValueError as e: assert 'no neutral persona' in str(e)
    else: assert a.shape!=b.shape or not np.allclose(a.values, b.values, rtol=1e-3, equal_nan=True), name

def test_as_neutral_and_file(tmp_path):
    "Named afterwards, and read back from a file"
    named = renamed(v, meta=False).as_neutral(list(other.values()))
    named.save(tmp_path/'v.safetensors')
    for o in (named, load_vectors(tmp_path/'v.safetensors')):
        np.testing.assert_allclose(rank_personas(o).projection.values, rank_personas(v).projection.values, rtol=1e-9)
