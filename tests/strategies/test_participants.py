"""Who takes part: every refusal names the hospital, the reason and the fix, in the error and in the run's events."""

import pytest
from flwr.app import Error, Message, RecordDict
from flwr.clientapp import ClientApp

from fedhealth.errors import FederationError
from fedhealth.flower.in_process_grid import InProcessGrid, reply_in_turn
from fedhealth.protocol.messages import ACCEPTANCE, Acceptance
from fedhealth.protocol.refusals import OTHER_KIT, JobRefusedError, build_refusal
from strategies.aggregation.mean import WeightedMean
from strategies.participants import Participation, gather_members

SITES = ("charite", "klinikum", "st-brigid")
NAMES = dict(enumerate(SITES, 1))


class Handshake:
    """Three sites; `answers` replaces what one of them replies."""

    def __init__(self, **answers):
        self.answers, self.events = answers, []
        app = ClientApp()
        app.query("handshake")(self.reply)
        self.grid = InProcessGrid(reply_in_turn(app), SITES, {})

    def reply(self, message, context):
        site = context.node_config["site"]
        answer = self.answers.get(site.replace("-", "_"), ())
        if isinstance(answer, Error):
            return Message(answer, reply_to=message)
        name, reasons = (answer, ()) if isinstance(answer, str) else (site, answer)
        return Message(
            RecordDict({ACCEPTANCE: Acceptance(name, reasons, {"shared": 1}, "").record()}), reply_to=message
        )

    def gather(self, names=NAMES, timeout=5.0, **cohort):
        def event(kind, **fields):
            self.events.append({"event": kind, **fields})

        participation = Participation(SITES, names=names, **cohort)
        return gather_members(self.grid, participation, WeightedMean(), RecordDict(), event, timeout)

    def told(self, site):
        return next(each for each in self.events if each["event"] == "handshake" and each["site"] == site)


def test_a_refusal_names_hospital_reason_and_fix():
    handshake = Handshake(klinikum=build_refusal(JobRefusedError("", "", OTHER_KIT)))
    with pytest.raises(FederationError) as refused:
        handshake.gather()
    assert f"klinikum: {OTHER_KIT.problem}. {OTHER_KIT.advice}" in refused.value.problem
    assert "node" not in refused.value.problem
    told = handshake.told("klinikum")
    assert (told["reasons"], told["fix"]) == ([OTHER_KIT.problem], OTHER_KIT.advice)


def test_a_refusal_is_told_although_the_run_goes_on_without_the_hospital():
    handshake = Handshake(klinikum=Error(1003, "DataError"))
    members = handshake.gather(min_sites=2)
    assert sorted(members.nodes) == ["charite", "st-brigid"]
    assert handshake.told("klinikum")["reasons"] == ["it reported DataError"]
    assert handshake.told("charite")["reasons"] == []


def test_a_policy_that_declines_has_a_fix_too():
    handshake = Handshake(klinikum=("secure aggregation is required here",))
    with pytest.raises(FederationError, match=r"klinikum: secure aggregation is required here\. Change the run, or"):
        handshake.gather()


def test_a_hospital_cannot_take_the_name_of_another():
    handshake = Handshake(klinikum="charite")
    members = handshake.gather(min_sites=2)
    assert sorted(members.nodes) == ["charite", "st-brigid"]
    assert "calls itself 'charite'" in handshake.told("klinikum")["reasons"][0]


def test_hospitals_that_are_not_connected_are_named():
    handshake = Handshake()
    handshake.grid.get_node_ids = lambda: [1, 2]
    with pytest.raises(FederationError, match=r"st-brigid: not connected\. Ask its staff"):
        handshake.gather(timeout=0.3)
