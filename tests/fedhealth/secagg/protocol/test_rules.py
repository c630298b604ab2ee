"""Each rule on its own; the attacks they stop are in `adversary/`."""

from dataclasses import replace

import numpy as np
import pytest

from fedhealth.secagg.client.journal import Journal, load_secrets
from fedhealth.secagg.protocol import rules
from fedhealth.secagg.protocol.context import Context
from fedhealth.secagg.protocol.errors import RefusedError
from fedhealth.secagg.protocol.layout import WEIGHT_ONE
from fedhealth.secagg.protocol.messages import Directive, UnmaskRequest
from fedhealth.secagg.protocol.threshold import Policy, bounds
from tests.fedhealth.secagg.federation import Federation, name

N = 5  # c = 1, t = 4, min_honest = 2
LIMITS = bounds(N, Policy())


@pytest.fixture(scope="module")
def federation():
    towers = {name(i): {"shared": WEIGHT_ONE} | ({"labs": WEIGHT_ONE} if i < 4 else {}) for i in range(N)}
    return Federation(N, towers=towers)


@pytest.fixture(scope="module")
def directive(federation):
    layout = (federation.segment(), federation.segment("labs"), federation.segment(kind="statistics"))
    return Directive.from_bytes(federation.server.open(federation.plan(exchange=3, layout=layout)))


@pytest.fixture(scope="module")
def context(directive):
    return Context.of(directive)


def refused(rule: str, problem: str):
    return pytest.raises(RefusedError, match=f"^{rule}: .*{problem}")


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
    strict = bounds(N, Policy(min_honest=3))
    found = rules.r1_survivors(context, "site-00", everybody[:1] + everybody[2:], strict)
    assert found == ("shared-model", "shared-statistics")


def test_r1_refuses_when_nothing_may_be_opened(federation, directive):
    labs = Context.of(replace(directive, layout=(federation.segment("labs"),)))
    with refused("R1", "no segment has enough owners"):
        rules.r1_survivors(labs, "site-00", [name(i) for i in (0, 2, 3, 4)], bounds(N, Policy(min_honest=3)))


def test_r1_signatures():
    federation = Federation(N)
    federation.collect(federation.plan(signed=True), federation.ids)
    survivors = federation.server.close()
    ask = federation.server.sign_request()
    for site in survivors:
        federation.server.endorse(federation.sites[site].sign(ask), site)
    context = federation.server.context
    good = UnmaskRequest.from_bytes(federation.server.unmask_requests()["site-00"])
    rules.r1_signatures(context, good, federation.roster)
    pairs = good.endorsements
    false = (pairs[0][0], pairs[1][1])
    for endorsements, problem in (
        ((), "0 survivors signed the list, 4 must"),
        (pairs[:3], "3 survivors signed"),
        (pairs[:3] + pairs[:1], "sorted and once each"),
        ((*pairs[:4], ("stranger", pairs[0][1])), "sorted and once each"),
        ((false, *pairs[1:]), "signature of site-00 under the survivors is false"),
    ):
        with refused("R1", problem):
            rules.r1_signatures(context, replace(good, endorsements=endorsements), federation.roster)
    with refused("R1", "is false"):  # the signatures are for another list
        rules.r1_signatures(context, replace(good, survivors=survivors[:4], endorsements=pairs[:4]), federation.roster)


def test_r2_envelopes():
    federation = Federation(N)
    federation.collect(federation.plan(), federation.ids)
    federation.server.close()
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


def test_r3_one_answer():
    assert rules.r3_one_answer(Journal(), ("a", "b")) is None
    done = Journal(survivors=("a", "b"), answer=b"bytes")
    assert rules.r3_one_answer(done, ("a", "b")) == b"bytes"
    with refused("R3", "already answered"):
        rules.r3_one_answer(done, ("a", "c"))
    with refused("R3", "already signed"):
        rules.r3_one_answer(Journal(endorsed=("a", "b")), ("a",))


def test_r4_fresh_attempt():
    journal = Journal(exchange=5, attempt=2)
    rules.r4_fresh_attempt(journal, 5, 3)
    rules.r4_fresh_attempt(journal, 6, 1)
    for exchange, attempt in ((5, 1), (5, 2), (6, 0)):
        with refused("R4", f"attempt {attempt} of exchange {exchange} is burned"):
            rules.r4_fresh_attempt(journal, exchange, attempt)


