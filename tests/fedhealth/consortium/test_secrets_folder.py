"""Where a site's secrets are while a run lasts."""

import os
import stat

import pytest

from fedhealth.consortium import identity
from fedhealth.consortium.identity import get_secrets_folder, make_secrets_folder
from fedhealth.errors import TrustError


@pytest.fixture(name="memory")
def memory_(tmp_path, monkeypatch):
    """Stand in for /dev/shm: everybody may write to it."""
    folder = tmp_path / "shm"
    folder.mkdir()
    folder.chmod(0o1777)
    monkeypatch.setattr(identity, "_SHARED_MEMORY", folder)
    return folder


def test_every_folder_on_the_way_to_the_secrets_is_closed_to_others(memory, tmp_path):
    prepared = memory / f"fedhealth-{os.getuid()}" / "run1"
    prepared.mkdir(parents=True)
    for each in (prepared, prepared.parent):
        each.chmod(0o777)
    folder = make_secrets_folder("run1", "north", tmp_path)
    assert folder == get_secrets_folder("run1", "north", tmp_path)
    for each in (folder, folder.parent, folder.parents[1]):
        assert stat.S_IMODE(each.stat().st_mode) == 0o700


@pytest.mark.parametrize("place", ["user", "run", "site"])
def test_a_place_that_somebody_else_prepared_is_refused(memory, tmp_path, place):
    folder = get_secrets_folder("run1", "north", tmp_path)
    taken = {"user": folder.parents[1], "run": folder.parent, "site": folder}[place]
    taken.parent.mkdir(parents=True, exist_ok=True)
    taken.symlink_to(tmp_path)
    with pytest.raises(TrustError, match="belongs to another user, or is no folder"):
        make_secrets_folder("run1", "north", tmp_path)


def test_without_shared_memory_they_are_in_the_sites_own_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "_SHARED_MEMORY", tmp_path / "none")
    assert make_secrets_folder("run1", "north", tmp_path) == tmp_path / "secrets"
