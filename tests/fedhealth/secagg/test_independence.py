"""Masks, keys and nonces are never used twice, whatever is configured, repeated or crashed."""

import random

import numpy as np
import pytest

from fedhealth.secagg.client import client_protocol
from fedhealth.secagg.client.journal import load_secrets
from fedhealth.secagg.protocol import envelope
from fedhealth.secagg.protocol.messages import MaskedUpload
from fedhealth.secagg.protocol.vector_name import VectorName
from tests.fedhealth.secagg.federation import Federation, model_digest

LENGTH = 4000


class Tap:
    """Records what a site deals, and its masked vector."""

    def __init__(self, monkeypatch):
        self.dealt, real = [], envelope.deal_shares

        def deal(*arguments):
            self.dealt.append(real(*arguments))
            return self.dealt[-1]

        monkeypatch.setattr(client_protocol, "deal_shares", deal)


def masked(federation: Federation, plan) -> tuple[MaskedUpload, np.ndarray]:
    head, vectors = federation.protect("site-00", federation.server.open_attempt(plan), plan)
    return MaskedUpload.from_bytes(head, "site-00"), vectors["shared-model"].view("<u4")


def seed_everything():
    random.seed(1)
    np.random.seed(1)


def two_attempts():
    federation = Federation(4, length=LENGTH)
    return federation, [federation.plan(), federation.plan(attempt=2)], lambda: None


def two_exchanges():
    federation = Federation(4, length=LENGTH)
    again = federation.plan(2, vector=VectorName("train", 1, 1), model_digest=model_digest(1))
    return federation, [federation.plan(1), again], lambda: None


def a_crash():
    federation = Federation(4, length=LENGTH)
    return federation, [federation.plan(), federation.plan(attempt=2)], lambda: federation.restart("site-00")


def a_new_epoch():
    federation = Federation(4, length=LENGTH)
    return federation, [federation.plan(), federation.plan(2)], federation.announce


@pytest.mark.parametrize("case", [two_attempts, two_exchanges, a_crash, a_new_epoch])
def test_nothing_repeats_at_a_site(monkeypatch, case):
    tap = Tap(monkeypatch)
    federation, plans, between = case()
    uploads = []
    for plan in plans:
        seed_everything()
        uploads.append(masked(federation, plan))
        between()
    assert_independent(tap.dealt, uploads)


def test_nothing_repeats_between_two_runs_with_the_same_configured_seed(monkeypatch):
    tap, uploads = Tap(monkeypatch), []
    for _ in range(2):
        seed_everything()
        federation = Federation(4, length=LENGTH)
        uploads.append(masked(federation, federation.plan()))
    assert_independent(tap.dealt, uploads)


def assert_independent(dealt, uploads):
    first, second = dealt
    assert not set(first.keys.values()) & set(second.keys.values())
    assert len(set(first.keys.values())) == len(first.keys)
    (one, words), (other, again) = uploads
    nonces = [sealed[: envelope.NONCE_BYTES] for upload in (one, other) for sealed in upload.envelopes]
    assert len(set(nonces)) == len(nonces)
    assert not set(one.tags) & set(other.tags)
    assert not set(one.share_commits) & set(other.share_commits)
    # Of LENGTH words of 32 bits, more than one equal pair has a chance below 10^-12.
    assert np.count_nonzero(words == again) <= 1
    # And their difference, half of whose bits are set, does not give the pair masks away either.
    bits = np.unpackbits((words - again).view(np.uint8)).astype(np.int64)
    assert abs(bits.sum() - len(bits) / 2) < 6 * np.sqrt(len(bits)) / 2


def test_a_constant_vector_is_uploaded_as_noise():
    federation = Federation(3, length=60_000)
    federation.values = lambda site, segment: {
        e.name: np.full(e.length, 0.5 if segment.kind == "model" else 1) for e in segment.entries
    }
    _, words = masked(federation, federation.plan())
    counts = np.bincount(words.view(np.uint8), minlength=256)
    expected = words.nbytes / 256
    assert abs(((counts - expected) ** 2 / expected).sum() - 255) < 8 * np.sqrt(2 * 255)


def test_every_pair_and_direction_has_its_own_keys():
    federation = Federation(4)
    plan = federation.plan()
    federation.collect(plan, federation.ids)
    ctx, chains = federation.server.context.ctx, {}
    for one in federation.ids:
        for other, key in load_secrets(federation.secrets[one]).chains:
            chains[one, other] = key
    for one in federation.ids:
        for other in federation.ids:
            assert chains[one, other] == chains[other, one]
            assert envelope.compute_pair_tag(chains[one, other], ctx, one, other) == envelope.compute_pair_tag(
                chains[other, one], ctx, other, one
            )
    assert len(set(chains.values())) == 4 + 6
