"""Splits never let training see what is asked, on any design."""

import numpy as np
import pandas as pd
import pytest

from scdisent import splits
from scdisent._errors import InputDataError, OptionError

KEYS = {"condition_key": "condition", "control": "control"}


def design(n=600, *, seed=0, conditions=("control", "a", "b", "a+b"), n_types=3, n_donors=4):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "condition": pd.Categorical(rng.choice(conditions, n)),
            "cell_type": rng.choice([f"t{i}" for i in range(n_types)], n),
            "donor": rng.integers(n_donors, size=n),  # numbers are as good as names
        }
    )


@pytest.mark.parametrize("seed", range(10))
def test_no_target_is_seen_and_every_cell_is_asked_at_most_once(seed):
    obs = design(100 + 40 * seed, seed=seed, n_types=1 + seed % 5)
    found = [
        *splits.leave_out(obs, "cell_type", **KEYS, min_cells=1),
        *splits.leave_out(obs, "donor", labels_key="cell_type", **KEYS, min_cells=1),
        *splits.leave_conditions_out(obs, ["a", "b"], labels_key="cell_type", **KEYS, min_cells=1),
    ]
    for split in found:
        asked = np.sum([q.target for q in split.questions], axis=0)
        assert asked.max() == 1
        assert not (split.train & (asked > 0)).any()
        for question in split.questions:
            assert (obs["condition"][question.target] == question.condition).all()
            assert (obs["condition"][question.source] == "control").all()
            assert split.train[question.source].all()


def test_a_left_out_type_is_seen_untreated_only():
    obs = design()
    for split in splits.leave_out(obs, "cell_type", **KEYS):
        seen = obs[split.train & (obs["cell_type"] == split.name)]
        assert set(seen["condition"]) == {"control"}
        assert {q.condition for q in split.questions} == {"a", "b", "a+b"}
        assert set(obs["condition"][split.train]) == {"control", "a", "b", "a+b"}


def test_donors_can_be_asked_type_by_type():
    obs = design()
    (first, *_) = splits.leave_out(obs, "donor", labels_key="cell_type", **KEYS, min_cells=5)
    groups = {q.group for q in first.questions}
    assert groups == {"0, t0", "0, t1", "0, t2"}


def test_small_groups_are_not_asked_but_stay_hidden():
    obs = design()
    obs.loc[obs["condition"].eq("a").to_numpy() & (obs["cell_type"] == "t0"), "condition"] = "b"
    obs.loc[obs.index[obs["cell_type"] == "t0"][:3], "condition"] = "a"
    (split,) = (s for s in splits.leave_out(obs, "cell_type", **KEYS) if s.name == "t0")
    assert {q.condition for q in split.questions} == {"b", "a+b"}
    assert not split.train[(obs["condition"] == "a") & (obs["cell_type"] == "t0")].any()


def test_combinations_are_those_whose_parts_have_cells():
    names = ["control", "a", "b", "a+b", "a+c"]
    assert splits.combination_folds(names) == {"a+b": ["a+b"]}
    assert splits.combination_folds([*names, "c"], n_folds=1, seed=3) == {"fold 0": ["a+b", "a+c"]}


def test_a_combination_is_a_set_whatever_the_order_of_its_name():
    names = ["ctrl", "a+ctrl", "b", "a+b", "b+a"]
    assert splits.combination_folds(names, control="ctrl") == {"a+b": ["a+b"]}
    obs = pd.DataFrame({"condition": np.repeat(names, 30)})
    keys = {"condition_key": "condition", "control": "ctrl"}
    for hidden in ("a+b", "b+a"):
        (split,) = splits.leave_conditions_out(obs, [hidden], **keys)
        assert set(obs["condition"][split.train]) == {"ctrl", "a+ctrl", "b"}
        assert [q.condition for q in split.questions] == ["a+b", "b+a"]


def test_one_condition_of_a_cell_type_can_be_hidden_alone():
    obs = design()
    (split, *_) = splits.leave_out(obs, "cell_type", conditions=["a"], **KEYS)
    hidden = ~split.train
    assert hidden.any()
    assert (obs.loc[hidden, "condition"] == "a").all()
    assert (obs.loc[hidden, "cell_type"] == "t0").all()
    assert not obs.loc[split.train & (obs["cell_type"] == "t0"), "condition"].eq("a").any()
    assert [q.condition for q in split.questions] == ["a"]
    for wrong in ("z", "control"):
        with pytest.raises(InputDataError, match=f"conditions=\\['{wrong}'\\]"):
            splits.leave_out(obs, "cell_type", conditions=["a", wrong], **KEYS)


def test_a_dose_is_hidden_by_the_columns_of_setup():
    obs = pd.DataFrame({"condition": np.repeat(["control", "a", "b"], 120)})
    obs["dose"] = np.where(obs["condition"] == "control", 0.0, np.resize([0.0, 1, 10, 100], 360))
    keys = {**KEYS, "dose_key": "dose"}
    names = ["control", *(f"{drug}@{dose}" for drug in "ab" for dose in (1, 10, 100))]
    assert splits.dose_folds(names) == {"dose 10": ["a@10", "b@10"]}
    folds = splits.dose_folds(names, extrapolate=True)
    (split,) = splits.leave_conditions_out(obs, folds, **keys)
    np.testing.assert_array_equal(~split.train, obs["dose"] == 100)
    assert [q.condition for q in split.questions] == ["a@100", "b@100"]
    untreated = (obs["dose"] == 0).to_numpy()  # dose zero is the control
    assert all((q.source == untreated).all() for q in split.questions)
    with pytest.raises(InputDataError, match="no column 'amount'"):
        splits.leave_conditions_out(obs, ["a"], **KEYS, dose_key="amount")


