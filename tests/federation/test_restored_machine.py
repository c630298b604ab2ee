"""A hospital's machine is restored from a backup: the others go on, and after `site recover` it takes part again."""

import os
import shutil
from collections import Counter

import pytest
from typer.testing import CliRunner

from fedhealth.cli.main import app
from fedhealth.privacy.accounting.ledger import verify_ledger
from fedhealth.privacy.accounting.ledger_entry import SPENT_KINDS
from fedhealth.privacy.accounting.ledger_folder import find_ledgers
from fedhealth.secagg.client.statement_book import RESTORED
from fedhealth.site.audit_log import verify_log
from tests.federation.conftest import SITES, STRICT, consortium_of

pytestmark = [
    pytest.mark.xdist_group("federation"),
    pytest.mark.skipif(os.environ.get("FEDHEALTH_FAULTS") != "full", reason="a part of `make faults`"),
]

PRIVATE = ("secagg=on", "privacy=patient", "strategy.rounds=2", "strategy.min_sites=3", "training.threads=1")
VICTIM = SITES[0]


def count_spent(home):
    """Return the steps that a hospital's ledger counts as spent, by run."""
    ((_, ledger),) = find_ledgers(home.state)
    spent = Counter()
    for entry in verify_ledger(ledger):
        spent[entry.run] += entry.event.steps * (entry.kind in SPENT_KINDS)
    return spent


@pytest.fixture(name="consortium")
def consortium_(tmp_path, tiny_overrides):
    """Return a consortium of its own: what a restored machine has lost counts for every later study there."""
    with consortium_of(tmp_path / "consortium", SITES, tiny_overrides) as running:
        yield running


def test_a_restored_machine_takes_part_again(consortium, tmp_path):
    consortium.agree({**STRICT, "lifetime_epsilon": 1000.0})  # of all tests together
    poc, home = consortium.poc, consortium.poc.site_home(VICTIM)

    def restart():
        poc.start_site(VICTIM)
        poc.wait_until(lambda: poc.count_online(consortium.control) == len(SITES), "the site to connect")

    consortium.run(tmp_path / "before", *PRIVATE)
    poc.kill(VICTIM)
    shutil.copytree(home.path, tmp_path / "backup")
    restart()
    forgotten = consortium.run(tmp_path / "forgotten", *PRIVATE)
    truth = count_spent(home)
    poc.kill(VICTIM)
    shutil.rmtree(home.path)
    shutil.copytree(tmp_path / "backup", home.path)
    restart()

    without = consortium.run(tmp_path / "without", *PRIVATE)
    assert without.info.state == "completed"
    rounds = [event["sites"] for event in without.read_events()[0] if event["event"] == "round_completed"]
    assert all(sorted(sites) == sorted(set(SITES) - {VICTIM}) for sites in rounds)
    declined = [entry for entry in verify_log(home.audit) if entry["event"] == "run declined"]
    assert RESTORED in declined[-1]["reasons"][0]
    assert RESTORED not in (without.path / "events.jsonl").read_text()

    poc.kill(VICTIM)
    result = CliRunner().invoke(app, ["site", "recover", "--yes", "--home", str(home.path)])
    assert result.exit_code == 0, result.output
    spent = count_spent(home)
    assert all(spent[run] >= steps for run, steps in truth.items())
    assert spent[forgotten.info.run] > 0
    restart()
    after = consortium.run(tmp_path / "after", *PRIVATE)
    assert after.info.state == "completed"
    rounds = [event["sites"] for event in after.read_events()[0] if event["event"] == "round_completed"]
    assert all(sorted(sites) == sorted(SITES) for sites in rounds)
