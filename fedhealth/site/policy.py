"""The site's policy, read from site.yaml. If it is missing or invalid, nothing leaves.

Every limit has a strict default. Unknown keys are errors, so that a misspelt limit is noticed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedhealth.errors import ConfigError
from fedhealth.flower.client.proxy import ENVIRONMENT, Proxy, find_proxy
from fedhealth.protocol.messages import ACCEPTANCE, SEALED, SECAGG, STATISTICS, UPDATE
from fedhealth.site.home import SiteHome
from fedhealth.types import SITE_ID, UserPath
from fedhealth.utils.yaml_model import load_yaml

PRIVACY_UNITS = ("patient", "record", "client", "none")  # what one unit of differential privacy is


@dataclass(frozen=True)
class DataSource:
    """Data that jobs may train on.

    Attributes:
        dataset: the hospital's own name; each has one privacy ledger, whatever name jobs use.
        root: folder of the manifest and the images.
        manifest: path of the manifest below root.
        ingested: whether `fedhealth site ingest` made root.
        cache: folder for decoded images.
        columns: the manifest's names for patient, study, image, text, ... if they differ from the consortium's.
        site_column: column that names the site, if the manifest holds several sites.
        public: folder of the consortium's public data, if this site adds them to its own.

    """

    dataset: str
    root: UserPath
    manifest: str = "manifest.csv"
    ingested: bool = False
    cache: UserPath | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    site_column: str | None = None
    public: UserPath | None = None


@dataclass(frozen=True)
class SiteLimits:
    """What a job may request, and what may leave.

    Attributes:
        units: allowed privacy units: `patient`, `record`, `client`; `none` allows runs without privacy.
        epsilon: maximum for one run.
        lifetime_epsilon: maximum for all runs on one data set together.
        local_epsilon: maximum for one run with shared noise if all other sites collude with the lead; None declines
            runs that share noise.
        lifetime_local_epsilon: the same for all runs on one data set together; None takes lifetime_epsilon.
        max_delta: maximum delta of a job.
        delta: at which the epsilon of all runs on one data set is measured.
        max_failures: maximum number of private requests on one data set, of all runs, that may fail after they were
            booked; None for no limit. Which of them fail may depend on the data.
        min_noise_multiplier: minimum noise, as a multiple of the clipping bound.
        secure_aggregation: whether it is required.
        min_sites: minimum number of sites in every sum, also in that of one tower.
        colluders: members that are assumed to collude with the lead; None assumes fewer than a third of them.
        min_honest: honest members that every sum must hold; None takes 3, and 2 for up to five members.
        changing_cohorts: whether sums without privacy may differ in their contributors; the difference of two such sums
            is a sum over fewer hospitals, at worst over one.
        absent_rounds: in runs without privacy with local layers, the largest number of rounds in a row that this site
            may have missed; None for no limit.
        word_embeddings: whether a run without differential privacy may sum the rows of word embeddings; a row of words
            that one site alone uses is that site's own.
        exact_weights: whether the exact number of training rows may leave instead of a power of sqrt 2 near it.
        min_patients: a smaller cohort is never reported on its own.
        models: allowed options of the model groups; null for all that are installed.
        personalizations: allowed options of that group; null for all that are installed.
        records: names of the records that a reply may hold.
        megabytes_per_round: maximum that leaves in one round.
        largest_change: maximum absolute value in an update that leaves without secure aggregation.
        hours: maximum duration of one run.
        unattended_studies: whether runs need no study that a person approved here.
        minor_amendments: whether a version of an approved study that changes only contact and dates counts as approved.

    """

    units: tuple[str, ...] = ("patient",)
    epsilon: float = 8.0
    lifetime_epsilon: float = 20.0
    local_epsilon: float | None = None
    lifetime_local_epsilon: float | None = None
    max_delta: float = 1e-4
    delta: float = 1e-6
    max_failures: int | None = 20
    min_noise_multiplier: float = 0.3
    secure_aggregation: bool = True
    min_sites: int = 3
    colluders: int | None = None
    min_honest: int | None = None
    word_embeddings: bool = False
    changing_cohorts: bool = False
    absent_rounds: int | None = 2
    exact_weights: bool = False
    min_patients: int = 20
    models: tuple[str, ...] | None = None
    personalizations: tuple[str, ...] | None = None
    records: tuple[str, ...] = (ACCEPTANCE, SECAGG, SEALED)
    megabytes_per_round: float = 1000.0
    largest_change: float = 1000.0
    hours: float = 72.0
    unattended_studies: bool = False
    minor_amendments: bool = False


SIMULATION_LIMITS = SiteLimits(
    units=PRIVACY_UNITS,
    epsilon=math.inf,
    lifetime_epsilon=math.inf,
    max_delta=1.0,
    max_failures=None,
    min_noise_multiplier=0.0,
    secure_aggregation=False,
    min_sites=1,
    colluders=0,
    min_honest=1,
    word_embeddings=True,
    changing_cohorts=True,
    absent_rounds=None,
    exact_weights=True,
    min_patients=1,
    records=(ACCEPTANCE, SECAGG, SEALED, STATISTICS, UPDATE),
    megabytes_per_round=math.inf,
    largest_change=3e38,
    hours=math.inf,
)
"""For virtual sites on one machine, whose data are the user's own. The egress gate checks schemas even there."""