def test_r5_pinned(directive):
    journal = Journal(exchange=3, attempt=1, pin=rules.r5_pin(directive))
    rules.r5_pinned(journal, replace(directive, attempt=2, cohort=directive.cohort[:4], layout=directive.layout[:1]))
    rules.r5_pinned(replace(journal, answer=b"x"), replace(directive, exchange=4))
    for field, value in (
        ("members", directive.members[:4]),
        ("base", directive.base[:4]),
        ("threshold", 5),
        ("model_digest", bytes(32)),
        ("training_digest", bytes(32)),
    ):
        with refused("R5", "must keep members"):
            rules.r5_pinned(journal, replace(directive, attempt=2, **{field: value}))
    with refused("R5", "already answered"):
        rules.r5_pinned(replace(journal, answer=b"x"), replace(directive, attempt=2))


def test_r6_unopened(context):
    rules.r6_unopened(None, 1)
    rules.r6_unopened(context, 4)
    for exchange in (2, 3):
        with refused("R6", "exchange 3 is being unmasked"):
            rules.r6_unopened(context, exchange)


def test_r7_progress(directive):
    policy = Policy(max_exchanges=10, max_rounds_per_model=2)
    rules.r7_progress(Journal(exchange=3), directive, policy)
    for journal, exchange, problem in (
        (Journal(exchange=4), 3, "exchange 3 is past"),
        (Journal(), 0, "exchange 0 is past"),
        (Journal(), 11, "beyond the run's end"),
        (Journal(models=((directive.model_digest, 2),)), 3, "already trained 2 times"),
    ):
        with refused("R7", problem):
            rules.r7_progress(journal, replace(directive, exchange=exchange), policy)


def test_r8_cohort(federation, directive):
    members = [federation.server.members[site] for site in federation.ids]
    rules.r8_cohort(directive, members, federation.roster, "site-00")
    ids = directive.base
    for base, cohort, problem in (
        (ids[::-1], ids, "base cohort must be sorted"),
        ((*ids, "stranger"), ids, "names sites that are not members"),
        (ids, ids[:2] + ids[1:], "cohort must be sorted and unique"),
        (ids[:4], ids, "names sites that are not members"),
        (ids, ids[1:], "site-00 is not in the cohort"),
        (ids[:3], ids[:3], "3 of 5 members are fewer than two thirds"),
    ):
        with refused("R8", problem):
            rules.r8_cohort(replace(directive, base=base, cohort=cohort), members, federation.roster, "site-00")


def test_r8_epochs(federation):
    member = federation.server.members["site-01"]
    rules.r8_epochs(Journal(), [member], [b"digest"])
    rules.r8_epochs(Journal(peers=(("site-01", member.epoch, b"digest"),)), [member], [b"digest"])
    rules.r8_epochs(Journal(peers=(("site-01", member.epoch - 1, b"old"),)), [member], [b"digest"])
    for seen in ((member.epoch, b"other"), (member.epoch + 1, b"digest")):
        with refused("R8", "announcement of site-01 is an old or a replaced one"):
            rules.r8_epochs(Journal(peers=(("site-01", *seen),)), [member], [b"digest"])


def test_r8_threshold(directive):
    rules.r8_threshold(Context.of(replace(directive, threshold=5)), LIMITS)
    with refused("R8", "threshold 3 is below 4"):
        rules.r8_threshold(Context.of(replace(directive, threshold=3)), LIMITS)
    with refused("R8", "cohort of 4 cannot reach the threshold 5"):
        rules.r8_threshold(Context.of(replace(directive, threshold=5, cohort=directive.cohort[:4])), LIMITS)


def test_r8_signatures_cannot_be_switched_off():
    federation = Federation(7)  # s* = 2 < 3
    directive = Directive.from_bytes(federation.server.open(federation.plan()))
    assert directive.signed
    with refused("R8", "needs signed survivor lists"):
        rules.r8_signed(Context.of(replace(directive, signed=False)), bounds(7, Policy()))


def test_r8_layout(federation, directive):
    rules.r8_layout(Context.of(directive), LIMITS)
    shared = directive.layout[0]
    for layout, problem in (
        ((), "unique names"),
        ((shared, shared), "unique names"),
        ((federation.segment("nobody"),), "tower nobody has 0 owners, needs 3"),
        ((replace(shared, sites=4),), "no headroom for 5 sites"),
        ((replace(shared, normaliser=5 * WEIGHT_ONE - 1),), "no headroom for 5 sites"),
    ):
        with refused("R8", problem):
            rules.r8_layout(Context.of(replace(directive, layout=layout)), LIMITS)


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
