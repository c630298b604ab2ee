"""A file is replaced whole or not at all, with its own mode, and no draft is left."""

import os
import stat
import threading
from contextlib import suppress

import pytest

from fedhealth.utils.atomic_io import (
    atomic_writer,
    create_once,
    fsync_folder,
    rewrite_file,
    sync_file,
    unsynced_files,
    write_atomic,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_and_keeps_no_draft(tmp_path):
    path = tmp_path / "a"
    for content in (b"one", memoryview(b"two")):
        write_atomic(path, content)
        assert path.read_bytes() == bytes(content)
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_the_mode_is_exact_whatever_the_umask(tmp_path, mode):
    umask = os.umask(0o077)
    try:
        write_atomic(tmp_path / "a", b"x", mode)
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


def test_without_a_mode_the_umask_decides(tmp_path):
    umask = os.umask(0o027)
    try:
        write_atomic(tmp_path / "a", b"x")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_a_fault_in_the_block_leaves_the_old_content(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def write_a_part():
        with atomic_writer(path) as file:
            file.write(b"new")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        write_a_part()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_a_failed_sync_names_the_file_and_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def fail(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomic(path, b"new")
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a"]
    write_atomic(path, b"new", durable=False)  # needs no sync
    assert path.read_bytes() == b"new"


def test_a_single_writer_overwrites_a_draft_left_by_a_crash(tmp_path):
    (tmp_path / ".a.draft").write_bytes(b"left")
    write_atomic(tmp_path / "a", b"new", single_writer=True)
    assert names(tmp_path) == ["a"]


def test_a_file_that_must_be_created_once_is_never_replaced(tmp_path):
    path = tmp_path / "a"
    with atomic_writer(path, replace=False) as file:
        file.write(b"first")
    with pytest.raises(FileExistsError, match="a"), atomic_writer(path, replace=False) as file:
        file.write(b"second")
    assert path.read_bytes() == b"first"
    assert names(tmp_path) == ["a"]


def test_of_two_that_create_a_file_at_once_the_first_wins(tmp_path):
    path = tmp_path / "a"

    def lose_the_race():
        create_once(path, lambda: b"winner")
        return b"loser"

    create_once(path, lose_the_race)
    assert path.read_bytes() == b"winner"
    assert names(tmp_path) == ["a"]


def test_within_a_block_nothing_is_synced_and_after_it_everything_is(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    with suppress(ValueError), unsynced_files():
        write_atomic(tmp_path / "a", b"one")
        with (tmp_path / "b").open("wb") as file:
            sync_file(file)
        fsync_folder(tmp_path)
        assert synced == []
        raise ValueError("the block ends with an error")
    write_atomic(tmp_path / "a", b"two")
    assert len(synced) == 2  # the file and its folder


def test_another_thread_syncs_while_a_block_does_not(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    with unsynced_files():
        thread = threading.Thread(target=write_atomic, args=(tmp_path / "a", b"one"))
        thread.start()
        thread.join()
    assert len(synced) == 2


@pytest.mark.parametrize("has_call", [True, False])
def test_what_is_not_synced_replaces_a_file_as_well(tmp_path, monkeypatch, has_call):
    if not has_call:
        monkeypatch.setattr("fedhealth.utils.atomic_io._find_renameat2", lambda: None)
    path = tmp_path / "a"
    with unsynced_files():
        for content in (b"one", b"two", b"three"):
            write_atomic(path, content, 0o600)
            assert path.read_bytes() == content
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert names(tmp_path) == ["a"]


def test_a_file_that_is_not_synced_takes_the_place_of_a_link_and_not_of_a_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to("target")
    with unsynced_files():
        write_atomic(tmp_path / "link", b"new")
        with pytest.raises(IsADirectoryError):
            write_atomic(tmp_path / "folder", b"new")
    assert (tmp_path / "target").read_bytes() == b"old"
    assert (tmp_path / "link").read_bytes() == b"new"
    assert names(tmp_path) == ["folder", "link", "target"]


def test_a_reader_sees_the_old_content_or_the_new_while_files_change_places(tmp_path):
    path, contents, seen = tmp_path / "a", (b"1" * 5000, b"2" * 7000), set()
    path.write_bytes(contents[0])
    is_done = threading.Event()

    def read():
        while not is_done.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    with unsynced_files():
        for number in range(300):
            write_atomic(path, contents[number % 2])
    is_done.set()
    reader.join()
    assert seen
    assert seen <= set(contents)


@pytest.mark.parametrize("after", [b"longer than before", b"short", b""])
def test_a_large_file_is_rewritten_where_it_lies(tmp_path, after):
    path = tmp_path / "words"
    rewrite_file(path, [b"twelve", memoryview(b" bytes")], 0o600)
    assert path.read_bytes() == b"twelve bytes"
    place = path.stat().st_ino
    rewrite_file(path, [after], 0o600)
    assert path.read_bytes() == after
    assert (path.stat().st_ino, stat.S_IMODE(path.stat().st_mode)) == (place, 0o600)
    assert names(tmp_path) == ["words"]


def test_what_a_crash_left_of_a_rewritten_file_is_overwritten(tmp_path):
    draft = tmp_path / ".words.draft"
    draft.write_bytes(b"left by a crash, and longer")
    draft.chmod(0o644)
    rewrite_file(tmp_path / "words", [b"new"], 0o600)
    assert (tmp_path / "words").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "words").stat().st_mode) == 0o600
    assert names(tmp_path) == ["words"]


def test_a_link_in_place_of_the_draft_is_not_followed(tmp_path):
    (tmp_path / "other").write_bytes(b"somebody else's")
    (tmp_path / ".words.draft").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="words"):
        rewrite_file(tmp_path / "words", [b"new"], 0o600)
    assert (tmp_path / "other").read_bytes() == b"somebody else's"


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_rewrite_that_breaks_off_leaves_the_new_content_or_none(tmp_path, monkeypatch, at):
    path, calls = tmp_path / "words", []
    rewrite_file(path, [b"old"], 0o600)

    def fail_once(handle):
        calls.append(handle)
        if len(calls) == at + 1:
            raise OSError(28, "disk full")

    monkeypatch.setattr(os, "fsync", fail_once)
    with pytest.raises(OSError, match="words"):
        rewrite_file(path, [b"new"], 0o600)
    assert [each.read_bytes() for each in tmp_path.iterdir()] in ([], [b"new"])


def test_a_power_cut_during_a_rewrite_leaves_no_file_of_the_old_name(tmp_path, monkeypatch):
    path = tmp_path / "words"
    rewrite_file(path, [b"old"], 0o600)
    seen = []

    def watch(handle):
        seen.append(names(tmp_path))

    monkeypatch.setattr(os, "fsync", watch)
    rewrite_file(path, [b"new"], 0o600)
    assert seen == [[".words.draft"], [".words.draft"], ["words"]]  # the old name is gone before a byte is written
