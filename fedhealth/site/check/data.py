"""Check the data that site.yaml offers: every manifest must match the consortium's description of it.

Files are read and images are decoded into the cache, as in a first run; nothing is trained and nothing leaves.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from fedhealth.config.compose import compose_config, get_conf_dir
from fedhealth.config.schema import Config
from fedhealth.data.dataset import SiteDataset, prepare_dataset
from fedhealth.data.read_table import read_table
from fedhealth.site.check.base import CheckResult, catch_errors, report_failure, report_pass, report_warning
from fedhealth.site.job_approval import make_site_overrides
from fedhealth.site.policy import DataSource, Policy

_MOST_REASONS = 3
_CAUSE = "Find the cause before training: the cohort may be wrong."
_INTENDED = "Make sure that this is intended."


def check_data(policy: Policy) -> Iterator[CheckResult]:
    """Yield the checks of every data source."""
    for name, source in policy.data.items():
        yield from catch_errors(f"data {name}", _check_source(policy, name, source))


def _check_source(policy: Policy, name: str, source: DataSource) -> Iterator[CheckResult]:
    overrides = _find_description(policy, name)
    if overrides is None:
        yield _check_table(name, source)
    else:
        config = compose_site_config(policy, source, overrides)
        yield from check_cohort(f"data {name}", prepare_dataset(config.data, policy.name), policy)


def compose_site_config(policy: Policy, source: DataSource, overrides: tuple[str, ...]) -> Config:
    """Return the configuration of overrides, with the site's own overrides last.

    Raises:
        ConfigError: they do not compose.

    """
    own = make_site_overrides(policy, source, overrides)
    config: Any = OmegaConf.to_object(compose_config([*overrides, *own], policy.conf))
    assert isinstance(config, Config)  # noqa: S101 - the schema's root
    return config


def check_cohort(name: str, cohort: SiteDataset, policy: Policy) -> Iterator[CheckResult]:
    """Yield the size of a cohort, and everything that a person should review."""
    counts = cohort.counts()
    size = ", ".join(f"{counts[key]} {key}" for key in ("patients", "rows", "image", "text", "tabular", "unlabelled"))
    if counts["patients"] < policy.limits.min_patients:
        fix = "A cohort this small is never reported on its own. Add patients, or lower limits.min_patients on purpose."
        yield report_warning(name, f"{size}; fewer patients than limits.min_patients", fix)
    elif cohort.rejected:
        reasons = "; ".join(entry.reason for entry in cohort.rejected[:_MOST_REASONS])
        found = f"{size}; {len(cohort.rejected)} image(s) discarded: {reasons}"
        yield report_warning(name, found, "Repair these files, or remove them.")
    else:
        yield report_pass(name, size)
    for kind in dict.fromkeys(each.kind for each in cohort.findings):
        alike = [each for each in cohort.findings if each.kind is kind]
        fix = _CAUSE if any(each.serious for each in alike) else _INTENDED
        yield report_warning(f"{name}: {kind.value}", " ".join(each.text for each in alike), fix)


def _check_table(name: str, source: DataSource) -> CheckResult:
    """Check the manifest's columns only: the consortium's description of these data is not installed."""
    path = source.root / source.manifest
    table = read_table(path)
    missing = [column for column in source.columns.values() if column not in table.columns]
    if missing:
        has = ", ".join(map(str, table.columns))
        return report_failure(
            f"data {name}",
            f"{path} has no column {', '.join(missing)}",
            f"Correct `columns` in site.yaml; the file has: {has}.",
        )
    fix = f"Install the consortium's data/{name}.yaml (`conf` in site.yaml), or try a run: site check experiment=..."
    return report_warning(
        f"data {name}",
        f"{path}: {len(table.lines)} rows, {len(table.columns)} columns; its content was not checked",
        fix,
    )


def _find_description(policy: Policy, name: str) -> tuple[str, ...] | None:
    """Return the overrides that choose the installed description of these data; None if none is installed."""
    folders: list[Path] = [get_conf_dir(), *([policy.conf] if policy.conf else [])]
    if not any((folder / "data" / f"{name}.yaml").is_file() for folder in folders):
        return None
    overrides = (f"data={name}",)
    return overrides if str(compose_config(overrides, policy.conf).data.name) == name else None
