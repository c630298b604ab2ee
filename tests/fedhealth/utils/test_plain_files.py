"""Only files are read: what would hold a reader for ever, and a path that no file can have, is an error or nothing."""

import os

import pytest

from fedhealth.utils.plain_files import is_plain_file, read_plain_file


def test_a_file_is_read_also_through_a_link(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert read_plain_file(tmp_path / "file") == read_plain_file(tmp_path / "link") == b"content"
    assert is_plain_file(tmp_path / "link")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_is_refused_at_once(tmp_path, make):
    path = tmp_path / "entry"
    make(path)
    assert not is_plain_file(path)
    with pytest.raises(OSError, match="it is no file") as refused:
        read_plain_file(path)
    assert refused.value.filename == str(path)


@pytest.mark.parametrize("name", ["a" * 5000, "a/" * 5000, "a\0b", "missing"])
def test_a_path_that_no_file_can_have_holds_none(tmp_path, name):
    assert not is_plain_file(tmp_path / name)
    with pytest.raises(OSError, match=r".") as refused:
        read_plain_file(tmp_path / name)
    assert refused.value.filename == str(tmp_path / name)
