"""A disk that is full or read-only, and a clock that jumps: said clearly, and nothing half-done counts."""

import errno
import itertools
import os
import shutil
import subprocess
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import clients.site_store
import strategies.checkpoint
from fedhealth.errors import FederationError, PrivacyError, StorageError
from fedhealth.experiment.launch import launch_run, resume_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.lead.connect_control import query_server_status
from fedhealth.privacy.accounting.ledger import Ledger, verify_ledger
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path
from fedhealth.runs.run_dir import RunDir
from fedhealth.runs.run_status import get_run_status

SITES = ("north", "south", "east")
PLAIN = ["training=sgd", "training.threads=1", "personalization=ditto", "strategy.rounds=3"]
PRIVATE = ["privacy=patient", "privacy.min_cohort=5", "privacy.max_records_per_patient=2", "data.name=cohort"]


@pytest.fixture(autouse=True)
def no_charts(monkeypatch):
    monkeypatch.setattr("fedhealth.report.render.render_run_report", lambda folder: "")


@pytest.fixture(name="overrides")
def words_(good_hospitals, tiny_overrides):
    return lambda *extra: [*tiny_overrides(good_hospitals), *PLAIN, *extra]


@pytest.fixture(name="undisturbed", scope="module")
def undisturbed_(good_hospitals, tiny_overrides, tmp_path_factory):
    run, overrides = RunDir(tmp_path_factory.mktemp("undisturbed") / "run"), [*tiny_overrides(good_hospitals), *PLAIN]
    launch_run(RunSpec.compose(overrides, run))
    return run


@pytest.fixture(name="small_disk")
def small_disk_(tmp_path):
    """A real disk of a few megabytes; needs root."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]).returncode:
        pytest.skip("needs to mount a small file system (root)")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(disk):
    """Leave no room on a disk; return the file that takes it."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        file.writelines(itertools.repeat(bytes(1024)))
    return ballast


def same(run, other):
    ours, theirs = (load_file(each.path / "model.safetensors") for each in (run, other))
    assert all(np.array_equal(array, theirs[name]) for name, array in ours.items())


def of(run, kind):
    return [event for event in run.read_events()[0] if event["event"] == kind]


def when(monkeypatch, owner, name, nth, act):
    """Do something at the nth call of a function, before it."""
    genuine, calls = getattr(owner, name), []

    def called(*args, **kwargs):
        calls.append(1)
        if len(calls) == nth:
            act()
        return genuine(*args, **kwargs)

    monkeypatch.setattr(owner, name, called)


@pytest.mark.parametrize("secagg", ["off", "on"])
def test_a_disk_that_is_full_in_the_middle_of_a_run(small_disk, overrides, undisturbed, monkeypatch, secagg):
    """Whatever could not be written is named; with room again the run goes on to the very same model."""
    run, ballast = RunDir(small_disk / "run"), []
    with monkeypatch.context() as patch:
        when(patch, strategies.checkpoint, "write_array_file", 2, lambda: ballast.append(fill(small_disk)))
        with pytest.raises((OSError, StorageError, FederationError)):
            launch_run(RunSpec.compose(overrides(f"secagg={secagg}"), run))
    found = get_run_status(run, query_server_status)
    assert found.state in ("failed", "interrupted")  # where even run.json could not say so, nobody holds it
    assert "fedhealth run resume=" in found.advice
    assert not list(run.path.rglob("*.draft"))
    ballast[0].unlink()
    resume_run(run)
    assert run.info.state == "completed"
    if secagg == "off":
        same(run, undisturbed)


def test_a_checkpoint_without_room_costs_the_checkpoint_only(overrides, undisturbed, monkeypatch, tmp_path):
    run, genuine, calls = RunDir(tmp_path / "run"), strategies.checkpoint.write_array_file, []

    def full(path, arrays, about):
        calls.append(path)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        genuine(path, arrays, about)

    monkeypatch.setattr(strategies.checkpoint, "write_array_file", full)
    launch_run(RunSpec.compose(overrides(), run))
    same(run, undisturbed)
    [lost] = of(run, "checkpoint_failed")
    assert lost["round"] == 2
    assert "No space left" in lost["reason"]


