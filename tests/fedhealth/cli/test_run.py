"""The command line of `fedhealth run`."""

import pytest

from fedhealth.cli.run import flags_first


@pytest.mark.parametrize(
    ("words", "ordered"),
    [
        ("a=1 --multirun seed=0,1", "--multirun a=1 seed=0,1"),
        ("a=1 --cfg job b=2", "--cfg job a=1 b=2"),
        ("a=1 -cd folder b=2 -m", "-cd folder -m a=1 b=2"),
        ("a=1 --config-dir=folder ~b", "--config-dir=folder a=1 ~b"),
        ("--help", "--help"),
    ],
)
def test_flags_may_stand_anywhere(words, ordered):
    assert flags_first(words.split()) == ordered.split()
