"""What `lead sites` knows of every hospital, and what it says of one that does not fit."""

import json
from types import SimpleNamespace

import pytest

from fedhealth.cli.main import main
from fedhealth.errors import FederationError
from fedhealth.flower.server.control_client import RegisteredNode
from fedhealth.flower.server.site_contacts import SiteContacts
from fedhealth.lead import site_overview
from fedhealth.lead.job_store import save_job
from fedhealth.lead.site_overview import find_site_problems, list_sites, load_node_names
from fedhealth.protocol.compatibility import compute_shared_digest, get_release
from fedhealth.protocol.job import Job
from fedhealth.protocol.site_report import SiteReport
from fedhealth.runs.run_dir import RunDir
from fedhealth.runtime import deployment
from tests.fedhealth.site.trust import SITES, Consortium

FITS = SiteReport("0.1.0", compute_shared_digest(), 1, 1_700_000_000, "WARN")
OLD = SiteReport("0.9.0", compute_shared_digest(), 1)
OLD_KIT = SiteReport("0.1.0", compute_shared_digest(), 0)


@pytest.fixture(name="lead")
def lead_(tmp_path, monkeypatch):
    """Three members: charite fits, klinikum has an old release, st-brigid was never connected."""
    consortium = Consortium(tmp_path)
    keys = [home.load_node_public_key() for home in consortium.homes.values()]
    nodes = [RegisteredNode(10 + number, key, "online", "") for number, key in enumerate(keys[:2])]

    class Control(SimpleNamespace):
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def list_nodes(self):
            return [*nodes, RegisteredNode(99, "a key of nobody", "online", "")]

    monkeypatch.setattr(site_overview, "connect_control", lambda home: Control())
    contacts = SiteContacts(consortium.lead.contacts)
    contacts.record(10, FITS.dumps())
    contacts.record(11, OLD.dumps())
    return consortium.lead


def note_run(lead, name, **answers):
    """Note a run in which hospitals answered; the later one is called last."""
    run = RunDir(lead.runs / name)
    run.create(run=name, name="chest")
    for site, reasons in answers.items():
        run.append_event("handshake", site=site, reasons=list(reasons), versions="", fix="Install it." * bool(reasons))
    save_job(lead, Job(name, (), "", str(run.path)))


@pytest.mark.parametrize("line", ['{"event": "handshake"}', '{"event": "handshake", "time": "x", "site": 5}'])
def test_a_damaged_run_hides_no_refusal_of_another(lead, line):
    note_run(lead, "abcdefgh", charite=["another kit"])
    note_run(lead, "damaged1", klinikum=["its clock"])
    with (lead.runs / "damaged1" / "events.jsonl").open("a") as file:
        file.write(line + "\n")
    assert site_overview.find_last_refusals(lead) == {"charite": "another kit. Install it."}


def test_nodes_have_the_names_of_their_keys(lead):
    assert load_node_names(lead) == {10: "charite", 11: "klinikum"}


def test_every_member_has_a_line(lead):
    note_run(lead, "abcdefgh", charite=["another kit"], klinikum=["its clock"])
    charite, klinikum, brigid = list_sites(lead)
    assert [each.site for each in (charite, klinikum, brigid)] == list(SITES)
    assert (charite.state, charite.problems, charite.contact.report) == ("online", (), FITS)
    assert f"it has release 0.9.0, the lead {get_release()}" in klinikum.problems[0].problem
    assert (brigid.state, brigid.contact, brigid.refusal) == ("not registered", None, "")
    assert charite.refusal == "another kit. Install it."


def test_a_refusal_is_over_when_a_later_run_is_accepted(lead):
    note_run(lead, "abcdefgh", charite=["another kit"])
    note_run(lead, "bcdefghi", charite=[])
    assert list_sites(lead)[0].refusal == ""


@pytest.mark.parametrize(
    ("report", "problem"),
    [
        (OLD, "more than one minor version apart"),
        (SiteReport("0.2.0", "00" * 32, 1), "computes something else"),
        (OLD_KIT, "kit number 0, the latest is 1"),
    ],
)
def test_what_differs_is_named_with_its_fix(report, problem):
    [found] = find_site_problems(report, 1)
    assert problem in found.problem
    assert found.fix.endswith(".")


def test_lead_sites_shows_all_of_it(lead, monkeypatch, capfd):
    monkeypatch.setenv("COLUMNS", "250")
    for arguments in ([], ["--json"]):
        monkeypatch.setattr("sys.argv", ["fedhealth", "lead", "sites", "--home", str(lead.path), *arguments])
        with pytest.raises(SystemExit):
            main()
        shown = capfd.readouterr().out
        if arguments:
            assert json.loads(shown)[0]["contact"]["report"]["kit"] == 1
        else:
            lines = {line.split()[0]: line for line in shown.splitlines() if line.strip()}
            assert "WARN" in lines["charite"]
            assert "0.9.0" in lines["klinikum"]
            assert "never" in lines["st-brigid"]


def test_a_run_names_what_does_not_fit_before_anything_is_sent(lead, monkeypatch, tmp_path):
    monkeypatch.setattr("fedhealth.runtime.deployment.list_sites", list_sites)
    config = SimpleNamespace(data=SimpleNamespace(sites=SITES), strategy=SimpleNamespace(min_sites=None))
    monkeypatch.setattr(deployment, "compose_job_config", lambda job: config)
    runtime, run = deployment.DeploymentRuntime(str(lead.path)), RunDir(tmp_path / "run")
    run.create(run="abcdefgh", name="chest")
    with pytest.raises(FederationError, match=r"klinikum: it has release 0\.9\.0"):
        runtime._check_sites(None, run)
    config.strategy.min_sites = 2  # the other two are enough
    runtime._check_sites(None, run)
    told = [event for event in run.read_events()[0] if event["event"] == "handshake"]
    assert {event["site"] for event in told} == {"klinikum"}
