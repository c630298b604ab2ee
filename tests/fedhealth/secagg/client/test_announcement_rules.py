"""R14: what the members announced before a site lost its memory and its keys is of no use afterwards."""

import copy

import pytest

from fedhealth.secagg.client.statement_book import RestoredSiteError
from fedhealth.secagg.errors import ProtocolViolationError
from fedhealth.secagg.protocol.store import MemoryStore
from fedhealth.secagg.protocol.threshold import ThresholdPolicy, compute_thresholds
from fedhealth.secagg.server.server_protocol import ServerParameters
from fedhealth.secagg.server.session import ServerSession
from fedhealth.secagg.server.shown_statements import ShownStatements
from tests.fedhealth.secagg.federation import CONFIG, Federation
from tests.fedhealth.secagg.test_restored_site import VICTIM, Backup, announce_again, run_rounds


def announce(federation, *sites):
    """Return announcements that the lead keeps to itself for now."""
    return {site: federation.announce_site(site) for site in sites}


def others(federation):
    return [site for site in federation.ids if site != VICTIM]


def show(federation, exchange, **changes):
    """Ask all sites for a vector; return which of them upload it, and the rules of the others."""
    plan, uploaded, refused = federation.plan(exchange, **changes), [], {}
    train = federation.server.open_attempt(plan)
    for site in plan.cohort:
        try:
            context = federation.accept(site, train, plan)
        except (ProtocolViolationError, RestoredSiteError) as fault:
            refused[site] = getattr(fault, "rule", "restored")
            continue
        session = federation.sites[site]
        quantized = session.quantize(context, federation.vectors(site, context.layout))
        federation.server.add_upload(*session.mask_upload(context, quantized), site)
        uploaded.append(site)
    return uploaded, refused


def use(federation, announcements):
    for site, announcement in announcements.items():
        federation.server.register(announcement, site)


def begin_other_run(federation, run="run-2"):
    """Return the same sites in another run: other journals and keys, the same books of statements."""
    other = copy.copy(federation)
    other.journals, other.secrets = ({site: MemoryStore() for site in federation.ids} for _ in range(2))
    other.sites = {site: other.session(site, run) for site in federation.ids}
    other.store, other.lead = MemoryStore(), ServerParameters(run, federation.roster, CONFIG, federation.policy)
    other.server, other.shown = ServerSession(other.lead, other.store), ShownStatements(other.store, other.roster)
    other.announce()
    return other


@pytest.mark.parametrize("n", [3, 4, 7])
def test_announcements_from_before_the_lost_rounds_are_refused_by_those_who_made_them(n):
    """The lead collects them early, goes on with the old keys, and uses them after the victim's restart."""
    federation = Federation(n)
    run_rounds(federation, 1, 1)
    backup, early = Backup(federation), announce(federation, *others(federation))
    run_rounds(federation, 2, 3)
    backup.restore(with_keys=False)
    use(federation, early | announce(federation, VICTIM))
    uploaded, refused = show(federation, 4)
    assert uploaded == [VICTIM]  # nobody can open it
    assert set(refused.values()) == {"R14"}


def test_announcements_from_before_the_lost_sum_was_opened_are_refused():
    """They are made while its uploads wait for UNMASK: what a site learns from the envelopes counts too."""
    federation = Federation(4)
    run_rounds(federation, 1, 1)
    backup = Backup(federation)
    federation.collect(federation.plan(2), federation.ids)
    federation.server.fix_survivors()
    early = announce(federation, *others(federation))
    federation.unmask(federation.ids)
    backup.restore(with_keys=False)
    use(federation, early | announce(federation, VICTIM))
    uploaded, refused = show(federation, 3)
    assert uploaded == [VICTIM]
    assert set(refused.values()) == {"R14"}


def test_rounds_that_were_lost_in_another_run_count_too():
    federation = Federation(4)
    other = begin_other_run(federation)
    run_rounds(federation, 1, 1)
    backup, early = Backup(federation), announce(federation, *others(federation))
    run_rounds(other, 1, 2)
    backup.restore(with_keys=False)
    use(federation, early | announce(federation, VICTIM))
    uploaded, refused = show(federation, 2)
    assert uploaded == [VICTIM]
    assert set(refused.values()) == {"R14"}


def test_one_honest_announcement_after_the_loss_tells_the_victim():
    federation = Federation(4)
    run_rounds(federation, 1, 1)
    backup, early = Backup(federation), announce(federation, *others(federation)[1:])
    run_rounds(federation, 2, 3)
    backup.restore(with_keys=False)
    use(federation, early | announce(federation, VICTIM, others(federation)[0]))
    uploaded, refused = show(federation, 4)
    assert refused.pop(VICTIM) == "restored"
    assert uploaded == [others(federation)[0]]
    assert set(refused.values()) == {"R14"}


def test_honest_restarts_are_refused_by_nobody():
    """Handshakes at any moment, lost keys, rounds in another run meanwhile: what the others know is acknowledged."""
    federation = Federation(4)
    other = begin_other_run(federation)
    run_rounds(federation, 1, 1)
    federation.collect(federation.plan(2), federation.ids)
    federation.server.fix_survivors()
    announce_again(federation)  # a lead that was killed while the sum was opened
    federation.unmask(federation.ids)
    assert show(federation, 3) == (federation.ids, {})
    federation.secrets[VICTIM]._values = {}
    federation.restart(VICTIM)
    announce_again(federation)
    run_rounds(other, 1, 3)  # between the handshake and the first request
    assert show(federation, 4) == (federation.ids, {})


@pytest.mark.parametrize("colluders", [1, 2])
def test_a_restored_site_counts_among_the_colluders(colluders):
    """What docs/secure-aggregation.md says of N = 4, 7, 10, ...: one honest member is out before, one after."""
    federation = Federation(4, policy=ThresholdPolicy(colluders=colluders))
    first, quiet, second = others(federation)
    run_rounds(federation, 1, 1)
    backup = Backup(federation)
    present = sorted([VICTIM, first, quiet]) if colluders == 1 else federation.ids
    federation.round(federation.plan(2, base=present, cohort=present), present, present)
    backup.restore(with_keys=False)
    federation.books[quiet].delete("peers")
    announce_again(federation)
    later = sorted([VICTIM, quiet, second]) if colluders == 1 else federation.ids
    if colluders == 1:
        del federation.server.members[first]
    refused = show(federation, 3, base=later, cohort=later)[1]
    assert refused.get(VICTIM) == (None if colluders == 1 else "restored")


@pytest.mark.parametrize("n", range(3, 41))
def test_with_the_default_thresholds_somebody_honest_is_in_both_unless_n_is_3c_plus_1(n):
    limits = compute_thresholds(n, ThresholdPolicy())
    shared = 2 * limits.threshold - n - 1  # of two sets of t sites, besides the restored one
    assert (shared > limits.colluders) == (n == 3 or n % 3 != 1)
    stricter = compute_thresholds(n, ThresholdPolicy(colluders=limits.colluders + 1)) if n > 3 else limits
    assert 2 * stricter.threshold - n - 1 >= limits.colluders + 1
