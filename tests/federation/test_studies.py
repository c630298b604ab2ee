"""Hospitals with the default policy: a run waits for their people's approval, and then goes on."""

import pytest

from fedhealth.errors import FederationError
from fedhealth.experiment.launch import resume_run
from fedhealth.lead.publish_study import load_published_studies
from fedhealth.lead.study_answers import TAKES_PART, collect_answers
from fedhealth.runs.run_dir import RunDir
from fedhealth.site.decline_reasons import UNLISTED_REASON
from fedhealth.site.study_store import StudyStore
from tests.federation.conftest import SITES

pytestmark = pytest.mark.xdist_group("federation")


def test_a_run_without_a_study_makes_one_and_resumes_after_its_approval(consortium, tmp_path):
    consortium.agree({"min_patients": 10})
    with pytest.raises(FederationError, match="0 of 4 sites accepted") as refused:
        consortium.run(tmp_path / "run", "secagg=on", "privacy=patient", "strategy.rounds=1", "seed=11")
    assert refused.value.problem.count(UNLISTED_REASON) == len(SITES)
    run = RunDir(tmp_path / "run")
    (signed,) = [each for each in load_published_studies(consortium.poc.lead) if each.study.label == run.info["study"]]
    for site in SITES:
        store = StudyStore(consortium.poc.site_home(site))
        assert store.load_studies()[signed.study.digest] == signed.study
        assert store.load_decision(signed.study.digest) is None
    consortium.poc.approve_study(signed, "Dr. Noor")
    resume_run(run)
    assert run.info["state"] == "completed"
    answers = collect_answers(consortium.poc.lead, signed.study)
    assert (answers.runs, dict(answers.by_site)) == (1, dict.fromkeys(SITES, TAKES_PART))
    assert StudyStore(consortium.poc.site_home("north")).list_runs(signed.study.name) == (run.info["run"],)
