"""What the page shows, as plain values for its templates: from the books of the hospital, nothing is stored twice."""

from __future__ import annotations

from pathlib import Path

from fedhealth.consortium.research_study import ResearchStudy
from fedhealth.consortium.study_text import describe_changes, describe_study
from fedhealth.errors import FedhealthError
from fedhealth.privacy.accounting.spending import iter_dataset_spending
from fedhealth.protocol.study_answer import REASON_TEXTS, StudyAnswer
from fedhealth.site.audit_log import get_log_digest, verify_log
from fedhealth.site.daemon_state import DaemonState
from fedhealth.site.home import SiteHome
from fedhealth.site.policy import load_policy
from fedhealth.site.record_gaps import find_log_gap
from fedhealth.site.run_history import find_site_run, list_site_runs, read_run_history
from fedhealth.site.run_text import OWN_GAIN_FILE, describe_own_gain, describe_run
from fedhealth.site.study_store import StudyStore
from fedhealth.utils.atomic_io import read_json
from fedhealth.utils.privacy_text import format_guarantee
from fedhealth.utils.time_text import format_time
from fedhealth.web.content import Content, DataTable

_REPORT = "report.json"  # of `fedhealth site ingest`, in the folder of the data
_LAST_ENTRIES = 50


def build_state(home: SiteHome) -> Content:
    """Return the state of the daemon, of the policy and of the studies."""
    about, state = DaemonState(home).status, DaemonState(home)
    facts = [("State", str(about.get("state", "stopped")))]
    facts += [(label, str(about[key])) for label, key in _STATUS if about.get(key)]
    facts.append(("Paused", "yes: no new work is accepted" if state.is_paused else "no"))
    try:
        facts.append(("Policy", f"valid, for {load_policy(home).name}"))
    except FedhealthError as fault:
        facts.append(("Policy", fault.problem))
    waiting = [each.label for each in _list_waiting(home)]
    facts += [("Refused study", each.sentence) for each in StudyStore(home).read_studies().refused]
    facts.append(("Studies to decide", ", ".join(waiting) or "none"))
    return Content("State", (), (_build_facts("This site", facts),))


def build_budget(home: SiteHome) -> Content:
    """Return what was spent over time, by run, and in total by data set."""
    limits = load_policy(home).limits
    totals = [
        (each.dataset, format_guarantee(each.epsilon, each.delta, each.noise_multiplier, each.unit))
        for each in iter_dataset_spending(home.state, limits.delta)
    ]
    rows = [
        (format_time(record.started), record.run, spent.dataset, f"{spent.epsilon:.3f}", f"{spent.delta:g}")
        for record in list_site_runs(home)
        for spent in record.spending
    ]
    lines = (
        f"Limit for all runs on one data set together: epsilon {limits.lifetime_epsilon:g} at delta {limits.delta:g}.",
    )
    return Content(
        "Privacy budget",
        lines,
        (
            DataTable("All runs together, by data set", ("Data", "Spent"), tuple(totals)),
            DataTable("Over time, by run", ("Began", "Run", "Data", "Epsilon booked", "Delta"), tuple(rows)),
        ),
    )


def build_studies(home: SiteHome) -> Content:
    """Return all studies with their state."""
    store = StudyStore(home)
    stored = store.read_studies()
    studies, refused = stored.studies, tuple(f"{each.sentence} {each.advice}" for each in stored.refused)
    rows = tuple((each.label, each.title, describe_state(store, each)) for each in studies.values())
    links = tuple(f"/studies/{digest}" for digest in studies)
    return Content(
        "Studies", refused, (DataTable("Studies of this consortium", ("Study", "Title", "Here"), rows, links),)
    )


def build_study(home: SiteHome, study: ResearchStudy) -> Content:
    """Return a study in words, what it changes compared with the version before, and the decision here."""
    store = StudyStore(home)
    lines = [f"Here: {describe_state(store, study)}.", *describe_study(study)]
    if (before := store.find_previous_version(study)) is not None:
        changes = list(describe_changes(before, study)) or ["nothing changes"]
        lines += [f"Compared with {before.label}:", *changes]
    decision = store.load_decision(study.digest)
    return Content(study.label, (*lines, *(decision.findings if decision else ())))


