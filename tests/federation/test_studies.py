"""Hospitals with the default policy: a run waits for their people's approval, and then goes on."""

import pytest

from fedhealth.errors import FederationError
from fedhealth.experiment.launch import resume_run
from fedhealth.lead.publish_study import load_published_studies
from fedhealth.lead.site_overview import load_reports
from fedhealth.lead.study_answers import TAKES_PART, collect_answers
from fedhealth.protocol.study_answer import RefusalReason
from fedhealth.runs.run_dir import RunDir
from fedhealth.site.decline_reasons import UNLISTED_REASON
from fedhealth.site.policy import load_policy
from fedhealth.site.study_approval import approve_study, decline_study
from fedhealth.site.study_store import StudyStore
from fedhealth.site.study_verdict import evaluate_study
from tests.federation.conftest import SITES

pytestmark = pytest.mark.xdist_group("federation")


def read_answers(lead, signed):
    return dict(collect_answers(lead, signed.study, load_reports(lead)).by_site)


def test_a_run_without_a_study_makes_one_and_resumes_after_its_approval(consortium, tmp_path):
    consortium.agree({"min_patients": 10})
    with pytest.raises(FederationError, match="0 of 4 sites accepted") as refused:
        consortium.run(tmp_path / "run", "secagg=on", "privacy=patient", "strategy.rounds=1", "seed=11")
    assert refused.value.problem.count(UNLISTED_REASON) == len(SITES)
    run = RunDir(tmp_path / "run")
    (signed,) = [each for each in load_published_studies(consortium.poc.lead) if each.study.label == run.info.study]
    for site in SITES:
        store = StudyStore(consortium.poc.site_home(site))
        assert store.load_studies()[signed.study.digest] == signed.study
        assert store.load_decision(signed.study.digest) is None
    east, lead = consortium.poc.site_home("east"), consortium.poc.lead
    decline_study(signed.study, east, RefusalReason.permit, "Dr. Noor is away")
    consortium.poc.wait_until(lambda: "declined" in read_answers(lead, signed)["east"], "the report of east")
    refused = f"refused the last run: {UNLISTED_REASON}"
    assert read_answers(lead, signed)["east"] == f"declined: a permit is missing or has ended; {refused}"
    assert read_answers(lead, signed)["north"] == f"has received it and not decided; {refused}"
    approve_study(
        signed.study, evaluate_study(signed.study, load_policy(east), east), east, load_policy(east), "Dr. Noor"
    )
    consortium.poc.approve_study(signed, "Dr. Noor")
    resume_run(run)
    assert run.info.state == "completed"
    consortium.poc.wait_until(lambda: "not decided" not in str(read_answers(lead, signed)), "all reports")
    assert read_answers(lead, signed) == dict.fromkeys(SITES, f"approved; {TAKES_PART}")
    assert collect_answers(lead, signed.study, {}).runs == 1
    assert StudyStore(consortium.poc.site_home("north")).list_runs(signed.study.name) == (run.info.run,)
