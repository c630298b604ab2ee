"""The hospital's rules, read from site.yaml. Without them, or with a fault in them, nothing leaves.

Every limit has a strict default; a key that does not exist is a fault, so that a misspelt limit cannot go unnoticed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedhealth.errors import ConfigError
from fedhealth.protocol.messages import ACCEPTANCE, SEALED, SECAGG, STATISTICS, UPDATE
from fedhealth.site.home import SiteHome
from fedhealth.types import SITE_ID
from fedhealth.utils.yaml_model import load

UNITS = ("patient", "record", "client", "none")  # whom a run's privacy protects


@dataclass(frozen=True)
class Source:
    """Data that jobs may train on.

    Attributes:
        dataset: the hospital's own name for it: one privacy ledger each, whatever a job calls the data.
        root: folder of the manifest and the images.
        manifest: its name below root.
        ingested: whether root is what `fedhealth site ingest` made.
        cache: folder for decoded images.
        columns: the manifest's names for patient, study, image, text, ... where they differ from the consortium's.
        site_column: column that names the site, where the manifest holds several.
        public: folder of the consortium's public data, where this site mixes them in.

    """

    dataset: str
    root: Path
    manifest: str = "manifest.csv"
    ingested: bool = False
    cache: Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    site_column: str | None = None
    public: Path | None = None


@dataclass(frozen=True)
class Limits:
    """What a job may ask for, and what may leave.

    Attributes:
        units: whom a run's privacy may protect: `patient`, `record`, `client`; `none` allows runs without any.
        epsilon: the most that one run may spend.
        life_epsilon: the most that all runs on one data set may spend together.
        max_delta: the largest delta that a job may set.
        min_sigma: the least noise, as a multiple of the clipping bound.
        secure_aggregation: whether it is required.
        min_sites: the smallest sum that this site takes part in.
        exact_weights: whether the number of training rows may be announced instead of a power of sqrt 2 near it.
        min_patients: a smaller cohort reports nothing on its own.
        models: options of the model groups; null for all that are installed.
        personalizations: options of that group; null for all that are installed.
        records: what a message may hold.
        megabytes_per_round: that may leave.
        largest_change: of one value of an update that leaves without secure aggregation.
        hours: for how long this site takes part in one run.

    """

    units: tuple[str, ...] = ("patient",)
    epsilon: float = 8.0
    life_epsilon: float = 20.0
    max_delta: float = 1e-4
    min_sigma: float = 0.3
    secure_aggregation: bool = True
    min_sites: int = 3
    exact_weights: bool = False
    min_patients: int = 20
    models: tuple[str, ...] | None = None
    personalizations: tuple[str, ...] | None = None
    records: tuple[str, ...] = (ACCEPTANCE, SECAGG, SEALED)
    megabytes_per_round: float = 1000.0
    largest_change: float = 1000.0
    hours: float = 72.0


REHEARSAL = Limits(
    units=UNITS,
    epsilon=math.inf,
    life_epsilon=math.inf,
    max_delta=1.0,
    min_sigma=0.0,
    secure_aggregation=False,
    min_sites=1,
    exact_weights=True,
    min_patients=1,
    records=(ACCEPTANCE, SECAGG, SEALED, STATISTICS, UPDATE),
    megabytes_per_round=math.inf,
    largest_change=3e38,
    hours=math.inf,
)
"""For virtual sites on one machine: their data are the user's own. What is not predicted stays even there."""


@dataclass(frozen=True)
class Resources:
    """What a task may use.

    Attributes:
        device: `auto`, `cpu` or `cuda:0`.
        threads: of the processor.
        memory_gb: after which a task is stopped.
        minutes: for one message.
        incoming_megabytes: of one message.
        weights: folder of pretrained weights, which jobs name by file name only.

    """

    device: str = "auto"
    threads: int = 1
    memory_gb: float = 16.0
    minutes: float = 60.0
    incoming_megabytes: float = 2000.0
    weights: Path | None = None


@dataclass(frozen=True)
class Policy:
    """All of site.yaml.

    Attributes:
        name: of the site, as in the roster.
        lead: host:port of the lead's server.
        data: sources by the name that jobs use (`data.name`).
        limits: what may leave.
        resources: what may be used.
        conf: folder of further configuration files that jobs may choose, installed by the hospital's own staff.

    """

    name: str
    lead: str
    conf: Path | None = None
    data: Mapping[str, Source] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    resources: Resources = field(default_factory=Resources)


def load_policy(home: SiteHome) -> Policy:
    """Read and check site.yaml.

    Raises:
        ConfigError: it is missing, unreadable, or holds a fault; all faults are named.

    """
    if not home.policy.exists():
        raise ConfigError(f"{home.policy}: there is no policy.", "`fedhealth site init` writes one.")
    return load(home.policy, Policy, _range_faults, "Correct the file; nothing leaves meanwhile.")


def _range_faults(policy: Policy) -> list[str]:
    limits, resources = policy.limits, policy.resources
    positive = {
        **{f"limits.{name}": getattr(limits, name) for name in ("epsilon", "life_epsilon", "megabytes_per_round")},
        **{f"limits.{name}": getattr(limits, name) for name in ("largest_change", "hours")},
        **{
            f"resources.{name}": getattr(resources, name)
            for name in ("threads", "memory_gb", "minutes", "incoming_megabytes")
        },
    }
    faults = [f"{name}: must be positive and finite." for name, value in positive.items() if not 0 < value < math.inf]
    if not SITE_ID.fullmatch(policy.name):
        faults.append(f"name: {policy.name!r} is no site name (lower case letters, digits, . _ and -).")
    if not 0 < limits.max_delta < 1:
        faults.append("limits.max_delta: must lie between 0 and 1.")
    if not 0 <= limits.min_sigma < math.inf:
        faults.append("limits.min_sigma: must not be negative.")
    if limits.min_sites < 1 or limits.min_patients < 1:
        faults.append("limits: min_sites and min_patients must be at least 1.")
    faults += [f"limits.units: there is no unit {unit!r}." for unit in limits.units if unit not in UNITS]
    return faults + _data_faults(policy)


def _data_faults(policy: Policy) -> list[str]:
    """Refuse two names of the same files, which would give the same patients two budgets."""
    faults, ledgers = [], dict[Path, str]()
    for name, source in policy.data.items():
        if not SITE_ID.fullmatch(source.dataset):
            faults.append(f"data.{name}.dataset: {source.dataset!r} is no plain name.")
        root = source.root.resolve()
        if ledgers.setdefault(root, source.dataset) != source.dataset:
            faults.append(f"data.{name}.dataset: {root} already has the ledger {ledgers[root]!r}; use that name.")
    return faults
