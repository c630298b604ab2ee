"""What the runs of a study may vary."""

import pytest

from fedhealth.config.open_paths import OpenPath, collect_open_paths, find_changes_outside, flatten_settings
from fedhealth.errors import ConfigError

BASE = {"seed": 0, "training": {"lr": 0.1, "layers": [1, 2]}, "extra": {}, "data": {"task": {"classes": ["0", "1"]}}}


def change(**changes):
    return {**BASE, **changes}


def test_every_value_has_one_path():
    assert dict(flatten_settings(BASE)) == {
        "seed": 0,
        "training.lr": 0.1,
        "training.layers": [1, 2],
        "extra": {},
        "data.task.classes": ["0", "1"],
    }


def test_a_dot_in_a_key_makes_no_other_path():
    one, other = {"a": {"b": {"c": 1}}}, {"a": {"b.c": 1}}
    assert dict(flatten_settings(one)) != dict(flatten_settings(other))


@pytest.mark.parametrize(
    ("found", "paths"),
    [
        (BASE, []),
        (change(seed=1), []),
        (change(seed=3), ["seed"]),
        (change(seed=True), ["seed"]),
        (change(seed=1.0), ["seed"]),
        (change(training={"lr": 0.2, "layers": [1, 2]}), []),
        (change(training={"layers": [1, 2]}), []),
        (change(training={"lr": 0.2, "layers": [2, 1]}), ["training.layers"]),
        (change(training={"lr": 0.2, "layers": [1, 2], "more": 1}), ["training.more"]),
        (change(extra={"x": 1}), ["extra", "extra.x"]),
        (change(data={"task": {"classes": ["1", "0"]}}), ["data.task.classes"]),
        ({}, ["data.task.classes", "extra", "seed", "training.layers"]),
    ],
)
def test_only_open_paths_may_differ_and_only_within_their_values(found, paths):
    open_paths = (OpenPath("seed", (0, 1)), OpenPath("training.lr", (0.1, 0.2), may_be_absent=True))
    assert find_changes_outside(BASE, found, open_paths) == paths


def test_what_differs_between_runs_is_left_open_except_the_meaning_of_the_data():
    runs = [BASE, change(seed=1), change(training={"layers": [1, 2]})]
    assert collect_open_paths(runs) == (OpenPath("seed", (0, 1)), OpenPath("training.lr", (0.1,), may_be_absent=True))
    assert all(find_changes_outside(BASE, run, collect_open_paths(runs)) == [] for run in runs)
    with pytest.raises(ConfigError, match=r"cannot leave data\.task\.classes open"):
        collect_open_paths([BASE, change(data={"task": {"classes": ["a", "b"]}})])
