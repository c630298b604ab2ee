"""Choices that cannot be combined, and why: one table, checked before a run and shown in docs/personalization.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from fedhealth.config.capabilities import (
    BODY_STEPS,
    LORA_ADAPTERS,
    LORA_HALVES,
    NAMED_TOWER,
    SERVER_MU,
    get_capability,
)
from fedhealth.config.noise_choices import (
    scales_shared_noise,
    shares_noise_at_own_rates,
    shares_noise_in_the_open,
    shares_noise_of_clients,
    shares_noise_of_equal_sites,
    shares_noise_of_two,
    shares_noise_of_updates,
)
from fedhealth.config.step_choices import (
    checkpoints_for_opacus,
    checkpoints_in_private_bf16,
    compiles_checkpoints,
    compiles_private_steps,
    sends_gradients,
    splits_private_batches,
)

Plain = dict[str, Any]
MODALITIES = ("image", "text", "tabular")


@dataclass(frozen=True)
class Incompatibility:
    """Two choices that exclude each other.

    Attributes:
        first: one choice, as written in a command.
        second: the other choice, in plain text.
        reason: why they cannot work together.
        advice: what to do instead.
        holds: whether a resolved configuration makes both choices.

    """

    first: str
    second: str
    reason: str
    advice: str
    holds: Callable[[Plain], bool]

    def message(self) -> str:
        """Return the error message."""
        return f"{self.first} with {self.second}: {self.reason}. {self.advice}."


def find_incompatibilities(plain: Plain) -> Iterator[str]:
    """Yield the message of every impossible pair in a resolved configuration."""
    yield from (pair.message() for pair in INCOMPATIBILITIES if pair.holds(plain))


def _requires(plain: Plain, requirement: str) -> bool:
    return requirement in get_capability(plain["personalization"], "requires", default=())


def _has_no_adapters(plain: Plain) -> bool:
    """Return whether no tower can have LoRA adapters; an encoder that may bring its own is checked when it is built."""
    towers = [plain["model"][name] for name in MODALITIES if plain["model"][name]]
    own = any(get_capability(tower, "may_have_own_adapters", default=True) for tower in towers)
    return not own and not any(tower.get("lora") for tower in towers)


def _local_adapters_without_lora(plain: Plain) -> bool:
    return _requires(plain, LORA_ADAPTERS) and _has_no_adapters(plain)


def _frozen_adapters_without_lora(plain: Plain) -> bool:
    return _requires(plain, LORA_HALVES) and _has_no_adapters(plain)


def _names_absent_tower(plain: Plain) -> bool:
    return _requires(plain, NAMED_TOWER) and not plain["model"].get(str(plain["personalization"].get("tower")))


def _never_trains_body(plain: Plain) -> bool:
    if not _requires(plain, BODY_STEPS):
        return False
    steps, head_steps = plain["training"]["local_steps"], plain["personalization"].get("head_steps", 0)
    return steps is not None and head_steps >= steps


def _needs_updates_that_are_masked(plain: Plain) -> bool:
    masked = not get_capability(plain["secagg"].get("site"), "is_plaintext", default=True)
    aggregations = [node for node in (plain["secagg"].get("lead"), plain["strategy"].get("aggregation")) if node]
    return masked and any(get_capability(node, "sees_single_updates", default=True) for node in aggregations)


def _expects_server_mu(plain: Plain) -> bool:
    return _requires(plain, SERVER_MU) and plain["personalization"].get("mu") is None


def _server_sends_no_mu(plain: Plain) -> bool:
    provides = get_capability(plain["strategy"]["server_state"], "provides", default=())
    return _expects_server_mu(plain) and SERVER_MU not in provides


def _server_mu_in_private_training(plain: Plain) -> bool:
    return _expects_server_mu(plain) and get_capability(plain["privacy"], "is_private", default=False)


def _describes_with_client_privacy(plain: Plain) -> bool:
    unit = get_capability(plain["privacy"], "unit", default="none")
    return plain.get("purpose") == "describe" and unit == "client"


def _takes_several_steps(plain: Plain) -> bool:
    return sends_gradients(plain) and plain["training"]["local_steps"] != 1


def _keeps_part_of_gradients(plain: Plain) -> bool:
    plain_gradients = get_capability(plain["personalization"], "sends_plain_gradients", default=False)
    return sends_gradients(plain) and not plain_gradients


def _adds_late_gradients(plain: Plain) -> bool:
    return sends_gradients(plain) and bool(plain["strategy"]["staleness"])


def _sends_gradients_of_client(plain: Plain) -> bool:
    return sends_gradients(plain) and get_capability(plain["privacy"], "unit", default="none") == "client"


def _changes_absent_images(plain: Plain) -> bool:
    return bool(plain["training"].get("augmentation")) and not plain["model"].get("image")


def _waits_for_private_scores(plain: Plain) -> bool:
    is_private = get_capability(plain["privacy"], "is_private", default=False)
    return is_private and plain["strategy"].get("patience") is not None


def _has_no_validation_rows(plain: Plain) -> bool:
    data = plain.get("data", {})
    return not data.get("split", {}).get("validation", 1) and not data.get("columns", {}).get("split")


def _waits_for_absent_scores(plain: Plain) -> bool:
    return plain["strategy"].get("patience") is not None and _has_no_validation_rows(plain)


def _sums_too_few_sites(plain: Plain) -> bool:
    """Return whether the class that sums refuses its parameters; it knows the protocol's thresholds."""
    lead = plain["secagg"].get("lead") or {}
    return "sites" in lead and get_capability(lead, "has_too_few_sites", default=_never)(lead)


