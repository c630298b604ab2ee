"""Whole rounds: whoever drops out, the sum is exact or there is none."""

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from fedhealth.secagg.errors import ProtocolViolationError
from fedhealth.secagg.primitives.layout import WEIGHT_ONE
from fedhealth.secagg.primitives.quantize import compute_error_bound
from fedhealth.secagg.protocol.threshold import ThresholdPolicy
from fedhealth.secagg.protocol.weights import compute_announced_weight
from tests.fedhealth.secagg.federation import Federation, name


def assert_sums(federation, opened, plan, survivors):
    """Compare every opened vector with the true mean or sum of the survivors."""
    for segment in plan.layout:
        if segment.name not in opened.vectors:
            continue
        owners = tuple(s for s in sorted(survivors) if segment.tower in federation.towers[s])
        assert opened.contributors[segment.name] == owners
        weight = sum(federation.towers[s][segment.tower] for s in owners)
        assert opened.weights[segment.name] == weight / WEIGHT_ONE
        expected = federation.expected(segment, survivors)
        for entry in segment.entries:
            found = opened.vectors[segment.name][entry.name]
            if segment.kind == "statistics":
                assert np.array_equal(found, expected[entry.name])
            else:
                bound = compute_error_bound(segment, entry, len(owners), weight) + entry.bound * 2**-23
                assert np.abs(found - expected[entry.name]).max() <= bound


@pytest.mark.parametrize("n", [3, 4, 5])
def test_every_pattern_of_dropouts(n):
    """Each site stays away before its upload, between upload and unmask, during unmask, or not at all."""
    federation, exchange = Federation(n, bits=20, length=2), 0
    for fates in itertools.product(("never", "uploads", "answers"), repeat=n):
        exchange += 1
        uploaders = [site for site, fate in zip(federation.ids, fates, strict=True) if fate != "never"]
        answering = [site for site, fate in zip(federation.ids, fates, strict=True) if fate == "answers"]
        plan = federation.plan(exchange)
        federation.collect(plan, uploaders)
        threshold = federation.server.context.descriptor.threshold
        if len(uploaders) < threshold:
            with pytest.raises(ProtocolViolationError, match="uploads are fewer than") as caught:
                federation.server.fix_survivors()
            assert caught.value.blame == tuple(s for s in federation.ids if s not in uploaders)
            federation.announce()  # as a lead does if a site is missing
            continue
        federation.server.fix_survivors()
        federation.unmask(answering)
        if len(answering) < threshold:
            with pytest.raises(ProtocolViolationError, match="survivors answered"):
                federation.server.open_sums()
        else:
            opened = federation.server.open_sums()
            assert (set(opened.vectors), opened.skipped_segments) == ({"shared-model", "shared-statistics"}, ())
            assert_sums(federation, opened, plan, uploaders)


@pytest.mark.parametrize("signing", range(5))
def test_signatures_gate_the_unmask_requests(signing):
    federation = Federation(4)
    plan = federation.plan(signed=True)
    federation.collect(plan, federation.ids)
    federation.server.fix_survivors()
    for site in federation.ids[:signing]:
        federation.server.add_signature(federation.sites[site].sign_survivors(federation.server.sign_request()), site)
    if signing < federation.server.context.descriptor.threshold:
        with pytest.raises(ProtocolViolationError, match="too few survivors signed"):
            federation.server.unmask_requests()
    else:
        requests = federation.server.unmask_requests()
        for site in federation.ids:
            federation.server.add_unmask_reply(federation.sites[site].reply_unmask(requests[site]), site)
        assert_sums(federation, federation.server.open_sums(), plan, federation.ids)


@st.composite
def rounds(draw):
    n = draw(st.integers(3, 20))
    towers = {}
    for i in range(n):
        examples = draw(st.sampled_from([0, 1, 3, 40, 700, 5000]))
        towers[name(i)] = {"shared": compute_announced_weight(examples)}
        if draw(st.booleans()):
            towers[name(i)]["labs"] = compute_announced_weight(draw(st.sampled_from([0, 2, 90])))
    fates = draw(st.lists(st.sampled_from(["never", "uploads", *["answers"] * 10]), min_size=n, max_size=n))
    return towers, fates, draw(st.integers(16, 32)), draw(st.integers(0, 2))


