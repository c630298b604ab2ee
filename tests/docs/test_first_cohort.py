"""docs/first-cohort.md, followed as written: three commands and one edited file."""

import pytest
from openpyxl import Workbook

from fedhealth.cli.main import main
from fedhealth.lead.project import Project
from fedhealth.lead.provision import provision_consortium
from fedhealth.runtime.local_consortium import LocalConsortium, find_free_ports
from fedhealth.site.init import init_site
from tests.fedhealth.ingest.hospital import write_image
from tests.fedhealth.site.consortium import World
from tests.guide import steps

SITES = ("charite", "klinikum", "st-brigid")


def write_excel(path, rows):
    """Write a workbook as a hospital exports it: a title above the header."""
    book = Workbook()
    book.active.append(["Export"])
    for row in rows:
        book.active.append(row)
    book.save(path)


@pytest.fixture(name="consortium")
def consortium_(tmp_path):
    public, control = find_free_ports()
    address = f"127.0.0.1:{public}"
    world = World(tmp_path / "consortium", lead=address, sites=SITES)
    provision_consortium(world.lead, Project("chest", address, ("localhost",), address, control))
    home = world.homes["charite"]
    home.policy.unlink()
    init_site(home, "charite", address)
    world.install("charite", None)
    lead = LocalConsortium(tmp_path / "consortium", {})
    lead.start_lead()
    yield home
    lead.stop()


def write_export(folder):
    reports, labs = [["PatientNr", "Nachname", "Befund"]], [["Fallnr", "schwer", "CRP"]]
    for number in range(24):
        write_image(folder / "export" / f"{number}.dcm", f"KH-{100 + number}", label=number % 2, seed=number)
        reports.append(
            [f"KH-{100 + number}", "Muster", f"Aufnahme im Liegen, Zwerchfelle glatt, Lunge frei, Nr {number}."]
        )
        labs.append([f"KH-{100 + number}", "ja" if number % 2 else "nein", number + 0.5])
    write_excel(folder / "reports.xlsx", reports)
    write_excel(folder / "labs.xlsx", labs)


def test_the_guide_works_as_written(consortium, tmp_path, monkeypatch, capfd):
    write_export(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDHEALTH_HOME", str(consortium.path))
    monkeypatch.setenv("FEDHEALTH_CACHE", str(tmp_path / "cache"))
    commands, before = 0, ""
    for step in steps("first-cohort.md"):
        file = tmp_path / "ingest.yaml"
        if step.mark == "these lines":
            before = step.yaml
            assert file.read_text("utf-8").count(before) == 1, file.read_text("utf-8")
        elif step.mark:
            file.write_text(file.read_text("utf-8").replace(before, step.yaml), "utf-8")
        else:
            commands += 1
            monkeypatch.setattr("sys.argv", list(step.words))
            with pytest.raises(SystemExit) as stopped:
                main()
            out, err = capfd.readouterr()
            assert not stopped.value.code, out + err
    assert commands == 3
    assert "FAIL" not in out
    assert "24 patients" in out
