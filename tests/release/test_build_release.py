"""A release from two paths has the same bytes, is complete, and is checked by the programs of others."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from fedhealth.utils.minisign import verify_file
from release.lock_file import read_lock

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a git clone"),
    pytest.mark.xdist_group("release"),
]


def run_release(folder, *arguments):
    subprocess.run(
        [sys.executable, "-m", "release", *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        check=True,
        capture_output=True,
        timeout=300,
    )


@pytest.fixture(scope="module", name="archives")
def archives_(tmp_path_factory):
    """Two archives of the same commit, built in two clones at paths of different lengths."""
    folder = tmp_path_factory.mktemp("release")
    key = folder / "key"
    run_release(ROOT, "--make-key", key)
    found = []
    for name in ("a", "a/longer/path"):
        clone, out = folder / name / "clone", folder / name / "out"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True, timeout=60)
        run_release(clone, "--out", out, "--key", key)
        found.append(next(out.glob("*-release.tar.gz")))
    return found


@pytest.fixture(scope="module", name="unpacked")
def unpacked_(archives):
    with tarfile.open(archives[0]) as archive:
        archive.extractall(archives[0].parent, filter="data")
    return archives[0].parent / archives[0].name.removesuffix("-release.tar.gz")


def test_two_builds_from_two_paths_are_identical(archives):
    first, second = archives
    assert first.read_bytes() == second.read_bytes()
    signatures = [path.with_name(path.name + ".minisig").read_text() for path in archives]
    assert signatures[0] == signatures[1]
    assert "commit" in verify_file(first, signatures[0], (first.parent / "fedhealth.pub").read_text())


def test_the_archive_is_complete_and_matches_its_checksums(unpacked):
    files = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    assert {"install.sh", "setup.yaml", "site.lock", "lead.lock", "LICENSE", "LICENCES.txt", "provenance.json"} <= files
    assert {"container/Containerfile", "container/compose.yaml", "docs/hospital-it.md"} <= files
    assert {"systemd/fedhealth-site.service", "schemas/site.schema.json"} <= files
    assert any(name.endswith(".whl") for name in files)
    command = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    assert subprocess.run(command, cwd=unpacked).returncode == 0
    assert len((unpacked / "SHA256SUMS").read_text().splitlines()) == len(files) - 1


def test_the_provenance_names_the_commit_and_what_was_built(unpacked):
    statement = json.loads((unpacked / "provenance.json").read_text())
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    assert statement["predicate"]["buildDefinition"]["externalParameters"]["commit"] == commit
    sums = dict(reversed(line.split()) for line in (unpacked / "SHA256SUMS").read_text().splitlines())
    assert statement["subject"]
    for subject in statement["subject"]:
        assert sums[subject["name"]] == subject["digest"]["sha256"]


@pytest.mark.parametrize("side", ["site", "site-sources", "lead"])
def test_the_bill_of_materials_lists_what_the_lock_installs(unpacked, side):
    bill = json.loads((unpacked / f"sbom-{side}.cdx.json").read_text())
    needed = {(each.name, each.version) for each in read_lock(unpacked / f"{side}.lock") if each.is_needed}
    assert {(each["name"], each["version"]) for each in bill["components"]} == needed
    licences = (unpacked / "LICENCES.txt").read_text()
    assert all(f"{name} {version}: " in licences for name, version in needed)


def test_the_bill_of_materials_follows_its_schema(unpacked, tmp_path):
    if shutil.which("uv", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("needs uv")
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True, timeout=120)
    install = [Path(sys.executable).with_name("uv"), "pip", "install", "-q", "--python", python, "--require-hashes"]
    subprocess.run([*install, "-r", ROOT / "locks" / "sbom.lock"], check=True, timeout=300)
    check = [python, ROOT / "release" / "validate_bill.py"]
    bills = sorted(unpacked.glob("sbom-*.cdx.json"))
    assert len(bills) == 3
    assert subprocess.run([*check, *bills], timeout=60).returncode == 0
    wrong = json.loads(bills[0].read_text()) | {"bomFormat": "SPDX", "surprise": 1}
    (tmp_path / "wrong.json").write_text(json.dumps(wrong))
    assert subprocess.run([*check, tmp_path / "wrong.json"], capture_output=True, timeout=60).returncode != 0


def test_the_schemas_accept_what_the_guide_shows(unpacked):
    jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema")
    yaml = pytest.importorskip("yaml")
    schema = json.loads((unpacked / "schemas" / "setup.schema.json").read_text())
    answers = yaml.safe_load((unpacked / "setup.yaml").read_text())
    jsonschema.validate(answers, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(answers | {"nmae": "x"}, schema)
