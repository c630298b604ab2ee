"""A sweep's budget request comes from outside: what is no budget request is refused, and nothing in it names a file."""

import json
from dataclasses import asdict

import pytest

from fedhealth.errors import TrustError
from fedhealth.protocol.budget_request import BudgetRequest, PlannedRun
from fedhealth.utils.json_model import parse_model

STATEMENT = BudgetRequest("0123456789ab", 16.0, (PlannedRun("a" * 12, ("data=demo", "seed=1"), "0" * 64),))


def plain():
    fields = asdict(STATEMENT)
    fields["runs"] = [{**run, "overrides": list(run["overrides"])} for run in fields["runs"]]
    return fields


def parse(fields):
    return parse_model(json.dumps(fields), BudgetRequest, "The job", "Ask the lead.")


def test_it_is_read_as_it_was_written():
    assert parse(plain()) == STATEMENT
    assert parse({**plain(), "runs": []}).runs == ()


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
    with pytest.raises(TrustError, match="The job"):
        parse({**plain(), where: value})


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
    with pytest.raises(TrustError, match="The job"):
        parse(fields)


def test_a_run_is_named_once():
    fields = plain()
    fields["runs"] *= 2
    with pytest.raises(TrustError, match="twice"):
        parse(fields)
