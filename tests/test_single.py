"One persona, or two: a place along a direction is what it is among others, and what would be 0 or -1 whatever the vectors are is refused"
import re
import numpy as np, pytest, torch
from persona_vectors.analysis.axis import assistant_axis, centred, cosine_matrix, project
from persona_vectors.analysis.measures import shift
from persona_vectors.analysis.simulation import planted
from persona_vectors.analysis.uncertainty import crossvalidated, crossvalidated_cosine, crossvalidated_distance
from persona_vectors.extraction.vectors import Direction, PersonaVectors

v = planted(n_roles=5, n_neutral=1, n_questions=6, d=12, axis=4., offset=30., seed=2)[0]
axis = assistant_axis(v)
one,two = v.only(['role_01']),v.only(['role_01','role_02'])

def test_a_place_does_not_depend_on_who_else_is_there():
    whole = project(v, axis)
    for who in (['role_01'], ['default'], ['role_01','role_02'], ['default','role_01']):
        np.testing.assert_allclose(project(v.only(who), axis), whole[who])
    u = axis.unit.double().numpy()
    np.testing.assert_allclose(project(one, axis)['role_01'], v['role_01'].double().numpy()@u)
    assert abs(project(one, axis)['role_01']) > .1                       # it was 0.0, for it was measured from itself

def test_measured_from_those_that_are_named():
    x = v.stacked().double().numpy()@axis.unit.double().numpy()
    of = dict(zip(v, x))
    np.testing.assert_allclose(project(v, axis, centre='roles'), x-np.mean([of[p] for p in v.roles]))
    np.testing.assert_allclose(project(v, axis, centre=['default']), x-of['default'])
    np.testing.assert_allclose(project(two, axis, centre=['role_02'])['role_01'], of['role_01']-of['role_02'])
    for bad,why in ((['nobody'], 'no vectors of nobody'), ('default', "give 'roles', or a list")):
        with pytest.raises(ValueError, match=why): project(v, axis, centre=bad)
    with pytest.raises(ValueError, match='no neutral persona'): project(one, axis, centre='roles')

def test_a_move_of_the_whole_model_is_seen():
    moved = PersonaVectors(v.means+3*axis.unit, v.rows, v.layers, v.meta)
    np.testing.assert_allclose(project(moved, axis)-project(v, axis), 3, atol=1e-4)
    np.testing.assert_allclose(project(moved, axis, centre='roles'), project(v, axis, centre='roles'), atol=1e-4)          # control
    np.testing.assert_allclose(shift(moved.only(['role_01']), one, axis).value, 3, atol=1e-4)

def test_what_would_be_the_same_whatever_they_are():
    other = PersonaVectors(two.means[torch.randperm(len(two.rows))], two.rows, two.layers)
    for f in (cosine_matrix, crossvalidated_cosine):
        for x in (two, other):
            with pytest.raises(ValueError, match='cosine is -1 whatever they are'): f(x)
    assert cosine_matrix(two, raw=True).iloc[0,1] > -1 and crossvalidated_cosine(two, centre=None).iloc[0,1] > -1
    for f in (centred, cosine_matrix, crossvalidated, crossvalidated_cosine, crossvalidated_distance):
        with pytest.raises(ValueError, match='there is only role_01') as e: f(one)
        assert '\n' not in str(e.value)
    assert crossvalidated_distance(two).iloc[0,1] != 0 and centred(two).iloc[0].any()                                      # a difference of two is one

def test_of_another_model():
    with pytest.raises(ValueError, match='the direction is 3 wide, and the vectors are 12'): project(v, Direction(torch.ones(3), 'other', v.layer))
