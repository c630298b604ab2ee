"""Private training within a whole federation: what is spent, what leaves, and what is refused."""

import csv
import io
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fedhealth.config.compose import compose_config, compute_config_digest
from fedhealth.config.instantiate import instantiate
from fedhealth.data.dataset import prepare_dataset
from fedhealth.data.examples import build_examples
from fedhealth.errors import FederationError, ModelError, PrivacyError
from fedhealth.experiment.launch import launch_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.models.model_state import get_model_arrays, list_trained_arrays
from fedhealth.models.multimodal import build_model
from fedhealth.privacy.accounting.accountant import compute_epsilon
from fedhealth.privacy.accounting.ledger import Ledger, verify_ledger
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path
from fedhealth.privacy.accounting.plan import bucket_count
from fedhealth.privacy.accounting.release import record_failure
from fedhealth.privacy.accounting.spending import compute_total_epsilon, iter_run_spending
from fedhealth.privacy.context import AccountingContext
from fedhealth.privacy.engines.dp_optimizer import NoisyOptimizer
from fedhealth.privacy.mechanisms.noised_counts import decode_counts
from fedhealth.protocol.job import Job, compose_job_config
from fedhealth.runs.run_dir import RunDir
from fedhealth.training.dpsgd_trainer import DPSGDTrainer
from fedhealth.training.trainer import TrainingTask, Workload

PRIVATE = ("privacy=patient", "privacy.min_cohort=5", "privacy.max_records_per_patient=2", "training.threads=1")
ROUNDS = 2


class Hospital:
    """One site of the tiny federation, outside any federation."""

    def __init__(self, overrides: list[str], folder: Path, site: str = "north") -> None:
        self.config = compose_job_config(
            Job("run", tuple(overrides), compute_config_digest(compose_config(overrides)), str(folder))
        )
        cohort = prepare_dataset(self.config.data, site)
        self.model = build_model(self.config.model, self.config.data, 0)
        text = self.model.towers["text"].encoder if "text" in self.model.towers else None
        self.examples = build_examples(cohort, self.model.modalities, getattr(text, "tokenize", None))
        self.cohort, self.site, self.folder = cohort, site, folder / site

    @property
    def ledger(self) -> Path:
        return get_ledger_path(self.folder, "demo")

    def trainer(self, **changes) -> DPSGDTrainer:
        return instantiate(self.config.privacy, **changes)

    def task(self, seed: int = 0) -> TrainingTask:
        rows, config = self.cohort.rows("train"), self.config
        return TrainingTask(self.model, self.examples, rows, config.training, config.data.task.kind, seed)

    def place(self, number: int = 1, run: str = "run", rounds: int = ROUNDS) -> AccountingContext:
        return AccountingContext(run, self.site, self.folder, number, rounds)

    def state(self) -> dict[str, np.ndarray]:
        return get_model_arrays(self.model, list_trained_arrays(self.model))


@pytest.fixture
def hospital(good_hospitals, tiny_overrides, tmp_path) -> Callable[..., Hospital]:
    def make(*overrides: str, site: str = "north") -> Hospital:
        return Hospital([*tiny_overrides(good_hospitals), *PRIVATE, *overrides], tmp_path, site)

    return make


@pytest.mark.parametrize("secagg", ["on", "off"])
def test_a_federation_spends_what_the_plan_says(good_hospitals, tiny_overrides, tmp_path, secagg):
    exact = ["privacy.epsilon=4", "privacy.spare_rounds=0", f"secagg={secagg}"]
    overrides = [*tiny_overrides(good_hospitals), *PRIVATE, *exact]
    run = RunDir(tmp_path / "run")
    launch_run(RunSpec.compose(overrides, run))
    found = list(iter_run_spending(run.path))
    assert {each.site for each in found} == {"north", "south", "east"}
    for each in found:
        assert each.target == 4
        assert 3.9 < each.epsilon <= 4
        assert each.booked_count == ROUNDS + 1  # and the final model's scores
        assert each.declined_count == 0
        assert [number for number, _ in each.curve] == [1, 2, 3]
        assert each.curve[-1][1] == each.epsilon
    events = [json.loads(line) for line in (run.path / "events.jsonl").read_text().splitlines()]
    rounds = [event for event in events if event["event"] == "round_completed"]
    assert len(rounds) == ROUNDS
    for event in rounds:  # under secure aggregation what may not leave is sent as zeros
        assert not event["pooled"].get("loss")
        assert (event["pooled"].get("validation") or {}).get("auroc") is None
    evaluation = json.loads((run.path / "evaluation.json").read_text())
    assert set(evaluation) == {"validation", "test"}
    assert "4" in (run.path / "report.html").read_text()


