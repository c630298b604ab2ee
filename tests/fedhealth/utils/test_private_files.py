"""Folders below one that everybody may write to."""

import os
import stat

import pytest

from fedhealth.errors import TrustError
from fedhealth.utils.private_files import make_own_folder


def read_mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mode", [None, 0o755, 0o777, 0o700])
def test_our_own_folder_is_closed_to_others(tmp_path, mode):
    folder = tmp_path / "own"
    if mode is not None:
        folder.mkdir()
        folder.chmod(mode)
    assert make_own_folder(folder) == folder
    assert read_mode(folder) == 0o700


@pytest.mark.parametrize("kind", ["link", "dangling link", "file"])
def test_what_is_no_folder_is_refused(tmp_path, kind):
    path, target = tmp_path / "own", tmp_path / "target"
    if kind == "link":
        target.mkdir()
        target.chmod(0o755)
    if kind == "file":
        path.write_text("x")
    else:
        path.symlink_to(target)
    with pytest.raises(TrustError, match="no folder"):
        make_own_folder(path)
    if kind == "link":
        assert read_mode(target) == 0o755


def test_a_folder_of_another_user_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "theirs"
    folder.mkdir()
    folder.chmod(0o755)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(TrustError, match="belongs to another user"):
        make_own_folder(folder)
    assert read_mode(folder) == 0o755
