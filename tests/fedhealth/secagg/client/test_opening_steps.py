"""R15: no new vector before what the others sealed to the site was shown. Promises about attempts never received."""

from dataclasses import replace

import pytest

from fedhealth.secagg.client.journal import load_journal
from fedhealth.secagg.errors import ProtocolViolationError
from fedhealth.secagg.protocol.abandon import AbandonRequest
from fedhealth.secagg.protocol.messages import AttemptDescriptor, UnmaskRequest
from fedhealth.secagg.protocol.vector_name import VectorName
from tests.fedhealth.secagg.client.test_announcement_rules import announce, others, show, use
from tests.fedhealth.secagg.federation import Federation, model_digest
from tests.fedhealth.secagg.test_protocol import assert_sums
from tests.fedhealth.secagg.test_restored_site import VICTIM, Backup, announce_again, run_rounds


@pytest.fixture(name="forgetful", params=[4, 7])
def forgetful_(request):
    """A federation whose victim was restored from a copy of before exchanges 2 and 3; its keys are still there."""
    federation = Federation(request.param)
    run_rounds(federation, 1, 1)
    backup = Backup(federation)
    run_rounds(federation, 2, 3)
    backup.restore()
    return federation


def open_without_victim(federation, exchange):
    """Let the others open a sum with the victim's vector; the victim is not asked."""
    uploaded, refused = show(federation, exchange)
    assert (uploaded, refused) == (federation.ids, {})
    federation.server.fix_survivors()
    federation.unmask(others(federation))
    assert VICTIM in federation.server.open_sums().contributors["shared-model"]


def withhold(federation):
    """Let the lead send the victim nothing of what the others sealed."""
    honest = federation.server.get_envelopes
    federation.server.get_envelopes = lambda site: b"" if site == VICTIM else honest(site)


def test_a_site_that_is_never_asked_sends_no_second_vector(forgetful):
    withhold(forgetful)
    open_without_victim(forgetful, 4)  # one exchange late
    for exchange in (5, 6):
        uploaded, refused = show(forgetful, exchange)
        assert (uploaded, refused) == (others(forgetful), {VICTIM: "R15"})
        forgetful.server.fix_survivors()
        forgetful.unmask(others(forgetful))
        forgetful.restart(VICTIM)


def test_what_an_honest_lead_shows_with_the_next_request_tells_it(forgetful):
    open_without_victim(forgetful, 4)
    assert show(forgetful, 5)[1] == {VICTIM: "restored"}


def test_new_keys_do_not_help_the_lead(forgetful):
    withhold(forgetful)
    open_without_victim(forgetful, 4)
    announce_again(forgetful)
    assert show(forgetful, 5)[1][VICTIM] == "restored"


def test_keys_that_were_announced_before_the_latest_vector_do_not_help_the_lead():
    """All announcements of the next epoch are collected before the loss: the victim still has their keys."""
    federation = Federation(4)
    run_rounds(federation, 1, 1)
    backup, early = Backup(federation), announce(federation, *federation.ids)
    run_rounds(federation, 2, 3)
    backup.restore()
    withhold(federation)
    open_without_victim(federation, 4)
    use(federation, early)
    assert show(federation, 5)[1][VICTIM] == "R15"


def test_the_same_vector_again_does_not_count_as_shown(forgetful):
    """Asked again without an answer in between, it is still one vector, and the next one is refused."""
    withhold(forgetful)
    open_without_victim(forgetful, 4)
    again = {"vector": VectorName("train", 4, 4), "model_digest": model_digest(4)}
    uploaded, refused = show(forgetful, 5, **again)
    assert VICTIM in uploaded
    assert set(refused.values()) <= {"R10"}
    assert show(forgetful, 6)[1][VICTIM] == "R15"


@pytest.mark.parametrize("lie", ["too few", "of another attempt", "another reader's", "malformed"])
def test_false_envelopes_show_nothing(lie):
    federation = Federation(4)
    open_without_victim(federation, 1)
    request = UnmaskRequest.from_bytes(federation.server.unmask_requests()[VICTIM])
    if lie == "too few":
        damaged = tuple(bytes(len(each)) for each in request.sealed[:2])
        request = replace(request, sealed=(*damaged, *request.sealed[2:]))
    elif lie == "of another attempt":
        request = replace(request, ctx=bytes(32))
    elif lie == "another reader's":
        request = UnmaskRequest.from_bytes(federation.server.unmask_requests()[federation.ids[0]])
    data = request.to_bytes()[: -1 if lie == "malformed" else None]
    federation.server.get_envelopes = lambda site: data if site == VICTIM else b""
    assert VICTIM in show(federation, 2)[1]
    assert load_journal(federation.journals[VICTIM]).exchange == 1


