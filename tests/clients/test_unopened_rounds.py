"""Rounds that are never opened leave nothing at a hospital: no local layer, no memory of a method.

Otherwise a lead shows all hospitals but one crafted models in rounds that it never opens, until their local layers make
their next updates vanish; the sum of an honest round is then the update of the one that is left.
"""

from dataclasses import replace

import numpy as np
import pytest
from flwr.app import ConfigRecord

from fedhealth.errors import FederationError, SecureAggregationError
from fedhealth.protocol.messages import EVALUATE, TRAIN
from fedhealth.secagg.protocol.history import HistoryLink
from tests.clients.hospitals import FOUR, VICTIM, Hospitals, Lead, four_hospitals_

__all__ = ["four_hospitals_"]

OTHERS = FOUR[:3]
PLAIN = ["privacy=none", "secagg=on", "training=sgd", "training.optimizer.lr=0.05", "strategy.rounds=4"]
UNIT = "units: [none], word_embeddings: true"


def begin(folder, data, *overrides, limits=UNIT):
    return Lead(Hospitals(folder, data, limits), f"run{folder.name:0>8.8}".replace("_", "0"), *PLAIN, *overrides).join()


def train(lead, arrays=None, cohort=FOUR, **about):
    lead.ask(TRAIN, cohort, arrays=arrays, **about)
    assert not lead.refusals
    return lead.open()


def distance(one, other):
    return max(float(np.abs(one.update[name] - other.update[name]).max()) for name in one.update)


@pytest.mark.parametrize(
    ("method", "before"),
    [
        pytest.param("personalization=fedbn", "the first round", marks=pytest.mark.long),
        pytest.param("personalization=fedper", "the second round", marks=pytest.mark.long),
        ("method=scaffold", "the second round"),
    ],
)
def test_a_round_is_the_same_after_rounds_that_were_never_opened(four_hospitals, tmp_path, method, before):
    calm = begin(tmp_path / "calm", four_hospitals, method)
    shown = begin(tmp_path / "shown", four_hospitals, method)
    arrays = None
    if before == "the second round":
        arrays = calm.advance(train(calm))
        first = train(shown)
        shown.advance(first, arrays)
    for number in (2, 3):
        shown.ask(TRAIN, OTHERS, number=number, arrays=arrays)  # trained and uploaded, never opened
    assert not shown.refusals
    shown.restart_hospitals()
    expected, found = train(calm, arrays, number=4), train(shown, arrays, number=4)
    assert 0 <= distance(expected, found) < 1e-6
    assert max(float(np.abs(array).max()) for array in expected.update.values()) > 1e-4


def test_an_opened_round_does_leave_its_layers(four_hospitals, tmp_path):
    """The control: what is opened counts, also for a hospital that was not asked to unmask."""
    lead = begin(tmp_path / "one", four_hospitals, "personalization=fedbn")
    lead.ask(TRAIN, FOUR)
    arrays = lead.advance(lead.open(answering=OTHERS))
    kept = begin(tmp_path / "other", four_hospitals, "personalization=fedbn")
    kept.advance(train(kept), arrays)
    for site in FOUR:  # this one forgets its layers
        for path in kept.hospitals.homes[site].get_run_folder(kept.run).glob("private.*"):
            path.unlink()
    assert distance(train(lead, arrays, number=2), train(kept, arrays, number=2)) > 1e-6


def crafted(lead, arrays=None):
    return {name: array + np.float32(1e-6) for name, array in (arrays or lead.initial).items()}


def refuses(lead, arrays=None, number=2):
    """Return whether the hospitals refuse a round, and train nothing."""
    try:
        lead.ask(TRAIN, FOUR, arrays=arrays, number=number)
        lead.open()
    except (SecureAggregationError, FederationError):
        refusals, lead.refusals = lead.refusals, []
        return len(refusals) >= len(FOUR)
    return False


def test_other_arrays_than_the_history_ends_with_are_refused(four_hospitals, tmp_path):
    lead = begin(tmp_path, four_hospitals, "personalization=fedbn")
    assert refuses(lead, crafted(lead), number=1)
    arrays = lead.advance(train(lead))
    assert refuses(lead, crafted(lead, arrays))
    assert refuses(lead, lead.initial)
    train(lead, arrays, number=2)


LIES = {
    "no link": lambda link: None,
    "too few signatures": lambda link: replace(link, signatures=link.signatures[:-1]),
    "a signature twice": lambda link: replace(link, signatures=(link.signatures[0],) * 3),
    "forged signatures": lambda link: replace(
        link, signatures=tuple((site, shares, bytes(64)) for site, shares, _ in link.signatures)
    ),
    "other survivors": lambda link: replace(link, survivors=link.survivors[:-1]),
    "another vector": lambda link: replace(
        link, descriptor=replace(link.descriptor, vector=replace(link.descriptor.vector, repetition=1))
    ),
    "another run": lambda link: replace(link, descriptor=replace(link.descriptor, run="run67890")),
    "another sum": lambda link: replace(link, sum_digest=bytes(32)),
}


def test_a_history_without_proof_is_refused(four_hospitals, tmp_path):
    lead = begin(tmp_path, four_hospitals)
    arrays = lead.advance(train(lead))
    genuine = lead.change
    for lie, tell in LIES.items():

        def change(site, secret, tell=tell):
            told = [tell(HistoryLink.from_bytes(each)) for each in secret["links"]]
            return ConfigRecord({**secret, "links": [link.to_bytes() for link in told if link is not None]})

        lead.change = change
        assert refuses(lead, arrays), lie
    lead.change = genuine
    train(lead, arrays, number=2)


def test_one_hospital_is_shown_another_history(four_hospitals, tmp_path):
    """Its ctx then differs from all others', so its masks cancel with nobody's."""
    lead = begin(tmp_path, four_hospitals)
    arrays = lead.advance(train(lead))
    lead.change = lambda site, secret: ConfigRecord({**secret, "links": []}) if site == VICTIM else secret
    lead.ask(TRAIN, FOUR, arrays=arrays, number=2)
    assert [site for _, site, _ in lead.refusals] == [VICTIM]


def test_a_hospital_that_missed_rounds_gets_all_links(four_hospitals, tmp_path):
    lead = begin(tmp_path, four_hospitals, limits=f"{UNIT}, changing_cohorts: true")
    arrays = None
    for number in (1, 2):
        arrays = lead.advance(train(lead, arrays, cohort=OTHERS, number=number))
    lead.join()
    arrays = lead.advance(train(lead, arrays, number=3))
    lead.ask(EVALUATE, FOUR, arrays=arrays)
    assert lead.open().sites == FOUR


def test_local_layers_of_too_long_ago_are_not_used_without_privacy(four_hospitals, tmp_path):
    lead = begin(
        tmp_path, four_hospitals, "personalization=fedbn", limits=f"{UNIT}, changing_cohorts: true, absent_rounds: 1"
    )
    arrays = lead.advance(train(lead))
    for number in (2, 3):
        arrays = lead.advance(train(lead, arrays, cohort=OTHERS, number=number))
    lead.join()
    lead.ask(TRAIN, FOUR, arrays=arrays, number=4)
    assert lead.refusals == [(TRAIN, VICTIM, "PrivacyError")]
