"""docs/hospital-it.md, followed command by command in a temporary home, beside the lead's real server."""

import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fedhealth.cli.main import main
from fedhealth.data.synthetic import write_hospitals
from fedhealth.lead.admit import admit_member
from fedhealth.lead.connect_control import connect_control
from fedhealth.lead.project import Project
from fedhealth.lead.provision import provision_consortium
from fedhealth.lead.publish_study import publish_study
from fedhealth.runtime.local_consortium import LocalConsortium, find_free_ports
from fedhealth.site import audit_log
from fedhealth.site.check.check_site import check_site
from fedhealth.site.daemon_state import DaemonState
from fedhealth.site.home import SiteHome
from tests.clients.studies import DRAFT
from tests.fedhealth.site.consortium import World
from tests.guide import DOCS, steps

PAGE = "hospital-it.md"
LEAD = "lead.example:9092"
STUDY = ("experiment=demo", "privacy=patient", "data.sites=[charite,klinikum,st-brigid]")


class Hospital:
    """Follows the guide in a folder; the lead's people are at hand, and the lead's server runs."""

    def __init__(self, folder, monkeypatch, capfd):
        public, control = find_free_ports()
        self.folder, self.address, self.monkeypatch, self.capfd = folder, f"127.0.0.1:{public}", monkeypatch, capfd
        self.home, self.process = SiteHome(folder / "home"), None
        self.world = World(folder / "consortium", lead=self.address, sites=("klinikum", "st-brigid"))
        self.lead = self.world.lead
        provision_consortium(self.lead, Project("chest", self.address, ("localhost",), self.address, control))
        monkeypatch.setenv("FEDHEALTH_HOME", str(self.home.path))
        monkeypatch.setenv("COLUMNS", "120")
        monkeypatch.chdir(folder)

    def command(self, words):
        """Type a command, say yes where it asks; return exit code and what was shown."""
        answers = self.folder / "answers"
        answers.write_text("y\n")
        with answers.open() as keyboard:
            self.monkeypatch.setattr("sys.argv", [word.replace(LEAD, self.address) for word in words])
            self.monkeypatch.setattr("sys.stdin", keyboard)
            with pytest.raises(SystemExit) as stopped:
                main()
        out, err = self.capfd.readouterr()
        return stopped.value.code or 0, out + err

    def admitted(self, yaml):
        """Compare fingerprints, admit, send the kit."""
        admit_member(self.world.lead, self.home.join_request.read_bytes())
        (self.folder / "charite.zip").write_bytes(self.world.kit("charite"))

    def asked(self, yaml):
        """Publish a study of the demo and send its file."""
        draft = replace(DRAFT, name="pneumonia", overrides=STUDY)
        signed = publish_study(self.lead, draft)
        (self.folder / "pneumonia-v1.study.json").write_bytes(signed.dumps())

    def started(self, yaml):
        """Start the site as its script does, and wait until the lead sees it."""
        environment = {**os.environ, "FEDHEALTH": str(Path(sys.executable).with_name("fedhealth"))}
        with (self.folder / "site.log").open("wb") as log:
            command = ["bash", str(DOCS.parent / "scripts" / "start-site.sh")]
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        with connect_control(self.lead) as control:
            ends = time.monotonic() + 300
            site = DaemonState(self.home)
            while not (
                any(node.status == "online" for node in control.list_nodes()) and site.status["state"] == "connected"
            ):
                assert self.process.poll() is None, (self.folder / "site.log").read_text()
                assert time.monotonic() < ends
                time.sleep(0.1)

    def edited(self, yaml):
        """Add the guide's example to site.yaml; the files are in a folder of the test."""
        with self.home.policy.open("a") as file:
            file.write(yaml.replace("/srv", str(self.folder / "srv")))


@pytest.fixture(name="hospital")
def hospital_(tmp_path, monkeypatch, capfd):
    write_hospitals(tmp_path / "hospitals", seed=7)
    (tmp_path / "srv" / "fedhealth").mkdir(parents=True)
    (tmp_path / "hospitals" / "northfield").rename(tmp_path / "srv" / "fedhealth" / "ward-7")
    hospital = Hospital(tmp_path, monkeypatch, capfd)
    poc = LocalConsortium(tmp_path / "consortium", {})
    poc.start_lead()
    try:
        yield hospital
    finally:
        if hospital.process is not None:
            hospital.process.kill()
            hospital.process.wait()
        poc.stop()


@pytest.mark.services
def test_the_guide_works_as_written(hospital):
    acts = {
        "the lead admits charite and sends charite.zip": hospital.admitted,
        "added to site.yaml": hospital.edited,
        "the lead sends pneumonia-v1.study.json": hospital.asked,
        "the site runs": hospital.started,
    }
    shown = []
    for step in steps(PAGE):
        if step.mark:
            acts.pop(step.mark)(step.yaml)
            continue
        code, said = hospital.command(step.words)
        assert code == 0, f"{' '.join(step.words)}: {said}"
        shown.append(said)
    assert not acts
    everything = "".join(shown)
    assert "FAIL" not in everything
    for message in (
        "accepted: experiment=demo",
        "Approved by",
        "pneumonia version 1 is approved here",
        "one step of",
        "the budget suffices",
        "520 patients",
    ):
        assert message in re.sub(r"\s+", " ", everything)
    assert "charite: connected" in everything
    assert hospital.process.wait(30) == 0
    counted = audit_log.count_events(hospital.home.audit)
    assert [
        counted[event] for event in ("kit installed", "study approved", "started", "stopped", "left the consortium")
    ] == [1] * 5
    assert not hospital.home.node_key.exists()
    assert {path.name for path in hospital.folder.glob("audit.*")} == {"audit.json", "audit.csv"}


def test_from_the_kit_to_a_running_site_there_are_few_commands_and_one_file_to_edit():
    found = steps(PAGE)
    first = next(number for number, step in enumerate(found) if step.words[1:3] == ("site", "install"))
    last = next(number for number, step in enumerate(found) if step.mark == "the site runs")
    way = found[first:last]
    assert len([step for step in way if step.words]) + 1 <= 10  # and the start itself
    assert [step.mark for step in way if step.yaml] == ["added to site.yaml"]


def first_cells(title):
    """Return the words in the first column of the table below a title of the guide."""
    section = (DOCS / PAGE).read_text("utf-8").split(f"## {title}\n")[1].split("\n## ")[0]
    return [row.split("|")[1].strip() for row in section.splitlines() if row.startswith("|")][2:]


def test_every_place_of_a_site_is_listed():
    named = {word.strip("`/ ") for cell in first_cells("What lies where") for word in cell.split(",")}
    home = SiteHome(Path("home"))
    places = (
        home.policy,
        home.policy.with_name("site.schema.json"),
        home.keys,
        home.join_request,
        home.kit,
        home.state,
        home.audit.parent,
        home.daemon_folder,
        home.work,
    )
    assert named == {place.name for place in places}


def test_every_check_is_listed(hospital):
    hospital.command(["fedhealth", "site", "init", "--name", "charite", "--lead", hospital.address])
    hospital.admitted("")
    hospital.command(["fedhealth", "site", "install", "charite.zip"])
    hospital.edited(next(step.yaml for step in steps(PAGE) if step.yaml).replace("demo:", "NAME:"))
    named = {word.strip() for cell in first_cells("Check") for word in cell.split(",")}
    sometimes = {"GPU", "data", "proxy"}  # where the policy asks for a card; names no data; the network has a proxy
    assert {check.name for check in check_site(hospital.home)} == named - sometimes