def test_every_round_is_booked_before_its_first_step(hospital, monkeypatch):
    one = hospital()
    before = one.state()
    seen = []

    def crash(*arguments):
        seen.append([entry.kind for entry in verify_ledger(one.ledger)])
        raise KeyboardInterrupt

    monkeypatch.setattr("fedhealth.training.dpsgd_trainer.take_private_step", crash)
    with pytest.raises(KeyboardInterrupt):
        one.trainer().fit(one.task(), one.place())
    assert seen == [["book"]]
    assert len(verify_ledger(one.ledger)) == 1  # the crash cannot take it back
    assert all(np.array_equal(before[name], value) for name, value in one.state().items())


def test_a_round_trained_again_is_booked_again_and_the_run_ends_at_its_budget(hospital):
    one = hospital("privacy.score_release_share=0", "privacy.spare_rounds=0")
    trainer = one.trainer()
    for digest in ("first", "second"):  # the lead crashed and asks for the first round again
        trainer.fit(one.task(), one.place(1))
        trainer.record_release(one.place(1), digest)
        assert trainer.is_recorded_release(one.place(1), digest)
    before = one.state()
    with pytest.raises(PrivacyError, match="would exceed"):
        trainer.fit(one.task(), one.place(2))
    assert all(np.array_equal(before[name], value) for name, value in one.state().items())
    kinds = [entry.kind for entry in verify_ledger(one.ledger)]
    assert kinds == ["book", "release", "book", "release", "decline"]
    assert compute_total_epsilon(one.ledger)[0] <= 8


def test_a_spare_round_pays_for_one_repetition(hospital):
    one = hospital("privacy.score_release_share=0")
    trainer = one.trainer()
    for number, digest in enumerate(("first", "again", "second")):
        trainer.fit(one.task(), one.place(max(1, number)))
        trainer.record_release(one.place(max(1, number)), digest)
    assert 7.7 < compute_total_epsilon(one.ledger)[0] <= 8
    with pytest.raises(PrivacyError, match="would exceed"):
        trainer.fit(one.task(), one.place(2))


def test_a_killed_round_is_trained_again_under_its_booking(hospital):
    one = hospital()
    for _ in range(2):
        one.trainer().fit(one.task(), one.place(1))
    one.trainer().record_release(one.place(1), "words")
    assert [entry.kind for entry in verify_ledger(one.ledger)] == ["book", "retry", "release"]
    with pytest.raises(PrivacyError, match="no open booking pays"):
        one.trainer().record_release(one.place(1), "other words")


def test_small_hospitals_share_one_delta(hospital):
    one = hospital()
    assert one.trainer().make_plan(one.task(), one.place()).delta == one.trainer().delta == 1e-6
    [reason] = one.trainer(delta=1e-3).check_can_join(one.task(), one.place(0))
    assert "times the number of patients is above 0.01" in reason


def test_a_patient_with_many_studies_trains_on_as_many_as_allowed(hospital):
    one = hospital()
    task = one.task()
    examples = replace(task.examples, patient=task.examples.patient % 2)
    trainer = one.trainer(unit="record", max_records_per_patient=4, min_cohort=2)
    plan = trainer.make_plan(replace(task, examples=examples), one.place())
    assert plan.max_records_per_patient == 4
    assert plan.sample_rate == 1  # of eight studies, a batch of eight takes all
    trainer.fit(replace(task, examples=examples), one.place())
    [entry] = verify_ledger(one.ledger)
    assert (entry.unit, entry.max_records_per_patient) == ("record", 4)
    counts = np.unique(examples.patient[task.rows], return_counts=True)[1]
    assert min(counts) > 4
    work = Workload(tuple(counts.tolist()), task.model.modalities)
    assert trainer.plan_run(work, task.training, ROUNDS)[1] == plan


