import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.stats import ortho_group

from scdisent._errors import InputDataError, OptionError
from scdisent.metrics import block_r2, dipd_small, fid_small, support_f1


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_a_block_is_found_by_any_smooth_map_and_a_permuted_one_is_not(rng):
    factors = rng.normal(size=(1_500, 2))
    turned = np.tanh(factors @ ortho_group.rvs(2, random_state=1) / 2)
    assert block_r2(turned, factors) > 0.97
    assert block_r2(np.c_[turned, rng.normal(size=(1_500, 1))], factors) > 0.9
    half = block_r2(turned[:, :1], factors)
    assert 0.3 < half < 0.7  # one of two directions
    assert abs(block_r2(rng.permutation(turned), factors)) < 0.05
    assert block_r2(turned, factors) == pytest.approx(block_r2(3 + 5 * turned, factors))


def planted(rng):
    parents = np.array([[1, 1, 0, 0, 1], [0, 0, 1, 0, 1], [0, 0, 0, 1, 0]], dtype=bool)
    factors = rng.normal(size=(300, 3))
    return parents, factors


def test_the_support_is_found_under_permutation_and_scale(rng):
    parents, factors = planted(rng)
    order = [2, 0, 1]
    scale = np.array([[5.0], [0.1], [1.0]])
    codes = -(factors[:, order] * scale[:, 0])
    association = parents[order] * rng.uniform(0.5, 1, parents.shape)
    assert support_f1(association, parents, codes=codes, factors=factors) == 1
    assert support_f1(association + 0.04, parents, codes=codes, factors=factors) == 1
    dense = support_f1(np.ones((3, 5)), parents, codes=codes, factors=factors)
    assert dense == pytest.approx(2 * 6 / (15 + 6))  # six of fifteen entries are true
    wrong = support_f1(association[[1, 2, 0]], parents, codes=codes, factors=factors)
    assert wrong < 0.5
    more = np.c_[codes, rng.normal(size=300)]
    assert (
        support_f1(np.r_[association, np.zeros((1, 5))], parents, codes=more, factors=factors) == 1
    )
    extra = support_f1(np.r_[association, np.ones((1, 5))], parents, codes=more, factors=factors)
    assert extra == pytest.approx(2 * 6 / (6 + 5 + 6))


def test_no_link_on_either_side_is_no_overlap(rng):
    _, factors = planted(rng)
    none = np.zeros((3, 5))
    assert support_f1(none, none > 0, codes=factors, factors=factors) == 0


def test_the_frechet_distance_is_that_of_its_formula(rng):
    real = rng.normal(size=(400, 5)) @ rng.normal(size=(5, 5))
    fake = rng.normal(size=(300, 5)) @ rng.normal(size=(5, 5)) + 1
    one, other = np.cov(real, rowvar=False), np.cov(fake, rowvar=False)
    gap = ((real.mean(axis=0) - fake.mean(axis=0)) ** 2).sum()
    expected = gap + np.trace(one + other - 2 * sqrtm(one @ other).real)
    assert fid_small(real, fake) == pytest.approx(expected)
    assert fid_small(real, fake) == pytest.approx(fid_small(fake, real))
    assert fid_small(real, real[::-1]) == pytest.approx(0, abs=1e-8)
    shift = np.full(5, 2.0)
    assert fid_small(real, real + shift) == pytest.approx(20)
    turn = ortho_group.rvs(5, random_state=2)
    assert fid_small(real @ turn, fake @ turn) == pytest.approx(fid_small(real, fake))


def test_the_perceptual_distance_sees_shape_and_not_colour(rng):
    maps = rng.normal(size=(10, 4, 49))
    recoloured = 3 * maps + rng.normal(size=(10, 4, 1))
    assert dipd_small(maps, recoloured) == pytest.approx(0, abs=1e-9)
    other = rng.normal(size=(10, 4, 49))
    assert dipd_small(maps, other) == pytest.approx(np.sqrt(2), rel=0.05)  # independent maps
    half = np.concatenate([maps[:, :2], other[:, 2:]], axis=1)
    assert 0 < dipd_small(maps, half) < dipd_small(maps, other)
    assert dipd_small(np.ones((2, 3, 4)), np.ones((2, 3, 4))) == 0


def test_errors_say_what_does_not_fit(rng):
    parents, factors = planted(rng)
    with pytest.raises(InputDataError, match="same cells"):
        block_r2(factors, factors[:-1])
    with pytest.raises(OptionError, match="threshold"):
        support_f1(parents, parents, codes=factors, factors=factors, threshold=0)
    with pytest.raises(InputDataError, match="not negative"):
        support_f1(-1.0 * parents, parents, codes=factors, factors=factors)
    with pytest.raises(InputDataError, match="must match"):
        fid_small(factors, factors[:, :2])
    with pytest.raises(InputDataError, match="one shape"):
        dipd_small(factors, factors)
