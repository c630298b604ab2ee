"""A duty that fails is reported once, tried again, and does not stop the others."""

import asyncio
import errno
import logging
from types import SimpleNamespace

import pytest

from fedhealth.errors import FederationError
from fedhealth.lead import supervisor
from fedhealth.lead.home import LeadHome
from fedhealth.lead.supervisor import Supervisor


@pytest.fixture
def home(tmp_path):
    home = LeadHome(tmp_path / "lead")
    home.create()
    return home


def run_for(supervisor_, seconds):
    async def run():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(supervisor_.run(), seconds)

    asyncio.run(run())


@pytest.mark.parametrize(
    "fault",
    [OSError(errno.ENOSPC, "No space left on device"), PermissionError("executor.log"), RuntimeError("a bug")],
)
def test_members_are_registered_although_superexec_cannot_start_and_it_starts_when_it_can(
    home, monkeypatch, caplog, fault
):
    starts, synced = [], []

    def start():
        starts.append(len(starts))
        if len(starts) < 4:
            raise fault

    monkeypatch.setattr(supervisor, "_FIRST_POLL_SECONDS", 0.01)
    monkeypatch.setattr(supervisor, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(supervisor, "_sync_members", synced.append)
    home.membership.write_bytes(b"{}")
    with caplog.at_level(logging.INFO, "fedhealth.lead"):
        run_for(Supervisor(home, SimpleNamespace(ensure_running=start)), 0.5)
    assert synced == [home]
    assert len(starts) > 4
    told = [record.getMessage() for record in caplog.records]
    assert [text for text in told if "SuperExec" in text] == [
        f"SuperExec failed and is tried again every 0.01 s: {type(fault).__name__}: {fault}",
        "SuperExec works again",
    ]
    with_traceback = [record for record in caplog.records if record.exc_info and record.exc_info[0]]
    assert bool(with_traceback) == isinstance(fault, RuntimeError)


def test_members_that_could_not_be_registered_are_tried_again(home, monkeypatch, caplog):
    attempts = []

    def sync(place):
        attempts.append(place)
        if len(attempts) == 1:
            raise FederationError("The server does not reply.", "Wait.")

    monkeypatch.setattr(supervisor, "_FIRST_POLL_SECONDS", 0.01)
    monkeypatch.setattr(supervisor, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(supervisor, "_sync_members", sync)
    home.membership.write_bytes(b"{}")
    run_for(Supervisor(home, SimpleNamespace(ensure_running=lambda: None)), 0.3)
    assert len(attempts) == 2
    assert "registering members failed and is tried again every 0.01 s: The server does not reply." in caplog.text
