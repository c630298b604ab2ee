"""Implementation of `fedhealth lead study`."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from fedhealth.cli.json_output import print_json
from fedhealth.cli.prompts import print_lines
from fedhealth.config.compose import compose_shared_settings
from fedhealth.consortium.research_study import ResearchStudy
from fedhealth.consortium.study_text import describe_changes, describe_study
from fedhealth.errors import ConfigError, FedhealthError
from fedhealth.lead.home import LeadHome
from fedhealth.lead.publish_study import (
    close_study,
    find_latest_study,
    get_study_path,
    load_published_studies,
    publish_study,
)
from fedhealth.lead.site_overview import load_reports
from fedhealth.lead.study_answers import StudyAnswers, collect_answers
from fedhealth.lead.study_draft import RELEASES, StudyDraft, load_draft
from fedhealth.protocol.site_report import SiteReport
from fedhealth.utils.atomic_io import write_atomic
from fedhealth.utils.json_schema import format_schema_line, write_schema

_TEMPLATE = """\
{schema}
# A study, for the hospitals' people: complete the empty texts, then run: fedhealth lead study publish {file}
name: {name}
title: ""
purpose: ""              # what the results are for
contact: ""              # who answers questions
ethics: ""               # number of the ethics committee's or data authority's permit
first_day: "{first}"
last_day: "{last}"
overrides:               # the run, as for `fedhealth run`
{overrides}
open: {{}}                 # values that runs may set, such as training.optimizer.lr: [0.001, 0.003]
runs: 1                  # how many runs may touch the data
epsilon: null            # of all runs together; null takes runs times privacy.epsilon
delta: 0.000001
releases:                # what is released at the end
{releases}
"""
_DAYS = 365


def run_new(name: str, overrides: list[str], path: Path) -> None:
    """Write a draft.

    Raises:
        ConfigError: the file exists, or the overrides do not compose.

    """
    if path.exists():
        raise ConfigError(f"{path} exists.", "Choose another file with --to.")
    compose_shared_settings(overrides)
    first = date.today()
    content = _TEMPLATE.format(
        schema=format_schema_line(path.name),
        file=path,
        name=name,
        first=first.isoformat(),
        last=(first + timedelta(days=_DAYS)).isoformat(),
        overrides=yaml.safe_dump(overrides).rstrip(),
        releases=yaml.safe_dump(list(RELEASES)).rstrip(),
    )
    write_atomic(path, content.encode())
    write_schema(path, StudyDraft)
    print_lines(Console(), f"Complete {path}, then run: fedhealth lead study publish {path}")


def run_publish(path: Path, config_dir: Path | None, folder: Path | None) -> None:
    """Sign the next version of a study, and print it, its changes and its file."""
    home, console = LeadHome.find(folder), Console()
    draft = load_draft(path)
    earlier = [each.study for each in load_published_studies(home) if each.study.name == draft.name]
    study = publish_study(home, draft, config_dir).study
    print_lines(console, *describe_study(study))
    if earlier and earlier[-1].version < study.version:
        changes = [f"  {change}" for change in describe_changes(earlier[-1], study)]
        print_lines(console, f"Compared with {earlier[-1].label}:", *changes)
    print_lines(console, f"Send {get_study_path(home, study)} to {', '.join(study.members)}; each of them runs:")
    print_lines(console, f"  fedhealth site study approve {get_study_path(home, study).name}")


def run_list_answers(name: str | None, folder: Path | None, as_json: bool) -> None:
    """Print each study with its runs and the hospitals' answers to the last of them."""
    home, console = LeadHome.find(folder), Console()
    reports = _load_reports(home, Console(stderr=as_json))
    published = [find_latest_study(home, name)] if name else load_published_studies(home)
    latest = {each.study.name: each.study for each in published}
    answers = [(study, collect_answers(home, study, reports)) for study in latest.values()]
    if as_json:
        print_json([_collect_study(*each) for each in answers])
        return
    for study, found in answers:
        state = "closed" if study.closed else f"{study.first_day} to {study.last_day}"
        print_lines(console, f"{study.label}, {study.title}: {state}; {found.runs} of {study.runs} runs started")
        print_lines(console, *(f"  {site}: {answer}" for site, answer in found.by_site.items()))
    if not latest:
        print_lines(console, "No study was published. `fedhealth lead study new` writes a draft.")


def _collect_study(study: ResearchStudy, answers: StudyAnswers) -> dict[str, Any]:
    about = {"name": study.name, "version": study.version, "title": study.title, "closed": study.closed}
    days = {"first_day": study.first_day, "last_day": study.last_day}
    return {**about, **days, "runs": study.runs, "started": answers.runs, "answers": dict(answers.by_site)}


def _load_reports(home: LeadHome, console: Console) -> dict[str, SiteReport]:
    """Return the hospitals' reports; without the server, say so and return none."""
    try:
        return load_reports(home)
    except FedhealthError as fault:
        print_lines(console, f"{fault.problem} Only the answers to runs are shown. {fault.advice}")
        return {}


def run_close(name: str, folder: Path | None) -> None:
    """Close a study."""
    home = LeadHome.find(folder)
    study = close_study(home, name).study
    print_lines(Console(), f"{name} is closed. Send {get_study_path(home, study)} to {', '.join(study.members)}.")
