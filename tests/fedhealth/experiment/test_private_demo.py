"""A small form of the demo: its report shows the audit, and its private scores agree with the exact ones."""

import json

import pytest

from fedhealth.data.synthetic import write_hospitals
from fedhealth.experiment.launch import launch_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.runs.run_dir import RunDir

SMALL = (
    "experiment=demo",
    "seed=7",
    "model.image=null",
    "model.text=null",
    "strategy.rounds=2",
    "training.local_steps=3",
    "baselines.modalities=false",
    "baselines.local_only=false",
    "baselines.centralised=false",
    "secagg=off",
    "privacy.epsilon=50",  # of so few patients, more noise would hide all scores
)


@pytest.fixture(scope="module")
def demo(tmp_path_factory, drawn_charts):
    """The finished run, with all its charts; nothing asks for an audit."""
    folder = tmp_path_factory.mktemp("demo")
    sites = write_hospitals(folder / "hospitals", seed=7, patients=300, sites=2)
    run = RunDir(folder / "run")
    places = (
        f"data.sites=[{','.join(sites)}]",
        f"data.root='{folder / 'hospitals'}'",
        f"data.cache='{folder / 'cache'}'",
    )
    launch_run(RunSpec.compose([*SMALL, *places], run))
    return run


def test_the_report_shows_the_audit_without_being_asked(demo):
    audited = json.loads((demo.path / "audit.json").read_text())["sites"]
    assert len(audited) == 2
    assert all(each["passed"] for each in audited)
    page = (demo.path / "report.html").read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert "What the audit found" in page
    assert "Every check of the private training passed at 2 hospitals" in page
    assert "a coin toss is right in" in page


@pytest.mark.parametrize("metric", ["auroc", "auprc"])
def test_the_private_scores_agree_with_the_exact_ones(demo, metric):
    """The noise is drawn anew in every run: twice the stated interval is missed less than once in 10,000."""
    private = json.loads((demo.path / "evaluation.json").read_text())["test"]
    [exact] = json.loads((demo.path / "comparison.json").read_text())["models"]
    assert private["noise"]
    stated, true = private[metric], exact["pooled"][metric]["value"]
    assert stated["low"] < stated["value"] < stated["high"]
    assert stated["high"] - stated["low"] < 0.8  # it says something
    width = stated["high"] - stated["low"]
    assert stated["low"] - width / 2 <= true <= stated["high"] + width / 2
