"Published vectors, one mean a persona: in every form, through all that they can be taken through, with the reason where they cannot"
import importlib, inspect, pkgutil, re
from dataclasses import replace
import numpy as np, pandas as pd, pytest, torch
from safetensors.torch import save_file
from sklearn.decomposition import PCA
from transformers import LlamaConfig
from persona_vectors.analysis import figures
from persona_vectors.analysis.axis import assistant_axis, cosine_matrix, left_out, project, role_pca
from persona_vectors.analysis.comparison import compare, cross_cosine, joint_pca
from persona_vectors.analysis.coordinates import massive_activations, outlier_dimensions, sensitivity, transform
from persona_vectors.analysis.layers import layer_sweep
from persona_vectors.analysis.means import compare_means
from persona_vectors.analysis.simulation import planted
from persona_vectors.analysis.uncertainty import reliability
from persona_vectors.extraction.vectors import Direction, PersonaVectors, Row, load_vectors
from persona_vectors.responses import shipped_responses
from persona_vectors.steering.interop import export_direction, import_file
from persona_vectors.steering.steer import Steer

KW = dict(d=64, noise_sd=.4, dims=8, role_sd=[2.,.6,.6,.6,.6,.6,.6,.6], axis=6., offset=40.)
full,truth = planted(seed=3, **KW)
again = planted(seed=3, noise_seed=8, **KW)[0]                         # another model of the same personas
loud,loud_truth = planted(seed=3, outliers=2, outlier_size=400., **KW)
L = 4

def published(v, layer=None, meta=None): return PersonaVectors(v.stacked()[:,None], [Row(p, '(not recorded)') for p in v], [layer], meta or {})

@pytest.fixture(scope='module')
def model(tmp_path_factory):
    d = tmp_path_factory.mktemp('model')
    LlamaConfig(hidden_size=64, intermediate_size=64, num_hidden_layers=L, num_attention_heads=2, vocab_size=64).save_pretrained(d)
    return str(d)

def layers(t, n):                                                       # the persona's vector at layer 2, other numbers at the others
    x = torch.randn(n, 64, generator=torch.Generator().manual_seed(0))
    x[2-(n==L)] = t                                                     # row i is block i, of L; or layer i, of L+1
    return x

def pt(d, v, model):
    torch.save(dict(v), d/'v.pt')
    return load_vectors(d/'v.pt', layer=2)
def pt_without_layer(d, v, model):
    torch.save(dict(v), d/'v.pt')
    return load_vectors(d/'v.pt')
def safetensors(d, v, model):
    save_file({k: t.clone() for k,t in v.items()}, d/'v.safetensors')
    return load_vectors(d/'v.safetensors', layer=2)
def saved_again(d, v, model):
    pt(d, v, model).save(d/'ours.safetensors')
    return load_vectors(d/'ours.safetensors')
def all_layers(n):
    def made(d, v, model):
        torch.save({k: layers(t, n) for k,t in v.items()}, d/'v.pt')
        return import_file(d/'v.pt', model).at(2)
    return made
def role_files(d, v, model):
    (d/'roles').mkdir(exist_ok=True)
    for k,t in v.items(): torch.save(dict(vector=layers(t, L), type='mean' if k.startswith('default') else 'pos_3', role=k), d/'roles'/f'{k}.pt')
    return import_file(d/'roles', model).at(2)
def bare_files(d, v, model):
    (d/'bare').mkdir(exist_ok=True)
    for k,t in v.items(): torch.save(layers(t, L), d/'bare'/f"{'default_vector' if k=='default' else k}.pt")
    return import_file(d/'bare', model).at(2)
FORMS = dict(pt=pt, pt_without_layer=pt_without_layer, safetensors=safetensors, saved_again=saved_again, blocks=all_layers(L),
             hidden_states=all_layers(L+1), role_files=role_files, bare_files=bare_files)

@pytest.fixture(params=FORMS)
def loaded(request, tmp_path, model): return lambda v=full: FORMS[request.param](tmp_path, v, model)

def plain_pca(x): return PCA(svd_solver='full').fit(x)

