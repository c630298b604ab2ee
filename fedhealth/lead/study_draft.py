"""study.yaml: what the lead writes about a study, and the study that follows from it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedhealth.config.compose import compose_shared_settings
from fedhealth.config.named_weights import list_named_weights
from fedhealth.config.open_paths import OpenPath, collect_open_paths
from fedhealth.config.override_allowlist import find_override_errors
from fedhealth.consortium.research_study import ResearchStudy, find_study_errors
from fedhealth.errors import ConfigError
from fedhealth.models.weights import WEIGHTS_ENV, compute_weights_digest
from fedhealth.utils.yaml_model import load_yaml

RELEASES = ("the trained model", "its pooled evaluation", "summed statistics of the training")
_ADVICE = "Correct the study."


@dataclass(frozen=True)
class StudyDraft:
    """The content of study.yaml.

    Attributes:
        name: plain, the same in all versions.
        title: for people.
        purpose: what the results are for.
        contact: who answers questions.
        ethics: number of the permit.
        first_day: no run before it, such as 2026-01-31.
        last_day: no run after it.
        overrides: of the run, as for `fedhealth run`.
        open: the values that runs may set, by path or group of the configuration.
        runs: how many runs may touch the data.
        epsilon: of all runs together; null takes `runs` times the largest privacy.epsilon of a run.
        delta: at which epsilon holds.
        releases: what is released at the end.

    """

    name: str
    title: str
    purpose: str
    contact: str
    ethics: str
    first_day: str
    last_day: str
    overrides: tuple[str, ...]
    open: Mapping[str, tuple[str | int | float | bool, ...]] = field(default_factory=dict)
    runs: int = 1
    epsilon: float | None = None
    delta: float = 1e-6
    releases: tuple[str, ...] = RELEASES


def load_draft(path: Path) -> StudyDraft:
    """Read study.yaml.

    Raises:
        ConfigError: it is missing or invalid; the message lists every fault.

    """
    return load_yaml(path, StudyDraft, lambda draft: [], _ADVICE)


def build_study(draft: StudyDraft, project: str, version: int, config_dir: Path | None = None) -> ResearchStudy:
    """Return the study of a draft, its configuration resolved.

    Args:
        draft: of the lead.
        project: the consortium.
        version: of the study.
        config_dir: an additional folder of configuration files, which the hospitals have installed too.

    Raises:
        ConfigError: an override is one that no hospital accepts or does not compose, or a field is invalid.

    """
    varied = [[*_drop_key(draft.overrides, path), f"{path}={_write(v)}"] for path, vs in draft.open.items() for v in vs]
    return build_study_of_runs(draft, [draft.overrides, *varied], project, version, config_dir)


def build_study_of_runs(
    draft: StudyDraft, runs: Sequence[Sequence[str]], project: str, version: int, config_dir: Path | None = None
) -> ResearchStudy:
    """Return a study that holds the first of these runs, and leaves open what differs in the others.

    Raises:
        ConfigError: as `build_study`.

    """
    if faults := dict.fromkeys(fault for each in runs for fault in find_override_errors(each, config_dir)):
        listed = "\n".join(faults)
        raise ConfigError(
            f"No hospital accepts these overrides:\n{listed}", "Put them into an installed configuration."
        )
    settings = [compose_shared_settings(list(each), config_dir) for each in runs]
    open_paths, shared = collect_open_paths(settings), settings[0]
    epsilons = [float(found) for each in settings if (found := each["privacy"].get("epsilon")) is not None]
    study = ResearchStudy(
        project=project,
        name=draft.name,
        version=version,
        title=draft.title,
        purpose=draft.purpose,
        contact=draft.contact,
        ethics=draft.ethics,
        first_day=draft.first_day,
        last_day=draft.last_day,
        members=tuple(sorted(shared["data"]["sites"])),
        overrides=tuple(runs[0]),
        configuration=shared,
        open=open_paths,
        weights=_digest_weights(shared, open_paths),
        runs=draft.runs,
        epsilon=draft.epsilon or (draft.runs * max(epsilons) if epsilons else None),
        delta=draft.delta,
        releases=draft.releases,
    )
    problems = list(dict.fromkeys(find_study_errors(study)))
    try:
        _ = study.body
    except ValueError:  # no JSON
        problems.append("overrides: the configuration holds a number that is not finite")
    if problems:
        raise ConfigError("\n".join(problems), _ADVICE)
    return study


def _digest_weights(shared: Mapping[str, Any], open_paths: Sequence[OpenPath]) -> dict[str, str]:
    """Return the digests of all weights that the runs of a study may name, by name.

    Raises:
        ConfigError: this machine has none of that name.

    """
    folder = os.environ.get(WEIGHTS_ENV)
    names = list_named_weights(shared, open_paths)
    found = {name: compute_weights_digest(name, Path(folder) if folder else None) for name in names}
    if absent := [name for name, digest in found.items() if not digest]:
        raise ConfigError(
            f"The weights {', '.join(absent)} are no file or folder here: a study holds their digests.",
            f"Set {WEIGHTS_ENV} to their folder.",
        )
    return found


def _drop_key(overrides: Sequence[str], key: str) -> list[str]:
    return [override for override in overrides if override.partition("=")[0] != key]


def _write(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
