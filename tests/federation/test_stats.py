"""Statistics before training, in real hospitals: the same sums as on one machine, or noised and booked."""

import json

import pytest

from fedhealth.privacy.accounting.ledger import verify_ledger
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path
from fedhealth.site import audit_log
from tests.federation.conftest import SITES, STRICT

pytestmark = pytest.mark.xdist_group("federation")


def statistics(run):
    return json.loads((run.path / "statistics.json").read_text())


def test_they_are_those_of_one_machine(consortium, tmp_path):
    consortium.agree({**STRICT, "units": ["none"]})  # nothing leaves but masked sums
    overrides = ("purpose=describe", "secagg=on")
    here, there = (consortium.run(tmp_path / name, *overrides, runtime=name) for name in ("local", "deployment"))
    assert statistics(here) == statistics(there)
    assert {each["name"] for each in statistics(there)} >= {"label.label", "variable.crp"}
    assert (there.path / "report.html").stat().st_size > 1000
    assert not (there.path / "counts.npz").exists()  # raw sums hold small counts


def test_with_privacy_they_are_noised_and_booked(consortium, tmp_path):
    consortium.agree({**STRICT, "lifetime_epsilon": 1000.0})
    overrides = ("purpose=describe", "secagg=on", "privacy=patient", "privacy.epsilon=2")
    run = consortium.run(tmp_path / "run", *overrides)
    assert statistics(run)
    for site in SITES:
        home = consortium.poc.site_home(site)
        booked = [
            e for e in verify_ledger(get_ledger_path(home.state, "demo")) if (e.kind, e.run) == ("book", run.info.run)
        ]
        assert len(booked) == 1
        left = [e for e in audit_log.verify_log(home.audit) if e["event"] == "left" and e["run"] == run.info.run]
        assert {kind for e in left for kind in [e["kind"]]} >= {"query.handshake", "query.describe"}
