"""A site's answers: what is in them, what is not, and what it refuses."""

import csv
import logging
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Message, RecordDict
from omegaconf import OmegaConf

from clients.app import get_institution, get_virtual_site, handle_message
from clients.context import SiteContext
from clients.institution import Institution
from fedhealth.config.compose import compose_config, compute_config_digest
from fedhealth.errors import ConfigError, DataError
from fedhealth.flower.in_process_grid import InProcessGrid
from fedhealth.privacy.accounting.ledger_entry import compute_spent_epsilon
from fedhealth.protocol.array_codec import pack_arrays, unpack_arrays
from fedhealth.protocol.count_codec import unpack_counts
from fedhealth.protocol.job import Job, compose_job_config
from fedhealth.protocol.messages import (
    DIRECTIVE,
    GLOBAL,
    HANDSHAKE,
    STATISTICS,
    TRAIN,
    UPDATE,
    Acceptance,
    Directive,
    PrivacyClaim,
)
from fedhealth.site.policy import SIMULATION_LIMITS
from strategies.app import build_initial_state
from tests.clients.private_site import PrivateSite
from tests.conftest import write_site, write_table


@pytest.fixture
def job(good_hospitals, tiny_overrides, tmp_path):
    overrides = tiny_overrides(good_hospitals)
    return Job("run", tuple(overrides), compute_config_digest(compose_config(overrides)), str(tmp_path))


@pytest.fixture
def ask(job):
    """Send one message to the site `north`."""
    grid = InProcessGrid(None, ["north"], {})

    def send(kind, content, job=job):
        message = Message(content, 1, kind)
        message.metadata.__dict__["_message_id"] = "1"
        return handle_message(message, grid._contexts[1], job)

    return send


def directive(job, number=1, cohort=("north",), digest=None):
    return Directive("run", digest or job.digest, number, number, 0, cohort).record()


def training(job, state, **changes):
    return RecordDict({DIRECTIVE: directive(job, **changes), GLOBAL: pack_arrays(state)})


def test_the_handshake_tells_name_and_weight(ask, job):
    reply = ask(HANDSHAKE, RecordDict({DIRECTIVE: directive(job, 0, ())}))
    acceptance = Acceptance.parse(reply.content)
    assert acceptance.site == "north"
    assert acceptance.reasons == ()
    site = get_virtual_site(InProcessGrid(None, ["north"], {})._contexts[1], job)
    assert acceptance.weights["shared"] == len(get_institution(site, job).setup.cohort.rows("train"))


def test_the_handshake_tells_what_a_private_run_will_spend(ask, job, tmp_path):
    assert Acceptance.parse(ask(HANDSHAKE, RecordDict({DIRECTIVE: directive(job, 0, ())})).content).privacy == (
        PrivacyClaim()
    )
    site = PrivateSite(tmp_path / "private", job.overrides)
    told = Acceptance.parse(site.send(HANDSHAKE, 0).content).privacy
    site.train()
    (booked,) = [entry for entry in site.entries if entry.kind == "book"]
    assert told.noise_multiplier == booked.event.noise_multiplier
    assert told.delta == 1e-6
    assert compute_spent_epsilon(site.entries, told.delta, "run") < told.epsilon <= 8.0


def test_a_tower_is_announced_for_enough_patients_and_not_for_their_many_studies(
    hospitals, tiny_overrides, table_writer, tmp_path
):
    """Thresholds count patients: one patient with many images does not make a tower that may be announced."""
    path = hospitals / "north" / "manifest.csv"
    with path.open() as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows):
        if number < 8:
            row |= {"patient_id": "north-0", "study_id": str(number)}
        else:
            row["image"] = ""
    table_writer(path, rows)
    overrides = [*tiny_overrides(hospitals), "data.split.validation=0", "data.split.test=0"]
    config = compose_config(overrides)
    weights = {}
    for least in (1, 3):
        limits = replace(SIMULATION_LIMITS, min_patients=least)
        site = SiteContext("north", tmp_path, tmp_path, tmp_path, limits)
        institution = Institution(site, OmegaConf.to_object(config), "0" * 64)
        weights[least] = institution._count_announced_rows(Directive("run", "0" * 64, 0, 0, 0, ()))
    assert weights[1]["image"] == 8
    assert set(weights[1]) - set(weights[3]) == {"image"}


