"""Implementation of `fedhealth site study`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from fedhealth.cli.json_output import print_json
from fedhealth.cli.prompts import name_file, print_lines, read_small_file, require_confirmation
from fedhealth.config.open_paths import flatten_settings
from fedhealth.consortium.research_study import ResearchStudy
from fedhealth.consortium.study_text import describe_changes, describe_study
from fedhealth.errors import ConfigError
from fedhealth.protocol.study_answer import REASON_TEXTS, RefusalReason, StudyAnswer
from fedhealth.site.home import SiteHome
from fedhealth.site.install import load_installed_membership
from fedhealth.site.person_name import check_person
from fedhealth.site.policy import load_policy
from fedhealth.site.receive_study import receive_study
from fedhealth.site.study_store import StudyDecision, StudyStore

_AGAIN = {
    StudyAnswer.suspended: "this machine was restored from a backup since",
    StudyAnswer.outdated: "the data have changed since",
}
_LEAST_DIGITS = 12  # of a digest, as lists show it
_NEXT = "Decide: fedhealth site study approve {name}, or fedhealth site study decline {name}"


def run_list(folder: Path | None, as_json: bool) -> None:
    """Print one line for each study."""
    home, console = SiteHome.find(folder), Console()
    store = StudyStore(home)
    stored = store.read_studies()
    studies = stored.studies
    states = {digest: _describe_state(store, study) for digest, study in studies.items()}
    print_lines(Console(stderr=True), *(f"REFUSED {each.sentence} {each.advice}" for each in stored.refused))
    if as_json:
        print_json([_collect_study(digest, study, states[digest]) for digest, study in studies.items()])
        return
    for digest, study in studies.items():
        print_lines(console, f"{study.label} ({digest[:12]}), {study.title}: {states[digest]}")
    if not (studies or stored.refused):
        print_lines(console, "No study has arrived. It comes as a file from the lead, or with the first run.")


def _collect_study(digest: str, study: ResearchStudy, state: str) -> dict[str, object]:
    return {"digest": digest, "name": study.name, "version": study.version, "title": study.title, "state": state}


def run_show(word: str, settings: bool, folder: Path | None) -> None:
    """Print a study, what it changes compared with the version before, and the decision."""
    home, console = SiteHome.find(folder), Console()
    study = find_or_receive_study(word, home)
    _print_study(console, study, home)
    if settings:
        told = flatten_settings(study.configuration)
        print_lines(console, *(f"  {path} = {json.dumps(value)}" for path, value in told))
    store = StudyStore(home)
    decision = store.load_decision(study.digest)
    print_lines(console, f"Here: {_describe_state(store, study)}")
    if decision is not None:
        print_lines(console, *(f"  {each}" for each in decision.findings))
    elif not study.closed:
        print_lines(console, _NEXT.format(name=study.name))


def run_approve(word: str, digest: str | None, person: str | None, folder: Path | None) -> None:
    """Print a study and what its evaluation on the hospital's data shows, ask, and approve it.

    Args:
        word: name or digest of the study, or its file.
        digest: of the study that was shown before, or its beginning; None asks.
        person: who approves.
        folder: of the site.

    Raises:
        FedhealthError: the data cannot be used for it, its share does not fit into the budget, or nobody confirms.

    """
    from fedhealth.site.study_approval import approve_study
    from fedhealth.site.study_verdict import evaluate_study

    home, console = SiteHome.find(folder), Console()
    study, policy = find_or_receive_study(word, home), load_policy(home)
    if digest is not None:
        _check_digest(study, digest)
    _print_study(console, study, home)
    with console.status("Evaluating what the data mean on this hospital's data"):
        verdict = evaluate_study(study, policy, home)
    print_lines(console, f"This hospital's data: {verdict.size}")
    print_lines(console, *(f"  {finding}" for finding in verdict.findings or ("Every cell fits the description.",)))
    print_lines(console, *(f"  {each}" for each in verdict.guarantee))
    require_confirmation(f"Approve {study.label}, digest {study.digest[:_LEAST_DIGITS]}?", digest)
    decision = approve_study(study, verdict, home, policy, _read_person(person))
    print_lines(console, f"Approved by {decision.person}; its runs are answered from {study.first_day} on.")


def _check_digest(study: ResearchStudy, digest: str) -> None:
    """Raise unless a study is the one that was shown: a name alone may mean a version that came later."""
    given = digest.strip().lower()
    if len(given) < _LEAST_DIGITS or not study.digest.startswith(given):
        raise ConfigError(
            f"{study.label} has the digest {study.digest}, not {digest[:80]!r}.",
            f"Read it with `fedhealth site study show {study.name}`; "
            f"then give --yes at least {_LEAST_DIGITS} digits of its digest.",
        )


def run_decline(word: str, reason: RefusalReason, note: str, person: str | None, folder: Path | None) -> None:
    """Decline a version of a study."""
    from fedhealth.site.study_approval import decline_study

    home = SiteHome.find(folder)
    study = find_or_receive_study(word, home)
    decision = decline_study(study, home, reason, note, _read_person(person))
    print_lines(Console(), f"{study.label} is declined here by {decision.person}. {_describe_sent(reason)}")


def run_withdraw(word: str, reason: RefusalReason, note: str, person: str | None, folder: Path | None) -> None:
    """Withdraw the approval of a study, whichever version was approved."""
    from fedhealth.site.study_approval import withdraw_study

    home = SiteHome.find(folder)
    stored = StudyStore(home).read_studies()
    name = word if stored.list_versions(word) else find_or_receive_study(word, home).name
    versions = withdraw_study(name, home, reason, note, _read_person(person))
    print_lines(Console(), f"The approval of {versions[-1].label} is withdrawn here. {_describe_sent(reason)}")


def _read_person(given: str | None) -> str | None:
    """Return who decides; None for this process's user."""
    return None if given is None else check_person(given)


