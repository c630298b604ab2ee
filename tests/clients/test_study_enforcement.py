"""A lead that orders what nobody approved: one reply, whatever the data are, and nothing is booked."""

import pytest

from fedhealth.protocol.messages import EVALUATE, HANDSHAKE, TRAIN, Acceptance
from fedhealth.site.decline_reasons import UNLISTED_REASON
from fedhealth.site.study_store import StudyStore
from tests.clients.lying_lead import DECLINED, RUN, LyingLead, read_error


@pytest.fixture(name="pair", scope="module")
def pair_(tmp_path_factory, site_writer, table_writer):
    """Return two hospitals that approved one study; in the second, one patient's CRP is far higher."""
    found = []
    for name, level in (("low", "40.0"), ("high", "500.0")):
        root = tmp_path_factory.mktemp(name)
        rows = site_writer(root / "data", "north")
        rows[3]["crp"] = level  # a scale of 8.8e-37 fails, without a study, where a value is above 300
        table_writer(root / "data" / "north" / "manifest.csv", rows)
        found.append(LyingLead(root, root / "data", study={}))
    return found


def ask(lead, kind):
    """Return what the lead reads of a reply."""
    directive = lead.directive(kind) if kind != HANDSHAKE else lead.directive(TRAIN, 0, cohort=())
    reply = lead.send(kind, directive) if kind == HANDSHAKE else lead.ask(kind)
    return read_error(reply) if reply.has_error() else Acceptance.parse(reply.content).reasons


ATTACKS = {
    "scale": ("data.tabular.crp.center=0", "data.tabular.crp.scale=8.8e-37"),
    "center": ("data.tabular.crp.center=1e308", "data.tabular.crp.scale=1e-3"),
    "levels": ("data.tabular.crp.kind=categorical", "data.tabular.crp.levels=[40.0]"),
    "required": ("data.tabular.crp.required=true", "data.tabular.crp.valid_range=[-100, 300]"),
    "missing codes": ("data.tabular.crp.missing_codes=[500.0]", "data.tabular.crp.required=true"),
    "classes": ("data.task.classes=[1, 2]",),
    "uncertain": ("data.task.uncertain=drop",),
    "image geometry": ("data.image.size=17",),
    "splits": ("data.split.validation=0.9", "data.split.test=0.05"),
    "max_rejected": ("data.max_rejected=0.0",),
    "labels": ("data.columns.labels=[crp]",),
    "manifest": ("data.manifest=other.csv",),
    "public table": ("data.public.manifest=north.csv",),
    "public folder": ("data.public.root=north",),
    "another option": ("data=heart",),
    "seed": ("seed=5",),
    "noise": ("privacy.noise_multiplier=3",),
    "steps": ("training.local_steps=2",),
    "evaluation": ("evaluation.bins=32",),
    "threshold": ("secagg.min_sites=4",),
    "method": ("personalization=ditto",),
}


@pytest.mark.parametrize("overrides", ATTACKS.values(), ids=ATTACKS)
def test_whatever_an_order_changes_is_refused_alike_before_data_are_touched(pair, overrides, caplog):
    replies = []
    for lead in pair:
        before, words, digest = lead.books(), lead.words, lead.digest
        lead.order(*overrides)
        replies.append([ask(lead, kind) for kind in (HANDSHAKE, TRAIN, EVALUATE)])
        assert lead.books() == before
        assert StudyStore(lead.home).list_runs("crp") == ()
        lead.words, lead.digest = words, digest
    assert replies[0] == replies[1] == [(UNLISTED_REASON,), DECLINED, DECLINED]
    assert "crp version 1" in caplog.text  # the hospital's own log has the sentence


def test_the_approved_run_is_answered_and_counted(meet):
    lead = meet(study={})
    assert lead.handshake() == ()
    assert read_error(lead.ask(TRAIN)) is None
    assert StudyStore(lead.home).list_runs("crp") == (RUN,)