def test_the_smallest_cohort_counts_patients_and_not_their_studies(hospital):
    one = hospital()
    task = one.task()
    few = replace(task, examples=replace(task.examples, patient=task.examples.patient % 4))
    trainer = one.trainer(unit="record", min_cohort=5)
    assert len(task.rows) > 5
    assert trainer.check_can_join(few, one.place()) == ["the cohort is smaller than the policy's minimum of 5"]
    work = Workload((9, 9, 9, 9), task.model.modalities)
    with pytest.raises(PrivacyError, match="minimum of 5"):
        trainer.plan_run(work, task.training, ROUNDS)


def test_scores_of_a_failed_request_are_drawn_anew(hospital):
    one = hospital()
    trainer, task = one.trainer(), one.task()
    place = replace(one.place(ROUNDS), purpose="evaluate")
    scored = {f"test.{side}": np.full((1, 64), 3, np.int64) for side in ("positives", "negatives")}
    first = trainer.release_statistics(scored, task, place)
    assert record_failure(one.folder, "run") == 1
    with pytest.raises(PrivacyError, match="no open booking pays"):
        trainer.record_release(place, "the stored scores")
    second = trainer.release_statistics(scored, task, place)
    assert any(not np.array_equal(first[name], second[name]) for name in first)
    trainer.record_release(place, "the new scores")
    again = trainer.release_statistics(scored, task, place)
    assert all(np.array_equal(second[name], again[name]) for name in second)
    assert [entry.kind for entry in verify_ledger(one.ledger)] == ["book", "fail", "book", "release"]


def test_a_second_run_beyond_the_life_budget_is_declined_before_a_step(hospital):
    one = hospital("privacy.lifetime_epsilon=10")
    trainer = one.trainer()
    assert trainer.check_can_join(one.task(), one.place(0)) == []
    for number in range(1, ROUNDS + 1):
        trainer.fit(one.task(), one.place(number))
        trainer.record_release(one.place(number), f"words {number}")
    assert trainer.check_can_join(one.task(), one.place(ROUNDS)) == []  # the same run, resumed
    before, booked = one.state(), verify_ledger(one.ledger)
    reasons = trainer.check_can_join(one.task(), one.place(0, run="second"))
    assert reasons == ["the run would exceed the privacy budget of demo"]
    assert verify_ledger(one.ledger) == booked
    assert all(np.array_equal(before[name], value) for name, value in one.state().items())


def test_a_declining_site_is_named_with_its_reason(good_hospitals, tiny_overrides, tmp_path):
    overrides = [*tiny_overrides(good_hospitals), *PRIVATE, "privacy.min_cohort=1000", "strategy.min_sites=3"]
    run = RunDir(tmp_path / "run")
    with pytest.raises(FederationError, match="sites"):
        launch_run(RunSpec.compose(overrides, run))
    assert "smaller than the policy's minimum of 1000" in (run.path / "events.jsonl").read_text()
    assert list(iter_run_spending(run.path)) == []


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["privacy.min_cohort=18"], "the cohort is smaller than the policy's minimum of 18"),
        (["privacy.epsilon=1e-6", "privacy.delta=1e-9"], "unreachable"),
        (["privacy.noise_multiplier=0.5", "privacy.min_noise_multiplier=1"], "below this site's minimum 1"),
        (["privacy.max_epsilon=1e-6", "privacy.delta=1e-9"], "unreachable"),
    ],
)
def test_what_the_policy_forbids_is_declined_and_nothing_is_spent(hospital, overrides, reason):
    one = hospital(*overrides)
    [said] = one.trainer().check_can_join(one.task(), one.place(0))
    assert reason in said
    with pytest.raises(PrivacyError):
        one.trainer().fit(one.task(), one.place())
    assert not one.ledger.exists() or verify_ledger(one.ledger) == ()


def test_how_far_below_the_minimum_a_cohort_is_stays_at_the_site(hospital):
    one = hospital("privacy.min_cohort=18")
    task = one.task()
    fewer = replace(task, rows=task.rows[:3])
    assert one.trainer().check_can_join(task, one.place(0)) == one.trainer().check_can_join(fewer, one.place(0))


