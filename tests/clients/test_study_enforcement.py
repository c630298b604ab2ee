"""A lead that orders what nobody approved: one reply, whatever the data are, and nothing is booked."""

import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clients.terms import load_terms
from fedhealth.config import compose
from fedhealth.privacy.accounting.ledger import verify_ledger
from fedhealth.privacy.accounting.ledger_entry import get_booked_events
from fedhealth.privacy.accounting.ledger_folder import find_ledgers
from fedhealth.protocol.job import compose_job_config
from fedhealth.protocol.messages import EVALUATE, HANDSHAKE, TRAIN, Acceptance
from fedhealth.site.decline_reasons import UNLISTED_REASON
from fedhealth.site.study_store import StudyStore
from tests.clients.lying_lead import DECLINED, PRIVATE, RUN, LyingLead, read_error
from tests.conftest import COLUMNS

FAILED = (1016, "SiteTaskError")


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


def ask_all(lead):
    """Return what the lead reads of every kind of request; nothing may be booked or counted."""
    before = lead.books()
    replies = [ask(lead, kind) for kind in (HANDSHAKE, TRAIN, EVALUATE)]
    assert lead.books() == before
    assert StudyStore(lead.home).list_runs("crp") == ()
    return replies


REFUSED = [(UNLISTED_REASON,), DECLINED, DECLINED]


def test_an_option_of_the_hospitals_own_folder_is_refused_alike(pair, tmp_path, caplog):
    """The lead orders a description of the data that the hospitals have installed for something else."""
    option = tmp_path / "conf" / "data" / "own.yaml"
    option.parent.mkdir(parents=True)
    option.write_text("defaults: [demo, _self_]\ntabular: {crp: {center: 0.0, scale: 8.8e-37}}\n")
    replies = []
    for lead in pair:
        words, policy = lead.words, lead.home.policy.read_text()
        lead.home.policy.write_text(f"{policy}conf: {tmp_path / 'conf'}\n")
        lead.order("data=own")
        replies.append(ask_all(lead))
        lead.words, _ = words, lead.home.policy.write_text(policy)
    assert replies == [REFUSED, REFUSED]
    assert "data.tabular.crp.scale" in caplog.text


def test_installed_defaults_that_changed_with_a_release_are_refused_alike(pair, monkeypatch, caplog):
    compose_now = compose.hydra_compose

    def change_default(*arguments, **options):
        config = compose_now(*arguments, **options)
        config.data.tabular.crp.scale = 8.8e-37
        return config

    monkeypatch.setattr(compose, "hydra_compose", change_default)
    replies = []
    for lead in pair:
        digest = lead.digest
        lead.order()
        replies.append(ask_all(lead))
        lead.digest = digest
    assert replies == [REFUSED, REFUSED]
    assert "composes another configuration than crp version 1 holds: data.tabular.crp.scale" in caplog.text


@pytest.fixture(name="free_pair", scope="module")
def free_pair_(pair, tmp_path_factory):
    """Return the two hospitals, where no approval is needed."""
    return [LyingLead(tmp_path_factory.mktemp("free"), lead.data) for lead in pair]


CELLS = ("scale", "center", "levels", "required", "missing codes", "classes", "uncertain", "splits", "max_rejected")


@pytest.mark.parametrize("attack", CELLS)
def test_where_no_approval_is_needed_no_cell_decides_the_reply_either(free_pair, attack):
    replies = []
    for lead in free_pair:
        words, digest = lead.words, lead.digest
        lead.order(*ATTACKS[attack])
        replies.append(ask(lead, HANDSHAKE))
        assert find_booked_entries(lead) == []
        lead.words, lead.digest = words, digest
    assert replies[0] == replies[1]


def find_booked_entries(lead):
    """Return the entries of all ledgers, except counted failures."""
    entries = [each for _, path in find_ledgers(lead.home.state) for each in verify_ledger(path)]
    return [each for each in entries if get_booked_events([each], RUN)]