@settings(max_examples=25, deadline=None, derandomize=True, phases=[Phase.generate])
@given(rounds())
def test_random_rounds_are_exact_or_abort(case):
    towers, fates, bits, raised = case
    federation = Federation(len(towers), towers=towers, bits=bits)
    layout = tuple(federation.segment(tower, kind) for tower in ("shared", "labs") for kind in ("model", "statistics"))
    plan = federation.plan(layout=layout)
    uploaders = [site for site, fate in zip(federation.ids, fates, strict=True) if fate != "never"]
    answering = [site for site, fate in zip(federation.ids, fates, strict=True) if fate == "answers"]
    federation.server.open_attempt(plan)
    base = federation.server.context.descriptor.threshold
    threshold = min(base + raised, federation.n)
    plan = federation.plan(attempt=2, layout=layout, threshold=threshold)
    thresholds = (federation.n - 1) // 3 + (2 if federation.n <= 5 else 3)
    try:
        opened = federation.round(plan, uploaders, answering)
    except ProtocolViolationError:
        assert len(answering) < threshold
        return
    assert len(answering) >= threshold
    assert_sums(federation, opened, plan, uploaders)
    owners = sum("labs" in towers[site] for site in uploaders)
    weighs = any(towers[site].get("labs") for site in uploaders)
    asked = sum("labs" in tower for tower in towers.values())
    assert ("labs-statistics" in opened.vectors) == (owners >= thresholds)
    assert ("labs-model" in opened.vectors) == (owners >= thresholds and weighs)
    assert ("labs-model" in opened.skipped_segments) == (asked >= thresholds and not (owners >= thresholds and weighs))


def test_a_tower_with_too_few_owners_stays_closed_and_the_rest_goes_on():
    # c = 2, min_honest = 3: five owners of eight sites suffice, four do not.
    towers = {name(i): {"shared": WEIGHT_ONE} | ({"labs": WEIGHT_ONE} if i < 5 else {}) for i in range(8)}
    federation = Federation(8, towers=towers)
    plan = federation.plan(layout=(federation.segment(), federation.segment("labs")))
    opened = federation.round(plan, federation.ids[1:], federation.ids[1:])
    assert opened.skipped_segments == ("labs-model",)
    assert_sums(federation, opened, plan, federation.ids[1:])
    plan = federation.plan(2, layout=plan.layout)
    opened = federation.round(plan, federation.ids[:7], federation.ids[:7])
    assert opened.contributors["labs-model"] == tuple(federation.ids[:5])
    assert_sums(federation, opened, plan, federation.ids[:7])


def test_survivors_that_can_open_nothing_are_not_asked():
    towers = {name(i): {"shared": WEIGHT_ONE} | ({"labs": WEIGHT_ONE} if i < 5 else {}) for i in range(8)}
    federation = Federation(8, towers=towers)
    federation.collect(federation.plan(layout=(federation.segment("labs"),)), federation.ids[1:])
    with pytest.raises(ProtocolViolationError, match="R1: no segment has enough owners"):
        federation.server.fix_survivors()


def test_a_tower_of_one_site_is_not_even_asked_for():
    towers = {name(i): {"shared": WEIGHT_ONE} | ({"labs": WEIGHT_ONE} if i == 2 else {}) for i in range(4)}
    federation = Federation(4, towers=towers)
    plan = federation.plan(layout=(federation.segment(), federation.segment("labs")))
    opened = federation.round(plan, federation.ids, federation.ids)
    assert [segment.name for segment in federation.server.context.layout] == ["shared-model"]
    assert set(opened.vectors) == {"shared-model"}


def test_a_failed_attempt_is_masked_again_without_new_training():
    federation = Federation(5)
    plan = federation.plan()
    descriptor, kept = federation.server.open_attempt(plan), {}
    for site in federation.ids:
        context = federation.accept(site, descriptor, plan)
        kept[site] = federation.sites[site].quantize(context, federation.vectors(site, context.layout))
    for site in federation.ids[:3]:
        federation.server.add_upload(*federation.sites[site].mask_upload(context, kept[site]), site)
    with pytest.raises(ProtocolViolationError, match="3 uploads are fewer than 4"):
        federation.server.fix_survivors()
    plan = federation.plan(attempt=2, cohort=federation.ids[:4])
    descriptor = federation.server.open_attempt(plan)
    for site in federation.ids[:4]:
        context = federation.accept(site, descriptor, plan)
        federation.server.add_upload(*federation.sites[site].mask_upload(context, kept[site]), site)
    federation.server.fix_survivors()
    federation.unmask(federation.ids[:4])
    assert_sums(federation, federation.server.open_sums(), plan, federation.ids[:4])


