"""What a run of a study costs at this hospital: the dearest that the study allows, whatever a lead orders first."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, product
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from fedhealth.config.instantiate import instantiate
from fedhealth.config.open_paths import OpenPath
from fedhealth.config.schema import Config
from fedhealth.consortium.identity import load_roster
from fedhealth.consortium.research_study import ResearchStudy
from fedhealth.data.dataset import SiteDataset
from fedhealth.errors import ConfigError, PrivacyError
from fedhealth.privacy.accounting.accountant import compute_epsilon
from fedhealth.privacy.accounting.budget import get_plan_cost
from fedhealth.privacy.accounting.plan import PrivacyPlan
from fedhealth.privacy.accounting.reservations import RunCost
from fedhealth.secagg.protocol.threshold import ThresholdPolicy
from fedhealth.site.home import SiteHome
from fedhealth.site.policy import Policy
from fedhealth.statistics.workload import measure_workload
from fedhealth.utils.privacy_text import format_epsilon, format_guarantee, format_local_epsilon

_PRICED = (
    "privacy.",
    "secagg.colluders",
    "strategy.rounds",
    "training.batch_size",
    "training.local_epochs",
    "training.local_steps",
)
_MOST_VARIANTS = 256


@dataclass(frozen=True)
class StudyPrice:
    """What the runs of a study may cost here.

    Attributes:
        ledger: the data set in whose ledger they are booked.
        plan: of the dearest run.
        local: of the run that costs most if all other hospitals collude; None where no run shares its noise.
        runs: how many the study has.
        delta: at which the study states its epsilon.

    """

    ledger: str
    plan: PrivacyPlan
    local: PrivacyPlan | None
    runs: int
    delta: float

    @property
    def cost(self) -> RunCost:
        """What the dearest run costs."""
        return get_plan_cost(self.plan)

    def describe_guarantee(self) -> Iterator[str]:
        """Yield what one run and all runs may cost, for people."""
        plan = self.plan
        told = format_guarantee(plan.epsilon, plan.delta, plan.noise_multiplier, plan.unit)
        local = f"; {format_local_epsilon(self.local.local_epsilon, self.local.delta)}" if self.local else ""
        yield f"one run costs here at most {told}{local}"
        total = compute_epsilon(list(plan.run_events) * self.runs, self.delta)
        yield (
            f"all {self.runs} runs together cost here at most {format_epsilon(total, self.delta)}, "
            "while the limits in site.yaml are as now"
        )


def price_study(
    study: ResearchStudy, composed: DictConfig, cohort: SiteDataset, policy: Policy, home: SiteHome
) -> StudyPrice | None:
    """Return what the dearest run of a study costs here; None without differential privacy.

    Args:
        study: to approve.
        composed: its configuration with the site's own overrides.
        cohort: the hospital's data.
        policy: of the hospital.
        home: its folder.

    Raises:
        ConfigError: the study leaves too much open.
        PrivacyError: the privacy target of the study's own configuration cannot be met within the policy.

    """
    config: Any = OmegaConf.to_object(composed)
    if not instantiate(config.privacy).is_private:
        return None
    work, found = measure_workload(config, cohort), []
    for number, variant in enumerate(chain([config], _iter_variants(study, composed))):
        try:
            shares = count_noise_shares(variant, policy, home)
            found.append(instantiate(variant.privacy).plan_run(work, variant.training, variant.strategy.rounds, shares))
        except PrivacyError:
            if number == 0:  # the study's own configuration; a variant that has no plan here is refused when ordered
                raise
    budget, plan = max(found, key=lambda each: compute_epsilon(each[1].run_events, study.delta))
    shared = [each for _, each in found if each.shares > 1]
    local = max(shared, key=lambda each: each.local_epsilon, default=None)
    return StudyPrice(budget.dataset, plan, local, study.runs, study.delta)


def count_noise_shares(config: Config, policy: Policy, home: SiteHome) -> int:
    """Return the most honest sites that share the noise of a sum; 1 where each site adds its own."""
    if config.privacy.get("noise") != "shared" or instantiate(config.secagg["site"]).is_plaintext:
        return 1
    approved, limits = len(load_roster(home.state).members), policy.limits
    asked = ThresholdPolicy(config.secagg.get("colluders"))
    own = ThresholdPolicy(limits.colluders, limits.min_honest, limits.min_sites)
    return len(config.data.sites) - (asked.combine(own, approved).colluders or 0)


def _iter_variants(study: ResearchStudy, composed: DictConfig) -> Iterator[Any]:
    """Yield the typed configuration of every variant of the settings that change what a run costs."""
    paths = [each for each in study.open if each.path.startswith(_PRICED)]
    count = math.prod(len(each.values) for each in paths)
    if count > _MOST_VARIANTS:
        raise ConfigError(
            f"{study.label} leaves open {count} combinations of settings that change what a run costs.",
            f"Ask the lead for a study that leaves at most {_MOST_VARIANTS} open.",
        )
    for values in product(*(each.values for each in paths)):
        try:
            yield _vary_settings(composed, paths, values)
        except OmegaConfBaseException as fault:
            problem = f"{study.label} leaves open a value that its setting cannot have: {str(fault).splitlines()[0]}"
            raise ConfigError(problem, "Ask the lead for a corrected study.") from fault


def _vary_settings(composed: DictConfig, paths: list[OpenPath], values: tuple[Any, ...]) -> Any:
    varied = copy.deepcopy(composed)
    with open_dict(varied):
        for each, value in zip(paths, values, strict=True):
            OmegaConf.update(varied, each.path, value, merge=False)
    return OmegaConf.to_object(varied)
