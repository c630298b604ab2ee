"""Jobs that would weaken what a hospital decided, outlive a run, or send rows of words: declined, and nothing follows.

Each hole is tried with several words, limits and purposes.
"""

import pytest

from fedhealth.protocol.messages import DESCRIBE, TRAIN
from tests.clients.lying_lead import KINDS, MODEL, PRIVATE, assert_refused, read_error


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("secagg.colluders=0",), "the run assumes 0 colluding sites, this site requires 1"),
        (("secagg.colluders=-3",), "the run assumes -3 colluding sites, this site requires 1"),
        (("secagg.min_honest=1",), "the run opens sums of 1 honest sites, this site requires 2"),
        (("secagg.min_honest=-1",), "the run opens sums of -1 honest sites, this site requires 2"),
        (("secagg.min_sites=2",), "the run opens sums of 2 sites, this site requires 3"),
        (("secagg.min_sites=null",), "the run opens sums of 0 sites, this site requires 3"),
    ],
)
@pytest.mark.parametrize("kind", [TRAIN, DESCRIBE])
def test_words_of_a_job_do_not_weaken_what_the_site_decided(meet, kind, words, reason):
    lead = meet(words=(*KINDS[kind], *words))
    assert reason in lead.handshake()
    lead.announced = tuple(lead.announce(site, towers) for site, towers in lead.towers.items())
    assert_refused(lead, lead.ask(kind, threshold=2), {})


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ("colluders: 2", "the run assumes 1 colluding sites, this site requires 2"),
        ("min_honest: 3", "the run opens sums of 2 honest sites, this site requires 3"),
        ("min_sites: 4", "the run opens sums of 3 sites, this site requires 4"),
    ],
)
def test_a_site_that_is_stricter_declines_and_joins_a_run_that_is_as_strict(meet, limits, reason):
    assert meet(members=5, limits=limits).handshake() == (reason,)
    key, _, value = limits.partition(": ")
    lead = meet(members=5, limits=limits, words=(*PRIVATE, f"secagg.{key}={value}"))
    assert lead.handshake() == ()


def test_a_job_may_be_stricter_than_the_site(meet):
    lead = meet(members=5, words=(*PRIVATE, "secagg.colluders=2"))
    assert lead.handshake() == ()
    before = lead.books()
    for threshold in (2, 3):
        assert_refused(lead, lead.ask(TRAIN, threshold=threshold), before)
    assert read_error(lead.ask(TRAIN, threshold=4)) is None


def test_a_run_of_too_few_members_is_declined(meet):
    """Ten members, three of whom may collude: five sites make no sum that hides three honest ones."""
    assert meet(members=10, run=5).handshake() == ("the run's 5 sites are too few for this site's limits",)


@pytest.mark.parametrize("hours", [72.001, 24 * 365, 142_715_360 * 8766.0])
@pytest.mark.parametrize("kind", KINDS)
def test_an_order_that_is_valid_for_longer_than_a_run_may_take_is_refused(meet, hours, kind):
    lead = meet(hours=hours, words=KINDS[kind])
    (reason,) = lead.handshake()
    assert reason.endswith("hours, this site allows 72")
    lead.announced = tuple(lead.announce(site, towers) for site, towers in lead.towers.items())
    assert_refused(lead, lead.ask(kind), {})


TEXT = (
    *(word for word in MODEL if not word.startswith("model.text")),
    "model/text=words",
    "model.text.hidden=16",
    "model.text.buckets=64",
    "model.text.max_length=16",
)
OPEN = "units: [none, patient]"
WORD_REASON = "rows of word embeddings may not leave here without differential privacy"


@pytest.mark.parametrize(
    "words", [("privacy=none",), ("privacy=none", "personalization=ditto"), ("privacy=none", "model.text.layers=1")]
)
def test_rows_of_words_do_not_travel_without_privacy(meet, words):
    lead = meet(model=tuple(w for w in TEXT if not w.startswith("model.text.layers")), words=words, limits=OPEN)
    assert lead.handshake() == (WORD_REASON,)
    lead.announced = tuple(lead.announce(site, towers) for site, towers in lead.towers.items())
    assert_refused(lead, lead.ask(TRAIN), {})


@pytest.mark.parametrize(
    ("words", "limits"),
    [
        (PRIVATE, OPEN),
        (("privacy=none", "personalization=fedtower", "personalization.tower=text"), OPEN),
        (("privacy=none",), f"{OPEN}, word_embeddings: true"),
        (("privacy=none", "purpose=describe"), OPEN),
    ],
)
def test_rows_of_words_travel_noised_or_stay_or_are_allowed_by_the_hospital(meet, words, limits):
    assert meet(model=TEXT, words=words, limits=limits).handshake() == ()
