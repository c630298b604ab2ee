"""The wheel carries the configuration files where `conf_dir` looks for them."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def test_a_wheel_finds_its_configuration_files(tmp_path):
    pytest.importorskip("hatchling", reason="needs hatchling in this environment to build a wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=60)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("fedhealth/conf/")}
        archive.extractall(tmp_path / "site")
    ours = {f"fedhealth/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert packed == ours
    code = "from fedhealth.config.compose import get_conf_dir; print(get_conf_dir())"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "site", check=True, capture_output=True, text=True, timeout=60
    )
    assert Path(found.stdout.strip()) == (tmp_path / "site" / "fedhealth" / "conf").resolve()
