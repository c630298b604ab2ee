"""The locks of a release: hashes everywhere, only what a side needs, the same versions that the tests run with."""

import re
from pathlib import Path

import pytest

from release.lock_file import find_missing_hashes, read_lock

ROOT = Path(__file__).resolve().parents[2]
LOCKS = sorted((ROOT / "locks").glob("*.lock"))
SIDES = [ROOT / "locks" / f"{side}.lock" for side in ("site", "site-sources", "lead")]
DEVELOPERS = {"pytest", "flask", "mypy", "ruff", "hypothesis", "mkdocs-material", "pre-commit", "ray", "scikit-learn"}
CUDA = re.compile(r"(nvidia-|cuda-|triton$)")


def named(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.name)


@named(LOCKS)
def test_every_entry_has_a_hash(path):
    assert len(read_lock(path)) > 20
    assert find_missing_hashes(path) == []


@named(LOCKS)
def test_no_lock_names_an_address(path):
    text = path.read_text("utf-8")
    assert "://" not in text
    assert not re.search(r"^\s*--(index|extra-index|find-links)", text, re.MULTILINE)


@named(SIDES)
def test_a_side_gets_no_tools_of_developers(path):
    assert not DEVELOPERS & {each.name for each in read_lock(path)}


@named(SIDES)
def test_the_versions_are_those_of_the_tests(path):
    lines = (ROOT / "requirements.lock").read_text("utf-8").splitlines()
    tested = {line.partition(" ")[0].lower().replace("_", "-") for line in lines}
    assert {f"{each.name}=={each.version}" for each in read_lock(path)} <= tested


def test_a_site_needs_at_most_105_packages_beside_cuda():
    needed = {each.name for each in read_lock(SIDES[0]) if each.is_needed and not CUDA.match(each.name)}
    assert 80 < len(needed) <= 105


def test_an_entry_without_hash_or_pin_is_found(tmp_path):
    path = tmp_path / "some.lock"
    path.write_text("# comment\nabc==1.0\nxyz==2 ; python_version < '3' \\\n    --hash=sha256:" + "0" * 64 + "\n")
    assert find_missing_hashes(path) == ["abc"]
    assert [each.is_needed for each in read_lock(path)] == [True, False]
    path.write_text("abc>=1.0\n")
    with pytest.raises(ValueError, match="pin"):
        read_lock(path)
