"""docs/lead.md, followed command by command: provision, admit, serve, and a private run in three hospitals.

The first hospital follows docs/hospital-it.md from its kit to its first contributed round, and counts.
"""

import json
import os
import re
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path
from socket import create_connection

import pytest
from omegaconf import OmegaConf

from fedhealth.data.synthetic import write_hospitals
from fedhealth.lead.home import LeadHome
from fedhealth.lead.publish_study import load_published_studies
from fedhealth.lead.web.serve import get_token_path
from fedhealth.protocol.messages import TRAIN
from fedhealth.runtime.local_consortium import LocalConsortium, find_free_ports
from fedhealth.site.install import install_kit
from fedhealth.site.make_join_request import make_join_request
from fedhealth.site.policy import load_policy
from fedhealth.site.run_history import list_site_runs
from tests.fedhealth.web.browser import Browser
from tests.guide import steps

pytestmark = [pytest.mark.services, pytest.mark.xdist_group("federation")]  # one set of hospitals at a time
PROGRAM = str(Path(sys.executable).with_name("fedhealth"))
SITES = ("charite", "klinikum", "st-brigid")
ADDRESS, PORT = "lead.example:9092", "control_port: 9093"


class Hospital:
    """The first hospital's people: they follow their guide from the kit on, and count what they do."""

    def __init__(self, poc, folder):
        self.poc, self.folder, self.home = poc, folder, poc.site_home(SITES[0])
        self.commands, self.edited, self.began = [], [], 0.0

    def follow_guide(self):
        """Do what the guide says from the command that installs the kit to the start of the site."""
        (self.folder / "charite.zip").write_bytes((self.poc.lead.kits / "charite.zip").read_bytes())
        published = self.poc.lead.studies / "pneumonia-v1.study.json"
        (self.folder / published.name).write_bytes(published.read_bytes())
        found = steps("hospital-it.md")
        first = next(number for number, step in enumerate(found) if step.words[1:3] == ("site", "install"))
        self.began = time.time()
        for step in found[first:]:
            if step.mark == "the site runs":
                return
            if step.yaml:
                self.edited.append(step.mark)
                self.poc.write_policy("charite", load_policy(self.home).lead)
            elif step.words:
                self.type_command(step.words)

    def type_command(self, words):
        environment = {**os.environ, "FEDHEALTH_HOME": str(self.home.path), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [PROGRAM, *words[1:]],
            input="y\n",
            env=environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
        self.commands.append(words[1:])

    def measure_first_round(self):
        """Return the seconds from the first command to the reply of the first round, as the audit log has it."""
        (record,) = [each for each in list_site_runs(self.home) if each.sent]
        return min(each.time for each in record.sent if (each.kind, each.round) == (TRAIN, 1)) - self.began


class Lead:
    """The lead's people in a folder of the test; the hospitals' people are at hand."""

    def __init__(self, folder):
        self.folder = folder
        public, self.control = find_free_ports()
        self.address = f"127.0.0.1:{public}"
        names = write_hospitals(folder / "hospitals", patients=60, sites=len(SITES))
        self.poc = LocalConsortium(
            folder, {site: folder / "hospitals" / name for site, name in zip(SITES, names, strict=True)}
        )
        self.environment = {**os.environ, "FEDHEALTH_LEAD": str(self.poc.lead.path), "COLUMNS": "200"}
        self.environment |= {"OMP_NUM_THREADS": "1"}
        self.hospital = Hospital(self.poc, folder)

    def command(self, words):
        """Type a command, say yes where it asks; return what was shown."""
        runs = sorted(LeadHome(self.poc.lead.path).runs.glob("*.json"))
        typed = [PROGRAM, *(runs[-1].stem if word == "RUN" else word for word in words[1:])]
        done = subprocess.run(
            typed, input="y\n", env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=500
        )
        assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout

    def written(self, yaml):
        """Write project.yaml as the guide has it, at addresses that are free here."""
        own = yaml.replace(ADDRESS, self.address).replace("0.0.0.0:9092", self.address)
        (self.folder / "project.yaml").write_text(own.replace(PORT, f"control_port: {self.control}"))

    def asked(self, yaml):
        """Three hospitals make their requests and write their rules."""
        for site in SITES:
            home = self.poc.site_home(site)
            request = make_join_request(home, site, self.address)
            self.poc.write_policy(site, self.address)
            (self.folder / f"{site}.json").write_bytes(home.join_request.read_bytes())
            assert request

    def served(self, yaml):
        self.poc.start_lead()

    def completed(self, yaml):
        """Complete the draft as a person does."""
        draft = self.folder / "study.yaml"
        draft.write_text(draft.read_text().replace(': ""', ': "a text of the lead"'))

    def approved(self, yaml):
        """The hospitals install their kits and approve the study, the first of them by its guide."""
        (signed,) = load_published_studies(self.poc.lead)
        self.hospital.follow_guide()
        for site in SITES[1:]:
            install_kit(self.poc.site_home(site), (self.poc.lead.kits / f"{site}.zip").read_bytes())
        self.poc.approve_study(signed, "Dr. Noor")  # where nobody has decided

    def looked(self, yaml):
        """Open the page and every page that it links to, as the guide says."""
        (port,) = find_free_ports()[:1]
        with subprocess.Popen([PROGRAM, "lead", "web", "--port", str(port)], env=self.environment) as process:
            try:
                tokens = get_token_path(self.poc.lead)
                self.poc.wait_until(lambda: tokens.exists() and can_connect(port), "the page")
                browser = Browser(port, "lead")
                browser.sign_in(json.loads(tokens.read_text())["read"])
                self.pages = {path: browser.get(path).body for path in ("/", "/studies", "/runs", "/budget")}
                (run,) = re.findall(r'<a href="(/runs/[^"]+)">', self.pages["/runs"])
                self.pages |= {"run": browser.get(run).body, "report": browser.get(f"{run}/report").body}
            finally:
                process.terminate()
        assert not tokens.exists()

    def worked(self, yaml):
        """The hospitals start."""
        from fedhealth.lead.connect_control import connect_control

        for site in SITES:
            self.poc.start_site(site)
        with connect_control(self.poc.lead) as control:
            self.poc.wait_until(lambda: self.poc.count_online(control) == len(SITES), "the hospitals")


def can_connect(port):
    with suppress(OSError), closing(create_connection(("127.0.0.1", port), timeout=5)):
        return True
    return False


@pytest.fixture(name="lead")
def lead_(tmp_path):
    lead = Lead(tmp_path)
    yield lead
    lead.poc.stop()


def test_the_guide_works_as_written(lead):
    acts = {
        "project.yaml": lead.written,
        "three hospitals send their requests": lead.asked,
        "the server runs": lead.served,
        "study.yaml is completed": lead.completed,
        "the hospitals approve the study": lead.approved,
        "the hospitals run": lead.worked,
        "the page is opened": lead.looked,
    }
    shown = {}
    for step in steps("lead.md"):
        if step.mark:
            acts.pop(step.mark)(step.yaml)
        else:
            shown[" ".join(step.words[1 : 4 if step.words[2] == "study" else 3])] = lead.command(step.words)
    assert not acts
    assert all(site in shown["lead sites"] for site in SITES)
    assert "Report: file://" in shown["run runtime=deployment"]
    assert "completed" in shown["lead runs"]
    assert "1 of 1 runs started" in shown["lead study status"]
    assert shown["lead study status"].count("takes part") == len(SITES)
    assert "pneumonia is closed" in shown["lead study close"]
    assert "already ended" in shown["lead stop"]
    assert OmegaConf.load(lead.poc.lead.project).lead == lead.address
    pages = lead.pages
    assert all(f'<th scope="row">{site}</th><td>online</td>' in pages["/"] for site in SITES)
    assert pages["/studies"].count("takes part") == len(SITES)
    assert "1 of 1 completed" in pages["/runs"]
    assert "epsilon 8 at delta" in pages["/budget"]
    assert "completed" in pages["run"]
    assert "Federated training report" in pages["report"]
    hospital = lead.hospital  # from its kit to its first contributed round
    assert [words[:3] for words in hospital.commands] == [
        ("site", "install", "charite.zip"),
        ("site", "check"),
        ("site", "study", "show"),
        ("site", "study", "approve"),
        ("site", "check", "pneumonia"),
    ]
    assert len(hospital.commands) + 1 <= 10  # and the start of the site
    assert hospital.edited == ["added to site.yaml"]
    assert hospital.measure_first_round() <= 15 * 60
