import errno
import io
import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest

from fedhealth.errors import ConfigError, DataError, storage_fault
from fedhealth.runs.run_dir import RunDir
from fedhealth.utils.atomic_io import read_json, write_atomic, write_json


@pytest.fixture
def run(tmp_path):
    return RunDir(tmp_path / "run")


def test_a_run_begins_and_completes(run):
    run.begin({"name": "x"})
    assert (run.about["state"], run.about["name"]) == ("running", "x")
    run.complete()
    assert run.about["state"] == "completed"
    assert run.about["finished"] >= run.about["started"]


def test_a_folder_holds_one_run(run):
    run.begin({"name": "first"})
    with pytest.raises(ConfigError, match="already holds a run"):
        run.begin({"name": "second"})
    assert run.about["name"] == "first"


@pytest.mark.parametrize(
    ("fault", "state", "error"),
    [
        (DataError("bad row", "Mend it."), "failed", {"kind": "DataError", "problem": "bad row", "advice": "Mend it."}),
        (ValueError("x"), "failed", {"kind": "ValueError", "problem": "ValueError: x", "advice": ""}),
        (KeyboardInterrupt(), "stopped", {"kind": "KeyboardInterrupt", "problem": "KeyboardInterrupt: ", "advice": ""}),
    ],
)
def test_a_failed_run_says_why(run, fault, state, error):
    run.begin({"name": "x"})
    run.fail(fault)
    assert run.about["state"] == state
    assert run.about["error"] == error
    assert run.about["name"] == "x"


def test_events_are_read_as_they_are_written(run):
    run.begin({})
    assert run.events() == ([], 0)
    run.event("one", number=1)
    first, position = run.events()
    run.event("two", path=run.path)
    second, end = run.events(position)
    assert [event["event"] for event in first + second] == ["one", "two"]
    assert first[0]["number"] == 1
    assert second[0]["path"] == str(run.path)
    assert run.events(end) == ([], end)


def test_a_line_being_written_is_left_for_later(run):
    run.begin({})
    run.event("one")
    _, position = run.events()
    path = run.path / "events.jsonl"
    with path.open("a") as file:
        file.write('{"event": "tw')
    assert run.events(position) == ([], position)
    with path.open("a") as file:
        file.write('o"}\n')
    events, end = run.events(position)
    assert events == [{"event": "two"}]
    assert end == path.stat().st_size


def test_a_write_that_breaks_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def broken(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"


def test_json_goes_round_and_absence_is_none(tmp_path):
    write_json(tmp_path / "x.json", {"b": [1, None], "a": "é"})
    assert read_json(tmp_path / "x.json") == {"b": [1, None], "a": "é"}
    assert read_json(tmp_path / "y.json") is None
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_numbers_of_numpy_stay_numbers(run, tmp_path):
    run.begin({})
    run.event("scored", count=np.int64(3), value=np.float32(0.5))
    [event], _ = run.events()
    assert (event["count"], event["value"]) == (3, 0.5)
    write_json(tmp_path / "x.json", {"count": np.int64(3)})
    assert json.loads((tmp_path / "x.json").read_text()) == {"count": 3}


def test_sites_on_this_machine_have_folders_of_their_own(run):
    assert run.site("north") != run.site("south")
    assert run.path in run.site("north").parents


def test_a_full_disk_is_named_and_leaves_no_draft(tmp_path, monkeypatch):
    path = tmp_path / "file"

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="file") as caught:
        write_atomic(path, b"new")
    assert storage_fault(caught.value).problem == f"{path}: the disk is full."
    assert list(tmp_path.iterdir()) == []


def test_an_event_that_the_disk_does_not_take_costs_the_line_and_no_run(run, monkeypatch, caplog):
    run.begin({})
    run.event("one")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", disk_full)
        run.event("two", number=2)
    assert "the event could not be written" in caplog.text
    assert '"number": 2' in caplog.text
    assert [event["event"] for event in run.events()[0]] == ["one"]


def test_a_torn_line_is_passed_over_and_spoils_no_other(run):
    run.begin({})
    run.event("one")
    with (run.path / "events.jsonl").open("ab") as file:
        file.write(b'{"time": 1, "event": "half')
    run.event("two")
    assert [event["event"] for event in run.events()[0]] == ["one", "two"]


def test_a_run_that_fails_of_a_full_disk_says_so_and_keeps_its_fault(run, monkeypatch, caplog):
    run.begin({})
    run.fail(OSError(errno.EROFS, "Read-only file system", "/data/x"))
    assert run.about["error"]["kind"] == "StorageError"
    assert run.about["error"]["problem"] == "/data/x: the disk is read-only."
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", disk_full)
        run.fail(DataError("bad row"))
    assert "run.json could not be written" in caplog.text


@pytest.fixture(autouse=True)
def heard(monkeypatch):
    """What an earlier run of the process silenced is heard again."""
    monkeypatch.setattr(logging.getLogger("fedhealth"), "propagate", True)


def disk_full(path, mode="r", **about):
    if "r" in mode:
        return io.open(path, mode, **about)  # noqa: UP020 - Path.open is what is replaced
    raise OSError(errno.ENOSPC, "No space left on device", str(path))
