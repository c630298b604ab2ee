"""A hospital that meets a lead of a test's choice, and keys of its own."""

import pytest

from fedhealth.consortium import identity
from tests.clients.lying_lead import KINDS, LyingLead


@pytest.fixture(name="shared_memory", autouse=True)
def shared_memory_(tmp_path, monkeypatch):
    """Keys of one test only: hospitals of the same name in another process share the machine's memory."""
    monkeypatch.setattr(identity, "_SHARED_MEMORY", tmp_path)


@pytest.fixture(name="meet")
def meet_(tmp_path, good_hospitals):
    """Let a hospital meet a lead; the arguments are those of `LyingLead`."""
    return lambda **about: LyingLead(tmp_path, good_hospitals, **about)


@pytest.fixture(name="leads", scope="module")
def leads_(tmp_path_factory, good_hospitals):
    """A hospital that has joined a run, for each kind of request; what it refuses changes nothing."""
    made = {}

    def get(kind):
        if kind not in made:
            made[kind] = LyingLead(tmp_path_factory.mktemp("lead"), good_hospitals, words=KINDS[kind])
            assert made[kind].handshake() == ()
        return made[kind]

    return get
