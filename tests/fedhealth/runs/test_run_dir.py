import errno
import io
import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest

from fedhealth.errors import ConfigError, DataError, as_storage_error
from fedhealth.runs.run_dir import RunDir
from fedhealth.runs.run_metadata import RunError
from fedhealth.utils.atomic_io import read_json, write_atomic, write_json


@pytest.fixture
def run(tmp_path):
    return RunDir(tmp_path / "run")


def test_a_run_begins_and_completes(run):
    run.create(name="x")
    assert (run.info.state, run.info.name) == ("running", "x")
    run.mark_completed()
    assert run.info.state == "completed"
    assert run.info.finished >= run.info.started


def test_a_folder_holds_one_run(run):
    run.create(name="first")
    with pytest.raises(ConfigError, match="already contains a run"):
        run.create(name="second")
    assert run.info.name == "first"


def test_a_run_that_failed_while_it_read_the_data_is_replaced(run):
    run.create(name="first")
    run.append_event("preparing", site="a")
    with pytest.raises(ConfigError, match="already contains a run"):
        run.vacate()  # it may be running
    run.mark_failed(DataError("bad row"))
    run.create(name="second")
    assert (run.info.name, run.info.state, run.info.error) == ("second", "running", None)
    assert run.read_events()[0] == []


def test_a_run_that_failed_later_is_kept(run):
    run.create(name="first")
    run.append_event("handshake", site="a")
    run.mark_failed(DataError("bad row"))
    with pytest.raises(ConfigError, match="already contains a run"):
        run.create(name="second")


@pytest.mark.parametrize(
    ("fault", "state", "error"),
    [
        (DataError("bad row", "Mend it."), "failed", RunError("DataError", "bad row", "Mend it.")),
        (ValueError("x"), "failed", RunError("ValueError", "ValueError: x")),
        (KeyboardInterrupt(), "stopped", RunError("KeyboardInterrupt", "KeyboardInterrupt: ")),
    ],
)
def test_a_failed_run_says_why(run, fault, state, error):
    run.create(name="x")
    run.mark_failed(fault)
    assert run.info.state == state
    assert run.info.error == error
    assert run.info.name == "x"


def test_events_are_read_as_they_are_written(run):
    run.create()
    assert run.read_events() == ([], 0)
    run.append_event("one", number=1)
    first, position = run.read_events()
    run.append_event("two", path=run.path)
    second, end = run.read_events(position)
    assert [event["event"] for event in first + second] == ["one", "two"]
    assert first[0]["number"] == 1
    assert second[0]["path"] == str(run.path)
    assert run.read_events(end) == ([], end)


def test_a_line_being_written_is_left_for_later(run):
    run.create()
    run.append_event("one")
    _, position = run.read_events()
    path = run.path / "events.jsonl"
    with path.open("a") as file:
        file.write('{"event": "tw')
    assert run.read_events(position) == ([], position)
    with path.open("a") as file:
        file.write('o"}\n')
    events, end = run.read_events(position)
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
    run.create()
    run.append_event("scored", count=np.int64(3), value=np.float32(0.5))
    [event], _ = run.read_events()
    assert (event["count"], event["value"]) == (3, 0.5)
    write_json(tmp_path / "x.json", {"count": np.int64(3)})
    assert json.loads((tmp_path / "x.json").read_text()) == {"count": 3}


def test_sites_on_this_machine_have_folders_of_their_own(run):
    assert run.site_dir("north") != run.site_dir("south")
    assert run.path in run.site_dir("north").parents


def test_a_full_disk_is_named_and_leaves_no_draft(tmp_path, monkeypatch):
    path = tmp_path / "file"

    monkeypatch.setattr(os, "fsync", sync_full_disk)
    with pytest.raises(OSError, match="file") as caught:
        write_atomic(path, b"new")
    assert as_storage_error(caught.value).problem == f"{path}: the disk is full."
    assert list(tmp_path.iterdir()) == []


def test_an_event_that_the_disk_does_not_take_costs_the_line_and_no_run(run, monkeypatch, caplog):
    run.create()
    run.append_event("one")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", disk_full)
        run.append_event("two", number=2)
    assert "the event could not be written" in caplog.text
    assert '"number": 2' in caplog.text
    assert [event["event"] for event in run.read_events()[0]] == ["one"]


def test_a_torn_line_is_passed_over_and_spoils_no_other(run):
    run.create()
    run.append_event("one")
    with (run.path / "events.jsonl").open("ab") as file:
        file.write(b'{"time": 1, "event": "half')
    run.append_event("two")
    assert [event["event"] for event in run.read_events()[0]] == ["one", "two"]


def test_a_run_that_fails_of_a_full_disk_says_so_and_keeps_its_fault(run, monkeypatch, caplog):
    run.create()
    run.mark_failed(OSError(errno.EROFS, "Read-only file system", "/data/x"))
    assert run.info.fault.kind == "StorageError"
    assert run.info.fault.problem == "/data/x: the disk is read-only."
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", sync_full_disk)
        run.mark_failed(DataError("bad row"))
    assert "run.json could not be written" in caplog.text


@pytest.fixture(autouse=True)
def heard(monkeypatch):
    """What an earlier run of the process silenced is heard again."""
    monkeypatch.setattr(logging.getLogger("fedhealth"), "propagate", True)


def disk_full(path, mode="r", **about):
    if "r" in mode:
        return io.open(path, mode, **about)  # noqa: UP020 - Path.open is what is replaced
    raise OSError(errno.ENOSPC, "No space left on device", str(path))


def sync_full_disk(descriptor):
    raise OSError(errno.ENOSPC, "No space left on device")
