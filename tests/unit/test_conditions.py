import json

import numpy as np
import pandas as pd
import pytest

from scdisent._errors import InputDataError, OptionError
from scdisent._names import at_dose, same_set, without_dose
from scdisent.conditions import ConditionTable, as_table, condition_names


@pytest.fixture
def table():
    frame = pd.DataFrame(
        {"drug": ["a", "a", "b"], "dose": [1.0, 4.0, 2.0], "time": [6, 24, 24]},
        index=["a_low", "a_high", "b"],
    )
    vectors = pd.DataFrame(np.arange(6.0).reshape(3, 2), index=frame.index)
    units = {"dose": "uM", "time": "h"}
    return ConditionTable(frame, dose="dose", units=units, embedding=vectors)


LIKE = ["control", "a_low", "a_high", "b"]


def test_features_are_one_hot_and_standardised_over_the_conditions_of_training(table):
    found = table.encode(LIKE, like=LIKE, control="control")
    features = found.features[:, 0]
    np.testing.assert_array_equal(features[1:, 0], 1)  # the constant
    np.testing.assert_array_equal(features[1:, 1:3], [[1, 0], [1, 0], [0, 1]])
    np.testing.assert_allclose(features[1:, 3:].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(features[1:, 3:].std(axis=0), 1, rtol=1e-6)
    np.testing.assert_allclose(found.dose[:, 0], [0, 0.25, 1, 0.5])
    np.testing.assert_array_equal(found.present[:, 0], [0, 1, 1, 1])
    np.testing.assert_array_equal(features[0], 0)  # a control has no parts


def test_a_combination_is_the_set_of_its_parts_in_any_order(table):
    first, second = (
        table.encode([name], like=LIKE, control="control") for name in ("a_low+b", "b+a_low")
    )
    np.testing.assert_array_equal(first.features[0], second.features[0, ::-1])
    alone = table.encode(["a_low"], like=LIKE, control="control")
    np.testing.assert_array_equal(first.features[0, 0], alone.features[0, 0])
    assert first.present.tolist() == [[1, 1]]
    beside_control = table.encode(["a_low+control"], like=LIKE, control="control")
    for name, values in vars(alone).items():
        np.testing.assert_array_equal(getattr(beside_control, name), values)


def test_names_of_one_set_are_one_condition():
    known = ["control", "b+a", "c", "d+control"]
    pairs = {"a+b": "b+a", "b+a": "b+a", "control+c": "c", "d": "d+control", "control": "control"}
    pairs |= {"control+control": "control", "e+c": "e+c", "e+control+c": "e+c", "a+a": "a+a"}
    for name, expected in pairs.items():
        assert same_set(name, known, control="control") == expected
    assert same_set("a+b", ["b+a"], separator="|") == "a+b"


def test_an_unseen_row_is_encoded_on_the_scale_of_training(table):
    new = table.with_rows(
        pd.DataFrame({"drug": ["b"], "dose": [8.0], "time": [6]}, index=["b_more"]),
        embedding=pd.DataFrame([[9.0, 9.0]], index=["b_more"]),
    )
    found = new.encode(["b_more"], like=LIKE, control="control")
    assert found.dose[0, 0] == 2.0
    before, after = (t.encode(LIKE, like=LIKE, control="control") for t in (table, new))
    np.testing.assert_array_equal(before.features, after.features)


def test_what_a_model_stores_is_json_and_gives_the_same_table(table):
    again = ConditionTable.from_dict(json.loads(json.dumps(table.to_dict())))
    for one, other in zip(
        vars(table.encode(["b", "a_low+b"], like=LIKE, control="control")).values(),
        vars(again.encode(["b", "a_low+b"], like=LIKE, control="control")).values(),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
    assert repr(again) == repr(table)
    assert "dose (dose, uM)" in repr(table)
    assert as_table(None) is None
    assert as_table(table) is table
    assert as_table(table.frame).dose == "dose"


def test_errors_name_what_is_missing(table):
    with pytest.raises(OptionError, match=r"no row for 'c' \(of condition 'b\+c'\)"):
        table.encode(["b+c"], like=LIKE, control="control")
    other = table.with_rows(
        pd.DataFrame({"drug": ["c"], "dose": [1.0], "time": [6]}, index=["c"]),
        embedding=pd.DataFrame([[0.0, 0.0]], index=["c"]),
    )
    with pytest.raises(OptionError, match=r"drug='c', which no condition of training has"):
        other.encode(["c"], like=LIKE, control="control")
    with pytest.raises(InputDataError, match="lack the columns"):
        table.with_rows(pd.DataFrame({"drug": ["a"]}, index=["x"]))
    with pytest.raises(InputDataError, match="exist"):
        table.with_rows(table.frame)
    with pytest.raises(InputDataError, match="exactly if"):
        table.with_rows(table.frame.set_axis(["x", "y", "z"]))
    frame = pd.DataFrame({"dose": [-1.0]}, index=["a"])
    with pytest.raises(InputDataError, match="negative"):
        ConditionTable(frame, dose="dose")
    with pytest.raises(InputDataError, match="several rows"):
        ConditionTable(pd.concat([frame, frame]))
    with pytest.raises(InputDataError, match="missing values"):
        ConditionTable(pd.DataFrame({"x": [np.nan]}, index=["a"]))
    with pytest.raises(InputDataError, match="no column"):
        ConditionTable(frame, dose="amount")
    with pytest.raises(InputDataError, match="no vector"):
        ConditionTable(frame.abs(), embedding=pd.DataFrame({"v": [1.0]}, index=["b"]))


def test_a_row_stands_for_all_doses_of_its_condition():
    frame = pd.DataFrame({"drug": ["a", "b"]}, index=["a", "b"])
    table = ConditionTable(frame)
    like = ["control", "a@1", "a@4", "b@2"]
    found = table.encode(["a@1", "a@8", "a@1+b@2", "a@0"], like=like, control="control")
    np.testing.assert_allclose(found.dose, [[0.25, 0], [2, 0], [0.25, 0.5], [0, 0]])
    np.testing.assert_array_equal(found.features[0, 0], found.features[1, 0])
    assert table.is_single("a@3")
    assert not table.is_single("a@1+b@2")
    for name in ("a@much", "a@-1", "a@inf"):
        with pytest.raises(OptionError, match="must be a dose of at least 0"):
            table.encode([name], like=like, control="control")
    with pytest.raises(OptionError, match="no row for 'c@1'"):
        table.parts("c@1")


def test_names_with_doses_are_taken_apart():
    assert at_dose("a", 0.5) == "a@0.5"
    assert at_dose("a+b", 2) == "a@2+b@2"
    assert without_dose("a@0.5") == ("a", 0.5)
    assert without_dose("a@2+b@2") == ("a+b", 2.0)
    name, dose = without_dose("a@2+b@1")
    assert (name, np.isnan(dose)) == ("a+b", True)
    assert np.isnan(without_dose("control")[1])


def test_large_doses_have_names_without_a_separator():
    name = at_dose("drug", 1e6)
    assert name == "drug@1000000"
    assert without_dose(name) == ("drug", 1e6)
    assert without_dose(at_dose("a", 1e-7)) == ("a", 1e-7)
    assert at_dose("a", 0.1) == "a@0.1"
    assert without_dose("a@1_b@1", separator="_") == ("a_b", 1.0)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, int])