def test_folds_of_conditions_hide_each_once_and_never_the_control():
    names = ["control", *"abcdefg"]
    folds = splits.condition_folds(names, control="control", n_folds=3, seed=1)
    assert sorted(sum(folds.values(), [])) == list("abcdefg")
    assert {len(fold) for fold in folds.values()} == {2, 3}


def test_doses_are_hidden_inside_or_at_the_end():
    doses = {"control": 0.0, "x1": 1, "x2": 2, "x4": 4, "y2": 2}
    assert splits.dose_folds(doses) == {"dose 2": ["x2", "y2"]}
    assert splits.dose_folds(doses, extrapolate=True) == {"dose 4": ["x4"]}
    with pytest.raises(OptionError, match="at least 3"):
        splits.dose_folds({"x1": 1, "x2": 2})


def test_a_split_that_leaks_cannot_be_made():
    target = np.array([False, False, True])
    asked = splits.Question("a", "", ~target, target)
    with pytest.raises(InputDataError, match="1 target cells are also in training"):
        splits.Split("bad", np.ones(3, dtype=bool), (asked,))
    with pytest.raises(InputDataError, match="also a source cell"):
        splits.Split("bad", ~target, (splits.Question("a", "", target, target),))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda obs: splits.leave_out(obs, "type", **KEYS), "no column 'type'"),
        (lambda obs: splits.leave_out(obs, "donor", **KEYS, min_cells=10**6), "Lower min_cells"),
        (lambda obs: splits.leave_conditions_out(obs, ["control"], **KEYS), "are the control"),
        (lambda obs: splits.leave_conditions_out(obs, ["z"], **KEYS), "have no cells"),
    ],
)
def test_what_cannot_be_asked_is_refused(call, message):
    with pytest.raises(InputDataError, match=message):
        call(design())


def test_a_twin_of_a_combination_is_hidden_with_it():
    obs = design(600, conditions=("control", "a", "a+b", "b+a"))
    for asked in ("a+b", "b+a"):
        for split in splits.leave_out(obs, "cell_type", **KEYS, conditions=[asked], min_cells=1):
            inside = obs["cell_type"] == split.name
            seen = set(obs["condition"][split.train & inside])
            assert seen == {"control", "a"}
    without = obs[obs["condition"] != "b+a"]
    assert splits.leave_out(without, "cell_type", **KEYS, conditions=["b+a"], min_cells=1)
    named = {"condition_key": "condition", "control": "control", "separator": "|"}
    other = obs.assign(condition=obs["condition"].astype(str).str.replace("+", "|"))
    (split, *_) = splits.leave_out(other, "cell_type", **named, conditions=["b|a"], min_cells=1)
    assert not set(other["condition"][~split.train]) - {"a|b", "b|a"}


@pytest.mark.parametrize("column", ["condition", "cell_type"])
def test_cells_that_cannot_be_placed_are_counted(column):
    obs = design(200)
    obs[column] = obs[column].astype(object).where(np.arange(200) > 6, None)
    with pytest.raises(InputDataError, match=rf"obs\['{column}'\] is missing in 7 of 200 cells"):
        splits.leave_out(obs, "cell_type", **KEYS)
    with pytest.raises(InputDataError, match="missing values"):
        splits.condition_folds(["a", None, "b"], control="control", n_folds=2)


def test_a_control_that_is_a_number_is_the_control():
    obs = design(300, conditions=("0", "1", "2"))
    obs["condition"] = obs["condition"].astype(str).astype(int)
    keys = {"condition_key": "condition", "control": 0, "min_cells": 1}
    for split in splits.leave_out(obs, "cell_type", **keys):
        assert {question.condition for question in split.questions} == {"1", "2"}
    assert len(splits.leave_conditions_out(obs, [1, 2], **keys)) == 2
    folds = splits.condition_folds([0, 1, 2], control=0, n_folds=2)
    assert sorted(sum(folds.values(), [])) == ["1", "2"]


def test_large_doses_are_folds_of_their_own():
    folds = splits.dose_folds({"a": 1.0, "b": 1_000_000, "c": 1_000_001, "d": 2_000_000})
    assert folds == {"dose 1000000": ["b"], "dose 1000001": ["c"]}


def test_doses_of_combinations_with_another_separator():
    obs = design(300, conditions=("control", "a", "b", "a|b")).assign(dose=1.0)
    (split,) = splits.leave_conditions_out(
        obs, ["b@1|a@1.0"], **KEYS, dose_key="dose", separator="|", min_cells=1
    )
    assert set(obs["condition"][~split.train]) == {"a|b"}


def test_many_perturbations_are_split_at_once():
    names = np.array(["control", *(f"g{i}" for i in range(3_000))])
    obs = pd.DataFrame({"condition": np.repeat(names, 2)})
    folds = splits.condition_folds(names, control="control", n_folds=3)
    found = splits.leave_conditions_out(obs, folds, **KEYS, min_cells=1)
    assert [len(split.questions) for split in found] == [1_000] * 3
