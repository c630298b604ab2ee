"""What the lead's page shows of members, studies and budgets, from the lead's folder and its server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from fedhealth.consortium.research_study import ResearchStudy
from fedhealth.consortium.study_text import describe_budget, describe_changes, describe_study
from fedhealth.errors import ConfigError, FedhealthError
from fedhealth.lead.home import LeadHome
from fedhealth.lead.job_store import iter_jobs
from fedhealth.lead.publish_membership import load_published_membership
from fedhealth.lead.publish_study import list_study_runs, load_published_studies
from fedhealth.lead.site_overview import SiteOverview, describe_problems, list_sites, load_reports
from fedhealth.lead.study_answers import collect_answers
from fedhealth.protocol.compatibility import get_release
from fedhealth.protocol.site_report import SiteReport
from fedhealth.runs.guarantee import PrivacyGuarantee, get_promised_guarantee, sum_guarantees
from fedhealth.runs.load_record import load_run_record
from fedhealth.runs.run_dir import RunDir
from fedhealth.utils.privacy_text import format_guarantee
from fedhealth.utils.time_text import format_time
from fedhealth.web.content import Content, DataTable

_MEMBERS = ("Hospital", "State", "Last contact", "Release", "Kit", "Last check", "Problem, and what to do")
_SPENT_THERE = (
    "This is what the lead asked for and may promise at most. What was spent is booked in each hospital's own ledger, "
    "which only the hospital reads; a run's report has what each hospital said when it accepted."
)


def build_members(home: LeadHome) -> Content:
    """Return the members: connection, release, kit, last check and problems; without the server their names only."""
    membership = load_published_membership(home)
    if membership is None:
        return Content("Members", ("There are no members yet: `fedhealth lead admit` admits one.",))
    lines: tuple[str, ...] = ()
    try:
        rows = tuple(map(_describe_site, list_sites(home)))
    except FedhealthError as fault:  # the server is not running
        rows = tuple((each.site, *("not known",) * 5, "") for each in membership.members)
        lines = (f"Warning: {fault.problem} {fault.advice}",)
    facts = (
        ("Project", membership.project),
        ("Release of the lead", get_release()),
        ("Number of the latest kit", str(membership.serial)),
        ("Fingerprint of the consortium", membership.fingerprint),
    )
    return Content("Members", lines, (DataTable("Members", _MEMBERS, rows), DataTable("Consortium", (), facts)))


def _describe_site(site: SiteOverview) -> tuple[str, ...]:
    contact, problems = site.contact, describe_problems(site) or "none"
    if contact is None:
        return site.site, site.state, "never", "not known", "not known", "not known", problems
    if (report := contact.report) is None:
        return site.site, site.state, format_time(contact.time), "not reported", "", "", problems
    check = f"{report.result}, {format_time(report.checked)}" if report.checked else "never"
    return site.site, site.state, format_time(contact.time), report.release, str(report.kit), check, problems


def build_studies(home: LeadHome) -> Content:
    """Return the latest version of every study, with how many hospitals approved it."""
    reports, lines = _load_reports(home)
    rows, links = [], []
    for study in _load_latest_studies(home).values():
        state = "closed" if study.closed else f"{study.first_day} to {study.last_day}"
        rows.append((study.label, study.title, state, *_describe_answers(home, study, reports)))
        links.append(f"/studies/{study.name}")
    head = ("Study", "Title", "State", "Runs started", "Answers")
    return Content("Studies", lines, (DataTable("Published studies", head, tuple(rows), tuple(links)),))


def _describe_answers(home: LeadHome, study: ResearchStudy, reports: Mapping[str, SiteReport]) -> tuple[str, str]:
    """Return how many runs were started, and the answers; a study whose list of runs is damaged hides no other."""
    try:
        answers = collect_answers(home, study, reports)
    except FedhealthError as fault:
        return "not known", fault.problem
    told = "; ".join(f"{site}: {answer}" for site, answer in answers.by_site.items())
    return f"{answers.runs} of {study.runs}", told


def list_versions(home: LeadHome, name: str) -> list[ResearchStudy]:
    """Return all versions of a study, the latest last; none if there is no study of this name."""
    return [each.study for each in load_published_studies(home) if each.study.name == name]


def build_study_page(home: LeadHome, versions: Sequence[ResearchStudy]) -> Content:
    """Return the latest of these versions in words, what it changes, its runs, and every hospital's answer."""
    study, (reports, lines) = versions[-1], _load_reports(home)
    text = [*lines, *describe_study(study)]
    if len(versions) > 1:
        text += [f"Compared with {versions[-2].label}:", *describe_changes(versions[-2], study)]
    answers = tuple(collect_answers(home, study, reports).by_site.items())
    runs = tuple((run,) for run in list_study_runs(home, study.name))
    tables = (
        DataTable("Answers", ("Hospital", "To the study, and to its latest run"), answers),
        DataTable("Runs", ("Run",), runs, tuple(f"/runs/{run}" for (run,) in runs)),
    )
    return Content(study.label, tuple(text), tables)


def build_budget(home: LeadHome) -> Content:
    """Return what every study and run may spend of the patients' privacy budget, as the hospitals approved it."""
    promised = dict(_iter_promises(home))
    studies = tuple(_describe_total(home, study, promised) for study in _load_latest_studies(home).values())
    rows = tuple((run, format_promise(each)) for run, each in promised.items())
    head = ("Study", "All its runs together may spend", "Runs started", "Promised by these")
    return Content(
        "Privacy budget",
        (_SPENT_THERE,),
        (DataTable("By study", head, studies), DataTable("By run", ("Run", "Promised at most"), rows)),
    )


def format_promise(promised: PrivacyGuarantee | None) -> str:
    """Return a run's guarantee in words."""
    if promised is None:
        return "no differential privacy"
    return format_guarantee(promised.epsilon, promised.delta, promised.noise_multiplier, promised.unit)


def _describe_total(
    home: LeadHome, study: ResearchStudy, promised: Mapping[str, PrivacyGuarantee | None]
) -> tuple[str, ...]:
    try:
        runs = list_study_runs(home, study.name)
    except FedhealthError as fault:
        return study.label, describe_budget(study), "not known", fault.problem
    total = sum_guarantees([each for run in runs if (each := promised.get(run)) is not None])
    together = "; ".join(map(format_promise, total)) or "nothing"
    return study.label, describe_budget(study), f"{len(runs)} of {study.runs}", together


def _iter_promises(home: LeadHome) -> Iterator[tuple[str, PrivacyGuarantee | None]]:
    """Yield the promise of each run whose directory is there; the page of runs names those that are damaged."""
    for job in iter_jobs(home):
        with suppress(ConfigError):
            if job.budget_request is None and RunDir(Path(job.folder)).exists:
                yield job.run, get_promised_guarantee(load_run_record(Path(job.folder)))


def _load_reports(home: LeadHome) -> tuple[Mapping[str, SiteReport], tuple[str, ...]]:
    """Return the hospitals' reports, or why there are none."""
    try:
        return load_reports(home), ()
    except FedhealthError as fault:
        return {}, (f"Warning: {fault.problem} Only the answers to runs are shown. {fault.advice}",)


def _load_latest_studies(home: LeadHome) -> dict[str, ResearchStudy]:
    return {each.study.name: each.study for each in load_published_studies(home)}
