"""What the lead knows of the hospitals' answers: their reports, and their replies to runs."""

from dataclasses import replace

import pytest

from fedhealth.lead.home import LeadHome
from fedhealth.lead.job_store import save_job
from fedhealth.lead.project import Project
from fedhealth.lead.provision import provision_consortium
from fedhealth.lead.publish_study import find_or_make_study, publish_study
from fedhealth.lead.study_answers import collect_answers
from fedhealth.protocol.job import Job
from fedhealth.protocol.site_report import SiteReport
from fedhealth.protocol.study_answer import RefusalReason, ReportedAnswer, StudyAnswer
from fedhealth.runs.run_dir import RunDir
from tests.clients.studies import DRAFT

WORDS = ("experiment=demo", "data.sites=[charite,klinikum,st-brigid]")


@pytest.fixture(name="home")
def home_(tmp_path):
    home = LeadHome(tmp_path / "lead")
    provision_consortium(home, Project("chest", "127.0.0.1:9092", names=("localhost",)))
    return home


def report(*studies):
    return SiteReport("0.1.0", "ab" * 32, 1, studies=studies)


def test_every_member_has_an_answer(home):
    study = publish_study(home, replace(DRAFT, overrides=WORDS)).study
    other = ReportedAnswer.build("0" * 64, StudyAnswer.withdrawn, RefusalReason.effort)
    reports = {
        "charite": report(other, ReportedAnswer.build(study.digest, StudyAnswer.approved)),
        "klinikum": report(ReportedAnswer.build(study.digest, StudyAnswer.declined, RefusalReason.purpose)),
        "st-brigid": report(other),
        "no-member": report(ReportedAnswer.build(study.digest, StudyAnswer.approved)),
    }
    assert dict(collect_answers(home, study, reports).by_site) == {
        "charite": "approved",
        "klinikum": "declined: it does not agree with the purpose",
        "st-brigid": "has not answered",
    }


def test_answers_to_the_last_run_follow(home):
    study = publish_study(home, replace(DRAFT, overrides=WORDS, runs=2)).study
    for run, reasons in (("run1", ["a limit"]), ("run2", [])):
        find_or_make_study(home, {run: WORDS})
        folder = RunDir(home.runs / run)
        folder.create(run=run)
        folder.append_event("handshake", site="charite", reasons=reasons)
        folder.append_event("handshake", site="klinikum", reasons=["a limit"])
        save_job(home, Job(run, (), "", str(folder.path)))
    outdated = ReportedAnswer.build(study.digest, StudyAnswer.outdated)
    found = collect_answers(home, study, {"klinikum": report(outdated)})
    assert found.runs == 2
    assert dict(found.by_site) == {
        "charite": "takes part",
        "klinikum": "its data have changed since it approved: it must approve again; refused the last run: a limit",
        "st-brigid": "has not answered",
    }
