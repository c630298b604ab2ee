"""R10 and R11: a vector is in at most one opened sum; what is sent more than once singles nobody out."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedhealth.secagg.client.contributor_book import ContributorBook
from fedhealth.secagg.errors import ProtocolViolationError
from fedhealth.secagg.protocol.abandon import AbandonCertificate, Abandonment, compute_abandon_quorum
from fedhealth.secagg.protocol.context import AttemptContext
from fedhealth.secagg.protocol.messages import AttemptDescriptor
from fedhealth.secagg.protocol.store import MemoryStore
from fedhealth.secagg.protocol.threshold import ThresholdPolicy, compute_thresholds
from fedhealth.secagg.protocol.vector_name import VectorName
from tests.fedhealth.secagg.federation import Federation, model_digest
from tests.fedhealth.secagg.test_protocol import assert_sums


def refused(problem: str, rule: str = "R10"):
    return pytest.raises(ProtocolViolationError, match=f"^{rule}: .*{problem}")


def again(federation: Federation, exchange: int, first: int = 1, **changes):
    """Plan the vector of an earlier exchange once more, or one that pretends to be it."""
    return federation.plan(
        exchange, **({"vector": VectorName("train", first, first), "model_digest": model_digest(first)} | changes)
    )


def show(federation: Federation, site: str, plan, certificates=()):
    train = federation.server.open_attempt(plan)
    return federation.accept(site, train, plan, certificates)


def opened(n: int = 4) -> Federation:
    federation = Federation(n)
    federation.round(federation.plan(), federation.ids, federation.ids)
    return federation


@pytest.mark.parametrize(
    ("exchange", "changes", "problem"),
    [
        (2, {}, "was already answered for"),
        (9, {}, "was already answered for"),
        (2, {"model_digest": bytes(32)}, "computed from another model"),
        (2, {"vector": VectorName("train", 2, 1)}, "a train vector of exchange 1 is past"),
        (2, {"vector": VectorName("evaluate", 1, 1)}, "an? evaluate vector of exchange 1 is past"),
        (2, {"vector": VectorName("train", 1, 30)}, "named by a later exchange"),
        (2, {"vector": VectorName("train", 1, 0)}, "named by a later exchange"),
    ],
    ids=str,
)
def test_a_vector_that_was_answered_for_is_never_uploaded_again(exchange, changes, problem):
    """Whatever the lead calls it: another exchange, another model, another round or purpose, a name of the future."""
    federation = opened()
    for _ in range(2):
        with refused(problem):
            show(federation, "site-00", again(federation, exchange, **changes))
        federation.restart("site-00")
        exchange += 1


def test_a_new_repetition_is_another_vector():
    federation = opened()
    plan = again(federation, 2, vector=VectorName("train", 1, 2))
    assert_sums(federation, federation.round(plan, federation.ids, federation.ids), plan, federation.ids)


def test_a_restarted_lead_asks_for_the_same_vector_after_an_earlier_sum_was_opened():
    federation = opened()
    federation.server.close_vector()
    federation.collect(federation.plan(2), federation.ids[:2])
    server = federation.restart_server()  # the sum of exchange 1 is still on its disk
    assert server.find_repetition("train", 2, model_digest(2)) == 2
    assert (
        server.find_repetition("train", 2, model_digest(3)) == server.find_repetition("train", 1, model_digest(1)) == 0
    )


def test_a_site_that_was_away_uploads_a_vector_of_an_earlier_exchange():
    federation = Federation(4)
    present = federation.ids[:3]
    federation.collect(federation.plan(cohort=present), present)
    plan = again(federation, 2)
    assert_sums(federation, federation.round(plan, federation.ids, federation.ids), plan, federation.ids)


def test_a_signed_list_ends_the_exchange_for_its_signer():
    federation = Federation(7)
    federation.collect(federation.plan(), federation.ids)
    federation.server.fix_survivors()
    federation.sites["site-00"].sign_survivors(federation.server.sign_request())
    federation.server = federation.restart_server()
    with refused("a list of survivors was signed in this exchange"):
        show(federation, "site-00", federation.plan(attempt=2))
    show(federation, "site-00", again(federation, 2))  # gives up the right to answer the first


def abandoned(n: int = 4, answering: int = 1, **changes):
    """Unmask with too few sites, then let the others abandon; returns the federation and their certificate."""
    federation = Federation(n, **changes)
    federation.collect(federation.plan(), federation.ids)
    federation.server.fix_survivors()
    federation.unmask(federation.ids[:answering])
    requests = federation.server.abandon_requests()
    enough = [
        federation.server.add_abandonment(federation.sites[site].abandon_attempt(requests[site]), site)
        for site in federation.ids[answering:]
    ]
    assert enough[-1]
    context = federation.server.context
    federation.server.close_attempt()
    (certificate,) = federation.server.certificates
    return federation, context, AbandonCertificate.from_bytes(certificate)


def test_after_an_abandon_certificate_all_mask_the_same_vector_again():
    federation, _, certificate = abandoned()
    assert federation.restart_server().certificates == (certificate.to_bytes(),)
    assert federation.server.find_repetition("train", 1, model_digest(1)) == 1
    plan = again(federation, 2)
    train = federation.server.open_attempt(plan)
    for site in federation.ids:
        session = federation.restart(site)
        context = federation.accept(site, train, plan, federation.server.certificates)
        vectors = federation.vectors(site, context.layout)
        federation.server.add_upload(*session.mask_upload(context, session.quantize(context, vectors)), site)
    federation.server.fix_survivors()
    federation.unmask(federation.ids)
    assert_sums(federation, federation.server.open_sums(), plan, federation.ids)


@pytest.mark.parametrize("kind", ["none", "too few", "one site twice", "a stranger's", "of another attempt", "forged"])
def test_a_false_certificate_moves_nobody_who_has_answered(kind):
    federation, _, certificate = abandoned()
    signatures = certificate.signatures
    forged = replace(certificate, signatures=tuple((site, bytes(64)) for site, _ in signatures))
    found = {
        "none": [],
        "too few": [replace(certificate, signatures=signatures[1:])],
        "one site twice": [replace(certificate, signatures=(signatures[0],) * 3)],
        "a stranger's": [replace(certificate, signatures=(("stranger", signatures[0][1]), *signatures[1:]))],
        "of another attempt": [replace(certificate, ctx=bytes(32))],
        "forged": [forged],
    }[kind]
    with refused("was already answered for"):
        show(federation, "site-00", again(federation, 2), [each.to_bytes() for each in found])


def test_an_abandoned_attempt_is_never_answered_and_an_answered_one_never_abandoned():
    federation = Federation(7)
    federation.collect(federation.plan(), federation.ids)
    federation.server.fix_survivors()
    sign = federation.server.sign_request()
    federation.unmask(federation.ids[:1] + federation.ids[2:])
    requests, abandon = federation.server.unmask_requests(), federation.server.abandon_requests()["site-01"]
    first = federation.sites["site-01"].abandon_attempt(abandon)
    for _ in range(2):
        assert federation.sites["site-01"].abandon_attempt(abandon) == first
        for step, request in (("sign_survivors", sign), ("reply_unmask", requests["site-01"])):
            with refused("this site has abandoned the attempt"):
                getattr(federation.sites["site-01"], step)(request)
        with refused("was already answered"):
            federation.sites["site-00"].abandon_attempt(abandon)
        federation.restart("site-00")
        federation.restart("site-01")


def test_an_abandonment_is_checked_by_the_lead():
    federation = Federation(4)
    federation.collect(federation.plan(), federation.ids)
    federation.server.fix_survivors()
    federation.server.unmask_requests()
    found = Abandonment.from_bytes(
        federation.sites["site-01"].abandon_attempt(federation.server.abandon_requests()["site-01"]), "site-01"
    )
    for bad, sender in ((found, "site-02"), (replace(found, ctx=bytes(32)), "site-01")):
        with pytest.raises(ProtocolViolationError, match="is not for this attempt"):
            federation.server.add_abandonment(bad.to_bytes(), sender)
    with pytest.raises(ProtocolViolationError, match="not signed by its identity"):
        federation.server.add_abandonment(replace(found, signature=bytes(64)).to_bytes(), "site-01")


@pytest.mark.parametrize("n", range(3, 31))
def test_the_quorum_leaves_too_few_who_may_answer_and_is_never_above_the_threshold(n):
    limits = compute_thresholds(n, ThresholdPolicy())
    federation = Federation(3)
    draft = AttemptDescriptor.from_bytes(federation.server.open_attempt(federation.plan()))
    for cohort in range(limits.threshold, n + 1):
        attempt = replace(draft, threshold=limits.threshold, cohort=tuple(f"site-{i:02d}" for i in range(cohort)))
        quorum = compute_abandon_quorum(attempt, limits.colluders)
        assert cohort - (quorum - limits.colluders) < limits.threshold  # colluders may sign and answer
        assert quorum <= limits.threshold


@contextmanager
def allowed(*rules: str):
    """Go on after a refusal by one of these rules."""
    try:
        yield
    except ProtocolViolationError as fault:
        if fault.rule not in rules:
            raise


class History:
    """Random steps of a lead, honest or not, and of sites that are killed; counts what could be opened.

    Attributes:
        answered: by (vector, ctx): the sites that answered UNMASK for it.

    """

    def __init__(self, n: int) -> None:
        self.federation, self.exchange, self.attempt = Federation(n), 0, 0
        self.names = [VectorName("train", 1, 1)]
        self.answered: dict[tuple[VectorName, bytes], set[str]] = {}
        self.context: AttemptContext | None = None
        self.certificates: list[bytes] = []

    def ask(self, data) -> None:
        """Open an attempt at a new or an old vector with some sites."""
        fed = self.federation
        self.exchange += data.draw(st.integers(1, 2))
        if data.draw(st.booleans()):
            self.names.append(VectorName(data.draw(st.sampled_from(("train", "evaluate"))), 1, self.exchange))
        name = data.draw(st.sampled_from(self.names[-3:]))
        least = compute_thresholds(fed.n, fed.policy).threshold
        cohort = data.draw(st.lists(st.sampled_from(fed.ids), min_size=least, max_size=fed.n, unique=True))
        fed.server = fed.restart_server()
        if data.draw(st.booleans()):
            fed.announce()
        plan = again(fed, self.exchange, vector=name, cohort=sorted(cohort))
        train = fed.server.open_attempt(plan)
        for site in sorted(cohort):
            with allowed("R4", "R7", "R10", "R15"):
                session = fed.sites[site]
                context = fed.accept(site, train, plan, self.certificates)
                vectors = fed.vectors(site, context.layout)
                fed.server.add_upload(*session.mask_upload(context, session.quantize(context, vectors)), site)
        self.context = fed.server.context

    def unmask(self, data) -> None:
        """Ask some survivors for their shares."""
        fed = self.federation
        try:
            if fed.server._state is None:
                fed.server.fix_survivors()
            chosen = data.draw(st.lists(st.sampled_from(fed.server.survivors), unique=True))
            request = fed.server.sign_request()
            for site in fed.server.survivors if request else ():
                fed.server.add_signature(fed.sites[site].sign_survivors(request), site)
            requests = fed.server.unmask_requests()
        except ProtocolViolationError:
            return
        for site in chosen:
            with allowed("R4", "R10", ""):
                reply = fed.sites[site].reply_unmask(requests[site])
                assert self.context is not None
                self.answered.setdefault((self.context.descriptor.vector, self.context.ctx), set()).add(site)
                fed.server.add_unmask_reply(reply, site)

    def abandon(self, data) -> None:
        """Ask some sites to abandon the attempt that is being unmasked."""
        fed = self.federation
        if fed.server._state is None:
            return
        requests, enough = fed.server.abandon_requests(), False
        for site in data.draw(st.lists(st.sampled_from(fed.server.context.cohort), unique=True)):
            with allowed("R4", "R7", "R10", ""):
                reply = fed.sites[site].abandon_attempt(requests[site])
                enough = fed.server.add_abandonment(reply, site) or enough
        if enough:
            fed.server.close_attempt()
            self.certificates += fed.server.certificates[-1:]

    def kill(self, data) -> None:
        """Restart a site, or give all sites new keys."""
        site = data.draw(st.sampled_from(self.federation.ids))
        self.federation.restart(site)
        if data.draw(st.integers(0, 3)) == 0:
            self.federation.secrets[site] = MemoryStore()
            self.federation.restart(site)
            self.federation.server = self.federation.restart_server()
            for each in self.federation.ids:
                self.federation.sites[each]._clock = lambda: 1000 + self.exchange
            self.federation.announce()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data(), n=st.integers(3, 7))
def test_no_vector_enters_two_opened_sums(data, n):
    """Over random histories of drop-outs, kills, resumes, abandons and repetitions, with up to c colluders.

    Colluders may answer as they like, so an attempt counts as opened when t - c honest sites have answered it.
    """
    history = History(n)
    for _ in range(data.draw(st.integers(4, 12))):
        step = data.draw(st.sampled_from(("ask", "ask", "unmask", "unmask", "abandon", "kill")))
        getattr(history, step)(data)
    limits = compute_thresholds(n, ThresholdPolicy())
    colluders = set(data.draw(st.permutations(history.federation.ids))[: limits.colluders])
    opened_by_vector: dict[VectorName, int] = {}
    for (vector, _), sites in history.answered.items():
        if len(sites - colluders) >= limits.threshold - limits.colluders:
            opened_by_vector[vector] = opened_by_vector.get(vector, 0) + 1
    assert all(count == 1 for count in opened_by_vector.values()), opened_by_vector


def isolates(sums, site, known) -> bool:
    """Return whether a combination of the sums, less what colluders know, is this site's vector alone."""
    sites = sorted({each for one in sums for each in one} - known)
    rows = np.array([[each in one for each in sites] for one in sums], float)
    unit = np.array([each == site for each in sites], float)
    return bool(np.linalg.matrix_rank(np.vstack([rows, unit])) == np.linalg.matrix_rank(rows))


