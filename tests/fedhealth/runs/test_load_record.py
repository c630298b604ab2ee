import math

from fedhealth.runs.load_record import collect


def test_rounds_and_the_final_evaluation_are_kept_apart(run):
    run.failed = {("A", 2)}
    found = collect(run.write())
    assert [each.number for each in found.rounds] == [1, 2, 3]
    assert [len(each.answers) for each in found.rounds] == [3, 2, 3]
    assert found.final.number == 3
    assert found.final.pooled["test"]["auroc"] == 0.881
    assert [each.number for each in found.missed("A")] == [2]
    assert found.taking_part == tuple(run.sites)
    assert found.training_seconds == 2 * (len(run.default_events()) - 7)  # from `started` to the last event


def test_the_exact_scores_of_the_comparison_stand_in_for_the_histograms(run):
    assert collect(run.write()).test.metrics["auroc"].value == 0.882
    (run.folder / "comparison.json").unlink()
    assert collect(run.folder).test.metrics["auroc"].value == 0.881


def test_a_round_begun_again_after_a_crash_counts_once_and_its_bytes_twice(run):
    events = run.default_events()
    first = next(k for k, event in enumerate(events) if event["event"] == "round_started")
    begun = events[first : first + 2]  # round_started and one answer, then the crash
    run.events = [*events[:first], *begun, *events[first:]]
    found = collect(run.write())
    assert found.rounds_done == 3
    assert sum(answer.site == "A" for each in found.exchanges for answer in each.answers) == 5


def test_an_empty_run_directory(tmp_path):
    found = collect(tmp_path)
    assert found.sites == ()
    assert found.rounds == ()
    assert found.final is None
    assert found.test is None
    assert found.comparison is None
    assert found.protected("privacy") is None
    assert math.isnan(found.training_seconds)


def test_protection_is_read_from_the_configuration(run):
    found = collect(run.write())
    assert (found.protected("privacy"), found.protected("secagg.lead")) == (False, False)
    run.config = run.config.replace(
        "fedhealth.training.trainer.PlainTrainer", "fedhealth.privacy.trainer.PrivateTrainer"
    )
    assert collect(run.write()).protected("privacy") is True


def test_null_is_not_a_number(run):
    run.evaluation["test"]["auroc"] = {"value": None, "low": None, "high": None}
    run.comparison = None
    assert math.isnan(collect(run.write()).test.metrics["auroc"].value)
