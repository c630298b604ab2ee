"""Publish studies: sign them, keep every version, and find the one that a run belongs to."""

from __future__ import annotations

import getpass
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from fedhealth.config.compose import compose_shared_settings
from fedhealth.config.open_paths import encode_setting, find_changes_outside
from fedhealth.consortium.research_study import ResearchStudy, SignedStudy, sign_study
from fedhealth.errors import ConfigError, TrustError
from fedhealth.lead.home import LeadHome
from fedhealth.lead.project import load_project
from fedhealth.lead.study_draft import StudyDraft, build_study, build_study_of_runs
from fedhealth.utils.atomic_io import write_atomic, write_json
from fedhealth.utils.json_model import read_model
from fedhealth.utils.plain_files import read_plain_file
from fedhealth.utils.private_files import load_signing_key, make_private_folder

_DAYS = 30  # of a study that a run makes for itself
_UNSTATED = "not stated: made from the command of a run"


def load_published_studies(home: LeadHome) -> list[SignedStudy]:
    """Return all versions of all studies, sorted by name and version.

    Raises:
        TrustError: a file is damaged.

    """
    found = [SignedStudy.loads(read_plain_file(path)) for path in sorted(home.studies.glob("*.study.json"))]
    return sorted(found, key=lambda each: (each.study.name, each.study.version))


def find_latest_study(home: LeadHome, name: str) -> SignedStudy:
    """Return the latest version of a study.

    Raises:
        ConfigError: there is none of that name.

    """
    found = [each for each in load_published_studies(home) if each.study.name == name]
    if not found:
        raise ConfigError(f"No study is called {name!r}.", "`fedhealth lead study status` lists them.")
    return found[-1]


def publish_study(home: LeadHome, draft: StudyDraft, config_dir: Path | None = None) -> SignedStudy:
    """Sign the next version of a study, unless nothing changed since the last one.

    Raises:
        ConfigError: the draft is invalid, or the study is closed.

    """
    last = _find_last(home, draft.name)
    if last is not None and last.study.closed:
        raise ConfigError(f"The study {draft.name} is closed.", "Give the new one another name.")
    version = last.study.version + 1 if last else 1
    study = build_study(draft, load_project(home.project).project, version, config_dir)
    if last is not None and replace(study, version=last.study.version).body == last.study.body:
        return last
    return _sign_and_store(home, study)


def close_study(home: LeadHome, name: str) -> SignedStudy:
    """Close a study with a last version: hospitals that receive it answer no further run of the study.

    Raises:
        ConfigError: there is no such study.

    """
    last = find_latest_study(home, name)
    if last.study.closed:
        return last
    return _sign_and_store(home, replace(last.study, version=last.study.version + 1, closed=True))


def find_or_make_study(
    home: LeadHome, runs: Mapping[str, Sequence[str]], config_dir: Path | None = None, *, count: bool = True
) -> tuple[SignedStudy, bool]:
    """Return the published study that all these runs belong to, or make one of them; and whether it was made now.

    With `count` the runs count as the study's from now on; a run that is resumed counts once.

    Args:
        home: the lead's folder.
        runs: the overrides of each, by run id.
        config_dir: an additional folder of configuration files.
        count: False for a request that touches no data.

    Raises:
        ConfigError: no hospital would accept the overrides.

    """
    settings = [compose_shared_settings(list(each), config_dir) for each in runs.values()]
    latest = {each.study.name: each for each in load_published_studies(home)}
    more = runs if count else {}
    found = next((each for each in latest.values() if _covers(home, each.study, settings, more)), None)
    signed = found or _make_study(home, runs, settings[0], config_dir)
    write_json(_get_runs_path(home, signed.study.name), list_study_runs(home, signed.study.name, more))
    return signed, found is None


def _covers(home: LeadHome, study: ResearchStudy, settings: Sequence[Mapping[str, Any]], more: Iterable[str]) -> bool:
    today = date.today().isoformat()
    is_open = not study.closed and study.first_day <= today <= study.last_day
    if not is_open or len(list_study_runs(home, study.name, more)) > study.runs:
        return False
    return not any(find_changes_outside(study.configuration, each, study.open) for each in settings)


def _make_study(
    home: LeadHome, runs: Mapping[str, Sequence[str]], settings: Mapping[str, Any], config_dir: Path | None
) -> SignedStudy:
    """Sign a study of these runs; where an earlier one of the same configuration is used up, its next version."""
    name = f"run-{hashlib.sha256(encode_setting(settings).encode()).hexdigest()[:12]}"
    last, overrides = _find_last(home, name), list(runs.values())
    draft = _draft_of_run(name, overrides, settings, len(list_study_runs(home, name, runs)))
    version = last.study.version + 1 if last else 1
    project = load_project(home.project).project
    return _sign_and_store(home, build_study_of_runs(draft, overrides, project, version, config_dir))


def list_study_runs(home: LeadHome, name: str, more: Iterable[str] = ()) -> list[str]:
    """Return the ids of the runs that count as a study's, and of `more`."""
    begun = read_model(_get_runs_path(home, name), tuple[str, ...], "Restore it from a backup.") or ()
    return list(dict.fromkeys([*begun, *more]))


def _get_runs_path(home: LeadHome, name: str) -> Path:
    return home.studies / f"{name}.runs.json"


def _draft_of_run(name: str, runs: Sequence[Sequence[str]], settings: Mapping[str, Any], count: int) -> StudyDraft:
    today = date.today()
    return StudyDraft(
        name=name,
        title=f"Runs of {' '.join(runs[0])}"[:500],
        purpose=_UNSTATED,
        contact=_get_user(),
        ethics=_UNSTATED,
        first_day=today.isoformat(),
        last_day=(today + timedelta(days=_DAYS)).isoformat(),
        overrides=tuple(runs[0]),
        runs=count,
        delta=float(settings["privacy"].get("delta") or 1e-6),
    )


def _find_last(home: LeadHome, name: str) -> SignedStudy | None:
    return next((each for each in reversed(load_published_studies(home)) if each.study.name == name), None)


def _sign_and_store(home: LeadHome, study: ResearchStudy) -> SignedStudy:
    signed = sign_study(study, load_signing_key(home.consortium_key))
    SignedStudy.loads(signed.dumps())  # a study that hospitals would refuse is never written
    make_private_folder(home.studies)
    write_atomic(get_study_path(home, study), signed.dumps())
    return signed


def get_study_path(home: LeadHome, study: ResearchStudy) -> Path:
    """Return the file of a published version."""
    return home.studies / f"{study.name}-v{study.version}.study.json"


def _get_user() -> str:
    with suppress(OSError, KeyError):
        return getpass.getuser()
    raise TrustError("This machine does not know the user of this process.", "Publish the study from a file.")
