"""The installed wheel against its RECORD: every touched, missing, added or foreign file is found."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution
from pathlib import Path

import pytest

from fedhealth.site.check.base import CheckStatus
from fedhealth.site.check.installation import PACKAGES, check_files, check_names, check_pins, check_python

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture(name="wheel", scope="module")
def wheel_(tmp_path_factory):
    pytest.importorskip("hatchling", reason="needs hatchling in this environment to build a wheel")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=60)
    [path] = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.fixture(name="place")
def place_(wheel, tmp_path):
    """A fresh installation that a test may spoil."""
    return Path(shutil.copytree(wheel, tmp_path / "site"))


def distribution(place):
    [info] = place.glob("*.dist-info")
    return Distribution.at(info)


def files(place):
    [check] = check_files(distribution(place), place / "fedhealth")
    return check


def test_an_untouched_installation_passes(place):
    found = files(place)
    assert found.status == CheckStatus.PASS, found.finding
    assert "files identical to the wheel" in found.finding


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("fedhealth/site/egress_gate.py", b"def check(*words): pass\n", "fedhealth/site/egress_gate.py: changed"),
        ("fedhealth/conf/config.yaml", b"", "fedhealth/conf/config.yaml: changed"),
        ("clients/app.py", None, "clients/app.py: missing"),
        ("strategies/extra.py", b"", "strategies/extra.py: not part of the wheel"),
        ("fedhealth/conf/model/evil.yaml", b"", "fedhealth/conf/model/evil.yaml: not part of the wheel"),
    ],
)
def test_whatever_was_touched_is_named(place, path, content, message):
    (place / path).unlink(missing_ok=True)
    if content is not None:
        (place / path).write_bytes(content)
    found = files(place)
    assert found.status == CheckStatus.FAIL
    assert message in found.finding


def test_many_faults_are_counted(place):
    for path in (place / "clients").rglob("*.py"):
        path.write_text("# spoilt\n")
    assert re.search(r" and [0-9]+ more$", files(place).finding)


def test_compiled_files_do_not_count(place):
    folder = place / "clients" / "__pycache__"
    folder.mkdir()
    (folder / "app.cpython-311.pyc").write_bytes(b"compiled")
    assert files(place).status == CheckStatus.PASS


def test_an_editable_installation_is_a_warning(place):
    [info] = place.glob("*.dist-info")
    (info / "direct_url.json").write_text(json.dumps({"url": "file:///x", "dir_info": {"editable": True}}))
    assert files(place).status == CheckStatus.WARN


def test_code_that_is_read_from_elsewhere_is_a_fault(place, tmp_path):
    [check] = check_files(distribution(place), tmp_path / "elsewhere" / "fedhealth")
    assert check.status == CheckStatus.FAIL
    assert "instead of" in check.finding


def test_another_wheel_with_our_names_is_found(tmp_path):
    folders = {package: tmp_path / package for package in PACKAGES}
    providers = {package: ["fedhealth"] for package in PACKAGES}
    [check] = check_names(providers, folders)
    assert check.status == CheckStatus.PASS
    [check] = check_names({**providers, "clients": ["FedHealth", "acme-clients"]}, folders)
    assert check.status == CheckStatus.FAIL
    assert "clients is also provided by acme-clients" in check.finding
    [check] = check_names(providers, {**folders, "strategies": tmp_path / "other" / "strategies"})
    assert "not beside" in check.finding
    [check] = check_names(providers, {**folders, "strategies": None})
    assert check.status == CheckStatus.FAIL


def test_dependencies_are_compared_with_what_was_asked_for(place):
    [check] = check_pins(distribution(place))
    assert check.status == CheckStatus.PASS, check.finding
    [info] = place.glob("*.dist-info")
    metadata = info / "METADATA"
    text = metadata.read_text("utf-8").replace("Requires-Dist: flwr<1.43,>=1.42", "Requires-Dist: flwr<1.2")
    metadata.write_text(text.replace("Requires-Dist: numpy", "Requires-Dist: no-such-package-of-ours"), "utf-8")
    [check] = check_pins(distribution(place))
    assert check.status == CheckStatus.FAIL
    assert "flwr 1.42" in check.finding
    assert "no-such-package-of-ours is not installed" in check.finding


def test_an_old_python_is_a_fault(place):
    assert check_python(distribution(place)).status == CheckStatus.PASS
    [info] = place.glob("*.dist-info")
    metadata = info / "METADATA"
    metadata.write_text(metadata.read_text("utf-8").replace("Requires-Python: >=3.11", "Requires-Python: >=3.99"))
    assert check_python(distribution(place)).status == CheckStatus.FAIL


def test_the_doctor_of_an_installed_wheel(place):
    code = "import sys; sys.argv = ['fedhealth', 'doctor', '--json']; from fedhealth.cli.main import main; main()"

    def doctor():
        environment = {**os.environ, "PYTHONPATH": str(place), "PYTHONDONTWRITEBYTECODE": "1"}
        run = [sys.executable, "-c", code]
        done = subprocess.run(run, cwd=place, env=environment, capture_output=True, text=True, timeout=60)
        return done.returncode, json.loads(done.stdout)

    code_, said = doctor()
    assert code_ == 0
    assert {check["status"] for check in said["checks"]} == {"PASS"}
    (place / "strategies" / "app.py").write_text("# replaced\n")
    code_, said = doctor()
    assert code_ == 9
    assert not said["ready"]
