"""A hospital that meets a lead of a test's choice."""

import pytest

from tests.clients.lying_lead import KINDS, LyingLead


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