def test_a_file_that_may_not_grow_is_a_full_disk(overrides, tmp_path):
    """RLIMIT_FSIZE instead of a mount: the system itself refuses, in a process of its own."""
    import resource
    import signal

    run, given = RunDir(tmp_path / "run"), overrides()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
            launch_run(RunSpec.compose(given, run))
        except (OSError, FederationError):
            code = 7
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert get_run_status(run, query_server_status).state in ("failed", "interrupted")
    assert "File too large" in (run.path / "fedhealth.log").read_text()


@pytest.mark.parametrize("secagg", ["off", "on"])
def test_a_site_whose_disk_is_read_only_is_left_out_by_kind(overrides, monkeypatch, tmp_path, secagg):
    genuine = clients.site_store.write_array_file

    def read_only(path, *content):
        if "east" in path.parts:
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        genuine(path, *content)

    monkeypatch.setattr(clients.site_store, "write_array_file", read_only)
    run, loose = RunDir(tmp_path / "run"), ["strategy.quorum=0.6", "strategy.min_sites=2", f"secagg={secagg}"]
    if secagg == "on":  # a sum of two is never opened
        with pytest.raises(FederationError):
            launch_run(RunSpec.compose(overrides(*loose), run))
    else:
        launch_run(RunSpec.compose(overrides(*loose), run))
        assert {tuple(event["sites"]) for event in of(run, "round_completed")} == {("north", "south")}
    assert {(event["site"], event["reason"].split()[0]) for event in of(run, "site_failed")} == {
        ("east", "StorageError")
    }
    assert "Read-only file system" in (run.path / "fedhealth.log").read_text()


def test_a_run_directory_that_is_read_only_is_refused_before_anything_is_trained(overrides, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OSError, match="Read-only"):
        launch_run(RunSpec.compose(overrides(), RunDir(small_disk / "run")))
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize("jump", [-86400.0, 86400.0])
def test_a_clock_that_jumps_changes_no_deadline_and_no_result(overrides, undisturbed, monkeypatch, tmp_path, jump):
    """Deadlines are on the monotonic clock: a day back or forth in the middle of the run is not noticed."""
    run, genuine, shift = RunDir(tmp_path / "run"), time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: genuine() + shift[0])
    when(monkeypatch, strategies.checkpoint, "write_array_file", 1, lambda: shift.__setitem__(0, jump))
    given = overrides("strategy.deadline_factor=3")
    launch_run(RunSpec.compose(given, run))
    same(run, undisturbed)
    assert not of(run, "site_failed")


def booked_rounds(run, site):
    entries = verify_ledger(get_ledger_path(run.site_dir(site), "cohort"))
    return [entry.round for entry in entries if entry.kind == "book"]


def test_a_ledger_is_not_written_on_by_a_clock_that_went_back(overrides, monkeypatch, tmp_path):
    """The bookings stay; the refusal has a kind at the lead and a reason at the site."""
    run, genuine, shift = RunDir(tmp_path / "run"), time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: genuine() + shift[0])
    monkeypatch.setattr(Ledger, "open", partial(Ledger.open, clock=lambda: time.time()))
    when(monkeypatch, strategies.checkpoint, "write_array_file", 1, lambda: shift.__setitem__(0, -3600.0))
    given = overrides(*PRIVATE)
    with pytest.raises((FederationError, PrivacyError)):
        launch_run(RunSpec.compose(given, run))
    assert "clock is 3" in (run.path / "fedhealth.log").read_text()
    assert {event["reason"].split()[0] for event in of(run, "site_failed")} == {"PrivacyError"}
    for site in SITES:
        assert booked_rounds(run, site) == [1], site
    shift[0] = 0.0
    resume_run(run)
    for site in SITES:
        assert booked_rounds(run, site) == [1, 2, 3, 4], site


def test_the_commands_say_it_in_one_line(monkeypatch, capfd, tmp_path):
    from fedhealth.cli import main as module

    def full():
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "model.safetensors"))

    monkeypatch.setattr(module, "app", lambda **_: full())
    with pytest.raises(SystemExit) as stopped:
        module.main()
    assert stopped.value.code == StorageError.exit_code
    said = capfd.readouterr().err
    assert f"{Path(tmp_path / 'model.safetensors')}: the disk is full." in said.replace("\n", " ")
    assert "Traceback" not in said
