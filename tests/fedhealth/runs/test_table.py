import json
import math

import pytest

from fedhealth.cli.compare import PAGE, TABLE, run_compare
from fedhealth.errors import ConfigError
from fedhealth.evaluation.metrics import Estimate
from fedhealth.experiment.sweep_job import read_validation_auroc
from fedhealth.report.render import render_page
from fedhealth.report.sweep_page import build_sweep_page, choose_best_run, summarize_sweep
from fedhealth.runs.run_dir import RunDir
from fedhealth.runs.table import find_pareto_front, format_csv, load_run_entries, subtract_estimates


def write(folder, number, auroc, epsilon, sent, state="completed", delta=1e-6, unit="patient"):
    """Leave a run with a validation score, a privacy target and some traffic."""
    run = folder / str(number)
    run.mkdir(parents=True)
    capabilities = {"trainer_is_private": epsilon is not None, "lead_sees_single_updates": True, "data_are_local": True}
    overrides = ["a=1", f"seed={number}"]
    about = {"state": state, "name": "trial", "overrides": overrides, "capabilities": capabilities}
    if state == "failed":
        about["error"] = {"problem": "No site answered."}
    (run / "run.json").write_text(json.dumps(about))
    privacy = {"epsilon": epsilon, "delta": delta, "unit": unit} if epsilon else {}
    (run / "config.yaml").write_text(json.dumps({"privacy": privacy, "data": {"sites": ["A"]}}))
    answered = {"event": "site_answered", "round": 1, "site": "A", "seconds": 1.0, "sent": 0, "received": sent}
    pooled = {"validation": {"auroc": auroc}}
    events = [
        {"event": "round_started", "round": 1},
        answered,
        {"event": "round_completed", "round": 1, "seconds": 1.0, "pooled": pooled},
    ]
    (run / "events.jsonl").write_text("".join(json.dumps({"time": 1.0, **event}) + "\n" for event in events))
    if state == "completed":
        score = {"value": auroc, "low": None if auroc is None else auroc - 0.1, "high": auroc}
        (run / "evaluation.json").write_text(json.dumps({"validation": {"studies": 9, "auroc": score}}))
    return run


@pytest.fixture
def sweep(tmp_path):
    for number, row in enumerate([(0.9, 8, 100), (0.8, 1, 100), (0.85, 8, 50), (0.7, 8, 100), (0.9, None, 100)]):
        write(tmp_path / "sweep", number, *row)
    write(tmp_path / "sweep", 10, 0.0, 8, 100, state="failed")
    write(tmp_path / "sweep", 9, None, 8, 1)
    return tmp_path / "sweep"


def test_runs_come_in_order_of_their_numbers_and_are_named_by_what_differs(sweep):
    assert [entry.label for entry in load_run_entries([sweep])] == [f"seed={n}" for n in (0, 1, 2, 3, 4, 9, 10)]


def test_the_run_without_an_own_override_is_the_base(tmp_path):
    for name, own in {"plain": [], "faster": ["training.optimizer.lr=0.1"]}.items():
        run = write(tmp_path, name, 0.8, 8, 100)
        (run / "run.json").write_text(json.dumps({**json.loads((run / "run.json").read_text()), "overrides": own}))
    found = {entry.folder.name: entry.label for entry in load_run_entries([tmp_path])}
    assert found == {"plain": "plain (base)", "faster": "training.optimizer.lr=0.1"}


def test_the_front_holds_what_nothing_beats(sweep):
    # 3 is beaten by 0 in utility alone, 4 has the same utility for more epsilon, 9 and 10 have no score
    assert [entry.label for entry in find_pareto_front(load_run_entries([sweep]))] == ["seed=0", "seed=1", "seed=2"]


def test_epsilons_of_other_deltas_or_units_are_not_compared(tmp_path):
    for number, (delta, unit) in enumerate([(1e-6, "patient"), (1e-4, "patient"), (1e-6, "record")]):
        write(tmp_path, number, 0.9 - number / 10, 8 + number, 100, delta=delta, unit=unit)
    write(tmp_path, 3, 0.6, 9, 100)
    found = load_run_entries([tmp_path])
    assert [entry.label for entry in find_pareto_front(found)] == ["seed=0", "seed=1", "seed=2"]
    page = render_page(lambda: build_sweep_page(found))
    assert "at delta 1e-4 for each patient, noise multiplier computed by each hospital" in page
    assert "at delta 1e-6 for each study" in page
    assert "epsilon, not all at one delta and for one unit: see the table" in page


def test_the_table_says_everything(sweep):
    lines = format_csv(load_run_entries([sweep])).splitlines()
    assert lines[1].endswith("seed=0,completed,0.9,0.8,0.9,,,,8,1e-06,,patient,100,yes")
    assert "seed=4,completed,0.9,0.8,0.9,,,,inf,,,,100,no" in lines[5]
    assert "failed" in lines[-1]