FAULTS = {
    "no row": lambda rows: ([], COLUMNS),
    "a missing column": lambda rows: (rows, [name for name in COLUMNS if name != "crp"]),
    "no label": lambda rows: ([{**row, "label": ""} for row in rows], COLUMNS),
    "no patient": lambda rows: ([*rows, {**rows[0], "patient_id": ""}], COLUMNS),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_data_that_cannot_be_used_at_all_get_one_reply_and_book_nothing(tmp_path, site_writer, table_writer, fault):
    """Without an approval each attempt counts for `limits.max_failures`: an order may bring such a fault about."""
    rows, columns = FAULTS[fault](site_writer(tmp_path / "data", "north"))
    kept = [{name: value for name, value in row.items() if name in columns} for row in rows]
    table_writer(tmp_path / "data" / "north" / "manifest.csv", kept, columns)
    lead = LyingLead(tmp_path, tmp_path / "data")
    assert ask(lead, HANDSHAKE) == FAILED
    assert find_booked_entries(lead) == []


def test_the_approved_run_is_answered_and_counted(meet):
    lead = meet(study={})
    assert lead.handshake() == ()
    assert read_error(lead.ask(TRAIN)) is None
    assert StudyStore(lead.home).list_runs("crp") == (RUN,)


OPEN = {"training.optimizer.lr": (0.001, 0.01), "personalization": ("none", "finetune"), "seed": (0, 1, 2)}
WITHIN = {
    "training.optimizer.lr": ("0.001", "0.01"),
    "personalization": ("none", "finetune"),
    "seed": ("0", "1", "2"),
}
OUTSIDE = {
    "training.optimizer.lr": ("0.002", "0.1"),
    "personalization": ("fedbn", "ditto"),
    "seed": ("3", "-1"),
    "training.batch_size": ("4", "16"),
    "privacy.epsilon": ("1", "7.9"),
    "privacy.delta": ("1e-7",),
    "secagg.min_honest": ("3",),
    "strategy.rounds": ("1", "3"),
    "strategy.min_sites": ("3",),
    "evaluation.min_group": ("1",),
    "data.tabular.ldh.scale": ("1", "1e-300"),
    "data.tabular.crp.words": ("null",),
    "data.split.test": ("0", "0.5"),
    "data.image.size": ("8",),
    "model.dim": ("4",),
    "purpose": ("describe",),
}


@pytest.fixture(name="open_lead", scope="module")
def open_lead_(tmp_path_factory, site_writer):
    """A hospital whose data are gone since it approved a study: whatever touches data would say so."""
    root = tmp_path_factory.mktemp("open")
    site_writer(root / "data", "north")
    words = (*PRIVATE, "seed=0", "training.optimizer.lr=0.001")
    lead = LyingLead(root, root / "data", words=words, study={"open": OPEN})
    shutil.rmtree(root / "data" / "north")
    return lead


def pick(pool):
    """Return a strategy of some overrides of a pool, each key once."""
    keys = st.lists(st.sampled_from(sorted(pool)), unique=True, max_size=3)
    return keys.flatmap(lambda chosen: st.tuples(*(st.sampled_from([f"{k}={v}" for v in pool[k]]) for k in chosen)))


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(inside=pick(WITHIN), outside=pick(OUTSIDE))
def test_any_order_outside_the_open_paths_is_refused_and_any_inside_composes_to_the_same_digest(
    open_lead, inside, outside
):
    keys = {override.partition("=")[0] for override in outside}
    chosen = [*(each for each in inside if each.partition("=")[0] not in keys), *outside]
    words = open_lead.words
    open_lead.order(*chosen)
    terms = load_terms(open_lead.sign().dumps(), open_lead.home)
    if outside:
        assert ask(open_lead, HANDSHAKE) == (UNLISTED_REASON,)
        assert terms.decision.jobs == ()
        assert "crp version 1" in terms.decision.reasons[0]
    else:
        assert terms.decision.reasons == ()
        (job,) = terms.decision.jobs
        compose_job_config(job)  # raises if its digest differs from the lead's
    open_lead.words = words
