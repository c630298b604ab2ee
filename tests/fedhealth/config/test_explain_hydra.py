"""An entry that a command adds is checked as a whole; its faults are named with their whole path."""

import pytest

from fedhealth.config.compose import compose_config
from fedhealth.errors import ConfigError


@pytest.mark.parametrize(
    ("override", "problem", "advice"),
    [
        (
            "+data.tabular.x={scale: 1, skale: 2}",
            "configuration key 'data.tabular.x.skale'",
            "data.tabular.x.scale?",
        ),
        ("+data.tabular.x={levles: [a]}", "configuration key 'data.tabular.x.levles'", "data.tabular.x.levels?"),
        ("+data.tabular.x={zzz: 1}", "configuration key 'data.tabular.x.zzz'", "It takes kind, center"),
        ("+data.tabular.x={scale: many}", "data.tabular.x.scale: Value 'many'", "Correct the value"),
        ("+data.tabular.x={kind: words}", "data.tabular.x.kind: Invalid value 'words'", "Correct the value"),
        ("+data.tabular.x={missing_codes: {a: 1}}", "data.tabular.x: ", "Correct the value"),
        ("+data.tabular.x.skale=2", "configuration key 'data.tabular.x.skale'", "data.tabular.x.scale?"),
        ("+data.tabular.x.scale=2", "data.tabular.x does not exist yet", "+data.tabular.x={scale: 2}"),
        ("+data.tabular.x=3", "data.tabular.x: 3 is no mapping", "+data.tabular.x={key: value}"),
        ("+data.tabular={y: {skale: 3}}", "configuration key 'data.tabular.y.skale'", ""),
        ("data.tabular.crp={skale: 2}", "configuration key 'data.tabular.crp.skale'", "data.tabular.crp.scale?"),
        ("data.task={kin: binary}", "configuration key 'data.task.kin'", "data.task.kind?"),
    ],
)
def test_a_fault_inside_a_value_is_named_with_its_path(override, problem, advice):
    with pytest.raises(ConfigError) as caught:
        compose_config(["data.root=x", override])
    assert problem in caught.value.problem
    assert advice in caught.value.advice
