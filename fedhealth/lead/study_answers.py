"""What the hospitals answered to the runs of a study, as the lead knows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedhealth.consortium.research_study import ResearchStudy
from fedhealth.lead.home import LeadHome
from fedhealth.lead.job_store import iter_jobs
from fedhealth.lead.publish_study import list_study_runs
from fedhealth.runs.run_dir import RunDir

NOT_ASKED = "has not answered"
TAKES_PART = "takes part"


@dataclass(frozen=True)
class StudyAnswers:
    """The answers to a study.

    Attributes:
        runs: how many runs were started.
        by_site: the latest answer of every member, by name.

    """

    runs: int
    by_site: Mapping[str, str]


def collect_answers(home: LeadHome, study: ResearchStudy) -> StudyAnswers:
    """Return what each member answered to the handshake of the latest run that asked it.

    A hospital does not say why it refuses: whoever wants to know asks its people.
    """
    runs, answers = list_study_runs(home, study.name), dict.fromkeys(study.members, NOT_ASKED)
    folders = [Path(job.folder) for job in iter_jobs(home) if job.run in runs]
    for folder in folders:
        for event in RunDir(folder).read_events()[0]:
            if event["event"] == "handshake" and event["site"] in answers:
                reasons = "; ".join(event["reasons"])
                answers[event["site"]] = f"declined: {reasons}" if reasons else TAKES_PART
    return StudyAnswers(len(runs), answers)
