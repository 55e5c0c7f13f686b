"Do the intervals cover where it is hard: few questions, few coordinates, heavy tails, interactions? At least 200 data sets each"
import numpy as np, pytest, torch
from persona_vectors.analysis.simulation import planted
from persona_vectors.analysis.uncertainty import Gram, axis_strength, bootstrap_interval, order_reliability, rank_intervals, reliability, replicates, resample
from persona_vectors.extraction.vectors import PersonaVectors, Row

def heavy(seed, **kw):
    "Planted vectors in which some questions are much louder than others: noise times |t| with 3 degrees of freedom"
    v,_ = planted(seed=seed, noise_sd=0., question_sd=0., **kw)
    rng = np.random.default_rng([seed,9])
    loud = dict(zip(v.questions, abs(rng.standard_t(3, len(v.questions)))))
    noise = torch.tensor(rng.normal(size=v.means.shape)*np.array([loud[r.question] for r in v.rows])[:,None,None], dtype=torch.float32)
    return PersonaVectors(v.means+noise, v.rows, v.layers, v.meta)

def usual(seed, **kw): return planted(seed=seed, **kw)[0]

def kinds(v, over, n=200, level=.95, **kw):
    "The estimate's percentile, basic, and t intervals, from the same resamples"
    value,reps,g = replicates(v, lambda g: g.squared_axis, n, over, **kw)
    lo,hi = np.quantile(reps, [.025,.975])
    return dict(percentile=(lo,hi), basic=(2*value-hi,2*value-lo), ours=bootstrap_interval(value, reps, g, over, level)[:2])

Q,QP = ('questions',),('questions','personas')
settings = [(usual, Q, 9, dict(d=5, noise_sd=1.8)),
            (usual, Q, 9, dict(d=64, n_questions=8)),
            (usual, Q, 1, dict(axis=1., interaction_sd=1.)),
            (heavy, Q, 9, dict(d=64)),
            (usual, QP, 9, dict(centre=False, role_sd=2., n_roles=12))]

def coverage(make, over, truth, kw, reps=200):
    got = [kinds(make(i, **kw), over, seed=i) for i in range(reps)]
    return {k: np.mean([o[k][0]<=truth<=o[k][1] for o in got]) for k in got[0]}

@pytest.fixture(scope='module')
def covered(): return [coverage(*o) for o in settings]

@pytest.mark.parametrize('i', range(len(settings)))
def test_covers(covered, i): assert covered[i]['ours'] >= .925, covered[i]                   # 0.95 less two standard errors of 200 counts is 0.92
def test_covers_control(covered): assert min(o['percentile'] for o in covered) < .925, covered

def test_noise_is_noise():
    "No axis, no roles: the share of false alarms of each statement that one might print"
    alarms = []
    for i in range(200):
        v = usual(i, axis=0, role_sd=0)
        r = rank_intervals(v, n=100, seed=i)
        alarms.append((axis_strength(v, n=100, seed=i).low>0, axis_strength(v, over=QP, n=100, seed=i).low>0, ((r.low>0)|(r.high<0)).mean()))
    assert (np.mean(alarms, 0) <= [.05,.05,.055]).all(), np.mean(alarms, 0)

def test_noise_is_noise_control():
    assert all(axis_strength(usual(i), n=200).low>0 for i in range(10))

def test_roles_differ_but_there_is_no_axis():
    "The neutrals are like the mean of all roles, and roles differ much: over questions alone these roles' mean is 'an axis', over both there is none"
    got = np.array([[axis_strength(usual(i, axis=0, role_sd=3., n_roles=8, centre=False), over=o, n=200, seed=i).low>0 for o in (Q,QP)] for i in range(100)])
    assert got[:,1].mean() <= .07 < .5 < got[:,0].mean(), got.mean(0)

def test_two_models_share_what_cancels():
    "The difference of two models that read the same answers has a narrower interval than its parts, when resampled together"
    a,b = (planted(seed=1, noise_seed=1, rotate=r)[0] for r in (None,1))
    apart = [resample(o, lambda g: g.squared_axis, n=200).se for o in (a,b)]
    assert resample([a,b], lambda g,h: g.squared_axis-h.squared_axis, n=200).se < .01*min(apart)

def test_many_personas_and_questions():
    "In blocks, so that memory does not grow with the resamples"
    v,_ = planted(n_roles=80, n_questions=50, d=100)
    s = axis_strength(v, n=3000)
    assert 9 in s and [y.shape for y in Gram(v).parts()] == [(50,84,100)]

def test_reliability_of_noise_is_none():
    r = np.array([reliability(usual(i, axis=0, role_sd=0), splits=20).split_half.values for i in range(60)])
    assert abs(r.mean()) < .01

def means_only(v): return PersonaVectors(v.stacked()[:,None], [Row(p, '(not recorded)') for p in v], v.layers, v.meta)

def test_reliability_of_means_alone():
    "Published means: nothing over questions, the same over roles as with all answers"
    v = usual(0)
    a,b = reliability(v),reliability(means_only(v))
    np.testing.assert_allclose(b.over_roles, a.over_roles, atol=1e-5)
    assert b[['split_half','reliability','low','high']].isna().all().all() and 'one question' in b.attrs['over']

@pytest.mark.parametrize('kw', [{}, dict(n_questions=6), dict(n_roles=8), dict(samples=2)])
def test_reliability_is_in_its_interval(kw):
    r = reliability(usual(3, **kw))
    assert ((r.low<=r.reliability) & (r.reliability<=r.high) & (r.roles_low<=r.over_roles) & (r.over_roles<=r.roles_high)).all()

def test_reliability_needs_units():
    "Three questions, three roles: numbers without intervals; two personas without a neutral one have no roles to be set against"
    r = reliability(usual(0, n_questions=3, n_roles=3))
    assert r.reliability.notna().all() and r[['low','high','over_roles','roles_low']].isna().all().all()
    two = reliability(usual(0).only(['role_00','role_01']))
    assert list(two.index)==['role_00','role_01'] and two.low.notna().all() and two.over_roles.isna().all()

def loud(seed, sd):
    v,t = planted(axis=20., role_sd=[6.4,4.8,4.8,4.8], noise_sd=10., d=32, centre=False, seed=seed)
    x = v.means.clone()
    x[:,0,0] += torch.tensor(sd*np.random.default_rng([seed,3]).normal(size=len(x)), dtype=torch.float32)
    return PersonaVectors(x, v.rows, v.layers, v.meta),41/(41+(100+(sd*t['axis'][0])**2)/18)

def test_order_under_a_loud_coordinate():
    "The interval covers, and is narrow only where the coordinate is not loud"
    got = {sd: [(order_reliability(v),true) for v,true in (loud(i, sd) for i in range(60))] for sd in (0.,50.)}
    for o in got.values(): assert np.mean([true in i for i,true in o]) >= .88
    width = {sd: np.median([i.high-i.low for i,_ in o]) for sd,o in got.items()}
    assert width[0.] < .3 < .6 < width[50.]

def test_order_is_undefined_with_few_questions():
    i = order_reliability(usual(0, n_questions=4))
    assert np.isnan(i.value) and (i.low,i.high)==(0,1)
    assert order_reliability(usual(0, n_questions=18)).value > 0
