"""A run tried before it is run: would this site take part, and does one training step work on its own data?

The step trains a fresh model without noise in this process and throws it away: nothing leaves and nothing is booked.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

from fedhealth.config.compose import compose, digest
from fedhealth.config.instantiate import instantiate
from fedhealth.config.override_allowlist import screen
from fedhealth.config.schema import Config
from fedhealth.consortium.membership import Membership
from fedhealth.consortium.signed_job import Order
from fedhealth.data.dataset import Cohort, prepare
from fedhealth.errors import PrivacyError
from fedhealth.models.multimodal import build_model
from fedhealth.privacy.context import Place
from fedhealth.site.check.contract import Check, failed, passed
from fedhealth.site.check.data import check_cohort, site_config
from fedhealth.site.home import SiteHome
from fedhealth.site.install import installed
from fedhealth.site.job_approval import consider, own_words
from fedhealth.site.policy import Policy, Source
from fedhealth.training.feature_cache import model_inputs
from fedhealth.training.trainer import PlainTrainer, Task, device_of, use_threads

_RUN = "sitecheck"


def check_run(home: SiteHome, policy: Policy, words: tuple[str, ...]) -> Iterator[Check]:
    """Yield what would become of a run with these words."""
    signed = installed(home)
    if signed is None:
        yield failed("run", "cannot be judged without members", "`fedhealth site install KIT.zip` first.")
        return
    if faults := screen(words, policy.conf):  # they come from outside: nothing composes them before
        yield failed("run", "; ".join(faults), "Ask the lead; no site accepts such words.")
        return
    name = str(compose(words, policy.conf).data.name)
    source = policy.data.get(name)
    if source is None:
        yield failed("run", f"site.yaml offers no data called {name!r}", "Add it to the section data of site.yaml.")
        return
    yield _check_consent(home, policy, signed.membership, source, words)
    config = site_config(policy, source, words)
    cohort = prepare(config.data, policy.name)
    yield check_cohort("run: data", cohort, policy)
    yield from _check_training(home, config, cohort, policy)


def _check_consent(
    home: SiteHome, policy: Policy, membership: Membership, source: Source, words: tuple[str, ...]
) -> Check:
    """Consider the words as if the lead had signed them."""
    told, now = digest(compose([*words, *own_words(policy, source, words)], policy.conf)), int(time.time())
    unsigned = Order(membership.project, _RUN, words, told, "", "", now, now, "")
    reasons = consider(unsigned, policy, membership, home).reasons
    if reasons:
        return failed("run: policy", f"declined: {'; '.join(reasons)}", "Tell the lead, or change limits in site.yaml.")
    return passed("run: policy", f"accepted: {' '.join(words)}")


def _check_training(home: SiteHome, config: Config, cohort: Cohort, policy: Policy) -> Iterator[Check]:
    use_threads(config.training)
    model = build_model(config.model, config.data, config.seed)
    instantiate(config.personalization).freeze(model)
    device = device_of(config.training.device)
    examples = model_inputs(cohort, model.to(device))
    rows, kind = cohort.rows("train"), config.data.task.kind
    task = Task(model, examples, rows, replace(config.training, local_steps=1, local_epochs=None), kind, config.seed)
    started = time.monotonic()
    PlainTrainer().fit(task)
    yield passed("run: training step", f"one step of {config.training.batch_size} in {_seconds(started)} on {device}")
    trainer = instantiate(config.privacy)
    place = Place(_RUN, policy.name, home.state, 0, config.strategy.rounds)
    try:
        objections = trainer.objections(replace(task, training=config.training), place)
    except PrivacyError as fault:
        objections = [fault.problem]
    if objections:
        yield failed("run: privacy", "; ".join(objections), "Tell the lead, or see limits in site.yaml.")
    else:
        yield passed("run: privacy", "the promise can be kept for the whole run, the budget suffices")


def _seconds(started: float) -> str:
    return f"{time.monotonic() - started:.1f} s"