def test_a_form(loaded):
    "Through axis, components and heat map: the numbers are those of the vectors behind the file"
    v,x = loaded(),full.stacked().double().numpy()
    assert v.means_only and sorted(v)==sorted(full) and set(v.neutral)==set(full.neutral)
    assert {'answers not recorded, number of tokens not recorded'}=={v.describe()['answers']}
    x = pd.DataFrame(x, list(full)).loc[list(v)]
    a = assistant_axis(v)
    np.testing.assert_allclose(a.vector, x.loc[full.neutral].mean()-x.loc[full.roles].mean(), atol=1e-5)
    assert a.unit.double().numpy()@truth['axis'] > .95 and a.layer==(None if v.layers==[None] else 2)
    for over,who in dict(roles=full.roles, all=list(v)).items():
        p,sk = role_pca(v, over=over),plain_pca(x.loc[who])
        n = len(p.variance_ratio)
        np.testing.assert_allclose(p.variance_ratio, sk.explained_variance_ratio_[:n], atol=1e-6)
        np.testing.assert_allclose(abs(p.scores.loc[who].values[:,:3]), abs(sk.transform(x.loc[who])[:,:3]), atol=1e-4)
        np.testing.assert_allclose(p.axis_cosine[0], abs(sk.components_[0]@a.unit.double().numpy()), atol=1e-5)
    if v.layers!=[None]: np.testing.assert_allclose(layer_sweep(v).cos_pc1, role_pca(v).axis_cosine[0], atol=1e-5)
    r = reliability(v).loc['axis']
    assert np.isnan(r.reliability) and .8 < r.over_roles < 1 and r.roles_low < r.over_roles < r.roles_high
    assert role_pca(v, over='all').axis_cosine[0] > role_pca(v).axis_cosine[0]        # the control: which personas are fitted is heard
    c = x-x.loc[full.roles].mean()
    np.testing.assert_allclose(cosine_matrix(v), (c@c.T).values/np.outer(*2*[np.linalg.norm(c, axis=1)]), atol=1e-5)
    order = figures.plot_cosine(v, order='axis').data[0].y
    assert list(order)==list(project(v, a).sort_values(ascending=False).index)
    assert np.corrcoef(project(v, a), [truth['positions'][p] for p in v])[0,1] > .95

def test_two_models(loaded):
    "One space for two models: as the vectors with all answers, and the axis-with-axis cosine"
    v,w = loaded(),published(again)
    for centre in ('model','joint'):
        c,whole = (cross_cosine(a, b, centre=centre) for a,b in ((v,w),(full,again)))
        np.testing.assert_allclose(c.loc[list(full),list(full)], whole.loc[list(full),list(full)], atol=1e-4)
        np.testing.assert_allclose(c.attrs['axes'], whole.attrs['axes'], atol=1e-4)
        a,b = (joint_pca(dict(zip('ab', o)), centre=centre) for o in ((v,w),(full,again)))
        np.testing.assert_allclose(a.variance_ratio, b.variance_ratio, atol=1e-4)
        np.testing.assert_allclose(a.between_models[:5], b.between_models[:5], atol=1e-3)
    assert np.diag(cross_cosine(v, w).loc[full.roles,full.roles]).mean() > .8 > np.diag(cross_cosine(v, w, centre='joint').loc[full.roles,full.roles]).mean()
    assert np.isclose(cross_cosine(v, w).attrs['axes'], (assistant_axis(v).unit@assistant_axis(w).unit).item(), atol=1e-4)
    mixed = cross_cosine(v, again)                                      # means beside answers
    np.testing.assert_allclose(mixed, cross_cosine(v, w), atol=1e-5)
    figures.plot_cross_cosine(mixed), figures.plot_joint(joint_pca(dict(a=v, b=w)).planes)
    with pytest.raises(ValueError, match='leave crossvalidated out'): cross_cosine(v, again, crossvalidated=True)
    with pytest.raises(ValueError, match="'here' goes into compare_means, cross_cosine and joint_pca only"): compare(dict(here=v, there=again))

def numbers(o):
    "The numbers of a result, by name where it has names"
    if isinstance(o, pd.DataFrame): return o.sort_index().sort_index(axis=1).select_dtypes('number').values
    return numbers(o.scores) if hasattr(o, 'scores') else o.shared

