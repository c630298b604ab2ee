import pytest

from fedhealth.config.compose import compose_config
from fedhealth.experiment.sweep_plan import expand_sweep, get_epsilon
from fedhealth.runs.table import build_run_labels


@pytest.mark.parametrize(
    ("words", "params", "expected"),
    [
        (["a=1"], {}, [("a=1",)]),
        (["a=1,2", "b=x"], {}, [("a=1", "b=x"), ("a=2", "b=x")]),
        (["a=1"], {"b": "x,y"}, [("b=x", "a=1"), ("b=y", "a=1")]),
        (["a=3"], {"a": "1,2"}, [("a=3",)]),
        (["s=range(3)"], {}, [("s=0",), ("s=1",), ("s=2",)]),
        (["~a", "g=choice(x,y)"], {}, [("~a", "g=x"), ("~a", "g=y")]),
    ],
)
def test_the_grid_is_hydras(words, params, expected):
    assert expand_sweep(words, params) == expected


def test_epsilon_is_that_of_the_whole_run():
    assert get_epsilon(compose_config(["data.root=x", "privacy=patient", "privacy.epsilon=3"])) == 3
    assert get_epsilon(compose_config(["data.root=x"])) is None


def test_runs_are_told_apart_by_what_differs():
    assert build_run_labels([("a=1", "b=1"), ("a=1", "b=2")]) == ["b=1", "b=2"]
    assert build_run_labels([("a=1", "b=1")]) == ["a=1 b=1"]