def test_doses_are_named_as_they_were_written(kind):
    values = [1, 3] if kind is int else [0.1, 0.3]
    obs = pd.DataFrame({"condition": ["drug", "drug", "control"], "dose": [*values, 0]})
    obs["dose"] = obs["dose"].astype(kind)
    names = condition_names(obs, condition_key="condition", dose_key="dose", control="control")
    assert list(names) == [f"drug@{values[0]}", f"drug@{values[1]}", "control"]
    assert at_dose("drug", kind(values[0])) == names[0]
    assert same_set(f"drug@{values[1]}0" if kind is not int else "drug@3.0", names) == names[1]


def test_a_control_in_a_combination_has_no_dose():
    obs = pd.DataFrame({"condition": ["ctrl", "A+ctrl", "A+B", "ctrl+ctrl"], "dose": 1.0})
    names = condition_names(obs, condition_key="condition", dose_key="dose", control="ctrl")
    assert list(names) == ["ctrl", "A@1", "A@1+B@1", "ctrl"]


def test_a_name_may_hold_the_sign_of_doses():
    assert at_dose("IFN@home", 1) == "IFN@home@1"
    assert without_dose("IFN@home@1") == ("IFN@home", 1.0)
    name, dose = without_dose("IFN@home")
    assert name == "IFN@home"
    assert np.isnan(dose)
    table = ConditionTable(pd.DataFrame({"kind": ["x"]}, index=["IFN@home"]))
    assert table.row("IFN@home@1") == "IFN@home"
    assert table.dose_of("IFN@home@0.5") == 0.5


def test_a_table_that_was_saved_takes_further_vectors():
    frame = pd.DataFrame({"n": [1.0, 2.0]}, index=["p", "q"])
    vectors = pd.DataFrame([[0.0, 1.0], [2.0, 3.0]], index=["p", "q"], columns=["a", "b"])
    read = ConditionTable.from_dict(ConditionTable(frame, embedding=vectors).to_dict())
    row = pd.DataFrame({"n": [3.0]}, index=["r"])
    swapped = pd.DataFrame([[5.0, 4.0]], index=["r"], columns=["b", "a"])
    assert read.with_rows(row, embedding=swapped).embedding.loc["r"].tolist() == [4.0, 5.0]
    by_place = pd.DataFrame([[4.0, 5.0]], index=["r"], columns=[0, 1])
    assert read.with_rows(row, embedding=by_place).embedding.loc["r"].tolist() == [4.0, 5.0]
    with pytest.raises(InputDataError, match="has 1 columns; that of the table has 2"):
        read.with_rows(row, embedding=by_place[[0]])


@pytest.mark.parametrize(
    ("column", "options"),
    [([1.0, np.inf], {}), (["low", "high"], {"dose": "n"}), ([0.5, np.inf], {"dose": "n"})],
)
def test_numbers_of_a_table_are_finite(column, options):
    frame = pd.DataFrame({"n": column}, index=["p", "q"])
    with pytest.raises(InputDataError, match=r"infinite"):
        ConditionTable(frame, **options)