def test_the_command_prints_json_and_writes_a_page_only_where_it_is_told(sweep, tmp_path, capsys):
    run_compare([sweep], as_json=True)
    rows = json.loads(capsys.readouterr().out)
    assert [row["run"] for row in rows] == [f"seed={n}" for n in (0, 1, 2, 3, 4, 9, 10)]
    assert (rows[0]["validation_auroc"], rows[0]["epsilon"], rows[0]["on_pareto_front"]) == (0.9, 8, "yes")
    assert (rows[4]["epsilon"], rows[5]["validation_auroc"]) == (None, None)  # JSON has no infinity
    assert not list(sweep.glob("compare.*"))
    run_compare([sweep], tmp_path / "to", as_json=True)
    assert json.loads(capsys.readouterr().out) == rows
    assert {path.name for path in (tmp_path / "to").iterdir()} == {PAGE, TABLE}


def test_the_page_names_the_best_run_and_the_failure(sweep):
    found = load_run_entries([sweep])
    assert summarize_sweep(found).startswith(
        "7\N{NO-BREAK SPACE}runs, 6 completed. The highest validation AUROC is 0.900"
    )
    page = render_page(lambda: build_sweep_page(found))
    assert page.count("<svg") == 3
    assert "No site answered." in page
    assert "on the Pareto front" in page


def test_single_runs_can_be_compared_too(sweep, tmp_path):
    found = load_run_entries([sweep / "0", write(tmp_path / "other", 7, 0.5, None, 1)])
    assert [entry.label for entry in found] == ["seed=0", "seed=7"]
    assert math.isinf(found[1].epsilon)


def test_equal_words_are_told_apart_by_their_folders(sweep, tmp_path):
    again = write(tmp_path / "again", 0, 0.9, 8, 100)
    assert len({entry.label for entry in load_run_entries([sweep / "0", again.rename(tmp_path / "again" / "b")])}) == 2


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no run"):
        load_run_entries([tmp_path])


def add_noise(run, low, high):
    """Let a run's validation score hold noise."""
    path = run / "evaluation.json"
    content = json.loads(path.read_text())
    content["validation"]["auroc"] |= {"low": low, "high": high}
    content["validation"]["noise"] = {"count_std": 5.0, "studies_std": 31.6, "cells": 20, "classes_scored": 1}
    path.write_text(json.dumps(content))


def test_no_run_is_chosen_for_its_noise(tmp_path):
    runs = [write(tmp_path, number, auroc, 8, 100) for number, auroc in enumerate((0.85, 0.80, 0.60))]
    for run, ends in zip(runs, ((0.75, 0.95), (0.70, 0.90), (0.50, 0.70)), strict=True):
        add_noise(run, *ends)
    found = load_run_entries([tmp_path])
    assert choose_best_run(found) is None
    text = summarize_sweep(found)
    assert "No run is chosen" in text
    assert "seed=0 (0.850" in text
    assert "seed=1 (0.800" in text
    assert "seed=2" not in text.partition("cannot be told apart")[0]  # .85 - .60 is more than noise
    assert [entry.label for entry in find_pareto_front(found)] == ["seed=0", "seed=1"]


def test_a_run_that_is_better_beyond_the_noise_is_chosen(tmp_path):
    for number, auroc in enumerate((0.85, 0.60)):
        add_noise(write(tmp_path, number, auroc, 8, 100), auroc - 0.1, auroc + 0.1)
    assert choose_best_run(load_run_entries([tmp_path])).label == "seed=0"


def test_a_score_that_is_lost_in_the_noise_says_so(tmp_path):
    add_noise(write(tmp_path, 0, None, 8, 100), None, None)
    assert "lost in the noise" in summarize_sweep(load_run_entries([tmp_path]))
    assert "lost in the noise" not in summarize_sweep(load_run_entries([write(tmp_path / "other", 0, None, 8, 100)]))


def test_the_difference_of_two_estimates_has_the_width_of_both():
    gain = subtract_estimates(Estimate(0.8, 0.5, 0.9), Estimate(0.6, 0.5, 1.0))
    assert gain.value == pytest.approx(0.2)
    assert gain.low == pytest.approx(0.2 - 0.5)  # hypot(.3, .4)
    assert gain.high == pytest.approx(0.2 + math.hypot(0.1, 0.1))


@pytest.mark.parametrize(("low", "objective"), [(0.7, 0.7), (None, 0.0)])
def test_a_search_maximises_what_is_certain(tmp_path, low, objective):
    run = write(tmp_path, 0, 0.9, 8, 100)
    assert read_validation_auroc(RunDir(run)) == 0.9
    add_noise(run, low, 0.95)
    assert read_validation_auroc(RunDir(run)) == objective
