"""What the parts of a configuration declare about themselves, as attributes of the class that `_target_` names.

Warnings, reports and the table of incompatibilities ask for these attributes, never for a class by its name: a site's
own trainer or runtime is treated like ours. A part that does not declare an attribute gets the cautious default: no
differential privacy, updates that the lead can read, data that are not on this machine.

| attribute | of | default |
|---|---|---|
| `is_private` | trainer | False |
| `is_auditable` | trainer | False |
| `unit` | trainer | "none" |
| `sees_single_updates` | aggregation | True |
| `is_plaintext` | transport | True |
| `data_are_local` | runtime | False |
| `requires` | personalization | () |
| `sends_plain_gradients` | personalization | False |
| `keeps_arrays` | personalization | True |
| `provides` | server state | () |
| `needs_gradients` | server optimizer | False |
| `may_have_own_adapters` | encoder | True |
"""

from __future__ import annotations

import difflib
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from hydra.utils import get_object

from fedhealth.errors import ConfigError
from fedhealth.utils.fault_text import advise_import, get_first_line

logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # it logs the errors that it raises

# What a personalization may require, and (the last) a server state may provide.
LORA_ADAPTERS = "lora_adapters"  # to keep at the site
LORA_HALVES = "lora_halves"  # to freeze one of the two
NAMED_TOWER = "named_tower"
BODY_STEPS = "body_steps"
SERVER_MU = "server_mu"

T = TypeVar("T")


@dataclass(frozen=True)
class Capabilities:
    """What a run's parts declare; written into run.json at launch.

    Attributes:
        trainer_is_private: whether training is differentially private.
        lead_sees_single_updates: whether the lead can read the update of a single site.
        data_are_local: whether every site's data can be read on this machine.

    """

    trainer_is_private: bool
    lead_sees_single_updates: bool
    data_are_local: bool


def read_capabilities(plain: Mapping[str, Any]) -> Capabilities:
    """Return what the parts of a resolved configuration declare."""
    secagg, strategy = plain.get("secagg") or {}, plain.get("strategy") or {}
    aggregation = strategy.get("aggregation") or secagg.get("lead")
    return Capabilities(
        trainer_is_private=is_private_trainer(plain.get("privacy")),
        lead_sees_single_updates=get_capability(aggregation, "sees_single_updates", default=True)
        or get_capability(secagg.get("site"), "is_plaintext", default=True),
        data_are_local=get_capability(plain.get("runtime"), "data_are_local", default=False),
    )


def is_private_trainer(privacy: object) -> bool:
    """Return whether the trainer of the section `privacy` is differentially private."""
    return get_capability(privacy, "is_private", default=False)


def get_capability(node: object, name: str, default: T) -> T:
    """Return an attribute of the class that a node names; `default` where it has none of that type."""
    target = node.get("_target_") if isinstance(node, Mapping) else None
    if not isinstance(target, str):
        return default
    try:
        value = getattr(load_target(target), name, default)
    except ConfigError:  # `validate_config` reports it
        return default
    return value if isinstance(value, type(default)) else default


def load_target(target: str) -> Any:
    """Import what a `_target_` names.

    Raises:
        ConfigError: there is no such object, or its module cannot be imported.

    """
    try:
        return get_object(target)
    except (ImportError, ValueError, TypeError, AttributeError) as fault:
        if absent := _find_absent_name(target, fault):
            raise ConfigError(f"cannot load {target!r}: {absent}", "Correct the name.") from fault
        reason = get_first_line(fault.__cause__ or fault)
        is_broken = fault.__cause__ is not None and not isinstance(fault.__cause__, ImportError)
        advice = advise_import(
            fault, "Correct that module." if is_broken else "Correct the path, or install its package."
        )
        raise ConfigError(f"cannot load {target!r} ({reason}).", advice) from fault


def _find_absent_name(target: str, fault: BaseException) -> str:
    """Return which name the module of a target lacks, and the nearest that it has; empty if that is not the fault."""
    cause = fault.__cause__
    if isinstance(cause, ModuleNotFoundError) and not target.startswith(str(cause.name)):
        return ""  # the target's module could not import another
    names = target.split(".")
    known = max((n for n in range(1, len(names)) if ".".join(names[:n]) in sys.modules), default=0)
    module = sys.modules.get(".".join(names[:known]))
    if module is None or hasattr(module, names[known]):
        return ""
    close = difflib.get_close_matches(names[known], vars(module), n=1)
    where = f"{module.__name__} ({getattr(module, '__file__', None) or 'built in'})"
    return f"{where} has no {names[known]}{f'; did you mean {close[0]}?' if close else '.'}"
