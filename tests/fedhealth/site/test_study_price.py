"""What a study costs at a hospital: the dearest run that it allows, with both numbers where the noise is shared."""

from dataclasses import replace

import pytest

from fedhealth.config.open_paths import OpenPath
from fedhealth.errors import ConfigError
from fedhealth.site.policy import load_policy
from fedhealth.site.study_verdict import evaluate_study
from tests.clients.lying_lead import LyingLead
from tests.clients.studies import approve

SHARED = (
    *("privacy=patient", "privacy.epsilon=8", "privacy.noise=shared", "privacy.sample_rate=0.5"),
    *("training.sends=gradient", "secagg.colluders=1", "evaluation.audit=false"),
)


@pytest.fixture(name="lead", scope="module")
def lead_(tmp_path_factory, good_hospitals):
    limits = "lifetime_epsilon: 100, local_epsilon: 50"
    return LyingLead(tmp_path_factory.mktemp("priced"), good_hospitals, limits=limits, study={})


def evaluate(lead, study):
    return evaluate_study(study, load_policy(lead.home), lead.home)


def test_the_dearest_of_all_variants_counts_and_one_without_a_plan_does_not(lead):
    plain = evaluate(lead, lead.publish(name="plain", epsilon=20.0))
    rounds = {"strategy.rounds": (2, 3), "privacy.epsilon": (8.0, 1.0, 1e-9), "training.optimizer.lr": (0.001, 0.1)}
    varied = evaluate(lead, lead.publish(name="varied", epsilon=20.0, open=rounds))
    dear = evaluate(lead, lead.publish(name="dear", epsilon=20.0, open={"privacy.epsilon": (1.0, 8.0)}))
    assert plain.price == dear.price
    assert varied.price["events"][0]["steps"] >= plain.price["events"][0]["steps"]
    assert plain.ledger == "tiny-2026"
    assert "one run costs here at most epsilon 7." in plain.guarantee[0]
    assert "for each patient, noise multiplier" in plain.guarantee[0]


def test_too_many_variants_are_not_priced(lead):
    wide = {name: tuple(range(1, 18)) for name in ("strategy.rounds", "training.local_steps")}
    with pytest.raises(ConfigError, match="leaves open 289 combinations of settings that change what a run costs"):
        evaluate(lead, lead.publish(name="wide", epsilon=20.0, open=wide))


def test_a_study_with_shared_noise_is_approved_with_both_numbers(lead, monkeypatch):
    monkeypatch.setattr(lead, "words", tuple(each for each in lead.words if "privacy" not in each) + SHARED)
    study = lead.publish(name="shared", runs=2, epsilon=30.0)
    verdict = evaluate(lead, study)
    one, together = verdict.guarantee
    assert verdict.price["events"][0]["shares"] == 3  # of four members, one may collude
    assert "; if all other hospitals colluded, epsilon " in one
    assert together.startswith("all 2 runs together cost here at most epsilon ")
    assert together.endswith("while the limits in site.yaml are as now")
    assert approve(lead.home, lead.home.studies / f"{study.digest}.study.json").price == verdict.price


def test_without_differential_privacy_there_is_no_price(lead, monkeypatch):
    monkeypatch.setattr(lead, "words", (*(each for each in lead.words if "privacy" not in each), "privacy=none"))
    verdict = evaluate(lead, lead.publish(name="none"))
    assert (verdict.ledger, dict(verdict.price), verdict.guarantee) == ("", {}, ())


def test_a_study_whose_runs_may_share_noise_shows_the_other_number_too(lead, monkeypatch):
    monkeypatch.setattr(lead, "words", tuple(each for each in lead.words if "privacy" not in each) + SHARED)
    study = lead.publish(name="either", runs=2, epsilon=30.0, open={"privacy.noise": ("local", "shared")})
    assert "; if all other hospitals colluded, epsilon " in evaluate(lead, study).guarantee[0]


@pytest.mark.parametrize("value", ["x", "???", None])
def test_a_value_that_a_setting_cannot_have_is_named(lead, value):
    study = lead.publish(name="odd", epsilon=20.0)
    odd = replace(study, open=(OpenPath("strategy.rounds", (2, value)),))
    with pytest.raises(ConfigError, match="odd version 1 leaves open a value that its setting cannot have: "):
        evaluate(lead, odd)
