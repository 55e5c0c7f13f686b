"Complete grids give the numbers they always gave, incomplete ones go through every analysis, and what cannot be fitted is refused in one line"
import numpy as np, pandas as pd, pytest, torch
from persona_vectors.analysis import axis, comparison, controls, coordinates, figures, layers, likelihood, measures, readings, report, uncertainty, wording
from persona_vectors.analysis.simulation import as_judged, planted
from persona_vectors.extraction.vectors import PersonaVectors
from persona_vectors.responses import Response, Responses

SMALL = dict(n_roles=8, n_questions=7, d=12, axis=3., role_sd=1.5)

def numbers(v):
    "One number or a few from each analysis"
    order,r,e = readings.order_of(readings.along(v).loc[v.roles], 99),uncertainty.reliability(v),report.evidence(v, n=40)
    i,o,s = uncertainty.axis_strength(v, n=50),uncertainty.order_reliability(v),uncertainty.rank_intervals(v, n=50)
    return dict(axis=axis.assistant_axis(v).vector.double().norm().item(), ranking=axis.rank_personas(v).projection['role_00'],
        strength=[i.value, i.low, i.high], order=[o.value, o.low, o.high], positions=[order.variance, order.reliability, order.low, order.high, order.p],
        interval=s.loc['role_01',['projection','low','high']].tolist(), reliability=r.loc['axis'].tolist(), pca=axis.role_pca(v).variance_ratio[:3].tolist(),
        null=uncertainty.variance_table(v, n=20).null[:2].tolist(), sources=uncertainty.variance_components(v).vectors.tolist(),
        report=e.tables['ranking'].iloc[0,1:].tolist())

# made before incomplete grids were fitted
BEFORE = dict(
    axis=2.990503472377869,
    ranking=2.307446809571864,
    strength=[8.27797304587996, 5.375818670459276, 11.180127421300645],
    order=[0.9358632864403211, 0.7468215298693535, 0.9892983971169538],
    positions=[1.377455563752445, 0.9316618695621807, 0.8218593970629692, 0.984111673721068, 0.01],
    interval=[0.06097228284636447, -1.1271504366463012, 1.24909500233903],
    reliability=[0.8737987649334107, 0.9326495259638651, 0.8668166197967802, 0.9584666525569531, 0.8094734707071314, 0.5827211947324142, 0.9130069442633009],
    pca=[0.4193578778238412, 0.3338875844443258, 0.13829066388761618],
    null=[16.06388609603601, 8.081107577625017],
    sources=[11.992554173939764, 16.000337388380824, 11.470524138663327],
    report=[3.278566256581716, 0.46860103661277075, 2.131940826635105, 4.4251916865283265])

def test_complete_grids_give_the_numbers_they_gave():
    now = numbers(planted(**SMALL)[0])
    assert set(now)==set(BEFORE)
    for k,o in BEFORE.items(): np.testing.assert_allclose(now[k], o, rtol=1e-7 if k=='axis' else 1e-9, err_msg=k)   # the axis is in float32

def test_other_numbers_are_seen():
    v = planted(**SMALL)[0]
    v.means[40] += 1e-3
    now = numbers(v)
    assert [k for k,o in BEFORE.items() if np.allclose(now[k], o, rtol=1e-7, atol=0) and k not in ('null','positions')]==[]

def judged(seed=0, **kw): return as_judged(planted(**dict(axis=4., role_sd=2., d=24)|kw, seed=seed)[0], rate=.7, seed=seed)

V = judged()
PAIR = dict(a=V, b=judged(noise_seed=5, rotate=1))
SAME,LOUD = judged(noise_seed=5),judged(outliers=2, outlier_size=200.)
A = axis.assistant_axis(V)
WORDED = as_judged(planted(wordings=2, wording_sd=.5, d=8, seed=1)[0], rate=.8, seed=1)
TEXTS = Responses([Response(r.persona, r.question, 'An answer.', prompt=r.prompt, sample=r.sample) for r in V.rows])
SCORES = pd.DataFrame([dict(persona=r.persona, question=r.question, score=i%7) for i,r in enumerate(V.rows)])
def drawn(fig): return [np.array(o[k], float) for o in fig.data for k in ('x','y','z') if k in o and np.array(o[k]).dtype.kind in 'if'] # The numbers in a figure

