"""A folder as it may be: links in circles, folders that are closed, and what is no file."""

import os

import pytest

from fedhealth.data.image.errors import ImageError
from fedhealth.ingest.source import Folder, SourceFile


def names(folder, **further):
    return [item.name for item in Folder(str(folder), **further).items()]


def reason(folder, name):
    with pytest.raises(ImageError) as caught:
        Folder(str(folder)).open(SourceFile(name, ""))
    assert caught.value.advice
    return caught.value.reason


def tree(folder, *files):
    for name in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


def test_files_in_order_and_what_is_not_looked_at(tmp_path):
    root = tree(
        tmp_path, "b/1", "a/2", "a/1", "0", "a/list.csv", ".hidden/1", "a/.DS_Store", "b/DICOMDIR", "b/DICOMDIR2"
    )
    assert names(root) == ["0", "a/1", "a/2", "b/1", "b/DICOMDIR2"]
    assert names(root, exclude=()) == [
        "0",
        "a/.DS_Store",
        "a/1",
        "a/2",
        "a/list.csv",
        "b/1",
        "b/DICOMDIR",
        "b/DICOMDIR2",
    ]
    assert names(root / "a/../a/") == ["1", "2"]


def test_linked_folders_are_read_once_and_circles_are_not_entered(tmp_path):
    root, elsewhere = tree(tmp_path / "root", "a/1"), tree(tmp_path / "elsewhere", "deep/2")
    (root / "link").symlink_to(elsewhere)
    (root / "link again").symlink_to(elsewhere)
    (root / "part").symlink_to(elsewhere / "deep")
    (root / "own").symlink_to(root / "a")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "around").symlink_to(tmp_path)
    (elsewhere / "back").symlink_to(root)
    assert names(root) == ["a/1", "link/deep/2"]


def test_what_cannot_be_opened_is_an_item_with_a_reason(tmp_path, monkeypatch):
    root = tree(tmp_path, "open/1", "closed/1")
    (root / "gone").symlink_to(root / "nothing")
    (root / "self").symlink_to("self")
    (root / "empty").touch()
    os.mkfifo(root / "pipe")
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr("os.scandir", refuse)
    assert names(root) == ["empty", "gone", "pipe", "self", "open/1", "closed"]
    assert reason(root, "closed") == "a folder that cannot be opened"
    assert reason(root, "pipe") == "not a file but a pipe, socket or device"
    assert reason(root, "gone") == "No such file or directory"
    assert "symbolic links" in reason(root, "self")
    assert reason(root, "empty") == "the file is empty"