def _never(settings: Plain) -> bool:
    return False


def _needs_gradients(plain: Plain) -> bool:
    takes_gradients = get_capability(plain["strategy"]["server_optimizer"], "needs_gradients", default=False)
    return takes_gradients and not sends_gradients(plain)


INCOMPATIBILITIES = (
    Incompatibility(
        "personalization=adapters",
        "a model without LoRA",
        "there is no adapter to keep at the site",
        "Give a pretrained tower LoRA adapters, or use personalization=fedtower",
        _local_adapters_without_lora,
    ),
    Incompatibility(
        "personalization=ffa_lora",
        "a model without LoRA",
        "there is no adapter to freeze a half of",
        "Give a pretrained tower LoRA adapters, or use personalization=none",
        _frozen_adapters_without_lora,
    ),
    Incompatibility(
        "personalization=fedtower",
        "a tower the model does not have",
        "there is no such tower to keep at the site",
        "Set personalization.tower to image, text or tabular, whichever the model has",
        _names_absent_tower,
    ),
    Incompatibility(
        "personalization=fedrep",
        "head_steps not below training.local_steps",
        "the shared body would never be trained",
        "Lower personalization.head_steps, or raise training.local_steps",
        _never_trains_body,
    ),
    Incompatibility(
        "personalization.mu=null",
        "a lead that sends no mu",
        "the proximal term would have no weight",
        "Give personalization.mu a number, or the lead a strategy.server_state that adapts it",
        _server_sends_no_mu,
    ),
    Incompatibility(
        "personalization.mu=null",
        "private training",
        "the lead adapts mu by the loss, and losses of private training stay at the sites",
        "Give personalization.mu a number",
        _server_mu_in_private_training,
    ),
    Incompatibility(
        "robust aggregation",
        "secagg=on",
        "a median, a trimmed mean or Krum needs each site's own update, and the lead sees sums only",
        "Use secagg=off, or bound the norm of each site's update instead",
        _needs_updates_that_are_masked,
    ),
    Incompatibility(
        "secagg=on",
        "fewer sites than its threshold",
        "the protocol opens no sum that so few sites would hide in",
        "Invite more hospitals: three, or more with larger secagg.colluders, min_honest or min_sites; or use "
        "secagg=off if the lead may see each site's update",
        _sums_too_few_sites,
    ),
    Incompatibility(
        "fedhealth stats",
        "privacy=client",
        "counts of a whole hospital's patients have no bounded sensitivity to that hospital",
        "Use privacy=patient, or privacy=none where the policy allows it",
        _describes_with_client_privacy,
    ),
    Incompatibility(
        "training.sends=gradient",
        "more than one local step",
        "a second step would follow a gradient that only this hospital has",
        "Set training.local_steps=1 and training.local_epochs=null",
        _takes_several_steps,
    ),
    Incompatibility(
        "training.sends=gradient",
        "a personalization that keeps or adds something",
        "the lead's optimizer would not train what stays at the hospitals",
        "Use personalization=none, finetune, ditto or ffa_lora",
        _keeps_part_of_gradients,
    ),
    Incompatibility(
        "training.sends=gradient",
        "strategy.staleness",
        "a late gradient belongs to an earlier model",
        "Set strategy.staleness=0",
        _adds_late_gradients,
    ),
    Incompatibility(
        "training.sends=gradient",
        "privacy=client",
        "it protects a hospital's change of the model, not a patient's gradient",
        "Use privacy=patient",
        _sends_gradients_of_client,
    ),
    Incompatibility(
        "strategy/server_optimizer=training",
        "training.sends=update",
        "it applies gradients, and the hospitals would send the changes of their own optimizers",
        "Use method=fedsgd, or another server optimizer",
        _needs_gradients,
    ),
    Incompatibility(
        "training/augmentation",
        "a model without images",
        "it changes images only",
        "Set training/augmentation=none",
        _changes_absent_images,
    ),
    Incompatibility(
        "training.micro_batch_size",
        "private training",
        "a patient's rows must stay in one batch, and private training splits its batches by patient",
        "Set training.micro_batch_size=null and privacy.max_physical_batch_size instead",
        splits_private_batches,
    ),
    Incompatibility(
        "training.compile",
        "private training",
        "a patient's gradients are recorded layer by layer, and a compiled model has no layers",
        "Set training.compile=false; training.precision=bf16 is possible",
        compiles_private_steps,
    ),
    Incompatibility(
        "training.activation_checkpointing",
        "training.compile",
        "the compiler decides itself what it computes again",
        "Set one of the two to false",
        compiles_checkpoints,
    ),
    Incompatibility(
        "training.activation_checkpointing",
        "privacy.engine=opacus",
        "Opacus keeps a copy of every layer's input, so no memory would be saved",
        "Use privacy.engine=bk",
        checkpoints_for_opacus,
    ),
    Incompatibility(
        "training.activation_checkpointing",
        "private training in bf16",
        "norms and clipped sums come from two backward passes, which may round differently in bf16",
        "Use training.precision=auto or float32",
        checkpoints_in_private_bf16,
    ),
    Incompatibility(
        "strategy.patience",
        "private training",
        "no single round has a score, because every score would cost privacy budget",
        "Set strategy.patience=null; strategy.ema=0.7 averages the rounds at no cost",
        _waits_for_private_scores,
    ),
    Incompatibility(
        "strategy.patience",
        "data.split.validation=0",
        "no round has a score without validation patients, so training would never end early",
        "Give data.split.validation a share, data.columns.split a column, or set strategy.patience=null",
        _waits_for_absent_scores,
    ),
    Incompatibility(
        "privacy.noise=shared",
        "secagg=off",
        "each hospital adds only a part of the noise, and the lead would see its sum alone",
        "Use secagg=on, or privacy.noise=local",
        shares_noise_in_the_open,
    ),
    Incompatibility(
        "privacy.noise=shared",
        "training.sends=update",
        "a second local step would follow a model that holds only this hospital's part of the noise",
        "Use method=fedsgd, or privacy.noise=local",
        shares_noise_of_updates,
    ),
    Incompatibility(
        "privacy.noise=shared",
        "privacy.sample_rate=null",
        "all hospitals need one public probability, because one sum has one noise",
        "Give privacy.sample_rate a probability",
        shares_noise_at_own_rates,
    ),
    Incompatibility(
        "privacy.noise=shared",
        "fewer than three hospitals",
        "the part of each would be all that protects it from the other",
        "Use privacy.noise=local",
        shares_noise_of_two,
    ),
    Incompatibility(
        "privacy.noise=shared",
        "privacy=client",
        "what is protected is a hospital, and its noise would rest on the hospitals that it is protected from",
        "Use privacy.noise=local, or privacy=patient",
        shares_noise_of_clients,
    ),
    Incompatibility(
        "privacy.noise=shared",
        "strategy.max_update_norm",
        "what has its noise must not be scaled at the hospital; gradients are clipped by patient",
        "Set strategy.max_update_norm=null",
        scales_shared_noise,
    ),
    Incompatibility(
        "privacy.noise=shared",
        "secagg.weights=uniform",
        "the lead divides the sum of gradients by the sizes that the hospitals announce",
        "Use secagg.weights=bucket",
        shares_noise_of_equal_sites,
    ),
)
