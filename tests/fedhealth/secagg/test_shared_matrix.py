"""Kills and drop-outs with shared noise: every place of one against every place of the other.

What opens is the sum of the survivors' draws, with the promised noise; no draw is in two opened sums; after whatever
happened, a run goes on with new draws.
"""

import itertools

import numpy as np
import pytest

from fedhealth.secagg.errors import ProtocolViolationError
from tests.fedhealth.secagg.federation import name
from tests.fedhealth.secagg.test_shared_noise import NoisyFederation, check_noise

DROPPED, KILLED = name(0), name(1)
DROPS = (None, "before it accepts", "before it uploads", "before it answers")
KILLS = (None, *itertools.product(("site", "lead"), ("accepted", "uploaded", "fixed", "asked", "answered")))


class DrawingFederation(NoisyFederation):
    """Sites whose draws are noted, and one round with a drop-out and a kill."""

    def __post_init__(self):
        self.draws, self.opened = {}, []
        super().__post_init__()

    def values(self, site, segment):
        found = super().values(site, segment)
        self.draws[site] = found["w"]
        return found

    def play(self, exchange, drop=None, kill=None):
        """Play an exchange; what it opens is noted beside the draws of its survivors."""
        plan = self.plan(exchange, layout=(self.noised(),))
        descriptor = self.server.open_attempt(plan)
        for site in self.ids:
            if site != DROPPED or drop != "before it accepts":
                self.upload(site, descriptor, plan, drop, kill)
        self.kill(kill, "uploaded")
        survivors = self.server.fix_survivors()
        self.kill(kill, "fixed")
        if request := self.server.sign_request():
            for site in survivors:
                self.server.add_signature(self.sites[site].sign_survivors(request), site)
        requests = self.server.unmask_requests()
        self.kill(kill, "asked")
        self.answer([site for site in survivors if site != DROPPED or drop != "before it answers"], requests, kill)
        found = self.server.open_sums().vectors["shared"]["w"]
        check_noise(found, plan.layout[0], len(survivors), self.lead.thresholds.colluders)
        self.opened.append((found, [self.draws[site] for site in survivors], plan.layout[0].entries[0].step))

    def upload(self, site, descriptor, plan, drop, kill):
        context = self.accept(site, descriptor, plan)
        if site == KILLED:
            self.kill(kill, "accepted")
            if kill == ("site", "accepted"):
                return  # without its keys of this attempt
        if site != DROPPED or drop != "before it uploads":
            session = self.sites[site]
            masked = session.mask_upload(context, session.quantize(context, self.vectors(site, context.layout)))
            self.server.add_upload(*masked, site)

    def answer(self, sites, requests, kill):
        for place, site in enumerate(sites):
            self.server.add_unmask_reply(self.sites[site].reply_unmask(requests[site]), site)
            if place == 1:
                self.kill(kill, "answered")
        if kill == ("lead", "answered"):  # it asks again, and gets the same bytes
            for site in sites:
                self.server.add_unmask_reply(self.sites[site].reply_unmask(self.server.unmask_requests()[site]), site)

    def kill(self, kill, moment):
        if kill == ("site", moment):
            self.restart(KILLED)
        elif kill == ("lead", moment):
            self.restart_server()


def can_open(federation, drop, kill):
    """A lead killed before its survivors are on the disk loses the attempt; else enough sites are needed."""
    if kill and kill[0] == "lead" and kill[1] in ("accepted", "uploaded", "fixed"):
        return False
    uploads = federation.n - (drop in DROPS[1:3]) - (kill == ("site", "accepted"))
    answers = uploads - (drop == DROPS[3])
    return min(uploads, answers) >= federation.lead.thresholds.threshold


@pytest.mark.parametrize("n", [4, 5, 8])  # with eight the survivors sign their list
@pytest.mark.parametrize("drop", DROPS)
def test_nothing_opens_with_less_noise_and_no_draw_is_in_two_sums(n, drop):
    for kill in KILLS:
        federation = DrawingFederation(n)
        if can_open(federation, drop, kill):
            federation.play(1, drop, kill)
        else:
            with pytest.raises(ProtocolViolationError):
                federation.play(1, drop, kill)
            assert not federation.opened, (drop, kill)
        federation.announce()
        federation.play(2)
        for found, draws, step in federation.opened:
            assert np.array_equal(found, sum(draws) * step), (drop, kill)
        used = [draw.tobytes() for _, draws, _ in federation.opened for draw in draws]
        assert len(set(used)) == len(used), (drop, kill)


def test_the_matrix_notices_a_site_that_keeps_its_draw(monkeypatch):
    """The test above can fail: a site that adds the same draw to every sum is found."""
    kept, draw = {}, DrawingFederation.values

    def keep(self, site, segment):
        self.draws[site] = kept.setdefault(site, draw(self, site, segment)["w"])
        return {"w": self.draws[site], **{e.name: np.zeros(e.length, np.int64) for e in segment.entries[1:]}}

    monkeypatch.setattr(DrawingFederation, "values", keep)
    with pytest.raises(AssertionError):
        test_nothing_opens_with_less_noise_and_no_draw_is_in_two_sums(4, None)
