"""The rules that depend on the journal, each on its own; the attacks they stop are in `adversary/`."""

from dataclasses import replace

import pytest

from fedhealth.secagg.client import journal_rules
from fedhealth.secagg.client.journal import Journal
from fedhealth.secagg.errors import ProtocolViolationError
from fedhealth.secagg.primitives.layout import WEIGHT_ONE
from fedhealth.secagg.protocol import rules
from fedhealth.secagg.protocol.messages import AttemptDescriptor
from fedhealth.secagg.protocol.threshold import ThresholdPolicy, compute_thresholds
from tests.fedhealth.secagg.federation import Federation, name

N = 5  # c = 1, t = 4, min_honest = 2


LIMITS = compute_thresholds(N, ThresholdPolicy())


@pytest.fixture(scope="module")
def federation():
    towers = {name(i): {"shared": WEIGHT_ONE} | ({"labs": WEIGHT_ONE} if i < 4 else {}) for i in range(N)}
    return Federation(N, towers=towers)


@pytest.fixture(scope="module")
def descriptor(federation):
    layout = (federation.segment(), federation.segment("labs"), federation.segment(kind="statistics"))
    return AttemptDescriptor.from_bytes(federation.server.open_attempt(federation.plan(exchange=3, layout=layout)))


def refused(rule: str, problem: str):
    return pytest.raises(ProtocolViolationError, match=f"^{rule}: .*{problem}")


def test_r3_one_answer():
    assert journal_rules.r3_one_answer(Journal(), ("a", "b")) is None
    done = Journal(unmasked_survivors=("a", "b"), unmask_reply=b"bytes")
    assert journal_rules.r3_one_answer(done, ("a", "b")) == b"bytes"
    with refused("R3", "already answered"):
        journal_rules.r3_one_answer(done, ("a", "c"))
    with refused("R3", "already signed"):
        journal_rules.r3_one_answer(Journal(signed_survivors=("a", "b")), ("a",))


def test_r4_fresh_attempt():
    journal = Journal(exchange=5, attempt=2)
    journal_rules.r4_fresh_attempt(journal, 5, 3)
    journal_rules.r4_fresh_attempt(journal, 6, 1)
    for exchange, attempt in ((5, 1), (5, 2), (6, 0)):
        with refused("R4", f"attempt {attempt} of exchange {exchange} is burned"):
            journal_rules.r4_fresh_attempt(journal, exchange, attempt)


def test_r5_pinned(descriptor):
    journal = Journal(exchange=3, attempt=1, pin=rules.r5_compute_pin(descriptor))
    journal_rules.r5_check_pin(
        journal, replace(descriptor, attempt=2, cohort=descriptor.cohort[:4], layout=descriptor.layout[:1])
    )
    journal_rules.r5_check_pin(replace(journal, unmask_reply=b"x"), replace(descriptor, exchange=4))
    for field, value in (
        ("members", descriptor.members[:4]),
        ("base", descriptor.base[:4]),
        ("threshold", 5),
        ("model_digest", bytes(32)),
        ("training_digest", bytes(32)),
    ):
        with refused("R5", "must keep members"):
            journal_rules.r5_check_pin(journal, replace(descriptor, attempt=2, **{field: value}))
    with refused("R5", "already answered"):
        journal_rules.r5_check_pin(replace(journal, unmask_reply=b"x"), replace(descriptor, attempt=2))


def test_r7_progress(descriptor):
    policy = ThresholdPolicy(max_exchanges=10, max_rounds_per_model=2)
    journal_rules.r7_progress(Journal(exchange=3), descriptor, policy)
    for journal, exchange, problem in (
        (Journal(exchange=4), 3, "exchange 3 is past"),
        (Journal(), 0, "exchange 0 is past"),
        (Journal(), 11, "beyond the run's end"),
        (Journal(models=((descriptor.model_digest, 2),)), 3, "already trained 2 times"),
    ):
        with refused("R7", problem):
            journal_rules.r7_progress(journal, replace(descriptor, exchange=exchange), policy)


def test_r8_epochs(federation):
    member = federation.server.members["site-01"]
    journal_rules.r8_epochs(Journal(), [member], [b"digest"])
    journal_rules.r8_epochs(Journal(peers=(("site-01", member.epoch, b"digest"),)), [member], [b"digest"])
    journal_rules.r8_epochs(Journal(peers=(("site-01", member.epoch - 1, b"old"),)), [member], [b"digest"])
    for seen in ((member.epoch, b"other"), (member.epoch + 1, b"digest")):
        with refused("R8", "announcement of site-01 is an old or a replaced one"):
            journal_rules.r8_epochs(Journal(peers=(("site-01", *seen),)), [member], [b"digest"])