def test_the_sites_limits_win_over_the_run(hospital):
    one = hospital("privacy.epsilon=8")
    asked = one.trainer().make_plan(one.task(), one.place())
    limited = one.trainer(max_epsilon=1.0).make_plan(one.task(), one.place())
    assert limited.epsilon <= 1 < asked.epsilon <= 8
    noisier = one.trainer(min_noise_multiplier=50.0).make_plan(one.task(), one.place())
    assert noisier.noise_multiplier == 50
    assert (
        one.trainer(noise_multiplier=60.0, min_noise_multiplier=50.0)
        .make_plan(one.task(), one.place())
        .noise_multiplier
        == 60
    )


def test_the_ledgers_faults_are_refused_and_nothing_is_lost(hospital, monkeypatch):
    one = hospital()
    trainer = one.trainer()
    trainer.fit(one.task(), one.place(1))
    kept = one.ledger.read_bytes()

    one.ledger.write_bytes(kept.replace(b'"round":1', b'"round":9'))
    assert "edited, cut or damaged" in trainer.check_can_join(one.task(), one.place(0))[0]
    with pytest.raises(PrivacyError, match="edited, cut or damaged"):
        trainer.fit(one.task(), one.place(2))
    one.ledger.write_bytes(b"")
    assert "1 entries were written, 0 are left" in trainer.check_can_join(one.task(), one.place(0))[0]
    one.ledger.write_bytes(kept)

    now = time.time()
    monkeypatch.setattr("time.time", lambda: now - 3600)
    assert "clock" in trainer.check_can_join(one.task(), one.place(0))[0]
    monkeypatch.undo()

    with Ledger.open(one.ledger):
        assert "another run" in trainer.check_can_join(one.task(), one.place(0))[0]
        with pytest.raises(PrivacyError, match="another run"):
            trainer.fit(one.task(), one.place(2))
    assert one.ledger.read_bytes() == kept


def test_noise_and_sampling_do_not_follow_the_seed(hospital):
    one = hospital()
    start = {name: torch.from_numpy(value) for name, value in one.state().items()}
    ends = []
    for number in (1, 2):
        one.model.load_state_dict(start, strict=False)
        one.trainer().fit(one.task(seed=5), one.place(number))
        ends.append(one.state())
    assert all(not np.array_equal(ends[0][name], ends[1][name]) for name in start)


def test_no_weight_stays_without_noise_and_nothing_else_leaves(hospital):
    one = hospital()
    before = one.state()
    one.trainer().fit(one.task(), one.place())
    after = one.state()
    for name, value in after.items():
        still = float((value == before[name]).mean())  # noise lies on a grid: one value in eighty gets none in a step
        assert still < 0.2, name
    update = {"fusion.head.0.weight": np.ones((2, 2), np.float32), "running_mean": np.ones(3, np.float32)}
    protected = one.trainer().protect_update(update, one.task(), one.place())
    assert protected["fusion.head.0.weight"].all()
    assert not protected["running_mean"].any()


@pytest.mark.parametrize("kept", ["fedper", "fedbn", "fedtower personalization.tower=tabular"])
def test_what_stays_at_a_site_and_feeds_shared_gradients_is_noised_too(
    good_hospitals, tiny_overrides, tmp_path, monkeypatch, kept
):
    overrides = [*tiny_overrides(good_hospitals), *PRIVATE, *f"personalization={kept}".split(), "strategy.rounds=1"]
    noised = []
    add_noise = NoisyOptimizer.add_noise

    def seen(optimizer):
        add_noise(optimizer)
        noised.append(sum(p.numel() for p in optimizer.params if p.grad is not None))

    monkeypatch.setattr(NoisyOptimizer, "add_noise", seen)
    launch_run(RunSpec.compose(overrides, RunDir(tmp_path / "run")))
    config = compose_job_config(
        Job("run", tuple(overrides), compute_config_digest(compose_config(overrides)), str(tmp_path))
    )
    model = build_model(config.model, config.data, 0)
    assert set(noised) == {sum(p.numel() for p in model.parameters() if p.requires_grad)}


