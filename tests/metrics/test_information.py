"""Information of a block of codes on a label: closed forms, a second implementation, chance."""

import numpy as np
import pytest
from scipy import integrate, stats
from sklearn.feature_selection import mutual_info_classif

from scdisent import ScDisentError
from scdisent.metrics import label_information


def test_one_dimension_is_the_estimate_of_scikit_learn(rng):
    labels = rng.integers(0, 3, 800)
    codes = labels[:, None] + rng.standard_normal((800, 1))
    found = label_information(codes, labels, n_neighbors=4)
    (theirs,) = mutual_info_classif(codes, labels, n_neighbors=4, random_state=0)
    assert found.nats == pytest.approx(theirs, abs=1e-6)


def test_two_normal_laws_in_three_dimensions(rng):
    labels = rng.integers(0, 2, 2_000)
    codes = rng.standard_normal((2_000, 3)) + labels[:, None]  # distance sqrt(3) of the means
    half = np.sqrt(3) / 2

    def density(x):
        return (stats.norm.pdf(x, -half) + stats.norm.pdf(x, half)) / 2

    entropy = integrate.quad(lambda x: -density(x) * np.log(density(x)), -9, 9)[0]
    expected = entropy - stats.norm.entropy()
    assert label_information(codes, labels).nats == pytest.approx(expected, abs=0.04)


def test_it_sees_what_only_two_latents_say_together(rng):
    codes = rng.standard_normal((2_000, 2))
    labels = np.where(codes[:, 0] * codes[:, 1] > 0, "same", "different")
    both = label_information(codes, labels)
    assert both.nats > 0.85 * both.entropy
    assert both.entropy == pytest.approx(np.log(2), abs=0.01)
    alone = label_information(codes[:, :1], labels)
    assert alone.nats < alone.upper_95 + 0.03


def test_separate_labels_give_exactly_the_entropy(rng):
    labels = rng.integers(0, 4, 500)
    codes = 100 * np.eye(4)[labels] + rng.standard_normal((500, 4))
    found = label_information(codes, labels)
    assert found.nats == pytest.approx(found.entropy)
    assert found.adjusted == pytest.approx(found.entropy, abs=0.02)


@pytest.mark.parametrize("kind", ["noise", "constant"])
def test_codes_that_know_nothing_are_at_the_floor(kind, rng):
    codes = rng.standard_normal((1_000, 5)) if kind == "noise" else np.ones((1_000, 5))
    found = label_information(codes, rng.integers(0, 3, 1_000), n_permutations=40)
    assert abs(found.floor) < 0.01
    assert abs(found.nats) < 0.05
    assert found.upper_95 > found.floor


def test_order_scale_and_place_of_codes_do_not_matter(rng):
    labels = rng.integers(0, 2, 300)
    codes = rng.standard_normal((300, 2)) + labels[:, None]
    order = rng.permutation(300)
    found = label_information(codes, labels).nats
    assert label_information(100 + 7 * codes, labels).nats == pytest.approx(found)
    assert label_information(codes[order], labels[order]).nats == pytest.approx(found)


def test_bad_input_is_refused(rng):
    codes = rng.standard_normal((10, 2))
    with pytest.raises(ScDisentError, match="two labels with at least two cells"):
        label_information(codes, ["a"] * 9 + ["b"])
    with pytest.raises(ScDisentError, match="n_neighbors=0"):
        label_information(codes, [0, 1] * 5, n_neighbors=0)
