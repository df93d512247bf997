import numpy as np
import pytest

from scdisent._errors import InputDataError, OptionError, ScDisentWarning
from scdisent.metrics import knn_accuracy, label_recovery, leakage, nmi


def blobs(rng, n_cells=300, n_labels=3, distance=8.0):
    labels = rng.permutation(np.arange(n_cells) % n_labels)
    return distance * np.eye(n_labels)[labels] + rng.standard_normal((n_cells, n_labels)), labels


def test_nmi_is_one_for_separate_labels_and_near_zero_for_noise(rng):
    codes, labels = blobs(rng, distance=30)
    assert nmi(codes, labels) == pytest.approx(1)
    assert nmi(codes, rng.permutation(labels)) < 0.03
    assert nmi(codes, np.array(["B", "T", "NK"])[labels], seed=1) == pytest.approx(1)


def test_nmi_of_one_cluster_is_zero_and_of_halved_labels_is_known(rng):
    codes, labels = blobs(rng, n_cells=400, n_labels=4, distance=30)
    assert nmi(codes, labels, n_clusters=1) == 0
    coarse = labels // 2  # H(c) = 2 bits, H(y) = 1 bit, I = 1 bit
    assert nmi(codes, coarse, n_clusters=4) == pytest.approx(2 / 3, abs=1e-6)


def test_nmi_does_not_see_a_condition_that_can_be_read_with_certainty(rng):
    codes, labels = blobs(rng, n_cells=600, distance=30)
    condition = rng.permutation(np.arange(600) % 2)
    codes = np.c_[codes, 6 * condition + 0.3 * rng.standard_normal(600)]
    assert nmi(codes, condition, n_clusters=3) < 0.02
    audit = leakage(codes, condition, attackers=("logistic",), n_permutations=9, n_bootstrap=9)
    assert audit.auroc > 0.999


@pytest.mark.parametrize("recover", [knn_accuracy, label_recovery])
def test_labels_are_recovered_from_blobs_and_not_from_noise(rng, recover):
    codes, labels = blobs(rng, n_cells=600)
    groups = rng.integers(0, 5, 600)
    assert recover(codes, labels) > 0.99
    assert recover(codes, labels, groups=groups) > 0.99
    assert recover(codes, rng.permutation(labels)) == pytest.approx(1 / 3, abs=0.07)


def test_neighbours_see_what_no_line_separates(rng):
    angle = rng.uniform(0, 2 * np.pi, 600)
    labels = np.arange(600) % 2
    codes = np.stack([np.cos(angle), np.sin(angle)], axis=1) * (1 + labels)[:, None]
    assert knn_accuracy(codes, labels) > 0.99
    assert label_recovery(codes, labels) < 0.6


@pytest.mark.parametrize("recover", [knn_accuracy, label_recovery])
def test_a_label_that_a_donor_gives_away_is_not_recovered_across_donors(rng, recover):
    donor = rng.integers(0, 8, 800)
    codes = 6 * rng.standard_normal((8, 8))[donor] + rng.standard_normal((800, 8))
    labels = donor % 2
    assert recover(codes, labels) > 0.95
    assert recover(codes, labels, groups=donor) < 0.85


def test_rare_labels_are_left_out_and_named(rng):
    codes, labels = blobs(rng, n_cells=300)
    labels = labels.astype(object)
    labels[:4] = "rare"
    with pytest.warns(ScDisentWarning, match="'rare'"):
        found = knn_accuracy(codes, labels.astype(str))
    assert found == pytest.approx(knn_accuracy(codes[4:], labels[4:].astype(int)), abs=0.01)
    groups = np.where(labels == 0, 0, np.arange(300) % 4)  # label 0: one donor
    with pytest.warns(ScDisentWarning, match="'0'"):
        assert label_recovery(codes, labels.astype(str), groups=groups) > 0.98


def test_fewer_cells_than_neighbours_all_vote(rng):
    labels = np.repeat([0, 1], 10)
    codes = labels[:, None] * 9 + rng.standard_normal((20, 2))
    plan = {"groups": np.arange(20) % 2}
    assert knn_accuracy(codes, labels, n_neighbors=3, **plan) == 1
    assert knn_accuracy(codes, labels, n_neighbors=15, **plan) == 0.5  # a tie of five and five


def test_balanced_accuracy_does_not_reward_the_frequent_label(rng):
    labels = (rng.random(1000) < 0.1).astype(int)
    codes = rng.standard_normal((1000, 3))
    assert knn_accuracy(codes, labels) == pytest.approx(0.5, abs=0.02)
    assert label_recovery(codes, labels) == pytest.approx(0.5, abs=0.08)


def test_bad_input_is_refused(rng):
    codes = rng.standard_normal((30, 2))
    with pytest.raises(OptionError, match="between 1 and 30"):
        nmi(codes, np.arange(30) % 2, n_clusters=31)
    with pytest.raises(InputDataError, match="Fewer than two labels"):
        knn_accuracy(codes, np.r_[np.zeros(25), np.ones(5)])
    with pytest.raises(InputDataError, match="each of the 30 cells"):
        label_recovery(codes, np.zeros(29))