@settings(max_examples=100, deadline=None)
@given(data=st.data(), n=st.integers(3, 12))
def test_kept_releases_are_singled_out_by_no_combination_of_sums(data, n):
    """Every site keeps its own book and knows only sums that it has answered; colluders agree to everything."""
    c = data.draw(st.integers(0, (n - 1) // 3))
    names = [f"site-{i:02d}" for i in range(n)]
    threshold = min(n, max(2 * n // 3 + 1, (n + c) // 2 + 1, c + 2))
    books = {site: ContributorBook(MemoryStore()) for site in names[c:]}
    sums: list[list[str]] = []
    for number in map(str, range(data.draw(st.integers(2, 7)))):
        chosen = sorted(data.draw(st.lists(st.sampled_from(names), min_size=threshold, max_size=n, unique=True)))
        honest = [site for site in chosen if site in books]
        answering = data.draw(st.lists(st.sampled_from(honest), min_size=threshold - c, max_size=n, unique=True))
        with allowed("R11"):
            for site in answering:
                books[site].check_contributors("release", number, chosen)
            for site in answering:
                books[site].record_contributors("release", number, chosen)
            sums.append(chosen)
    honest = {site for one in sums for site in one if site in books}
    assert not any(isolates(sums, site, set(names[:c])) for site in honest)