@pytest.mark.parametrize('name', ['component_agreement', 'compare_means', 'cross_cosine', 'joint_pca', 'projection_agreement', 'structure_agreement',
                                  'cka_agreement', 'procrustes_agreement', 'shift', 'compare_readings'])
def test_personas_go_by_their_names(name):
    "In whatever order a file has its personas, two models compare alike; under other names they do not"
    f = dict(FUNCTIONS, compare_means=compare_means)[name]
    call = {**CALLS, 'compare_means': lambda f: f(dict(a=v, b=w))}[name]
    few = name in ('component_agreement', 'compare_means', 'cross_cosine', 'joint_pca')
    def of(second):
        first,other = (published(full),published(second)) if few else (full,second)
        with pytest.MonkeyPatch.context() as p:
            for k,o in dict(v=first, w=other).items(): p.setitem(globals(), k, o)
            return numbers(call(f))
    at = sorted(range(len(again.rows)), key=lambda i: again.personas.index(again.rows[i].persona), reverse=True)        # the questions as they were
    turned = PersonaVectors(again.means[at], [again.rows[i] for i in at], again.layers, again.meta)
    named = dict(zip(again.roles, again.roles[1:]+again.roles[:1]))
    renamed = PersonaVectors(again.means, [replace(r, persona=named.get(r.persona, r.persona)) for r in again.rows], again.layers, again.meta)
    np.testing.assert_allclose(of(turned), of(again), rtol=1e-4, atol=1e-4)
    if name not in ('joint_pca', 'shift'): assert not np.allclose(of(renamed), of(again), rtol=.05, atol=.05)

def test_loud_coordinates(loaded):
    "Two coordinates without information break the order; masked or standardised, it is there again"
    v,true = loaded(loud),pd.Series(loud_truth['positions'])
    assert outlier_dimensions(v)==loud_truth['outliers']==sorted(massive_activations(v, 2).index)
    def order(how):
        t = transform(v, how)
        return left_out(t)[full.roles].corr(true[full.roles], method='spearman')
    assert order('none') < .6 and order('masked') > .8 and order('standardised') > .8
    s = sensitivity(v)
    assert s.attrs['matters'] and s.loc['whitened'].isna().all() and 'at least two questions' in s.attrs['whitened']
    assert s.loc[['none','standardised','masked']].notna().all().all() and 'nan' not in s.attrs['words']
    np.testing.assert_allclose(s.loc['masked','ranking'], left_out(transform(v, 'masked')).corr(left_out(v), method='spearman'))
    assert 'over personas' in transform(v, 'standardised').meta['coordinates'] and not sensitivity(published(planted(seed=3, noise_sd=.3)[0])).attrs['matters']
    with pytest.raises(ValueError, match="use transform\\(v, 'standardised'\\)"): transform(v, 'whitened')

def test_layers(tmp_path, model):
    "A layer that the file does not record is given; one that it records is not contradicted"
    a = assistant_axis(pt_without_layer(tmp_path, full, model))
    for f in (lambda: Steer(a), lambda: a.save(tmp_path/'a.safetensors'), lambda: export_direction(a, tmp_path/'a.gguf', 'gguf', model)):
        with pytest.raises(ValueError, match='does not say its layer.*load_vectors\\(path, layer=...\\)') as e: f()
        assert '\n' not in str(e.value)
    assert Steer(a, layers=[2]).targets[0][0]==2
    b = assistant_axis(pt(tmp_path, full, model))
    assert Steer(b).targets[0][0]==2
    b.save(tmp_path/'b.safetensors')
    assert Direction.load(tmp_path/'b.safetensors').layer==2
    kept = saved_again(tmp_path, full, model)
    assert kept.layers==[2]
    with pytest.raises(ValueError, match='layer=40: .*ours.safetensors has 2'): load_vectors(tmp_path/'ours.safetensors', layer=40)

def test_who_is_neutral(tmp_path, model):
    "Other names for the default are named; until then the message says how"
    v = PersonaVectors(full.stacked()[:,None], [Row(p.replace('default', 'helper'), '(not recorded)') for p in full], [None])
    with pytest.raises(ValueError, match='as_neutral'): assistant_axis(v)
    named = v.as_neutral([p for p in v if p.startswith('helper')])
    np.testing.assert_allclose(assistant_axis(named).vector, assistant_axis(full).vector, atol=1e-5)