def test_a_late_vector_is_accepted_into_a_later_round():
    federation = Federation(5)
    plan = federation.plan()
    context = federation.accept("site-00", federation.server.open_attempt(plan), plan)
    kept = federation.sites["site-00"].quantize(context, federation.vectors("site-00", context.layout))
    for site in federation.ids[1:]:
        federation.server.add_upload(*federation.protect(site, context.descriptor.to_bytes(), plan), site)
    federation.server.fix_survivors()
    with pytest.raises(ProtocolViolationError, match="R6"):
        federation.server.add_upload(*federation.sites["site-00"].mask_upload(context, kept), "site-00")
    federation.announce()  # as a lead does if a site is late
    plan = federation.plan(2)
    descriptor = federation.server.open_attempt(plan)
    context = federation.accept("site-00", descriptor, plan)
    federation.server.add_upload(*federation.sites["site-00"].mask_upload(context, kept), "site-00")
    for site in federation.ids[1:]:
        federation.server.add_upload(*federation.protect(site, descriptor, plan), site)
    federation.server.fix_survivors()
    federation.unmask(federation.ids)
    assert_sums(federation, federation.server.open_sums(), plan, federation.ids)


def test_a_kept_vector_of_another_layout_or_weight_is_refused():
    federation = Federation(3)
    plan = federation.plan()
    context = federation.accept("site-00", federation.server.open_attempt(plan), plan)
    kept = federation.sites["site-00"].quantize(context, federation.vectors("site-00", context.layout))
    plan = federation.plan(attempt=2, layout=(federation.segment(bits=24),))
    context = federation.accept("site-00", federation.server.open_attempt(plan), plan)
    with pytest.raises(ProtocolViolationError, match="another layout or weight"):
        federation.sites["site-00"].mask_upload(context, kept)


def test_the_order_of_arrival_does_not_matter():
    federation, results = Federation(5, bits=18), []
    kept = {}
    for exchange, order in enumerate((federation.ids, federation.ids[::-1]), start=1):
        plan = federation.plan(exchange)
        descriptor = federation.server.open_attempt(plan)
        for site in order:
            context = federation.accept(site, descriptor, plan)
            if site not in kept:
                kept[site] = federation.sites[site].quantize(context, federation.vectors(site, context.layout))
            federation.server.add_upload(*federation.sites[site].mask_upload(context, kept[site]), site)
        federation.server.fix_survivors()
        federation.unmask(order[1:])
        results.append(federation.server.open_sums(workers=exchange).vectors)
    for segment, entries in results[0].items():
        for entry, values in entries.items():
            assert np.array_equal(values, results[1][segment][entry])


def test_the_memory_of_the_lead_does_not_grow_with_the_sites():
    federation = Federation(6, length=200_000)
    plan = federation.plan()
    descriptor = federation.server.open_attempt(plan)
    tracemalloc.start()
    held = []
    for site in federation.ids:
        federation.server.add_upload(*federation.protect(site, descriptor, plan), site)
        held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert held[-1] - held[0] < 4 * 200_000 / 2  # bytes: five more uploads, half of one vector; bounded caches fill


def test_a_stricter_site_policy_is_met_by_raising_the_threshold():
    federation = Federation(5)
    strict = ThresholdPolicy(min_sites=5)
    federation.sites["site-00"].me = federation.sites["site-00"].me.__class__(
        **(vars(federation.sites["site-00"].me) | {"policy": strict})
    )
    plan = federation.plan()
    with pytest.raises(ProtocolViolationError, match="R8: threshold 4 is below 5"):
        federation.protect("site-00", federation.server.open_attempt(plan), plan)
    plan = federation.plan(2, threshold=5)
    assert_sums(federation, federation.round(plan, federation.ids, federation.ids), plan, federation.ids)