def _describe_sent(reason: RefusalReason) -> str:
    return f"A running site reports to the lead: {REASON_TEXTS[reason]}."


def find_or_receive_study(word: str, home: SiteHome) -> ResearchStudy:
    """Return a study by name or digest; a file is received first.

    Raises:
        ConfigError: there is no such study, or no kit yet.
        TrustError: the file was not published by this consortium.

    """
    if not Path(word).is_file():
        return StudyStore(home).find_study(word)
    signed = load_installed_membership(home)
    if signed is None:
        raise ConfigError("No kit is installed, so the study's signature cannot be checked.", "Install the kit first.")
    content = read_small_file(Path(word))
    with name_file(Path(word)):
        return receive_study(content, signed.membership, home, load_policy(home))


def _print_study(console: Console, study: ResearchStudy, home: SiteHome) -> None:
    print_lines(console, *describe_study(study))
    if (before := StudyStore(home).find_previous_version(study)) is not None:
        print_lines(console, f"Compared with {before.label}:", *_indent_changes(before, study))


def _indent_changes(before: ResearchStudy, after: ResearchStudy) -> Iterator[str]:
    yield from [f"  {change}" for change in describe_changes(before, after)] or ["  nothing changes"]


def _is_yes(decision: StudyDecision) -> bool:
    return decision.answer is StudyAnswer.approved


def _describe_state(store: StudyStore, study: ResearchStudy) -> str:
    decision = store.load_decision(study.digest)
    if study.closed:
        return "closed by the lead"
    if decision is None:
        return "not decided"
    day = time.strftime("%Y-%m-%d", time.localtime(decision.time))
    told = [decision.reason and REASON_TEXTS[decision.reason], decision.note]
    reason = "".join(f", {each}" for each in told if each)
    used = (
        f"; {len(store.list_runs(study.name))} of {study.runs} runs have touched the data" if _is_yes(decision) else ""
    )
    if decision.answer in _AGAIN:
        return f"approved by {decision.person} on {day}; {_AGAIN[decision.answer]}: approve it again"
    return f"{decision.answer} by {decision.person} on {day}{reason}{used}"
