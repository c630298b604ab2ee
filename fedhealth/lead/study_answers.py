"""What the hospitals answered to a study and to its runs, as the lead knows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fedhealth.consortium.research_study import ResearchStudy
from fedhealth.lead.home import LeadHome
from fedhealth.lead.job_store import iter_jobs
from fedhealth.lead.publish_study import list_study_runs
from fedhealth.protocol.site_report import SiteReport
from fedhealth.runs.handshakes import read_handshakes
from fedhealth.runs.run_dir import RunDir

NOT_ASKED = "has not answered"
TAKES_PART = "takes part"


@dataclass(frozen=True)
class StudyAnswers:
    """The answers to a study.

    Attributes:
        runs: how many runs were started.
        by_site: what every member answered to the study and to its latest run, by name.

    """

    runs: int
    by_site: Mapping[str, str]


def collect_answers(home: LeadHome, study: ResearchStudy, reports: Mapping[str, SiteReport]) -> StudyAnswers:
    """Return what each member answered to a version of a study, and to the latest run of the study that asked it.

    Args:
        home: the lead's folder.
        study: a version of it.
        reports: of the hospitals, by name.

    """
    runs = list_study_runs(home, study.name)
    decided, asked = _find_decisions(study, reports), _find_run_answers(home, runs)
    told = {site: [found[site] for found in (decided, asked) if site in found] for site in study.members}
    return StudyAnswers(len(runs), {site: "; ".join(each) or NOT_ASKED for site, each in told.items()})


def _find_decisions(study: ResearchStudy, reports: Mapping[str, SiteReport]) -> dict[str, str]:
    found = {site: [each for each in report.studies if each.is_about(study.digest)] for site, report in reports.items()}
    return {site: each[0].describe_answer() for site, each in found.items() if each}


def _find_run_answers(home: LeadHome, runs: list[str]) -> dict[str, str]:
    """Return the latest answer of each hospital to a run; it does not say which of its rules refused one."""
    folders = [Path(job.folder) for job in iter_jobs(home) if job.run in runs]
    return dict(answer for folder in folders for answer in _iter_handshakes(RunDir(folder)))


def _iter_handshakes(run: RunDir) -> Iterator[tuple[str, str]]:
    for reply in read_handshakes(run):
        yield reply.site, f"refused the last run: {'; '.join(reply.reasons)}" if reply.reasons else TAKES_PART