def test_a_round_in_bf16_passes_the_audit_and_leaves_float32(hospital):
    one = hospital("training.precision=bf16", "training.channels_last=true")
    before = one.state()
    assert one.trainer().check_can_join(one.task(), one.place(0)) == []
    one.trainer().fit(one.task(), one.place())
    assert {p.dtype for p in one.model.parameters()} == {torch.float32}
    assert all(p.is_contiguous() for p in one.model.parameters())
    assert any(not np.array_equal(value, before[name]) for name, value in one.state().items())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_round_on_a_gpu(hospital):
    one = hospital()
    one.model.cuda()
    before = one.state()
    assert one.trainer().check_can_join(one.task(), one.place(0)) == []
    one.trainer().fit(one.task(), one.place())
    assert all(float((value == before[name]).mean()) < 0.2 for name, value in one.state().items())


def test_round_statistics_stay_and_the_final_scores_are_noised_once(hospital):
    one = hospital("privacy.epsilon=2")
    trainer, task, place = one.trainer(), one.task(), one.place(ROUNDS)
    counts = np.zeros((1, 64), np.int64)
    counts[0, 30] = 20
    fitted = {"validation.positives": counts, "train.loss": np.array([5]), "train.examples": np.array([17])}
    assert trainer.release_statistics(fitted, task, place) == {}
    scored = {f"{split}.{side}": counts for split in ("validation", "test") for side in ("positives", "negatives")}
    released = trainer.release_statistics(scored, task, place)
    assert set(released) == {*scored, "validation.noise", "test.noise"}
    assert all(released[name].shape == counts.shape and released[name].dtype == np.int64 for name in scored)
    assert all(not np.array_equal(decode_counts(released[name]), counts) for name in scored)
    again = trainer.release_statistics(dict.fromkeys(scored, counts * 7), task, place)
    assert all(np.array_equal(released[name], again[name]) for name in scored)
    [entry] = verify_ledger(one.ledger)
    assert entry.event == trainer.make_plan(task, place).score_release_event


def test_without_a_share_no_scores_are_released(hospital):
    one = hospital("privacy.score_release_share=0")
    assert (
        one.trainer().release_statistics({"test.positives": np.ones((1, 64), np.int64)}, one.task(), one.place()) == {}
    )
    assert not one.ledger.exists()


def test_training_and_scores_together_stay_within_epsilon(hospital):
    one = hospital("privacy.epsilon=3")
    plan = one.trainer().make_plan(one.task(), one.place())
    assert plan.score_release_event is not None
    assert compute_epsilon([plan.run_event, plan.score_release_event], plan.delta) == plan.epsilon <= 3
    assert compute_epsilon([plan.run_event], plan.delta) < plan.epsilon


def test_announced_weights_are_coarse(hospital):
    trainer = hospital().trainer()
    assert trainer.compute_aggregation_weights({"shared": 17, "image": 23, "text": 0}) == {
        "shared": 16,
        "image": 22,
        "text": 0,
    }
    one = hospital()
    plan = trainer.make_plan(one.task(), one.place())
    assert plan.sample_rate == 8 / bucket_count(len(one.task().rows))  # the batch size over the bucketed cohort
    assert plan.expected_batch_size == 8


@pytest.mark.parametrize("engine", ["bk", "opacus", "oracle"])
@pytest.mark.parametrize("clipping", ["automatic", "flat", "tower"])
def test_every_engine_and_clipping_trains(hospital, engine, clipping):
    one = hospital(f"privacy.engine={engine}", f"privacy.clipping={clipping}")
    assert one.trainer().check_can_join(one.task(), one.place(0)) == []
    report = one.trainer().fit(one.task(), one.place())
    assert report.steps == 2
    assert np.isnan(report.loss)  # a loss has no noise


@pytest.mark.parametrize("kept", ["image", "text", "tabular"])
def test_a_single_modality_trains(hospital, kept):
    absent = [f"model.{name}=null" for name in ("image", "text", "tabular") if name != kept]
    one = hospital(*absent)
    assert one.trainer().check_can_join(one.task(), one.place(0)) == []
    one.trainer().fit(one.task(), one.place())


