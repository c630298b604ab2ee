"""What the guides tell monitors to look at exists."""

import re

import pytest
from omegaconf import OmegaConf
from prometheus_client.parser import text_string_to_metric_families

from fedhealth.cli.status import EXIT_CODES
from fedhealth.monitor.exposition import render_metrics
from fedhealth.monitor.run_metrics import RunMetrics
from fedhealth.monitor.site_metrics import SiteMetrics
from fedhealth.privacy.accounting.ledger_folder import LEDGER_DIR, get_spending_summary_path
from fedhealth.runs.run_dir import RunDir
from fedhealth.runs.run_status import RUN_STATES
from fedhealth.site.audit_log import AuditLog
from fedhealth.site.home import SiteHome
from fedhealth.utils.atomic_io import write_json
from tests.guide import DOCS


@pytest.fixture(name="names")
def names_(tmp_path):
    """Every name that a site and a run can show."""
    home, run = SiteHome(tmp_path / "home"), RunDir(tmp_path / "run")
    home.create()
    home.policy.write_text("name: charite\nlead: lead.example:9092\n")
    AuditLog(home.audit).write("failed", kind="train.fit", code=1003, reason="DataError")
    ledger = home.state / LEDGER_DIR / "ward.jsonl"
    ledger.parent.mkdir()
    ledger.touch()
    write_json(get_spending_summary_path(ledger), {"epsilon": 1.0, "delta": 1e-6})
    run.create(run="abc")
    run.append_event("site_answered", round=1, site="north", seconds=1.0, sent=1, received=1)
    run.append_event("site_failed", round=1, site="south", reason="DataError")
    text = "".join(render_metrics(each).decode() for each in (SiteMetrics(home), RunMetrics(lambda: [run])))
    return {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}


@pytest.mark.parametrize(("page", "count"), [("hospital-it.md", 9), ("lead.md", 3)])
def test_alerts_are_about_numbers_that_exist(names, page, count):
    text = (DOCS / page).read_text("utf-8")
    [rules] = re.findall(r"```yaml\n(groups:.*?)```", text, re.S)
    OmegaConf.create(rules)
    named = set(re.findall(r"fedhealth_(?:site|run)_\w+", text))
    assert len(named) == count
    assert named <= names


def test_every_state_of_a_run_is_explained():
    text = (DOCS / "operations.md").read_text("utf-8")
    listed = set(re.findall(r"^\| (\w+) \|", text, re.M))
    assert set(RUN_STATES) <= listed
    assert set(EXIT_CODES) == set(RUN_STATES)
