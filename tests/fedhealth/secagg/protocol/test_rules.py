"""Each rule on its own; the attacks they stop are in `adversary/`."""

from dataclasses import replace

import numpy as np
import pytest

from fedhealth.secagg.client.journal import load_secrets
from fedhealth.secagg.errors import ProtocolViolationError
from fedhealth.secagg.primitives.layout import WEIGHT_ONE
from fedhealth.secagg.protocol import rules
from fedhealth.secagg.protocol.context import AttemptContext
from fedhealth.secagg.protocol.messages import AttemptDescriptor, UnmaskRequest
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


@pytest.fixture(scope="module")
def context(descriptor):
    return AttemptContext.from_descriptor(descriptor)


def refused(rule: str, problem: str):
    return pytest.raises(ProtocolViolationError, match=f"^{rule}: .*{problem}")


@pytest.mark.parametrize(
    ("survivors", "problem"),
    [
        ([1, 0, 2, 3], "sorted and unique"),
        ([0, 0, 1, 2, 3], "sorted and unique"),
        ([0, 1, 2, 9], "belong to the attempt's cohort"),
        ([1, 2, 3, 4], "site-00 is not among"),
        ([0, 1, 2], "3 survivors are fewer than 4"),
    ],
)
def test_r1_survivors(context, survivors, problem):
    with refused("R1", problem):
        rules.r1_survivors(context, "site-00", [name(i) for i in survivors], LIMITS)


def test_r1_opens_the_towers_with_enough_owners(context):
    everybody = [name(i) for i in range(N)]
    assert rules.r1_survivors(context, "site-00", everybody, LIMITS) == (
        "shared-model",
        "labs-model",
        "shared-statistics",
    )
    # Three owners are c + min_honest; with a stricter site that asks for three honest ones they are too few.
    strict = compute_thresholds(N, ThresholdPolicy(min_honest=3))
    found = rules.r1_survivors(context, "site-00", everybody[:1] + everybody[2:], strict)
    assert found == ("shared-model", "shared-statistics")


def test_r1_refuses_when_nothing_may_be_opened(federation, descriptor):
    labs = AttemptContext.from_descriptor(replace(descriptor, layout=(federation.segment("labs"),)))
    with refused("R1", "no segment has enough owners"):
        rules.r1_survivors(
            labs, "site-00", [name(i) for i in (0, 2, 3, 4)], compute_thresholds(N, ThresholdPolicy(min_honest=3))
        )


def test_r1_signatures():
    federation = Federation(N)
    federation.collect(federation.plan(signed=True), federation.ids)
    survivors = federation.server.fix_survivors()
    ask = federation.server.sign_request()
    for site in survivors:
        federation.server.add_signature(federation.sites[site].sign_survivors(ask), site)
    context = federation.server.context
    good = UnmaskRequest.from_bytes(federation.server.unmask_requests()["site-00"])
    rules.r1_signatures(context, good, federation.roster)
    pairs = good.signatures
    false = (pairs[0][0], pairs[1][1])
    for signatures, problem in (
        ((), "0 survivors signed the list, 4 must"),
        (pairs[:3], "3 survivors signed"),
        (pairs[:3] + pairs[:1], "sorted and once each"),
        ((*pairs[:4], ("stranger", pairs[0][1])), "sorted and once each"),
        ((false, *pairs[1:]), "signature of site-00 under the survivors is false"),
    ):
        with refused("R1", problem):
            rules.r1_signatures(context, replace(good, signatures=signatures), federation.roster)
    with refused("R1", "is false"):  # the signatures are for another list
        rules.r1_signatures(context, replace(good, survivors=survivors[:4], signatures=pairs[:4]), federation.roster)