def test_modalities_that_no_patient_has_train(hospitals, tiny_overrides, tmp_path, site_writer):
    for column in ("image", "text"):
        path = hospitals / "north" / "manifest.csv"
        rows = path.read_text().splitlines()
        place = rows[0].split(",").index(column)
        table = list(csv.reader(io.StringIO(path.read_text())))
        for row in table[1:]:
            row[place] = ""
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(table)
    one = Hospital([*tiny_overrides(hospitals), *PRIVATE], tmp_path)
    assert one.trainer().check_can_join(one.task(), one.place(0)) == []
    one.trainer().fit(one.task(), one.place())


def test_a_model_that_mixes_patients_is_declined_by_layer_name(hospital):
    one = hospital()
    one.model.fusion.head[0] = torch.nn.Sequential(torch.nn.BatchNorm1d(24), torch.nn.Linear(24, 64))
    [reason] = one.trainer().check_can_join(one.task(), one.place(0))
    assert "fusion.head.0.0 (BatchNorm1d)" in reason


def test_a_failing_self_check_is_declined_without_its_numbers(hospital, monkeypatch):
    def fail(*arguments):
        raise PrivacyError("patient 3 moves the sum by 7.7 times the bound")

    monkeypatch.setattr("fedhealth.training.dpsgd_trainer.run_self_check", fail)
    one = hospital()
    [reason] = one.trainer().check_can_join(one.task(), one.place(0))
    assert "self-check" in reason
    assert "7.7" not in reason


def test_each_study_is_a_unit_of_its_own_with_record(hospital):
    one = hospital()
    task = one.task()
    together = replace(task, examples=replace(task.examples, patient=task.examples.patient // 2))
    patients = one.trainer().make_plan(together, one.place())
    records = one.trainer(unit="record").make_plan(together, one.place())
    assert patients.unit == "patient"
    assert records.unit == "record"
    assert patients.expected_batch_size == records.expected_batch_size == 8
    assert patients.sample_rate > records.sample_rate


def test_a_held_out_patient_counts_with_one_study(hospital):
    one = hospital()
    study = np.arange(len(one.examples.patient)) // 2
    patient = study // 2
    examples = replace(one.examples, patient=patient, study=study)
    rows = np.arange(12)
    assert one.trainer().select_scored_rows(examples, rows).tolist() == [0, 1, 4, 5, 8, 9]
    assert one.trainer(unit="record").select_scored_rows(examples, rows).tolist() == rows.tolist()
    assert one.trainer().select_scored_rows(examples, rows[:0]).tolist() == []


def test_diverging_is_said(hospital):
    one = hospital()
    one.model.fusion.head[0].weight.data.fill_(float("inf"))
    with pytest.raises(ModelError, match="diverged"):
        one.trainer().fit(one.task(), one.place())


def test_training_without_a_place_is_refused(hospital):
    one = hospital()
    with pytest.raises(PrivacyError, match="needs a ledger"):
        one.trainer().fit(one.task())


@pytest.mark.parametrize(
    "changes",
    [{"unit": "hospital"}, {"engine": "none"}, {"sample_rate": 1.5}, {"dataset": "../other"}, {"dataset": ""}],
)
def test_words_that_make_no_sense_are_refused(hospital, changes):
    with pytest.raises(PrivacyError):
        hospital().trainer(**changes)


def test_two_processes_cannot_spend_at_once(hospital):
    one = hospital()
    with Ledger.open(one.ledger):
        child = os.fork()
        if child == 0:
            try:
                one.trainer().fit(one.task(), one.place())
            except PrivacyError:
                os._exit(3)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    assert verify_ledger(one.ledger) == ()


def test_batch_normalisation_is_declined_until_it_is_replaced(hospital):
    overrides = ("model/image=resnet18", "model.text=null", "model.tabular=null")
    [reason] = hospital(*overrides).trainer().check_can_join(hospital(*overrides).task(), hospital(*overrides).place(0))
    assert "computes statistics over the batch" in reason
    one = hospital(*overrides, "model.image.norm=group", "training.local_steps=1")
    assert one.trainer().check_can_join(one.task(), one.place(0)) == []
    assert one.trainer().fit(one.task(), one.place()).steps == 1
