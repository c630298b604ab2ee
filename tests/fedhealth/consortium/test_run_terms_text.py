"""What a person reads of a study's runs without any option: rounds, unit, epsilon, noise, sums, what leaves."""

import pytest

from fedhealth.consortium.run_terms_text import describe_run_terms
from tests.clients.studies import make_study

WORDS = ("experiment=demo", "data.sites=[charite,klinikum,st-brigid,st-mary]")
PRIVATE = ("privacy=patient", "privacy.epsilon=4", "strategy.rounds=5")
SHARED = (
    *PRIVATE,
    "privacy.noise=shared",
    "privacy.sample_rate=0.1",
    "training.sends=gradient",
    "training.local_steps=1",
)


def describe(*words, **fields):
    study = make_study((*WORDS, *words), **fields)
    return dict(line.strip().split(maxsplit=1) for line in describe_run_terms(study.configuration, study.open))


def test_a_private_study():
    told = describe(*PRIVATE)
    assert told["rounds"] == "5 in each run, and 1 more where one fails"
    assert told["protects"] == "each patient (unit patient)"
    assert told["one"] == "run    epsilon 4 at delta 1e-6, at most"
    assert told["noise"].startswith("local: this hospital adds all noise itself")
    assert told["sums"].startswith("secure aggregation is on: the lead reads only sums over at least 3 of 4 hospitals")
    assert "fewer than a third of the consortium's members collude" in told["sums"]
    assert told["leaves"] == (
        "each round the change of the model by its training, with noise; "
        "at the end histograms of the model's scores by class, with noise"
    )


def test_a_study_with_shared_noise_names_the_colluders_and_where_the_other_number_is():
    told = describe(*SHARED, "secagg.colluders=1")
    assert "that holds while at most 1 of the consortium's members collude with the lead" in told["noise"]
    assert (
        "If all others did, only this hospital's own share would protect: its approval shows that epsilon"
        in told["noise"]
    )
    assert told["leaves"].startswith("each round the gradient of one training step, with noise")


def test_what_a_run_may_set_instead_is_named():
    told = describe(
        *PRIVATE, open={"strategy.rounds": (5, 9), "privacy.epsilon": (4.0, 6.5), "privacy.noise": ("local", "shared")}
    )
    assert told["rounds"].startswith("5 (a run may set 5, 9) in each run")
    assert "epsilon 4 (a run may set 4, 6.5) at delta" in told["one"]
    assert told["noise"].startswith("shared (or local, as a run chooses)")


@pytest.mark.parametrize(
    ("words", "unit"),
    [
        (("privacy=record",), "each study: a patient with several studies is protected less (unit record)"),
        (("privacy=client",), "each hospital, not each patient (unit client)"),
        (
            ("privacy=none",),
            "nobody by noise: there is no differential privacy, and the model may memorize single patients",
        ),
    ],
)
def test_whom_a_study_protects(words, unit):
    assert describe(*words)["protects"] == unit


def test_a_study_without_secure_aggregation_and_one_that_counts_patients():
    told = describe("privacy=none", "secagg=off")
    assert told["sums"] == "secure aggregation is off: the lead reads this hospital's own update and counts"
    assert told["leaves"].startswith(
        "each round the change of the model by its training, numbers of rows, how labels, missing values, variables"
    )
    assert ", also of groups by sex, age" in told["leaves"]
    counted = describe("purpose=describe", *PRIVATE)
    assert counted["rounds"] == "none: the patients are counted once, nothing is trained"
    assert counted["leaves"] == "counts of patients in public bins, with noise"


def test_what_leaves_names_what_a_run_may_set():
    told = describe(
        *PRIVATE,
        open={
            "training.sends": ("update", "gradient"),
            "privacy.score_release_share": (0.0, 0.1),
            "privacy.subgroup_release_share": (0.0, 0.4),
            "privacy.spare_rounds": (1, 50),
        },
    )
    assert "the change of the model by its training or the gradient of one training step, with noise" in told["leaves"]
    assert "also of groups by sex, age" in told["leaves"]
    assert told["rounds"] == "5 in each run, and 1 (a run may set 1, 50) more where one fails"
    assert "groups" not in describe(*PRIVATE)["leaves"]
