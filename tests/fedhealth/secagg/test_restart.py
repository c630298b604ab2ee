"""Anything may be killed at any moment."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedhealth.secagg.client import journal as memory
from fedhealth.secagg.protocol.errors import RefusedError
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
    survivors = federation.server.close()
    if signed:
        for site in survivors:
            federation.server.endorse(federation.sites[site].sign(federation.server.sign_request()), site)
    requests = federation.server.unmask_requests()
    first = federation.sites["site-00"].unmask(requests["site-00"])
    federation.server.answer(first, "site-00")

    server = federation.restart_server()
    assert server.asked
    assert server.last == (1, 1)
    assert server.unmask_requests() == requests
    with pytest.raises(RefusedError, match="R6"):
        server.open(federation.plan(attempt=2))
    for site in survivors:
        federation.restart(site)
        answer = federation.sites[site].unmask(requests[site])
        assert site != "site-00" or answer == first
        server.answer(answer, site)
    opened = server.finish()
    assert_sums(federation, opened, plan, survivors)

    again = federation.restart_server()
    for site in survivors:
        again.answer(federation.sites[site].unmask(requests[site]), site)
    repeated = again.finish().vectors["shared-model"]["layer.weight"]
    assert np.array_equal(repeated, opened.vectors["shared-model"]["layer.weight"])


def test_a_lead_killed_before_unmasking_opens_another_attempt():
    federation = Federation(4)
    plan = federation.plan()
    federation.collect(plan, federation.ids)
    federation.server.close()
    server = federation.restart_server()
    assert not server.asked
    with pytest.raises(RefusedError, match="R6"):
        server.finish()
    with pytest.raises(RefusedError, match="R4"):
        server.open(federation.plan())
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


def test_a_damaged_sum_is_noticed():
    federation = Federation(3)
    federation.collect(federation.plan(), federation.ids)
    federation.server.close()
    federation.server.unmask_requests()
    sums = [key for key in federation.store._values if key.startswith("sum-")]
    federation.store.write(sums[0], b"short")
    with pytest.raises(RefusedError, match="missing or damaged"):
        federation.restart_server()


def test_a_site_killed_between_any_two_messages_goes_on():
    federation = Federation(3)
    for exchange in (1, 2):
        plan = federation.plan(exchange, signed=True)
        directive = federation.server.open(plan)
        for site in federation.ids:
            federation.restart(site)
            federation.server.fold(*federation.protect(site, directive, plan), site)
        federation.server.close()
        for step in ("sign", "unmask"):
            for site in federation.ids:
                federation.restart(site)
                if step == "sign":
                    federation.server.endorse(federation.sites[site].sign(federation.server.sign_request()), site)
                else:
                    request = federation.server.unmask_requests()[site]
                    federation.server.answer(federation.sites[site].unmask(request), site)
        assert_sums(federation, federation.server.finish(), plan, federation.ids)


def test_a_crash_after_accepting_loses_the_attempt_and_nothing_else():
    federation = Federation(4)
    plan = federation.plan()
    directive = federation.server.open(plan)
    context = federation.accept("site-00", directive, plan)
    kept = federation.sites["site-00"].quantise(context, federation.vectors("site-00", context.layout))
    session = federation.restart("site-00")
    with pytest.raises(RefusedError, match="R4"):
        federation.accept("site-00", directive, plan)
    with pytest.raises(RefusedError, match="R4"):
        session.upload(context, kept)
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
    context = federation.accept("site-00", federation.server.open(plan), plan)
    assert session.kept() is None
    quantised = session.quantise(context, federation.vectors("site-00", context.layout))
    session.keep(quantised)
    session.upload(context, quantised)
    session = federation.restart("site-00")
    plan = federation.plan(attempt=2)
    directive = federation.server.open(plan)
    context = federation.accept("site-00", directive, plan)
    federation.server.fold(*session.upload(context, session.kept()), "site-00")
    for site in federation.ids[1:]:
        federation.server.fold(*federation.protect(site, directive, plan), site)
    federation.server.close()
    assert session.kept() is not None
    federation.unmask(federation.ids)
    assert_sums(federation, federation.server.finish(), plan, federation.ids)
    assert session.kept() is None  # once in a sum, never again
    assert not [path for path in tmp_path.iterdir() if "kept" in path.name]


def test_an_attempt_is_masked_once():
    federation = Federation(3)
    plan = federation.plan()
    context = federation.accept("site-00", federation.server.open(plan), plan)
    session = federation.sites["site-00"]
    quantised = session.quantise(context, federation.vectors("site-00", context.layout))
    session.upload(context, quantised)
    with pytest.raises(RefusedError, match=r"R4: .* is already masked"):
        session.upload(context, quantised)


def test_lost_secrets_cost_a_new_epoch_of_everybody():
    federation = Federation(4)
    federation.round(federation.plan(), federation.ids, federation.ids)
    federation.secrets["site-00"] = MemoryStore()
    federation.restart("site-00")
    plan = federation.plan(2)
    with pytest.raises(RefusedError, match="announcement are gone"):
        federation.protect("site-00", federation.server.open(plan), plan)
    # A new key of one site alone does not fit the others' chains.
    federation.announce(["site-00"])
    plan = federation.plan(3)
    with pytest.raises(RefusedError, match="changed within an epoch"):
        federation.protect("site-01", federation.server.open(plan), plan)
    federation.announce()
    plan = federation.plan(4)
    assert_sums(federation, federation.round(plan, federation.ids, federation.ids), plan, federation.ids)


def test_secrets_lost_between_upload_and_unmask():
    federation = Federation(4)
    plan = federation.plan()
    federation.collect(plan, federation.ids)
    federation.server.close()
    federation.secrets["site-00"] = MemoryStore()
    federation.restart("site-00")
    requests = federation.server.unmask_requests()
    with pytest.raises(RefusedError, match="keys of this exchange are lost"):
        federation.sites["site-00"].unmask(requests["site-00"])
    for site in federation.ids[1:]:
        federation.server.answer(federation.sites[site].unmask(requests[site]), site)
    assert_sums(federation, federation.server.finish(), plan, federation.ids)


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
    memory.save_journal(federation.journals["site-00"], replace(journal, survivors=(), answer=b""))
    request = federation.server.unmask_requests()["site-00"]
    with pytest.raises(RefusedError, match="keys of this exchange are lost"):
        federation.sites["site-00"].unmask(request)


def test_the_epoch_rises_even_without_a_journal():
    federation = Federation(3)
    federation.journals["site-00"] = MemoryStore()
    session = federation.restart("site-00")
    session._clock = lambda: 2000
    federation.server.register(session.announce(federation.towers["site-00"]), "site-00")
    assert federation.server.members["site-00"].epoch == 2000
