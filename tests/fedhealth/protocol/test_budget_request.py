"""A sweep's budget request comes from outside: what is no budget request is refused, and nothing in it names a file."""

from dataclasses import asdict

import pytest

from fedhealth.protocol.budget_request import BudgetRequest, PlannedRun

STATEMENT = BudgetRequest("0123456789ab", 16.0, (PlannedRun("a" * 12, ("data=demo", "seed=1"), "0" * 64),))


def plain():
    fields = asdict(STATEMENT)
    fields["runs"] = [{**run, "overrides": list(run["overrides"])} for run in fields["runs"]]
    return fields


def test_it_is_read_as_it_was_written():
    assert BudgetRequest.parse(plain()) == STATEMENT
    assert BudgetRequest.parse(None) is None
    assert BudgetRequest.parse({**plain(), "runs": []}).runs == ()


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
        BudgetRequest.parse({**plain(), where: value})


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("run", "../privacy"),
        ("run", "short"),
        ("digest", "0" * 63),
        ("overrides", "seed=1"),
        ("overrides", ["seed=1\n"]),
        ("overrides", [""]),
        ("overrides", ["x" * 1001]),
        ("overrides", ["a=1"] * 201),
        ("overrides", [1]),
    ],
)
def test_a_run_of_another_shape_is_refused(where, value):
    fields = plain()
    fields["runs"][0][where] = value
    with pytest.raises(ValueError, match=r"."):
        BudgetRequest.parse(fields)


def test_a_run_is_named_once():
    fields = plain()
    fields["runs"] *= 2
    with pytest.raises(ValueError, match="twice"):
        BudgetRequest.parse(fields)