@dataclass(frozen=True)
class Resources:
    """The resources of a task.

    Attributes:
        device: `auto`, `cpu` or `cuda:0`.
        threads: number of CPU threads.
        memory_gb: a task that uses more is stopped; private training splits its batches to fit.
        minutes: deadline of a task.
        incoming_megabytes: maximum size of one message.
        weights: folder of pretrained weights; jobs give only a file name.

    """

    device: str = "auto"
    threads: int = 1
    memory_gb: float = 16.0
    minutes: float = 60.0
    incoming_megabytes: float = 2000.0
    weights: UserPath | None = None


@dataclass(frozen=True)
class ProxySettings:
    """The HTTP proxy of the hospital's network.

    Attributes:
        address: `environment` for the one that HTTPS_PROXY names and NO_PROXY does not exclude, `none`, or
            http://host:port.
        credentials: file with one line user:password, readable by its owner only.

    """

    address: str = ENVIRONMENT
    credentials: UserPath | None = None

    def find(self, lead: str) -> Proxy | None:
        """Return the proxy for connections to the lead; see `find_proxy`."""
        return find_proxy(self.address, self.credentials, lead)


@dataclass(frozen=True)
class Policy:
    """The content of site.yaml.

    Attributes:
        name: of the site, as in the roster.
        lead: host:port of the lead's server.
        data: data sources, by the name that jobs use (`data.name`).
        limits: what a job may request and what may leave.
        resources: what a task may use.
        proxy: how the lead is reached.
        conf: folder of further configuration files that jobs may choose, installed by the hospital's own staff.

    """

    name: str
    lead: str
    conf: UserPath | None = None
    data: Mapping[str, DataSource] = field(default_factory=dict)
    limits: SiteLimits = field(default_factory=SiteLimits)
    resources: Resources = field(default_factory=Resources)
    proxy: ProxySettings = field(default_factory=ProxySettings)


def load_policy(home: SiteHome) -> Policy:
    """Read and validate site.yaml.

    Raises:
        ConfigError: it is missing, unreadable or invalid; the message lists every error.

    """
    if not home.policy.exists():
        raise ConfigError(f"The policy {home.policy} is missing.", "`fedhealth site init` writes one.")
    return load_yaml(
        home.policy, Policy, _find_range_errors, "Correct the file. Until then the site declines every job."
    )


def _find_range_errors(policy: Policy) -> list[str]:
    limits, resources = policy.limits, policy.resources
    positive = {
        **{f"limits.{name}": getattr(limits, name) for name in ("epsilon", "lifetime_epsilon", "megabytes_per_round")},
        **{f"limits.{name}": getattr(limits, name) for name in ("largest_change", "hours")},
        **{
            f"resources.{name}": getattr(resources, name)
            for name in ("threads", "memory_gb", "minutes", "incoming_megabytes")
        },
    }
    own = {"local_epsilon": limits.local_epsilon, "lifetime_local_epsilon": limits.lifetime_local_epsilon}
    positive |= {f"limits.{name}": value for name, value in own.items() if value is not None}
    faults = [f"{name}: must be positive and finite." for name, value in positive.items() if not 0 < value < math.inf]
    if not SITE_ID.fullmatch(policy.name):
        faults.append(f"name: {policy.name!r} is not a valid site name (lower case letters, digits, . _ and -).")
    faults += [
        f"limits.{name}: must lie between 0 and 1."
        for name in ("max_delta", "delta")
        if not 0 < getattr(limits, name) < 1
    ]
    if limits.max_failures is not None and limits.max_failures < 1:
        faults.append("limits.max_failures: must be at least 1.")
    if not 0 <= limits.min_noise_multiplier < math.inf:
        faults.append("limits.min_noise_multiplier: must not be negative.")
    if limits.min_sites < 1 or limits.min_patients < 1:
        faults.append("limits: min_sites and min_patients must be at least 1.")
    if (limits.colluders or 0) < 0:
        faults.append("limits.colluders: must not be negative.")
    if limits.min_honest is not None and limits.min_honest < 1:
        faults.append("limits.min_honest: must be at least 1.")
    faults += [
        f"limits.units: {unit!r} is none of {', '.join(PRIVACY_UNITS)}."
        for unit in limits.units
        if unit not in PRIVACY_UNITS
    ]
    return faults + _find_data_errors(policy)


def _find_data_errors(policy: Policy) -> list[str]:
    """Return an error for two `dataset` names of one folder, which would give the same patients two budgets."""
    faults, ledgers = [], dict[Path, str]()
    for name, source in policy.data.items():
        if not SITE_ID.fullmatch(source.dataset):
            faults.append(
                f"data.{name}.dataset: {source.dataset!r} is not a valid name (lower case letters, digits, . _ and -)."
            )
        root = source.root.resolve()
        if ledgers.setdefault(root, source.dataset) != source.dataset:
            faults.append(f"data.{name}.dataset: {root} already has the ledger {ledgers[root]!r}; use that name.")
    return faults