# Every public function of the analysis chapter that takes vectors

v,w = published(full),published(again)
CALLS = dict(                                                            # where f(v) is not the way to call it
    against_nulls=lambda f: f(lambda u: float(u@full.stacked()[0].double().numpy()), v, n=20), compare_readings=lambda f: f(v, dict(again=w)),
    contributions=lambda f: f(v, w), cross_cosine=lambda f: f(v, w), difference=lambda f: f(v, 'role_01', 'role_02'),
    evidence=lambda f: f(v, n=20), extreme_answers=lambda f: f(v, assistant_axis, shipped_responses()),
    component_agreement=lambda f: f(dict(a=v, b=w), n=20), persona_space=lambda f: f(v, full.means[:,0].numpy(), n=20),
    shift=lambda f: f(v, w, assistant_axis(v)), project=lambda f: f(v, assistant_axis(v)),
    resample=lambda f: f(v, lambda g: g.squared_axis), transform=lambda f: f(v, 'masked'),
    **{k: lambda f: f(dict(a=v, b=w)) for k in ('projection_agreement','structure_agreement','cka_agreement','procrustes_agreement','compare','joint_pca')})
WORKS = ['against_nulls', 'assistant_axis', 'centred', 'contrasts', 'cosine_matrix', 'cross_cosine', 'difference', 'joint_pca', 'massive_activations',
         'layer_sweep', 'outlier_dimensions', 'plot_cosine', 'plot_pca', 'plot_variance', 'probe_direction', 'project',
         'random_directions', 'rank_personas', 'reliability', 'role_pca', 'sensitivity', 'transform', 'variance_table']
REFUSED = dict(                                                          # and what the line says
    axis_strength='give at least two. Of means only', cka_agreement='goes into compare_means, cross_cosine and joint_pca only', compare='goes into compare_means, cross_cosine and joint_pca only',
    compare_readings='Of means only, project', contributions='means only have one', crossvalidated='Of means only there are',
    crossvalidated_cosine='Of means only there are', crossvalidated_distance='Of means only there are', evidence='means only',
    extreme_answers='means only have no single answers', held_out='Of means only, project', matched_length='how many tokens',
    procrustes_agreement='goes into compare_means, cross_cosine and joint_pca only', projection_agreement='goes into compare_means, cross_cosine and joint_pca only',
    pseudo_defaults='Of means only there are', rank_intervals='Of means only there are',
    resample='Of means only there are', separation='sensitivity\\(v\\) works', structure_agreement='goes into compare_means, cross_cosine and joint_pca only',
    variance_components='at least two')
MODULES = [importlib.import_module(f'persona_vectors.analysis.{o.name}') for o in pkgutil.iter_modules(importlib.import_module('persona_vectors.analysis').__path__)]
def takes_vectors(f):
    if not inspect.isfunction(f): return False
    p = list(inspect.signature(f).parameters.values())
    return f.__name__ in CALLS or bool(p) and p[0].name=='v' and all(o.default is not o.empty for o in p[1:])
FUNCTIONS = sorted({n: getattr(m, n) for m in MODULES for n in m.__all__ if takes_vectors(getattr(m, n))}.items())

def test_the_lists(): assert set(CALLS)|set(WORKS)|set(REFUSED) <= {n for n,_ in FUNCTIONS} and not set(WORKS)&set(REFUSED)

@pytest.mark.parametrize('name,f', FUNCTIONS, ids=[n for n,_ in FUNCTIONS])
def test_a_result_or_the_reason(name, f):
    try: found = CALLS.get(name, lambda f: f(v))(f)
    except ValueError as e:
        assert name not in WORKS and '\n' not in str(e), name
        assert re.search(REFUSED.get(name, 'question|means|wording'), str(e)), str(e)
    else:
        assert name not in REFUSED and found is not None, name
        if isinstance(found, pd.DataFrame): assert not found.drop(index='whitened', errors='ignore').isna().all(axis=1).any(), name
