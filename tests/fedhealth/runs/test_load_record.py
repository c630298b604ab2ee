import math

import pytest

from fedhealth.errors import ConfigError
from fedhealth.runs.load_record import load_run_record


def test_rounds_and_the_final_evaluation_are_kept_apart(run):
    run.failed = {("A", 2)}
    found = load_run_record(run.write())
    assert [each.number for each in found.rounds] == [1, 2, 3]
    assert [len(each.replies) for each in found.rounds] == [3, 2, 3]
    assert found.final.number == 3
    assert found.final.pooled["test"]["auroc"] == 0.881
    assert [each.number for each in found.list_missed_rounds("A")] == [2]
    assert found.participating_sites == tuple(run.sites)
    assert found.training_seconds == 2 * (len(run.default_events()) - 7)  # from `started` to the last event


def test_the_exact_scores_of_the_comparison_stand_in_for_the_histograms(run):
    assert load_run_record(run.write()).test_result.metrics["auroc"].value == 0.882
    (run.folder / "comparison.json").unlink()
    assert load_run_record(run.folder).test_result.metrics["auroc"].value == 0.881


def test_a_round_begun_again_after_a_crash_counts_once_and_its_bytes_twice(run):
    events = run.default_events()
    first = next(k for k, event in enumerate(events) if event["event"] == "round_started")
    begun = events[first : first + 2]  # round_started and one answer, then the crash
    run.events = [*events[:first], *begun, *events[first:]]
    found = load_run_record(run.write())
    assert found.completed_rounds == 3
    assert sum(reply.site == "A" for each in found.exchanges for reply in each.replies) == 5


def test_an_empty_run_directory(tmp_path):
    found = load_run_record(tmp_path)
    assert found.sites == ()
    assert found.rounds == ()
    assert found.final is None
    assert found.test_result is None
    assert found.comparison is None
    assert found.is_private is None
    assert math.isnan(found.training_seconds)


def test_protection_is_what_the_parts_declared_at_launch(run):
    found = load_run_record(run.write())
    assert (found.is_private, found.has_secure_aggregation) == (False, False)
    run.info["capabilities"]["trainer_is_private"] = True
    assert load_run_record(run.write()).is_private is True
    del run.info["capabilities"]
    assert load_run_record(run.write()).is_private is None
    run.info["capabilities"] = {"trainer_is_private": "yes"}
    with pytest.raises(ConfigError, match=r"capabilities.trainer_is_private: 'yes' is not true or false; capabilities"):
        load_run_record(run.write())


def test_null_is_not_a_number(run):
    run.evaluation["test"]["auroc"] = {"value": None, "low": None, "high": None}
    run.comparison = None
    assert math.isnan(load_run_record(run.write()).test_result.metrics["auroc"].value)
