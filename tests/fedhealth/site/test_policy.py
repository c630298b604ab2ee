"""No policy, no job: what site.yaml may say."""

import pytest

from fedhealth.errors import ConfigError
from fedhealth.site.home import SiteHome
from fedhealth.site.policy import load_policy

GOOD = """\
name: charite
lead: lead.example:9092
data:
  chest: {dataset: chest-2026, root: /srv/chest}
limits: {epsilon: 4, min_sites: 4}
"""


@pytest.fixture(name="home")
def home_(tmp_path):
    home = SiteHome(tmp_path)
    home.create()
    return home


def test_what_is_not_said_is_strict(home):
    home.policy.write_text(GOOD)
    policy = load_policy(home)
    assert (policy.limits.epsilon, policy.limits.min_sites) == (4.0, 4)
    assert policy.limits.secure_aggregation
    assert (policy.limits.colluders, policy.limits.min_honest, policy.limits.word_embeddings) == (None, None, False)
    assert policy.limits.units == ("patient",)
    assert policy.data["chest"].dataset == "chest-2026"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "name: is missing"),
        ("[1, 2]", "expected a mapping"),
        ("name: [", "line 1: expected the node content"),
        (GOOD + "limit: {}\n", "limit: there is no such key"),
        (GOOD.replace("epsilon: 4", "epsilon: -1"), "must be positive"),
        (GOOD.replace("epsilon: 4", "epsilon: .inf"), "positive and finite"),
        (GOOD.replace("epsilon: 4", "epsilon: lots"), "is not a number"),
        (GOOD.replace("epsilon: 4", "units: [everybody]"), "'everybody' is none of"),
        (GOOD.replace("epsilon: 4", "colluders: -1"), "limits.colluders: must not be negative"),
        (GOOD.replace("epsilon: 4", "min_honest: 0"), "limits.min_honest: must be at least 1"),
        (GOOD.replace("name: charite", "name: ../x"), "not a valid site name"),
        (GOOD.replace("lead: lead.example:9092\n", ""), "lead: is missing"),
        (GOOD.replace("limits", "  again: {dataset: other, root: /srv/chest}\nlimits"), "already has the ledger"),
    ],
)
def test_faults_are_named(home, content, message):
    home.policy.write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_policy(home)


def test_a_missing_policy_is_a_fault(home):
    with pytest.raises(ConfigError, match="is missing"):
        load_policy(home)