def test_one_damaged_envelope_does_not_keep_a_site_out():
    """A member that seals nonsense keeps the site from answering, not from the next round."""
    federation = Federation(4)
    open_without_victim(federation, 1)
    request = UnmaskRequest.from_bytes(federation.server.unmask_requests()[VICTIM])
    damaged = replace(request, sealed=(bytes(len(request.sealed[0])), *request.sealed[1:])).to_bytes()
    with pytest.raises(ProtocolViolationError, match="R2"):
        federation.sites[VICTIM].reply_unmask(damaged)
    federation.server.get_envelopes = lambda site: damaged if site == VICTIM else b""
    assert show(federation, 2) == (federation.ids, {})


def test_an_honest_run_goes_on_whoever_is_not_asked():
    federation = Federation(4)
    for exchange, silent in enumerate((*federation.ids, VICTIM, VICTIM), start=1):
        plan = federation.plan(exchange)
        federation.collect(plan, federation.ids)
        federation.server.fix_survivors()
        federation.unmask([site for site in federation.ids if site != silent])
        assert_sums(federation, federation.server.open_sums(), plan, federation.ids)


def test_it_costs_no_message_and_few_bytes_for_those_who_did_not_answer():
    federation = Federation(4)
    open_without_victim(federation, 1)
    federation.server.open_attempt(federation.plan(2))
    sizes = {site: len(federation.server.get_envelopes(site)) for site in federation.ids}
    assert [size for site, size in sizes.items() if site != VICTIM] == [0, 0, 0]
    assert 2000 < sizes[VICTIM] < 5000


def stuck(answering=1):
    """Return an attempt that three of four sites uploaded and one answered; the last one never received it."""
    federation = Federation(4)
    federation.collect(federation.plan(), federation.ids[:3])
    federation.server.fix_survivors()
    federation.unmask(federation.ids[:answering])
    return federation, federation.server.abandon_requests()


def test_a_site_that_never_received_an_attempt_promises_never_to_answer_it():
    """Without its promise, two of four were too few: the vector could neither be opened nor masked again."""
    federation, requests = stuck()
    promises = [federation.sites[site].abandon_attempt(requests[site]) for site in federation.ids[1:]]
    assert promises[-1] == federation.restart(federation.ids[3]).abandon_attempt(requests[federation.ids[3]])
    enough = [
        federation.server.add_abandonment(each, site) for each, site in zip(promises, federation.ids[1:], strict=True)
    ]
    assert enough == [False, False, True]
    train = AbandonRequest.from_bytes(requests[federation.ids[3]]).train
    with pytest.raises(ProtocolViolationError, match="R4"):  # it arrives after all
        federation.accept(federation.ids[3], train, federation.plan())
    federation.server.close_attempt()
    plan = federation.plan(2, vector=VectorName("train", 1, 1), model_digest=model_digest(1))
    train = federation.server.open_attempt(plan)
    for site in federation.ids:
        context = federation.accept(site, train, plan, federation.server.certificates)
        session = federation.sites[site]
        words = session.quantize(context, federation.vectors(site, context.layout))
        federation.server.add_upload(*session.mask_upload(context, words), site)
    federation.server.fix_survivors()
    federation.unmask(federation.ids)
    assert_sums(federation, federation.server.open_sums(), plan, federation.ids)


def test_a_promise_about_an_attempt_never_received_frees_nobody_from_an_answer():
    """The lead invents a later attempt at a vector that the site has answered for: its memory of that stays."""
    federation = Federation(4)
    federation.round(federation.plan(), federation.ids, federation.ids)
    plan = federation.plan(2, vector=VectorName("train", 1, 1), model_digest=model_digest(1))
    train = federation.server.open_attempt(plan)
    context = federation.server.context
    for site in federation.ids:
        with pytest.raises(ProtocolViolationError, match="R10: this vector was already answered for"):
            federation.sites[site].abandon_attempt(AbandonRequest(context.ctx, train).to_bytes())
        with pytest.raises(ProtocolViolationError, match="R10: this vector was already answered for"):
            federation.accept(site, train, plan)


@pytest.mark.parametrize("lie", ["another run", "beyond the run's end", "a vector of the past", "another ctx"])
def test_a_false_attempt_is_not_abandoned(lie):
    federation, requests = stuck()
    site = federation.ids[3]
    request = AbandonRequest.from_bytes(requests[site])
    asked = AttemptDescriptor.from_bytes(request.train)
    changes = {
        "another run": {"run": "run-2"},
        "beyond the run's end": {"exchange": 10_001},
        "a vector of the past": {"vector": VectorName("train", 1, 0)},
        "another ctx": {"attempt": 2},
    }
    before = load_journal(federation.journals[site])
    with pytest.raises(ProtocolViolationError):
        federation.sites[site].abandon_attempt(
            replace(request, train=replace(asked, **changes[lie]).to_bytes()).to_bytes()
        )
    assert load_journal(federation.journals[site]) == before