ANALYSES = dict(
    centred=lambda: axis.centred(V), cosine_matrix=lambda: axis.cosine_matrix(V), assistant_axis=lambda: A.vector.numpy(),
    project=lambda: axis.project(V, A), held_out=lambda: axis.held_out(V), rank_personas=lambda: axis.rank_personas(V),
    role_pca=lambda: axis.role_pca(V).variance_ratio, gram=lambda: uncertainty.Gram(V).inner,
    crossvalidated=lambda: uncertainty.crossvalidated(V), distance=lambda: uncertainty.crossvalidated_distance(V),
    cosine=lambda: uncertainty.crossvalidated_cosine(V), resample=lambda: vars(uncertainty.resample(V, lambda g: g.distances[:,4,5], 50)),
    axis_strength=lambda: vars(uncertainty.axis_strength(V, n=50)), rank_intervals=lambda: uncertainty.rank_intervals(V, n=50),
    reliability=lambda: uncertainty.reliability(V, 5), order_reliability=lambda: vars(uncertainty.order_reliability(V)),
    variance_components=lambda: uncertainty.variance_components(V), d_study=lambda: uncertainty.d_study(uncertainty.variance_components(V)),
    variance_table=lambda: uncertainty.variance_table(V, 5, 20), pseudo_defaults=lambda: controls.pseudo_defaults(V),
    random_directions=lambda: controls.random_directions(V, 5), contrasts=lambda: [float(o.vector.norm()) for o in controls.contrasts(V)],
    matched_length=lambda: controls.matched_length(V).means.numpy(), massive=lambda: coordinates.massive_activations(V),
    outlier_dimensions=lambda: coordinates.outlier_dimensions(LOUD), transform=lambda: coordinates.transform(V, 'standardised').means.numpy(),
    probe=lambda: coordinates.probe_direction(V).vector.numpy(), separation=lambda: coordinates.separation(V), sensitivity=lambda: coordinates.sensitivity(V),
    layer_sweep=lambda: layers.layer_sweep(V), plot_cosine=lambda: drawn(figures.plot_cosine(V)), plot_variance=lambda: drawn(figures.plot_variance(V)), plot_pca=lambda: drawn(figures.plot_pca(V)), along=lambda: readings.along(V), difference=lambda: readings.difference(V, 'role_00', 'role_01').vector.numpy(),
    compare_readings=lambda: readings.compare_readings(V, dict(other=PAIR['b'])), contributions=lambda: readings.contributions(V, V),
    report=lambda: report.evidence(V, n=40).tables['ranking'], n_components=lambda: measures.n_components(V, n=20),
    default_place=lambda: measures.default_place(V), on_components=lambda: measures.on_components(V, n=20), component_agreement=lambda: measures.component_agreement(PAIR, n=20),
    persona_space=lambda: measures.persona_space(V, V, n=20),
    extreme_answers=lambda: likelihood.extreme_answers(V, axis.assistant_axis, TEXTS), meaning_and_wording=lambda: wording.meaning_and_wording(WORDED, n=20),
    shift=lambda: measures.shift(V, SAME, A), projection_agreement=lambda: comparison.projection_agreement(PAIR, 20),
    structure_agreement=lambda: comparison.structure_agreement(PAIR, 20), cka=lambda: comparison.cka_agreement(PAIR, 20), procrustes=lambda: comparison.procrustes_agreement(PAIR, 20),
    cross_cosine=lambda: comparison.cross_cosine(V, V), joint_pca=lambda: comparison.joint_pca(PAIR), compare=lambda: comparison.compare(PAIR, n=20).table)

def has_numbers(o):
    "Whether there are finite numbers in what an analysis returns"
    if isinstance(o, dict): return any(map(has_numbers, o.values()))
    if isinstance(o, pd.DataFrame|pd.Series): o = np.ravel(o.select_dtypes('number') if isinstance(o, pd.DataFrame) else o)
    if isinstance(o, (np.ndarray,list,tuple)) and len(np.ravel(np.array(o, object))): return any(has_numbers(x) for x in np.ravel(np.array(o, object)))
    if isinstance(o, (bool,int,float,np.number)): return bool(np.isfinite(o))
    return hasattr(o, '__dict__') and any(has_numbers(x) for x in vars(o).values())

@pytest.mark.parametrize('name', ANALYSES)
def test_incomplete_grids_go_through(name): assert has_numbers(ANALYSES[name]())

