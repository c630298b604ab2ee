"""What events add up to: where every hospital is, whom a run waits for, what went wrong by kind."""

import pytest

from fedhealth.runs.event_summary import EventSummary, classify_failure

STRATEGY = {"time": 1.0, "event": "strategy", "parts": [], "sites": ["a", "b", "c"]}


def shaken(site, *reasons):
    return {"time": 2.0, "event": "handshake", "site": site, "reasons": list(reasons), "versions": ""}


def began(number, *sites):
    return {"time": 3.0, "event": "round_started", "round": number, "sites": list(sites)}


def answered(site, at=4.0, number=1):
    return {
        "time": at,
        "event": "site_answered",
        "round": number,
        "site": site,
        "seconds": 1.5,
        "sent": 10,
        "received": 7,
    }


def failed(site, reason, number=1):
    return {"time": 5.0, "event": "site_failed", "round": number, "site": site, "reason": reason}


STARTED = {"time": 2.5, "event": "started", "rounds": 3, "completed": 0}


def test_a_decline_keeps_its_fix_until_the_site_is_asked_again():
    account = EventSummary().add_events([STRATEGY, shaken("a", "another kit") | {"fix": "Install it."}])
    assert (account.sites["a"].state, account.sites["a"].fix) == ("declined", "Install it.")
    assert account.add_events([shaken("a")]).sites["a"].fix == ""


def states(account):
    return {name: site.state for name, site in account.sites.items()}


def test_every_hospital_is_somewhere():
    account = EventSummary().add_events([STRATEGY])
    assert states(account) == dict.fromkeys("abc", "awaited")
    account.add_events([shaken("a"), shaken("b"), shaken("c", "the budget is spent"), STARTED, began(1, "a", "b")])
    assert states(account) == {"a": "working", "b": "working", "c": "declined"}
    assert account.sites["c"].reason == "the budget is spent"
    account.add_events([answered("a"), failed("b", "DataError (see the site's own log)")])
    assert states(account) == {"a": "answered", "b": "left out", "c": "declined"}
    assert "b was left out of round 1: DataError" in account.trouble
    assert account.at == 5.0


def completed(number):
    return {"time": 6.0, "event": "round_completed", "round": number, "seconds": 1.0, "sites": ["a"], "pooled": {}}


def test_a_problem_is_forgotten_after_a_whole_round_without_any():
    account = EventSummary().add_events([STRATEGY, STARTED, began(1, "a", "b"), failed("b", "DataError"), completed(1)])
    assert "b was left out of round 1" in account.trouble
    account.add_events([began(2, "a", "b"), completed(2)])
    assert account.trouble == ""
    unsaved = {"time": 7.0, "event": "checkpoint_failed", "round": 2, "reason": "the disk is full"}
    assert "could not be saved" in account.add_events([unsaved, began(3, "a"), completed(3)]).trouble
    assert account.add_events([began(4, "a"), completed(4)]).trouble == ""


def test_traffic_durations_and_errors_add_up():
    account = EventSummary().add_events([STRATEGY, began(1, "a", "b"), answered("a"), answered("a", 9.0)])
    account.add_events([failed("b", "no answer before its deadline"), failed("b", "Site 'b' sent w as float32(3,).")])
    account.add_events(
        [{"time": 10.0, "event": "round_completed", "round": 1, "seconds": 2.5, "sites": ["a"], "pooled": {}}]
    )
    a, b = account.sites["a"], account.sites["b"]
    assert (a.sent, a.received, a.answered, a.seconds) == (20, 14, 9.0, 1.5)
    assert b.errors == {"late": 1, "misfit": 1}
    assert (account.completed, account.seconds) == (1, 2.5)


def test_waiting_ends_when_the_round_begins():
    waiting = {"time": 3.0, "event": "waiting", "needed": 1, "missing": ["c"]}
    account = EventSummary().add_events([STRATEGY, shaken("a"), waiting, shaken("a"), shaken("b")])
    assert account.missing == ("c",)
    assert account.add_events([STARTED]).missing == ()


def test_an_attempt_that_failed_asks_the_same_hospitals_again():
    account = EventSummary().add_events(
        [STRATEGY, began(1, "a", "b"), answered("a"), failed("b", "InternalError (see ...)")]
    )
    account.add_events([{"time": 6.0, "event": "attempt_failed", "round": 1, "attempt": 0, "reason": "too few"}])
    assert states(account) == {"a": "working", "b": "working", "c": "awaited"}


def test_a_resumed_run_awaits_everybody_and_forgets_no_traffic():
    account = EventSummary().add_events([STRATEGY, began(1, "a"), answered("a"), {"time": 7.0, "event": "resuming"}])
    assert states(account) == dict.fromkeys("abc", "awaited")
    assert account.sites["a"].sent == 10


def test_events_of_another_release_are_passed_over():
    account = EventSummary().add_events([{"time": 8.0, "event": "something_new", "with": 1}])
    assert account.at == 8.0


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("DataError (see the site's own log)", "DataError"),
        ("InternalError (see the site's own log)", "InternalError"),
        ("StorageError (see the site's own log)", "StorageError"),
        ("no answer before its deadline", "late"),
        ("Site 'a' sent other arrays than requested: w.", "misfit"),
    ],
)
def test_failures_have_a_kind_that_tells_nothing_more(reason, kind):
    assert classify_failure(reason) == kind
