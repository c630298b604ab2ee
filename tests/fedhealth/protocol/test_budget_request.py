"""A sweep's statement comes from outside: what is no statement is refused, and nothing in it names a file."""

from dataclasses import asdict

import pytest

from fedhealth.protocol.budget_request import Planned, Statement

STATEMENT = Statement("0123456789ab", 16.0, (Planned("a" * 12, ("data=demo", "seed=1"), "0" * 64),))


def plain():
    fields = asdict(STATEMENT)
    fields["runs"] = [{**run, "words": list(run["words"])} for run in fields["runs"]]
    return fields


def test_it_is_read_as_it_was_written():
    assert Statement.parse(plain()) == STATEMENT
    assert Statement.parse(None) is None
    assert Statement.parse({**plain(), "runs": []}).runs == ()


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("sweep", "../../etc"),
        ("sweep", 7),
        ("epsilon", "16"),
        ("epsilon", True),
        ("epsilon", float("inf")),
        ("epsilon", -1),
        ("runs", {}),
        ("runs", [1]),
        ("runs", [{"run": "a" * 12}]),
        ("more", 1),
    ],
)
def test_another_shape_is_refused(where, value):
    with pytest.raises(ValueError, match=r"."):
        Statement.parse({**plain(), where: value})


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("run", "../privacy"),
        ("run", "short"),
        ("digest", "0" * 63),
        ("words", "seed=1"),
        ("words", ["seed=1\n"]),
        ("words", [""]),
        ("words", ["x" * 1001]),
        ("words", ["a=1"] * 201),
        ("words", [1]),
    ],
)
def test_a_run_of_another_shape_is_refused(where, value):
    fields = plain()
    fields["runs"][0][where] = value
    with pytest.raises(ValueError, match=r"."):
        Statement.parse(fields)


def test_a_run_is_named_once():
    fields = plain()
    fields["runs"] *= 2
    with pytest.raises(ValueError, match="twice"):
        Statement.parse(fields)