def test_another_configuration_is_declined(ask, job):
    reply = ask(HANDSHAKE, RecordDict({DIRECTIVE: directive(job, 0, (), digest="other")}))
    assert Acceptance.parse(reply.content).reasons == ("the configuration differs from the lead's",)


def test_training_answers_with_update_and_sums_only(ask, job):
    state = build_initial_state(compose_job_config(job))
    reply = ask(TRAIN, training(job, state))
    assert set(reply.content) == {UPDATE, STATISTICS}
    update = unpack_arrays(reply.content[UPDATE])
    assert {name: array.shape for name, array in update.items()} == {n: a.shape for n, a in state.items()}
    assert any(np.abs(array).max() > 0 for array in update.values())
    statistics = unpack_counts(reply.content[STATISTICS])
    told = {"train.examples", "train.loss", "validation.positives", "validation.negatives"}
    differences = {"drift.squares", *(f"sites.{name}" for name in ("rows", "prevalence", "coverage"))}
    differences |= {f"sites.{name}" for name in ("image", "text", "tabular")}
    assert set(statistics) == told | differences
    assert all(vector.dtype == np.int64 for vector in statistics.values())


def test_the_same_task_gives_the_same_bits_whatever_came_before(ask, job):
    state = build_initial_state(compose_job_config(job))
    first = unpack_arrays(ask(TRAIN, training(job, state)).content[UPDATE])
    ask(TRAIN, training(job, {name: array + 1 for name, array in state.items()}, number=2))
    again = unpack_arrays(ask(TRAIN, training(job, state)).content[UPDATE])
    assert all(np.array_equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("changes", [{"cohort": ("south",)}, {"digest": "other"}])
def test_a_task_of_another_run_or_cohort_is_refused(ask, job, changes):
    reply = ask(TRAIN, training(job, build_initial_state(compose_job_config(job)), **changes))
    assert reply.has_error()
    assert reply.error.reason == "RequestMismatchError"


def test_other_arrays_than_the_model_shares_are_refused(ask, job):
    state = build_initial_state(compose_job_config(job))
    state.pop(next(iter(state)))
    assert ask(TRAIN, training(job, state)).has_error()


def test_a_fault_keeps_its_text_in_the_site(ask, job, monkeypatch, caplog):
    def fail(self, *arguments):
        raise DataError("patient 4711 has a bad row")

    monkeypatch.setattr("clients.institution.Institution.train", fail)
    logging.getLogger("fedhealth").propagate = True
    with caplog.at_level(logging.ERROR):
        reply = ask(TRAIN, training(job, {}))
    assert reply.error.code == 1000 + DataError.exit_code
    assert reply.error.reason == "DataError"
    assert "4711" in caplog.text

    monkeypatch.setattr("clients.institution.Institution.train", lambda *a: 1 / 0)
    assert ask(TRAIN, training(job, {})).error.reason == "InternalError"


def test_garbled_directives_are_answered_with_an_error(ask):
    assert ask(TRAIN, RecordDict({})).has_error()


def test_a_job_that_composes_differently_is_refused(job, ask):
    other = Job(job.run, job.overrides, "0" * 64, job.folder)
    with pytest.raises(ConfigError, match="digest 000000000000 at the lead"):
        compose_job_config(other)
    assert ask(HANDSHAKE, RecordDict({DIRECTIVE: directive(job, 0, ())}), job=other).error.reason == "ConfigError"


def test_one_patients_many_studies_do_not_move_a_private_weight(tmp_path, tiny_overrides):
    """A weight leaves without noise: of a patient no more studies count than training uses."""
    told = {}
    for name, studies in (("one", 1), ("many", 200)):
        rows = write_site(tmp_path / name, "north")
        more = [{**rows[0], "study_id": f"again{number}"} for number in range(studies - 1)]
        write_table(tmp_path / name / "north" / "manifest.csv", [*rows, *more])
        site = PrivateSite(tmp_path / f"run-{name}", tiny_overrides(tmp_path / name))
        told[name] = Acceptance.parse(site.send(HANDSHAKE, 0).content).weights
    steps = {tower: told["many"][tower] / told["one"][tower] for tower in told["one"]}
    assert all(1 <= step <= 2**0.5 * 1.1 for step in steps.values()), told  # at most the next power of sqrt 2
