"""Anything may be killed at any moment."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedhealth.secagg.client import journal as memory
from fedhealth.secagg.errors import ProtocolViolationError
from fedhealth.secagg.protocol.store import FileStore, MemoryStore
from fedhealth.secagg.server.session import ServerSession
from tests.fedhealth.secagg.federation import Federation
from tests.fedhealth.secagg.test_protocol import assert_sums


@pytest.mark.parametrize("signed", [False, True])
def test_a_lead_killed_between_two_unmask_messages_goes_on_with_the_same_survivors(tmp_path, signed):
    federation = Federation(5)
    federation.store = FileStore(Path(tmp_path))
    federation.server = ServerSession(federation.lead, federation.store)
    federation.announce()
    plan = federation.plan(signed=signed)
    federation.collect(plan, federation.ids[:4])
    survivors = federation.server.fix_survivors()
    if signed:
        for site in survivors:
            federation.server.add_signature(
                federation.sites[site].sign_survivors(federation.server.sign_request()), site
            )
    requests = federation.server.unmask_requests()
    first = federation.sites["site-00"].reply_unmask(requests["site-00"])
    federation.server.add_unmask_reply(first, "site-00")

    server = federation.restart_server()
    assert server.has_requested_unmask
    assert server.last_attempt == (1, 1)
    assert server.unmask_requests() == requests
    with pytest.raises(ProtocolViolationError, match="R6"):
        server.open_attempt(federation.plan(attempt=2))
    for site in survivors:
        federation.restart(site)
        answer = federation.sites[site].reply_unmask(requests[site])
        assert site != "site-00" or answer == first
        server.add_unmask_reply(answer, site)
    opened = server.open_sums()
    assert_sums(federation, opened, plan, survivors)

    again = federation.restart_server()
    for site in survivors:
        again.add_unmask_reply(federation.sites[site].reply_unmask(requests[site]), site)
    repeated = again.open_sums().vectors["shared-model"]["layer.weight"]
    assert np.array_equal(repeated, opened.vectors["shared-model"]["layer.weight"])


def test_a_lead_killed_before_unmasking_opens_another_attempt():
    federation = Federation(4)
    plan = federation.plan()
    federation.collect(plan, federation.ids)
    federation.server.fix_survivors()
    server = federation.restart_server()
    assert not server.has_requested_unmask
    with pytest.raises(ProtocolViolationError, match="R6"):
        server.open_sums()
    with pytest.raises(ProtocolViolationError, match="R4"):
        server.open_attempt(federation.plan())
    plan = federation.plan(attempt=2)
    assert_sums(federation, federation.round(plan, federation.ids, federation.ids), plan, federation.ids)


def test_a_lead_that_lost_its_store_asks_for_the_same_announcements():
    federation = Federation(4)
    federation.round(federation.plan(), federation.ids, federation.ids)
    federation.store = MemoryStore()
    server = federation.restart_server()
    for site in federation.ids:
        server.register(federation.sites[site].announcement, site)
    exchange = max(session.exchange for session in federation.sites.values()) + 1
    plan = federation.plan(exchange)
    assert_sums(federation, federation.round(plan, federation.ids, federation.ids), plan, federation.ids)


@pytest.mark.parametrize("damage", [lambda stored: stored[:-1], lambda stored: stored + b"0", lambda stored: b"short"])
def test_a_damaged_sum_is_noticed(damage):
    federation = Federation(3)
    federation.collect(federation.plan(), federation.ids)
    federation.server.fix_survivors()
    federation.server.unmask_requests()
    federation.store.put("unmasking", damage(federation.store.get("unmasking")))
    with pytest.raises(ProtocolViolationError, match=r"missing or damaged|stored attempt"):
        federation.restart_server()


def test_a_site_killed_between_any_two_messages_goes_on():
    federation = Federation(3)
    for exchange in (1, 2):
        plan = federation.plan(exchange, signed=True)
        descriptor = federation.server.open_attempt(plan)
        for site in federation.ids:
            federation.restart(site)
            federation.server.add_upload(*federation.protect(site, descriptor, plan), site)
        federation.server.fix_survivors()
        for step in ("sign", "unmask"):
            for site in federation.ids:
                federation.restart(site)
                if step == "sign":
                    federation.server.add_signature(
                        federation.sites[site].sign_survivors(federation.server.sign_request()), site
                    )
                else:
                    request = federation.server.unmask_requests()[site]
                    federation.server.add_unmask_reply(federation.sites[site].reply_unmask(request), site)
        assert_sums(federation, federation.server.open_sums(), plan, federation.ids)


def test_a_crash_after_accepting_loses_the_attempt_and_nothing_else():
    federation = Federation(4)
    plan = federation.plan()
    descriptor = federation.server.open_attempt(plan)
    context = federation.accept("site-00", descriptor, plan)
    kept = federation.sites["site-00"].quantize(context, federation.vectors("site-00", context.layout))
    session = federation.restart("site-00")
    with pytest.raises(ProtocolViolationError, match="R4"):
        federation.accept("site-00", descriptor, plan)
    with pytest.raises(ProtocolViolationError, match="R4"):
        session.mask_upload(context, kept)
    plan = federation.plan(attempt=2)
    assert_sums(federation, federation.round(plan, federation.ids, federation.ids), plan, federation.ids)


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_kept_vector_outlives_its_process(tmp_path, on_disk):
    federation = Federation(4)
    if on_disk:
        federation.secrets["site-00"] = FileStore(tmp_path)
        federation.restart("site-00")
        federation.announce()
    plan = federation.plan()
    session = federation.sites["site-00"]
    context = federation.accept("site-00", federation.server.open_attempt(plan), plan)
    assert session.load_quantized() is None
    quantized = session.quantize(context, federation.vectors("site-00", context.layout))
    session.save_quantized(quantized)
    session.mask_upload(context, quantized)
    session = federation.restart("site-00")
    plan = federation.plan(attempt=2)
    descriptor = federation.server.open_attempt(plan)
    context = federation.accept("site-00", descriptor, plan)
    federation.server.add_upload(*session.mask_upload(context, session.load_quantized()), "site-00")
    for site in federation.ids[1:]:
        federation.server.add_upload(*federation.protect(site, descriptor, plan), site)
    federation.server.fix_survivors()
    assert session.load_quantized() is not None
    federation.unmask(federation.ids)
    assert_sums(federation, federation.server.open_sums(), plan, federation.ids)
    assert session.load_quantized() is not None  # enough other sites may still abandon the attempt
    again = federation.plan(2, vector=plan.vector, model_digest=plan.model_digest)
    with pytest.raises(ProtocolViolationError, match="R10: this vector was already answered for"):
        federation.accept("site-00", federation.server.open_attempt(again), again)


def test_an_attempt_is_masked_once():
    federation = Federation(3)
    plan = federation.plan()
    context = federation.accept("site-00", federation.server.open_attempt(plan), plan)
    session = federation.sites["site-00"]
    quantized = session.quantize(context, federation.vectors("site-00", context.layout))
    session.mask_upload(context, quantized)
    with pytest.raises(ProtocolViolationError, match=r"R4: .* is already masked"):
        session.mask_upload(context, quantized)


def test_lost_secrets_cost_a_new_epoch_of_everybody():
    federation = Federation(4)
    federation.round(federation.plan(), federation.ids, federation.ids)
    federation.secrets["site-00"] = MemoryStore()
    federation.restart("site-00")
    plan = federation.plan(2)
    with pytest.raises(ProtocolViolationError, match="announcement are gone"):
        federation.protect("site-00", federation.server.open_attempt(plan), plan)
    # A new key of one site alone does not fit the others' chains.
    federation.announce(["site-00"])
    plan = federation.plan(3)
    with pytest.raises(ProtocolViolationError, match="changed within an epoch"):
        federation.protect("site-01", federation.server.open_attempt(plan), plan)
    federation.announce()
    plan = federation.plan(4)
    assert_sums(federation, federation.round(plan, federation.ids, federation.ids), plan, federation.ids)


def test_secrets_lost_between_upload_and_unmask():
    federation = Federation(4)
    plan = federation.plan()
    federation.collect(plan, federation.ids)
    federation.server.fix_survivors()
    federation.secrets["site-00"] = MemoryStore()
    federation.restart("site-00")
    requests = federation.server.unmask_requests()
    with pytest.raises(ProtocolViolationError, match="keys of this exchange are lost"):
        federation.sites["site-00"].reply_unmask(requests["site-00"])
    for site in federation.ids[1:]:
        federation.server.add_unmask_reply(federation.sites[site].reply_unmask(requests[site]), site)
    assert_sums(federation, federation.server.open_sums(), plan, federation.ids)


def test_a_site_that_was_away_catches_up():
    federation = Federation(4)
    present = federation.ids[:3]
    for exchange in (1, 2, 5):
        federation.round(federation.plan(exchange, cohort=present), present, present)
    plan = federation.plan(6)
    assert_sums(federation, federation.round(plan, federation.ids, federation.ids), plan, federation.ids)


def test_keys_of_past_exchanges_are_gone():
    """Forward secrecy: what a site holds after an exchange opens none of its envelopes."""
    federation = Federation(3)
    stolen = []
    for exchange in (1, 2):
        federation.round(federation.plan(exchange), federation.ids, federation.ids)
        stolen.append(memory.load_secrets(federation.secrets["site-00"]))
    assert stolen[0].private == stolen[0].pending == b""
    assert not {key for _, key in stolen[0].chains} & {key for _, key in stolen[1].chains}
    assert stolen[1].exchange == 3
    old = replace(stolen[1], exchange=0)
    assert old.chains == stolen[1].chains  # renaming the exchange does not bring its keys back
    memory.save_secrets(federation.secrets["site-00"], old)
    journal = memory.load_journal(federation.journals["site-00"])
    memory.save_journal(federation.journals["site-00"], replace(journal, unmasked_survivors=(), unmask_reply=b""))
    request = federation.server.unmask_requests()["site-00"]
    with pytest.raises(ProtocolViolationError, match="keys of this exchange are lost"):
        federation.sites["site-00"].reply_unmask(request)


def test_the_epoch_rises_even_without_a_journal():
    federation = Federation(3)
    federation.journals["site-00"] = MemoryStore()
    session = federation.restart("site-00")
    session._clock = lambda: 2000
    federation.server.register(session.announce(federation.towers["site-00"]), "site-00")
    assert federation.server.members["site-00"].epoch == 2000