def test_r2_envelopes():
    federation = Federation(N)
    federation.collect(federation.plan(), federation.ids)
    federation.server.fix_survivors()
    context, reader = federation.server.context, "site-02"
    good = UnmaskRequest.from_bytes(federation.server.unmask_requests()[reader])
    chains = dict(load_secrets(federation.secrets[reader]).chains)
    assert list(rules.r2_envelopes(context, reader, chains, good)) == federation.ids
    for at, dealer in enumerate(federation.ids):
        flipped = bytearray(good.sealed[at])
        flipped[-1] ^= 1
        swapped = good.sealed[(at + 1) % N]
        for bad in (bytes(flipped), swapped, b"", good.sealed[at][:-1], good.sealed[at] + b"\0"):
            sealed = (*good.sealed[:at], bad, *good.sealed[at + 1 :])
            with refused("R2", f"envelope from {dealer} to site-02") as caught:
                rules.r2_envelopes(context, reader, chains, replace(good, sealed=sealed))
            assert caught.value.blame == (dealer,)
        commits = (*good.commits[:at], bytes(len(good.commits[at])), *good.commits[at + 1 :])
        with refused("R2", f"envelope from {dealer}"):
            rules.r2_envelopes(context, reader, chains, replace(good, commits=commits))
    with refused("R2", "one envelope and one commitment per survivor"):
        rules.r2_envelopes(context, reader, chains, replace(good, sealed=good.sealed[1:]))


def test_r6_unopened(context):
    rules.r6_unopened(None, 1)
    rules.r6_unopened(context, 4)
    for exchange in (2, 3):
        with refused("R6", "exchange 3 is being unmasked"):
            rules.r6_unopened(context, exchange)


def test_r8_cohort(federation, descriptor):
    members = [federation.server.members[site] for site in federation.ids]
    rules.r8_cohort(descriptor, members, federation.ids, "site-00")
    with refused("R8", "sites that are not in the run"):
        rules.r8_cohort(descriptor, members, federation.ids[:4], "site-00")
    ids = descriptor.base
    for base, cohort, problem in (
        (ids[::-1], ids, "base cohort must be sorted"),
        ((*ids, "stranger"), ids, "names sites that are not members"),
        (ids, ids[:2] + ids[1:], "cohort must be sorted and unique"),
        (ids[:4], ids, "names sites that are not members"),
        (ids, ids[1:], "site-00 is not in the cohort"),
    ):
        with refused("R8", problem):
            rules.r8_cohort(replace(descriptor, base=base, cohort=cohort), members, federation.ids, "site-00")


def test_r8_threshold(descriptor):
    rules.r8_threshold(AttemptContext.from_descriptor(replace(descriptor, threshold=5)), LIMITS)
    with refused("R8", "threshold 3 is below 4"):
        rules.r8_threshold(AttemptContext.from_descriptor(replace(descriptor, threshold=3)), LIMITS)
    with refused("R8", "cohort of 4 cannot reach the threshold 5"):
        rules.r8_threshold(
            AttemptContext.from_descriptor(replace(descriptor, threshold=5, cohort=descriptor.cohort[:4])), LIMITS
        )


def test_r8_signatures_cannot_be_switched_off():
    federation = Federation(7)  # s* = 2 < 3
    descriptor = AttemptDescriptor.from_bytes(federation.server.open_attempt(federation.plan()))
    assert descriptor.signed
    with refused("R8", "needs signed survivor lists"):
        rules.r8_signed(
            AttemptContext.from_descriptor(replace(descriptor, signed=False)), compute_thresholds(7, ThresholdPolicy())
        )


def test_r8_layout(federation, descriptor):
    rules.r8_layout(AttemptContext.from_descriptor(descriptor), LIMITS)
    shared = descriptor.layout[0]
    for layout, problem in (
        ((), "unique names"),
        ((shared, shared), "unique names"),
        ((federation.segment("nobody"),), "tower nobody has 0 owners, needs 3"),
        ((replace(shared, sites=4),), "no headroom for 5 sites"),
        ((replace(shared, normaliser=5 * WEIGHT_ONE - 1),), "no headroom for 5 sites"),
    ):
        with refused("R8", problem):
            rules.r8_layout(AttemptContext.from_descriptor(replace(descriptor, layout=layout)), LIMITS)


@pytest.mark.parametrize("bits", [16, 20, 32])
def test_r9_contributors(federation, bits):
    segment, owners = federation.segment(bits=bits), ("a", "b", "c")
    total = np.zeros(segment.words, segment.dtype)
    total[segment.length :][: segment.count_words] = 3
    rules.r9_contributors(segment, total, owners)
    for word in range(segment.count_words):
        wrong = total.copy()
        wrong[segment.length + word] += 1
        with refused("R9", "does not open to 3 contributions") as caught:
            rules.r9_contributors(segment, wrong, owners)
        assert caught.value.blame == owners
