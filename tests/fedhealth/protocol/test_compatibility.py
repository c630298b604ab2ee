"""Which releases work together: a window of one minor version, and shared code byte for byte."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.flower.app_bundle import build_bundle
from fedhealth.lead.sign_job import sign_job
from fedhealth.protocol.compatibility import SHARED_CODE, are_compatible_releases, digest_shared_code
from fedhealth.version import __version__
from tests.fedhealth.site.trust import Consortium

ROOT = Path(__file__).resolve().parents[3]
NUMBER = st.integers(0, 30)

# What a site with another release does with a job: prints what its wheel is, and how it answers.
ANSWER = """
import sys
from pathlib import Path
from fedhealth.consortium.membership import SignedMembership
from fedhealth.consortium.signed_job import verify_job
from fedhealth.flower.app_bundle import build_bundle
from fedhealth.protocol.compatibility import get_release
from fedhealth.protocol.refusals import JobRefusedError
membership = SignedMembership.loads(Path(sys.argv[1]).read_bytes()).membership
try:
    answer = verify_job(sys.argv[2], sys.argv[3], membership, build_bundle().digest).run
except JobRefusedError as fault:
    answer = fault.refusal.name
print(get_release(), answer)
"""


@given(NUMBER, NUMBER, NUMBER, NUMBER)
def test_minor_versions_may_be_one_apart_and_patches_any(major, minor, other, patch):
    one, two = f"{major}.{minor}.{patch}", f"{major}.{other}.0"
    assert are_compatible_releases(one, two) == are_compatible_releases(two, one) == (abs(minor - other) <= 1)
    assert not are_compatible_releases(one, f"{major + 1}.{minor}.{patch}")
    assert not are_compatible_releases(one, "no version")


def test_one_changed_byte_of_shared_code_is_another_digest(tmp_path):
    package = Path(shutil.copytree(ROOT / "fedhealth", tmp_path / "fedhealth"))
    before = digest_shared_code(package)
    assert before == digest_shared_code(ROOT / "fedhealth")
    (package / "cli" / "main.py").write_text("")  # not shared
    assert digest_shared_code(package) == before
    for place in SHARED_CODE:
        path = next(iter(sorted((package / place).rglob("*.py"))), package / place)
        content = path.read_bytes()
        path.write_bytes(content + b"#")
        assert digest_shared_code(package) != before, place
        path.write_bytes(content)
    assert digest_shared_code(package) == before


@pytest.fixture(name="wheel", scope="module")
def wheel_(tmp_path_factory):
    """The wheel of this tree, unpacked once; a test changes the number of its release."""
    pytest.importorskip("hatchling", reason="needs hatchling in this environment to build a wheel")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    return folder, build


def build_release(wheel, release):
    """Build a wheel of this tree under another version number, and unpack it; return the folder to import from."""
    folder, build = wheel
    source = folder / f"source-{release}"
    source.mkdir()
    for name in ("fedhealth", "strategies", "clients", "conf", "scripts", "README.md", "LICENSE"):
        (source / name).symlink_to(ROOT / name)
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    (source / "pyproject.toml").write_text(project.replace('dynamic = ["version"]', f'version = "{release}"'), "utf-8")
    subprocess.run(build, cwd=source, check=True, capture_output=True, timeout=120)
    [path] = folder.glob(f"fedhealth-{release}-*.whl")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder / release)
    return folder / release


def name_release(minor):
    """Return a release that is so many minor versions after this one."""
    major, own = __version__.split(".")[:2]
    return f"{major}.{int(own) + minor}.0"


@pytest.mark.parametrize(("release", "answer"), [(name_release(1), "abcdefgh"), (name_release(2), "other-release")])
def test_a_wheel_of_another_release_answers_a_job_of_this_one(wheel, tmp_path, release, answer):
    consortium = Consortium(tmp_path)
    job = sign_job(consortium.lead, "abcdefgh", ["seed=1"], "0" * 64, build_bundle().digest)
    command = [sys.executable, "-c", ANSWER, str(consortium.lead.membership), *job]
    environment = {**os.environ, "PYTHONPATH": str(build_release(wheel, release))}
    said = subprocess.run(
        command, env=environment, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=120
    )
    assert said.stdout.split() == [release, answer]
