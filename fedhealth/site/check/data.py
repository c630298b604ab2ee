"""The data that site.yaml offers: that every manifest can be read as the consortium means it.

Files are read and images are decoded into the cache, as the first run would; nothing is trained and nothing leaves.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from fedhealth.config.compose import compose, conf_dir
from fedhealth.config.schema import Config
from fedhealth.data.dataset import Cohort, prepare
from fedhealth.data.manifest import read_table
from fedhealth.site.check.contract import Check, failed, guarded, passed, warned
from fedhealth.site.job_approval import own_words
from fedhealth.site.policy import Policy, Source

_MOST_WARNINGS = 3


def check_data(policy: Policy) -> Iterator[Check]:
    """Yield the checks of every source."""
    for name, source in policy.data.items():
        yield from guarded(f"data {name}", _check_source(policy, name, source))


def _check_source(policy: Policy, name: str, source: Source) -> Iterator[Check]:
    words = _words(policy, name)
    if words is None:
        yield _check_table(name, source)
    else:
        yield check_cohort(f"data {name}", prepare(site_config(policy, source, words).data, policy.name), policy)


def site_config(policy: Policy, source: Source, words: tuple[str, ...]) -> Config:
    """Return what words compose to with the site's own values last.

    Raises:
        ConfigError: they do not compose.

    """
    config: Any = OmegaConf.to_object(compose([*words, *own_words(policy, source, words)], policy.conf))
    assert isinstance(config, Config)  # noqa: S101 - the schema's root
    return config


def check_cohort(name: str, cohort: Cohort, policy: Policy) -> Check:
    """Tell a cohort's numbers, and what a person should know of it."""
    counts = cohort.counts()
    seen = ", ".join(f"{counts[key]} {key}" for key in ("patients", "rows", "image", "text", "tabular", "unlabelled"))
    if counts["patients"] < policy.limits.min_patients:
        fix = "Such a cohort reports nothing on its own; add patients, or lower limits.min_patients if that is meant."
        return warned(name, f"{seen}; fewer patients than limits.min_patients", fix)
    if cohort.rejected:
        reasons = "; ".join(entry.reason for entry in cohort.rejected[:_MOST_WARNINGS])
        return warned(name, f"{seen}; {len(cohort.rejected)} image(s) set aside: {reasons}", "Repair or remove them.")
    if cohort.warnings:
        return warned(name, f"{seen}; {' '.join(cohort.warnings[:_MOST_WARNINGS])}", "Make sure that this is meant.")
    return passed(name, seen)


def _check_table(name: str, source: Source) -> Check:
    """Check as much as can be without the consortium's description of these data."""
    path = source.root / source.manifest
    table = read_table(path)
    missing = [column for column in source.columns.values() if column not in table.columns]
    if missing:
        has = ", ".join(map(str, table.columns))
        return failed(
            f"data {name}", f"{path}: no column {', '.join(missing)}", f"Correct columns; the file has: {has}."
        )
    fix = f"Install the consortium's data/{name}.yaml (`conf` in site.yaml), or name a run: site check experiment=..."
    return warned(f"data {name}", f"{path}: {len(table)} rows, {len(table.columns)} columns; not read further", fix)


def _words(policy: Policy, name: str) -> tuple[str, ...] | None:
    """Return the words that choose an installed description of these data; None where there is none."""
    folders: list[Path] = [conf_dir(), *([policy.conf] if policy.conf else [])]
    if not any((folder / "data" / f"{name}.yaml").is_file() for folder in folders):
        return None
    words = (f"data={name}",)
    return words if str(compose(words, policy.conf).data.name) == name else None
