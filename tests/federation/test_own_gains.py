"""Four real hospitals as processes over TLS: each tells itself exactly what it gains, and nobody else learns of it."""

import csv
import json

import pytest

from fedhealth.cli.main import main
from fedhealth.config.quoting import quote_value
from fedhealth.experiment.launch import launch_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.runs.run_dir import RunDir
from fedhealth.runtime.local_consortium import LocalConsortium
from fedhealth.site.audit_log import verify_log
from fedhealth.site.run_text import OWN_GAIN_FILE
from tests.experiments.direct_gains import DirectHospital

pytestmark = [pytest.mark.services, pytest.mark.xdist_group("federation")]
SITES = ("cleveland", "hungarian", "switzerland", "va")
OWN = ("experiment=heart", "evaluation.bootstrap=200")


@pytest.fixture(scope="module", name="finished")
def finished_(shared_data, tmp_path_factory):
    """The hospitals, each with its own rows only, and a run of theirs with secure sums."""
    root = tmp_path_factory.mktemp("heart")
    for site in SITES:
        write_own_rows(shared_data / "fed_heart" / "data.csv", root / "hospitals" / site, site)
    limits = {"min_patients": 1, "unattended_studies": True, "units": ["none"]}
    poc = LocalConsortium(root, {site: root / "hospitals" / site for site in SITES}, "heart", limits)
    poc.set_up()
    run, place = RunDir(root / "run"), [f"runtime.home={quote_value(poc.lead.path)}", "data.root=elsewhere"]
    with poc.run():
        launch_run(RunSpec.compose([*OWN, "secagg=on", "runtime=deployment", *place], run))
    return poc, run


def write_own_rows(source, folder, site):
    """Write the rows of one hospital."""
    folder.mkdir(parents=True)
    with source.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["site"] == site]
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize("site", SITES)
def test_a_hospital_finds_what_a_direct_computation_finds(finished, site, shared_data, monkeypatch, capfd):
    poc, run = finished
    home = poc.site_home(site)
    before = verify_log(home.audit)
    monkeypatch.setenv("FEDHEALTH_HOME", str(home.path))
    monkeypatch.setattr("sys.argv", ["fedhealth", "site", "compare", "--json", str(run.path / "model")])
    with pytest.raises(SystemExit) as stopped:
        main()
    shown = capfd.readouterr()
    assert not stopped.value.code, shown.err
    row = json.loads(shown.out)
    own = [*OWN, "training.threads=1", f"data.root={quote_value(shared_data / 'fed_heart')}"]
    direct = DirectHospital(own, site).compute_gains(run.path / "model.safetensors")
    assert {name: row[name]["value"] for name in direct} == pytest.approx(direct, abs=1e-6)
    assert row["shared_gain"]["value"] == pytest.approx(direct["shared"] - direct["alone"], abs=2e-6)
    assert json.loads((home.get_run_folder(run.info.run) / OWN_GAIN_FILE).read_text()) == row
    after = verify_log(home.audit)
    assert [entry["event"] for entry in after[len(before) :]] == ["compared"]


def test_a_person_reads_the_gain_in_plain_characters(finished, monkeypatch, capfd):
    poc, run = finished
    monkeypatch.setenv("FEDHEALTH_HOME", str(poc.site_home("va").path))
    monkeypatch.setattr("sys.argv", ["fedhealth", "site", "compare", str(run.path / "model")])
    with pytest.raises(SystemExit) as stopped:
        main()
    shown = capfd.readouterr().out
    assert not stopped.value.code
    assert "va's own patients get" in shown
    assert "\\u" not in shown


def test_the_lead_has_no_gain_of_a_hospital(finished):
    _, run = finished
    assert run.info.state == "completed"
    assert not (run.path / "comparison.json").exists()
    assert not list(run.path.rglob(OWN_GAIN_FILE))
