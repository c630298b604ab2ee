"""A study's data contract is evaluated on a hospital's own data, once, before its people decide.

What the evaluation shows is for the hospital only. The stored verdict and the digest of the data are all that later
requests are compared with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fedhealth.config.compose import compose_config, compute_config_digest
from fedhealth.consortium.research_study import ResearchStudy
from fedhealth.data.dataset import compute_dataset_digest, prepare_dataset
from fedhealth.errors import ConfigError
from fedhealth.models.weights import find_other_weights
from fedhealth.site.home import SiteHome
from fedhealth.site.job_approval import COUNT_FAULTS, make_site_overrides
from fedhealth.site.policy import Policy
from fedhealth.site.study_price import price_study
from fedhealth.site.study_terms import find_release_changes


@dataclass(frozen=True)
class StudyVerdict:
    """What the evaluation of a study on a hospital's own data shows.

    Attributes:
        size: of the cohort, in words.
        findings: what the hospital's people must know of their data.
        data: the digest of the data.
        configuration: the digest of the resolved configuration here.
        ledger: the data set in whose ledger the study's share is reserved; empty without differential privacy.
        price: what the dearest run that the study allows costs here, as plain values.
        guarantee: the same in words.

    """

    size: str
    findings: tuple[str, ...]
    data: str
    configuration: str
    ledger: str = ""
    price: Mapping[str, Any] = field(default_factory=dict)
    guarantee: tuple[str, ...] = ()


def evaluate_study(study: ResearchStudy, policy: Policy, home: SiteHome) -> StudyVerdict:
    """Evaluate a study's data contract on this hospital's own data; nothing leaves and nothing is reserved.

    Args:
        study: known to this hospital.
        policy: of the hospital.
        home: its folder.

    Raises:
        ConfigError: the installed release composes another configuration, site.yaml offers no such data, or pretrained
            weights are not those of the study.
        DataError: the data cannot be used at all; it names the place.
        PrivacyError: its privacy target cannot be met within the policy.

    """
    composed = compose_study(study, policy)
    config: Any = OmegaConf.to_object(composed)
    if names := find_other_weights(study.weights, policy.resources.weights):
        raise ConfigError(
            f"The weights {', '.join(names)} in resources.weights are missing, or not those of {study.label}.",
            "Ask the lead for the files.",
        )
    cohort = prepare_dataset(config.data, policy.name)
    counts = cohort.counts()
    size = ", ".join(f"{counts[key]} {key}" for key in ("patients", "rows", "image", "text", "tabular", "unlabelled"))
    findings = [each.text for each in cohort.findings]
    findings += [f"rejected image: {each.reason}" for each in cohort.rejected]
    price = price_study(study, composed, cohort, policy, home)
    return StudyVerdict(
        size,
        tuple(findings),
        compute_dataset_digest(config.data, policy.name),
        compute_config_digest(composed),
        price.ledger if price else "",
        asdict(price.cost) if price else {},
        tuple(price.describe_guarantee()) if price else (),
    )


def compose_study(study: ResearchStudy, policy: Policy) -> DictConfig:
    """Return a study's configuration with the site's own overrides last.

    Raises:
        ConfigError: the installed release composes another configuration, or site.yaml offers no such data.

    """
    if changes := find_release_changes(study, policy):
        raise ConfigError(
            f"The installed release or conf folder composes another configuration than {study.label}: {changes}.",
            "Install the release that the lead uses, or ask for a study of this release.",
        )
    source = policy.data.get(str(study.configuration["data"]["name"]))
    if source is None:
        raise ConfigError(
            f"site.yaml offers no data called {study.configuration['data']['name']!r}.", "Add it to `data`."
        )
    overrides = [*study.overrides, *make_site_overrides(policy, source, study.overrides), COUNT_FAULTS]
    return compose_config(overrides, policy.conf)