RAW = {'project','variance_components','d_study','matched_length','massive','transform','sensitivity','persona_space'} # of answers with their questions' effects

def of_centred(o):
    "The numbers in what an analysis returns, an array for each column, without signs: a component's is arbitrary where it is at right angles to the axis"
    if isinstance(o, pd.DataFrame): o = {k: o[k] for k in o.select_dtypes('number')}
    if hasattr(o, '__dict__') and not isinstance(o, pd.Series|np.ndarray): o = {k: v for k,v in vars(o).items() if isinstance(v, (int,float,np.number,np.ndarray))}
    if isinstance(o, dict): return [x for v in o.values() for x in of_centred(v)]
    if isinstance(o, (list,tuple)) and any(isinstance(x, np.ndarray) for x in o): return [x for v in o for x in of_centred(v)]
    x = np.ravel(np.array(o, object))
    return [abs(x.astype(float))] if len(x) and all(isinstance(v, (bool,int,float,np.number)) for v in x) else []

def same(before, after):
    "Whether the numbers are the same, each by the size of its column; some of them are not 0"
    assert any(np.nanmax(x, initial=0)>0 for x in before)
    return len(before)==len(after) and all(x.shape==y.shape and np.allclose(x, y, rtol=2e-3, atol=2e-3*np.nanmax(x, initial=0)+1e-6, equal_nan=True) for x,y in zip(before, after))

def louder(v):
    "Two questions move all personas alike"
    w,rng = PersonaVectors(v.means.clone(), v.rows, v.layers, v.meta),np.random.default_rng(1)
    for q,size in zip(v.questions, (10,-20)):
        w.means[[i for i,r in enumerate(v.rows) if r.question==q]] += torch.tensor(size*rng.normal(size=v.means.shape[-1]), dtype=torch.float32)
    return w

@pytest.mark.parametrize('name', sorted(set(ANALYSES)-RAW))
def test_a_question_that_moves_all_alike_changes_nothing(name, monkeypatch):
    before = of_centred(ANALYSES[name]())
    changed = dict(V=louder(V), SAME=louder(SAME), LOUD=louder(LOUD), PAIR={k: louder(v) for k,v in PAIR.items()}, WORDED=louder(WORDED))
    for k,o in changed.items(): monkeypatch.setitem(globals(), k, o)
    monkeypatch.setitem(globals(), 'A', axis.assistant_axis(globals()['V']))
    assert same(before, of_centred(ANALYSES[name]()))

@pytest.mark.parametrize('name', ['transform','massive'])
def test_a_question_is_seen_in_raw_answers(name, monkeypatch): # the control
    before = of_centred(ANALYSES[name]())
    monkeypatch.setitem(globals(), 'V', louder(V))
    assert not same(before, of_centred(ANALYSES[name]()))

def test_what_takes_complete_questions_says_so():
    v = as_judged(planted(wordings=2, d=8, seed=1)[0], rate=.3, seed=1)
    with pytest.raises(ValueError, match='^no question has an answer of every persona in . wordings: .*$'): uncertainty.crossvalidated(v, wordings=True)
    with pytest.raises(ValueError, match='^no question has an answer of every persona; .*$'): measures.predicts(V, SCORES, A, n=20)

def of_cells(cells):
    "Vectors of the personas' questions"
    v = planted(n_roles=3, n_neutral=1, n_questions=4, d=5)[0]
    at = [i for i,r in enumerate(v.rows) if int(r.question[-2:]) in cells[v.personas.index(r.persona)]]
    return PersonaVectors(v.means[at], [v.rows[i] for i in at], v.layers, v.meta)

@pytest.mark.parametrize('f', [uncertainty.axis_strength, uncertainty.rank_intervals, uncertainty.reliability, axis.rank_personas, readings.along, report.evidence])
def test_what_cannot_be_fitted_is_refused_in_one_line(f):
    for cells,says in (([(0,1),(0,1),(2,3),(2,3)], 'no question connects'), ([(0,1,2,3),(0,1,2,3),(0,1,2),(0,)], 'answered fewer than two questions')):
        with pytest.raises(ValueError, match=says) as e: f(of_cells(cells))
        assert '\n' not in str(e.value)
    assert of_cells([(0,1,2,3)]*4).questions==planted(n_questions=4)[0].questions       # control: the helper takes nothing else away
