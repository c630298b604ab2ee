"""Try a planned run: would this site take part, and does one training step work on its own data?

The step trains a new model without noise in this process and discards it: nothing leaves and no budget is booked.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

from fedhealth.config.compose import compose_config, compute_config_digest
from fedhealth.config.instantiate import instantiate
from fedhealth.config.override_allowlist import find_override_errors
from fedhealth.config.schema import Config
from fedhealth.consortium.membership import Membership
from fedhealth.consortium.research_study import ResearchStudy
from fedhealth.consortium.signed_job import SignedJob
from fedhealth.data.dataset import SiteDataset, prepare_dataset
from fedhealth.errors import PrivacyError
from fedhealth.models.model_method import build_model_method
from fedhealth.models.multimodal import build_model
from fedhealth.privacy.context import AccountingContext
from fedhealth.site.check.base import CheckResult, report_failure, report_pass
from fedhealth.site.check.data import check_cohort, compose_site_config
from fedhealth.site.home import SiteHome
from fedhealth.site.install import load_installed_membership
from fedhealth.site.job_approval import make_site_overrides, review_job
from fedhealth.site.policy import DataSource, Policy
from fedhealth.site.study_store import StudyStore
from fedhealth.site.study_terms import find_study_change, read_study_terms
from fedhealth.training.devices import select_device, set_thread_count
from fedhealth.training.feature_cache import build_model_inputs
from fedhealth.training.trainer import PlainTrainer, TrainingTask

_RUN = "sitecheck"


def check_run(home: SiteHome, policy: Policy, words: tuple[str, ...]) -> Iterator[CheckResult]:
    """Yield whether a run of a study, or with these overrides, would be accepted and would train.

    Args:
        home: the hospital's folder.
        policy: of the hospital.
        words: the name or digest of a study, or overrides.

    """
    overrides = words
    if len(words) == 1 and "=" not in words[0]:
        study = StudyStore(home).find_study(words[0])
        overrides = study.overrides
        yield _check_study(home, policy, study)
    signed = load_installed_membership(home)
    if signed is None:
        yield report_failure(
            "run", "cannot be checked: no kit is installed", "Run `fedhealth site install KIT.zip` first."
        )
        return
    if faults := find_override_errors(overrides, policy.conf):  # from outside: checked before they are composed
        yield report_failure("run", "; ".join(faults), "Correct the overrides, or ask the lead; no site accepts these.")
        return
    name = str(compose_config(overrides, policy.conf).data.name)
    source = policy.data.get(name)
    if source is None:
        yield report_failure(
            "run", f"site.yaml offers no data called {name!r}", "Add it to the section `data` of site.yaml."
        )
        return
    yield _check_job_approval(home, policy, signed.membership, source, overrides)
    config = compose_site_config(policy, source, overrides)
    cohort = prepare_dataset(config.data, policy.name)
    yield from check_cohort("run: data", cohort, policy)
    yield from _check_training(home, config, cohort, policy)


def _check_study(home: SiteHome, policy: Policy, study: ResearchStudy) -> CheckResult:
    """Say whether runs of a study are answered here."""
    now = int(time.time())
    order = SignedJob(study.project, _RUN, study.overrides, "", "", "", now, now, "", study=study.digest)
    reason = read_study_terms(order, home, policy).reason or find_study_change(study, study.overrides, policy)
    if reason:
        return report_failure("run: study", reason, f"See `fedhealth site study show {study.name}`.")
    return report_pass("run: study", f"{study.label} is approved here")


def _check_job_approval(
    home: SiteHome, policy: Policy, membership: Membership, source: DataSource, overrides: tuple[str, ...]
) -> CheckResult:
    """Review the overrides as if the lead had signed them."""
    config = compose_config([*overrides, *make_site_overrides(policy, source, overrides)], policy.conf)
    now = int(time.time())
    unsigned = SignedJob(membership.project, _RUN, overrides, compute_config_digest(config), "", "", now, now, "")
    reasons = review_job(unsigned, policy, membership, home).reasons
    if reasons:
        return report_failure(
            "run: policy", f"declined: {'; '.join(reasons)}", "Tell the lead, or change `limits` in site.yaml."
        )
    return report_pass("run: policy", f"accepted: {' '.join(overrides)}")


def _check_training(home: SiteHome, config: Config, cohort: SiteDataset, policy: Policy) -> Iterator[CheckResult]:
    set_thread_count(config.training)
    model = build_model(config.model, config.data, config.seed)
    build_model_method(config.personalization).freeze(model)
    device = select_device(config.training.device)
    examples = build_model_inputs(cohort, model.to(device))
    rows, kind = cohort.rows("train"), config.data.task.kind
    task = TrainingTask(
        model, examples, rows, replace(config.training, local_steps=1, local_epochs=None), kind, config.seed
    )
    started = time.monotonic()
    PlainTrainer().fit(task)
    yield report_pass(
        "run: training step", f"one step of {config.training.batch_size} in {_format_elapsed(started)} on {device}"
    )
    trainer = instantiate(config.privacy)
    place = AccountingContext(_RUN, policy.name, home.state, 0, config.strategy.rounds)
    try:
        problems = trainer.check_can_join(replace(task, training=config.training), place)
    except PrivacyError as fault:
        problems = [fault.problem]
    if problems:
        yield report_failure("run: privacy", "; ".join(problems), "Tell the lead, or change `limits` in site.yaml.")
    else:
        yield report_pass("run: privacy", "the privacy target can be met for the whole run, and the budget suffices")


def _format_elapsed(started: float) -> str:
    return f"{time.monotonic() - started:.1f} s"