def describe_state(store: StudyStore, study: ResearchStudy) -> str:
    """Return what was decided on a study, by whom, when and why."""
    if study.closed:
        return "closed by the lead"
    if (decision := store.load_decision(study.digest)) is None:
        return "not decided"
    reason = REASON_TEXTS[decision.reason] if decision.reason else ""
    return ", ".join(
        filter(None, (f"{decision.answer} by {decision.person} on {format_time(decision.time)}", reason, decision.note))
    )


def build_data(home: SiteHome) -> Content:
    """Return what the last ingest reported of each data source; nothing of single patients."""
    rows: list[tuple[str, ...]] = []
    for name, source in load_policy(home).data.items():
        rows.append((name, source.dataset, *_read_ingest_report(Path(source.root) / _REPORT)))
    return Content("Data", (), (DataTable("Data sources", ("Name", "Data set", "Cohort", "Findings"), tuple(rows)),))


def _read_ingest_report(path: Path) -> tuple[str, str]:
    """Return cohort and findings in words; others than this hospital's own user may write beside the data."""
    try:
        told = read_json(path) or {}
        counts = ", ".join(f"{count} {kind}" for kind, count in (told.get("cohort") or {}).items())
        findings = " ".join(str(each.get("text", "")) for each in told.get("findings") or ())
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return f"{path} cannot be read", "–"
    return counts or "no report of an ingest", findings or "–"


def build_runs(home: SiteHome) -> Content:
    """Return all runs, the newest first, and what the records cannot say."""
    found, gaps = read_run_history(home)
    records = found[::-1]
    rows = tuple(
        (
            each.run,
            format_time(each.started),
            each.study.label if each.study else "",
            each.outcome,
            f"{len(each.sent)} replies, {each.bytes_sent:,} bytes",
        )
        for each in records
    )
    links = tuple(f"/runs/{each.run}" for each in records)
    lines = tuple(f"Warning: {gap}." for gap in gaps)
    return Content("Runs", lines, (DataTable("Every run", ("Run", "Began", "Study", "Outcome", "Left"), rows, links),))


def build_run(home: SiteHome, run: str) -> Content:
    """Return the record of one run."""
    record = find_site_run(home, run)
    sent = tuple(
        (format_time(each.time), each.kind, str(each.round), f"{each.bytes:,}", each.sha256) for each in record.sent
    )
    gain = _read_own_gain(home.get_run_folder(record.run) / OWN_GAIN_FILE)
    return Content(
        f"Run {record.run}",
        gain,
        (
            _build_facts("Record", list(describe_run(record))),
            DataTable("What left this hospital", ("Time", "Reply to", "Round", "Bytes", "SHA-256"), sent),
        ),
    )


def _read_own_gain(path: Path) -> tuple[str, ...]:
    try:
        return (describe_own_gain(gain),) if (gain := read_json(path)) else ()
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return (f"Warning: {path} cannot be read. Run `fedhealth site compare` again.",)


def build_audit(home: SiteHome) -> Content:
    """Return the verification of the audit log and its last entries."""
    entries = verify_log(home.audit)
    rows = tuple(
        (str(entry["number"]), format_time(float(entry["time"])), str(entry["event"]))
        for entry in entries[-_LAST_ENTRIES:][::-1]
    )
    gap = find_log_gap(home, entries)
    lines = (
        *((f"Warning: {gap}.",) if gap else ()),
        f"{'Hash chain intact' if gap else 'Verified'}: {len(entries)} entries, whole and unchanged.",
        f"Digest: {get_log_digest(home.audit)}. Note it in another place from time to time.",
    )
    return Content("Audit log", lines, (DataTable("The last entries", ("Number", "Time", "Event"), rows),))


def _list_waiting(home: SiteHome) -> list[ResearchStudy]:
    store = StudyStore(home)
    open_answers = (None, StudyAnswer.suspended, StudyAnswer.outdated)
    decisions = {digest: store.load_decision(digest) for digest in store.load_studies()}
    return [
        each
        for digest, each in store.load_studies().items()
        if not each.closed and (found.answer if (found := decisions[digest]) else None) in open_answers
    ]


def _build_facts(caption: str, facts: list[tuple[str, str]]) -> DataTable:
    return DataTable(caption, (), tuple(facts))


_STATUS = (("Lead", "lead"), ("Run", "run"), ("Task", "task"), ("Last error", "error"))
