"""Studies at the lead: versions, and the study that a run belongs to."""

from dataclasses import replace

import pytest

from fedhealth.errors import ConfigError
from fedhealth.lead.home import LeadHome
from fedhealth.lead.project import Project
from fedhealth.lead.provision import provision_consortium
from fedhealth.lead.publish_study import close_study, find_or_make_study, load_published_studies, publish_study
from tests.clients.studies import DRAFT

WORDS = ("experiment=demo", "data.sites=[charite,klinikum]")


@pytest.fixture(name="home")
def home_(tmp_path):
    home = LeadHome(tmp_path / "lead")
    provision_consortium(home, Project("chest", "127.0.0.1:9092", names=("localhost",)))
    return home


def test_a_changed_draft_is_the_next_version_and_a_closed_study_stays_closed(home):
    draft = replace(DRAFT, overrides=WORDS)
    first = publish_study(home, draft)
    assert publish_study(home, draft) == first
    assert publish_study(home, replace(draft, ethics="EK 13/2026")).study.version == 2
    closed = close_study(home, "crp")
    assert (closed.study.version, closed.study.closed) == (3, True)
    assert close_study(home, "crp") == closed
    with pytest.raises(ConfigError, match="is closed"):
        publish_study(home, draft)
    with pytest.raises(ConfigError, match="No study is called 'other'"):
        close_study(home, "other")
    assert len(load_published_studies(home)) == 3


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"overrides": ("data.root=elsewhere", *WORDS)}, "No hospital accepts"),
        ({"open": {"data.image.size": (16, 32)}}, r"cannot leave data\.image\.size open"),
        ({"ethics": ""}, "ethics: give one paragraph"),
        ({"runs": 0}, "runs: must lie between"),
        ({"open": {"seeds": (1, 2)}}, "There is no configuration key"),
    ],
)
def test_a_draft_that_no_hospital_could_approve_is_refused(home, fields, problem):
    with pytest.raises(ConfigError, match=problem):
        publish_study(home, replace(DRAFT, **({"overrides": WORDS} | fields)))


def test_a_run_belongs_to_the_study_that_holds_it_while_it_has_runs_left(home):
    study = publish_study(home, replace(DRAFT, overrides=WORDS, open={"seed": (0, 1)}, runs=2))
    assert find_or_make_study(home, {"run1": [*WORDS, "seed=1"]}) == (study, False)
    assert find_or_make_study(home, {"run1": [*WORDS, "seed=1"]}) == (study, False)  # resumed
    assert find_or_make_study(home, {"run2": WORDS}) == (study, False)
    made, is_new = find_or_make_study(home, {"run3": WORDS})
    assert (is_new, made.study.name != "crp", made.study.runs) == (True, True, 1)
    again, is_new = find_or_make_study(home, {"run4": WORDS})
    assert (is_new, again.study.name, again.study.version, again.study.runs) == (True, made.study.name, 2, 2)


def test_the_runs_of_a_sweep_make_one_study(home):
    runs = {f"run{seed}": [*WORDS, f"seed={seed}"] for seed in range(3)}
    made, is_new = find_or_make_study(home, runs)
    assert (is_new, made.study.runs) == (True, 3)
    assert [each.path for each in made.study.open] == ["seed"]
    assert all(find_or_make_study(home, {run: words}) == (made, False) for run, words in runs.items())
    assert find_or_make_study(home, {"release": WORDS}, count=False) == (made, False)
