"""The time grid of private replies: public slots, and a wait that a stopping daemon ends."""

import threading
import time

import pytest

from fedhealth.site.reply_grid import compute_reply_slot, wait_for_reply_slot

SLOTS = [0.25 * 1.25**k for k in range(60)]


@pytest.mark.parametrize("elapsed", [0.0, 0.001, 0.25, 0.2500001, 1.0, 59.9, 3600.0])
def test_a_reply_leaves_at_the_next_slot(elapsed):
    slot = compute_reply_slot(elapsed)
    assert any(slot == pytest.approx(each) for each in SLOTS)
    assert elapsed <= slot <= max(0.25, 1.25 * elapsed + 1e-9)


def test_equal_slots_hide_different_durations():
    assert len({compute_reply_slot(seconds) for seconds in (11.2, 12.0, 13.0, 13.8)}) == 1


def test_the_wait_ends_at_the_slot():
    received = time.monotonic()
    assert wait_for_reply_slot(received, threading.Event()) == 0.25
    assert time.monotonic() - received >= 0.25


def test_nothing_leaves_between_two_slots_when_the_daemon_stops():
    stopping = threading.Event()
    stopping.set()
    assert wait_for_reply_slot(time.monotonic(), stopping) is None
