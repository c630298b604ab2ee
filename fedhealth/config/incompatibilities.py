"""What cannot be combined, and why: one table, read by the validator and shown in docs/personalization.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Plain = dict[str, Any]
MODALITIES = ("image", "text", "tabular")


@dataclass(frozen=True)
class Pair:
    """Two choices that exclude each other.

    Attributes:
        first: one choice, as it is written in a command.
        second: the other, in words.
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
        """Return it as one fault."""
        return f"{self.first} with {self.second}: {self.reason}. {self.advice}."


def pair_faults(plain: Plain) -> Iterator[str]:
    """Yield the message of every impossible pair in a resolved configuration."""
    yield from (pair.message() for pair in PAIRS if pair.holds(plain))


def _is(node: object, *targets: str) -> bool:
    return isinstance(node, dict) and node.get("_target_") in targets


def _method(*names: str) -> Callable[[Plain], bool]:
    return lambda plain: _is(plain["personalization"], *(f"clients.personalization.{name}" for name in names))


def _without_lora(plain: Plain) -> bool:
    """Return whether no tower has adapters; an encoder that is not ours is asked when it is built."""
    towers = [plain["model"][name] for name in MODALITIES if plain["model"][name]]
    ours = all(str(tower.get("_target_")).startswith("fedhealth.models.") for tower in towers)
    return ours and not any(tower.get("lora") for tower in towers)


def _absent_tower(plain: Plain) -> bool:
    return not plain["model"].get(str(plain["personalization"].get("tower")))


def _no_turn_for_the_body(plain: Plain) -> bool:
    steps = plain["training"]["local_steps"]
    return steps is not None and plain["personalization"]["head_steps"] >= steps


def _robust_on_sums(plain: Plain) -> bool:
    sealed = _is(plain["secagg"].get("site"), "clients.transport.secure.SealedUpload")
    lead = (plain["secagg"].get("lead"), plain["strategy"].get("aggregation"))
    return sealed and any("aggregation.robust." in str(node.get("_target_")) for node in lead if isinstance(node, dict))


def _mu_of_nobody(plain: Plain) -> bool:
    companion = plain["strategy"]["companion"]
    return plain["personalization"]["mu"] is None and _is(companion, "strategies.server_state.base.Mean")


def _mu_without_losses(plain: Plain) -> bool:
    private = not _is(plain["privacy"], "fedhealth.training.trainer.PlainTrainer")
    return plain["personalization"]["mu"] is None and private


def _statistics_of_hospitals(plain: Plain) -> bool:
    return plain.get("purpose") == "describe" and _is(
        plain["privacy"], "fedhealth.training.client_dp_trainer.ClientTrainer"
    )


def _both(first: Callable[[Plain], bool], second: Callable[[Plain], bool]) -> Callable[[Plain], bool]:
    return lambda plain: first(plain) and second(plain)


PAIRS = (
    Pair(
        "personalization=adapters",
        "a model without LoRA",
        "there is no adapter to keep at the site",
        "Give a pretrained tower LoRA adapters, or use personalization=fedtower",
        _both(_method("adapters.LocalAdapters"), _without_lora),
    ),
    Pair(
        "personalization=ffa_lora",
        "a model without LoRA",
        "there is no adapter to freeze a half of",
        "Give a pretrained tower LoRA adapters, or use personalization=none",
        _both(_method("ffa_lora.FrozenALora"), _without_lora),
    ),
    Pair(
        "personalization=fedtower",
        "a tower the model does not have",
        "there is no such tower to keep at the site",
        "Set personalization.tower to image, text or tabular, whichever the model has",
        _both(_method("fedtower.FedTower"), _absent_tower),
    ),
    Pair(
        "personalization=fedrep",
        "head_steps not below training.local_steps",
        "the shared body would never be trained",
        "Lower personalization.head_steps, or raise training.local_steps",
        _both(_method("fedrep.FedRep"), _no_turn_for_the_body),
    ),
    Pair(
        "personalization.mu=null",
        "a lead that sends no mu",
        "the proximal term would have no weight",
        "Give personalization.mu a number, or the lead a companion that adapts it",
        _both(_method("fedprox.FedProx"), _mu_of_nobody),
    ),
    Pair(
        "personalization.mu=null",
        "private training",
        "the lead adapts mu by the loss, and losses of private training stay at the sites",
        "Give personalization.mu a number",
        _both(_method("fedprox.FedProx"), _mu_without_losses),
    ),
    Pair(
        "robust aggregation",
        "secagg=on",
        "a median, a trimmed mean or Krum needs each site's own update, and the lead sees sums only",
        "Use secagg=off, or bound the norm of each site's update instead",
        _robust_on_sums,
    ),
    Pair(
        "fedhealth stats",
        "privacy=client",
        "counts of a whole hospital's patients have no bounded sensitivity to that hospital",
        "Use privacy=patient, or privacy=none where the policy allows it",
        _statistics_of_hospitals,
    ),
)
