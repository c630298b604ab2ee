import pytest

from fedhealth.config.compose import compose_config
from fedhealth.experiment.sweep_plan import expand_sweep, get_guarantee
from fedhealth.runs.guarantee import PrivacyGuarantee, sum_guarantees
from fedhealth.runs.table import build_run_labels


@pytest.mark.parametrize(
    ("overrides", "params", "expected"),
    [
        (["a=1"], {}, [("a=1",)]),
        (["a=1,2", "b=x"], {}, [("a=1", "b=x"), ("a=2", "b=x")]),
        (["a=1"], {"b": "x,y"}, [("b=x", "a=1"), ("b=y", "a=1")]),
        (["a=3"], {"a": "1,2"}, [("a=3",)]),
        (["s=range(3)"], {}, [("s=0",), ("s=1",), ("s=2",)]),
        (["~a", "g=choice(x,y)"], {}, [("~a", "g=x"), ("~a", "g=y")]),
    ],
)
def test_the_grid_is_hydras(overrides, params, expected):
    assert expand_sweep(overrides, params) == expected


def test_epsilon_is_that_of_the_whole_run():
    words = ["data.root=x", "privacy=patient", "privacy.epsilon=3", "privacy.delta=1e-6", "privacy.noise_multiplier=2"]
    assert get_guarantee(compose_config(words)) == PrivacyGuarantee("patient", 3.0, 1e-6, 2.0)
    assert get_guarantee(compose_config(["data.root=x"])) is None


def test_epsilons_and_deltas_of_a_sweep_add_up_for_each_unit():
    made = [
        PrivacyGuarantee(unit, 3.0, 1e-6, noise)
        for unit, noise in (("patient", 2.0), ("patient", 1.5), ("record", 1.0))
    ]
    patient, record = sum_guarantees(made)
    assert (patient.epsilon, patient.delta, patient.noise_multiplier) == (6.0, 2e-6, 1.5)
    assert record == made[2]


def test_runs_are_told_apart_by_what_differs():
    assert build_run_labels([("a=1", "b=1"), ("a=1", "b=2")]) == ["b=1", "b=2"]
    assert build_run_labels([("a=1", "b=1")]) == ["a=1 b=1"]
