"""docs/hospital-it.md, followed command by command in a temporary home, with a real TLS server as the lead's."""

import re
from pathlib import Path

import pytest

from fedhealth.cli.main import main
from fedhealth.data.synthetic import write_hospitals
from fedhealth.lead.admit import admit
from fedhealth.site import auditlog
from fedhealth.site.check.all import check_site
from fedhealth.site.home import SiteHome
from fedhealth.site.install import installed
from tests.fedhealth.site.check.tls import Authority, serving
from tests.fedhealth.site.consortium import World
from tests.guide import DOCS, steps

PAGE = "hospital-it.md"
LEAD = "lead.example:9092"


class Hospital:
    """Follows the guide in a folder; the lead's people are at hand."""

    def __init__(self, folder, address, authority, monkeypatch, capfd):
        self.folder, self.address, self.monkeypatch, self.capfd = folder, address, monkeypatch, capfd
        self.home = SiteHome(folder / "home")
        self.world = World(folder / "consortium", lead=address, sites=("klinikum", "st-brigid"))
        self.world.lead.ca.write_bytes(authority.path.read_bytes())
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
        admit(self.world.lead, self.home.request.read_bytes())
        (self.folder / "charite.zip").write_bytes(self.world.kit("charite"))

    def edited(self, yaml):
        """Add the guide's example to site.yaml; the files are in a folder of the test."""
        with self.home.policy.open("a") as file:
            file.write(yaml.replace("/srv", str(self.folder / "srv")))


@pytest.fixture(name="hospital")
def hospital_(tmp_path, monkeypatch, capfd):
    authority = Authority(tmp_path / "authority")
    write_hospitals(tmp_path / "hospitals", seed=7)
    (tmp_path / "srv" / "fedhealth").mkdir(parents=True)
    (tmp_path / "hospitals" / "northfield").rename(tmp_path / "srv" / "fedhealth" / "ward-7")
    with serving(authority.context()) as address:
        yield Hospital(tmp_path, address, authority, monkeypatch, capfd)


def test_the_guide_works_as_written(hospital):
    acts = {
        "the lead admits charite and sends charite.zip": hospital.admitted,
        "added to site.yaml": hospital.edited,
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
    for words in ("accepted: experiment=demo", "one step of", "the budget suffices", "520 patients"):
        assert words in re.sub(r"\s+", " ", everything)
    assert installed(hospital.home).membership.member("charite")
    assert auditlog.counts(hospital.home.audit)["kit installed"] == 1
    assert {path.name for path in hospital.folder.glob("audit.*")} == {"audit.json", "audit.csv"}


def first_cells(title):
    """Return the words in the first column of the table below a title of the guide."""
    section = (DOCS / PAGE).read_text("utf-8").split(f"## {title}\n")[1].split("\n## ")[0]
    return [row.split("|")[1].strip() for row in section.splitlines() if row.startswith("|")][2:]


def test_every_place_of_a_site_is_listed():
    named = {word.strip("`/ ") for cell in first_cells("What lies where") for word in cell.split(",")}
    home = SiteHome(Path("home"))
    places = (home.policy, home.keys, home.request, home.kit, home.state, home.audit.parent, home.run, home.work)
    assert named == {place.name for place in places}


def test_every_check_is_listed(hospital):
    hospital.command(["fedhealth", "site", "init", "--name", "charite", "--lead", hospital.address])
    hospital.admitted("")
    hospital.command(["fedhealth", "site", "install", "charite.zip"])
    hospital.edited(next(step.yaml for step in steps(PAGE) if step.yaml).replace("demo:", "NAME:"))
    named = {word.strip() for cell in first_cells("Check") for word in cell.split(",")}
    sometimes = {"GPU", "data"}  # where the policy asks for a card; where it names no data
    assert {check.name for check in check_site(hospital.home)} == named - sometimes
