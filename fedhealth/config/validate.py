"""Check a composed configuration without instantiating anything, and report all errors at once."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any, cast, get_args, get_origin, get_type_hints

from omegaconf import DictConfig

from fedhealth.config.capabilities import load_target
from fedhealth.config.compose import resolve_config
from fedhealth.config.data_contract import find_data_errors
from fedhealth.config.incompatibilities import find_incompatibilities
from fedhealth.config.part_contracts import find_contract_errors
from fedhealth.config.schema import MAX_FEATURE, Config
from fedhealth.errors import ConfigError
from fedhealth.types import SITE_ID
from fedhealth.utils.fault_text import get_first_line

_HYDRA_KEYS = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}


def validate_config(config: DictConfig, locate: Callable[[str], str] = str) -> None:
    """Raise one `ConfigError` that lists every error found in `config`, or return.

    Args:
        config: composed.
        locate: returns the YAML file of a part, for messages, from its place in the configuration.

    Raises:
        ConfigError: values out of range, contradictions, unknown targets or parameters.

    """
    plain = resolve_config(config)
    if unknown := [*_find_unknown_keys(plain, Config)]:
        raise ConfigError(
            "\n".join(unknown), "Keys cannot be added to the schema; take the + away and correct the name."
        )
    faults = [
        *_find_target_errors(plain),
        *find_contract_errors(plain, locate),
        *_find_range_errors(plain),
        *_find_consistency_errors(plain),
    ]
    if faults := faults or [*find_incompatibilities(plain)]:
        raise ConfigError("\n".join(faults), "Correct the values named above; `fedhealth run --cfg job` shows all.")


def _find_unknown_keys(node: dict[str, Any], schema: type, where: str = "") -> Iterator[str]:
    """Yield keys that `+key=value` added to the schema (Hydra accepts them)."""
    hints = get_type_hints(schema)
    for key, value in node.items():
        kind = hints.get(key)
        if kind is None:
            close = difflib.get_close_matches(key, hints, n=1)
            hint = f" Did you mean {where}{close[0]}?" if close else ""
            yield f"{where}{key}: there is no such configuration key.{hint}"
        elif is_dataclass(kind):
            yield from _find_unknown_keys(value, cast(type, kind), f"{where}{key}.")
        elif get_origin(kind) is dict and is_dataclass(item := get_args(kind)[1]):
            for name, entry in value.items():
                yield from _find_unknown_keys(entry, cast(type, item), f"{where}{key}.{name}.")


def _find_target_errors(node: Any, where: str = "", is_argument: bool = False) -> Iterator[str]:
    """Yield targets that cannot be loaded or called; an argument of another target has its own values only."""
    if isinstance(node, list):
        for index, item in enumerate(node):
            yield from _find_target_errors(item, f"{where}[{index}]", is_argument)
    if not isinstance(node, dict):
        return
    if "_target_" in node:
        yield from _find_signature_errors(node, where, is_argument)
    for key, value in node.items():
        yield from _find_target_errors(value, f"{where}.{key}" if where else str(key), "_target_" in node)


def _find_signature_errors(node: dict[str, Any], where: str, is_argument: bool) -> Iterator[str]:
    target = node["_target_"]
    try:
        parameters = inspect.signature(load_target(target)).parameters
    except ConfigError as fault:
        yield f"{where}._target_: {fault.problem} {fault.advice}"
        return
    except (ValueError, TypeError) as fault:
        yield f"{where}._target_: cannot load {target!r} ({get_first_line(fault)})."
        return
    if is_argument and not node.get("_partial_") and (absent := _list_absent_arguments(node, parameters)):
        yield (
            f"{where}: {target} needs {', '.join(absent)}. If it gets that when it is called, such as a rule its"
            " vectors, add the line `_partial_: true` to its part of the file."
        )
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for key in [each for each in node if each not in _HYDRA_KEYS and each not in parameters]:
        close = difflib.get_close_matches(key, parameters, n=1)
        takes = f"It takes {', '.join(parameters) or 'none'}; '~{where}.{key}' removes this one."
        hint = f"Did you mean {close[0]!r}?" if close else takes
        yield f"{where}.{key}: {target} has no such parameter. {hint}"


def _list_absent_arguments(node: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter]) -> list[str]:
    """Return the parameters without a default that a node gives no value."""
    if "_args_" in node:
        return []
    named = [each for each in parameters.values() if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    return [each.name for each in named if each.default is each.empty and each.name not in node]


def _find_range_errors(plain: dict[str, Any]) -> Iterator[str]:
    data, training, strategy = plain["data"], plain["training"], plain["strategy"]
    at_least_one = {
        "training.batch_size": training["batch_size"],
        "strategy.rounds": strategy["rounds"],
        "strategy.attempts": strategy["attempts"],
        "strategy.checkpoints": strategy["checkpoints"],
        "baselines.workers": plain["baselines"]["workers"],
        "data.image.size": data["image"]["size"],
        "evaluation.bins": plain["evaluation"]["bins"],
        "evaluation.min_group": plain["evaluation"]["min_group"],
        "evaluation.bootstrap": plain["evaluation"]["bootstrap"],
    }
    for key in ("local_steps", "local_epochs"):
        if training[key] is not None:
            at_least_one[f"training.{key}"] = training[key]
    if plain["model"]["dim"] is not None:
        at_least_one["model.dim"] = plain["model"]["dim"]
    if strategy["patience"] is not None:
        at_least_one["strategy.patience"] = strategy["patience"]
    for key in ("threads", "micro_batch_size"):
        if training[key] is not None:
            at_least_one[f"training.{key}"] = training[key]
    if plain["privacy"].get("max_physical_batch_size") is not None:
        at_least_one["privacy.max_physical_batch_size"] = plain["privacy"]["max_physical_batch_size"]
    if training["memory_gb"] is not None and not training["memory_gb"] > 0:
        yield f"training.memory_gb: must be positive or null, is {training['memory_gb']}."
    secagg = plain["secagg"]
    for key in ("min_honest", "min_sites"):
        if secagg.get(key) is not None:
            at_least_one[f"secagg.{key}"] = secagg[key]
    if (secagg.get("colluders") or 0) < 0:
        yield f"secagg.colluders: must not be negative, is {secagg['colluders']}."
    yield from (f"{key}: must be at least 1, is {value}." for key, value in at_least_one.items() if value < 1)
    if not 0 <= plain["model"]["modality_dropout"] < 1:
        yield f"model.modality_dropout: must be at least 0 and below 1, is {plain['model']['modality_dropout']}."
    if not training["encoder_lr"] > 0:
        yield f"training.encoder_lr: must be positive, is {training['encoder_lr']}."
    if not 0 <= training["warmup"] <= strategy["rounds"]:
        yield f"training.warmup: must be between 0 and strategy.rounds ({strategy['rounds']}), is {training['warmup']}."
    if plain["seed"] < 0:
        yield f"seed: must not be negative, is {plain['seed']}."
    if not strategy["round_timeout"] > 0:
        yield f"strategy.round_timeout: must be positive, is {strategy['round_timeout']}."
    if not 0 <= strategy["ema"] < 1:
        yield f"strategy.ema: must be at least 0 and below 1, is {strategy['ema']}."
    if strategy["max_update_norm"] is not None and not strategy["max_update_norm"] > 0:
        yield f"strategy.max_update_norm: must be positive or null, is {strategy['max_update_norm']}."
    if strategy["deadline_factor"] is not None and not strategy["deadline_factor"] >= 1:
        yield f"strategy.deadline_factor: must be at least 1 or null, is {strategy['deadline_factor']}."
    if data["image"]["channels"] not in (1, 3):
        yield f"data.image.channels: must be 1 (grey) or 3 (colour), is {data['image']['channels']}."
    shares_of_one = {"data.max_rejected": data["max_rejected"]}
    shares_of_one |= {f"strategy.{key}": strategy[key] for key in ("quorum", "staleness")}
    for key, value in shares_of_one.items():
        if not 0 <= value <= 1:
            yield f"{key}: must be between 0 and 1, is {value}."
    shares = [data["split"][name] for name in ("validation", "test")]
    held_out = sum(shares)
    if min(shares) < 0 or held_out >= 1:
        yield f"data.split: validation and test must be >= 0 and leave something to train on, are {held_out} together."


def _find_consistency_errors(plain: dict[str, Any]) -> Iterator[str]:
    data, training, model = plain["data"], plain["training"], plain["model"]
    if (training["local_steps"] is None) == (training["local_epochs"] is None):
        yield "training: give exactly one of local_steps and local_epochs."
    if not data["sites"]:
        yield "data.sites: must name at least one site."
    if data["public"]["root"] and "public" in data["sites"]:
        yield "data.sites: no site can be called public beside data.public.root; rename it."
    for site in data["sites"]:
        if not SITE_ID.fullmatch(site):
            yield f"data.sites: {site!r} is no site name (lower case letters, digits, . _ and -)."
        elif data["sites"].count(site) > 1:
            yield f"data.sites: {site!r} is named twice."
    minimum = plain["strategy"]["min_sites"]
    if minimum is not None and not 1 <= minimum <= len(data["sites"]):
        yield f"strategy.min_sites: {minimum} of {len(data['sites'])} sites cannot be required."
    if all(model[tower] is None for tower in ("image", "text", "tabular")):
        yield "model: every tower is absent; keep at least one of image, text, tabular."
    if model["tabular"] is not None and not data["tabular"]:
        yield "model.tabular: data.tabular names no column; set model.tabular=null or name columns."
    for name, column in data["tabular"].items():
        if column["kind"] == "numeric" and not column["scale"] > 0:
            yield f"data.tabular.{name}.scale: must be positive, is {column['scale']}."
        if column["kind"] == "categorical" and not column["levels"]:
            yield f"data.tabular.{name}.levels: a categorical column needs its levels."
    yield from _find_loss_errors(training, data["task"])
    yield from find_data_errors(data)
    yield from _find_task_errors(data)
    yield from _find_subgroup_errors(plain)


def _find_loss_errors(training: dict[str, Any], task: dict[str, Any]) -> Iterator[str]:
    shares, classes = training["prevalence"], task["classes"]
    if not 0 <= training["label_smoothing"] < 1:
        yield f"training.label_smoothing: must be at least 0 and below 1, is {training['label_smoothing']}."
    if shares is None:
        return
    wanted = 1 if task["kind"] == "binary" else len(classes)
    if len(shares) != wanted:
        yield f"training.prevalence: a {task['kind']} task needs {wanted} numbers, not {len(shares)}."
    if not all(0 < share < 1 for share in shares):
        yield f"training.prevalence: {shares} are not shares between 0 and 1."


def _find_subgroup_errors(plain: dict[str, Any]) -> Iterator[str]:
    columns = plain["data"]["tabular"]

    def is_ascending(edges: list[Any]) -> bool:
        numbers = all(type(edge) in (int, float) for edge in edges)  # whole numbers are edges too
        return bool(edges) and numbers and sorted(set(edges)) == edges

    for name, edges in plain["evaluation"]["subgroups"].items():
        where = f"evaluation.subgroups.{name}"
        if name not in columns:
            yield f"{where}: data.tabular has no such column."
        elif name == "noise":  # of a private run: the name of the vector with the variance of its noise
            yield f"{where}: the name is reserved; give the column another one."
        elif columns[name]["kind"] == "categorical" and edges:
            yield f"{where}: the column's levels are its groups; give an empty list."
        elif columns[name]["kind"] == "numeric" and not is_ascending(edges):
            yield f"{where}: give the ascending edges of its bands, such as [40, 60]."
        elif columns[name]["kind"] == "numeric" and (far := _find_far_edges(columns[name], edges)):
            yield (
                f"{where}: {far[0]:g} is over {MAX_FEATURE:g} scales from the column's center, where numbers are "
                f"clipped; correct data.tabular.{name}.center and scale."
            )


def _find_far_edges(column: Mapping[str, Any], edges: list[Any]) -> list[Any]:
    return [edge for edge in edges if abs(edge - column["center"]) > MAX_FEATURE * column["scale"]]


def _find_task_errors(data: dict[str, Any]) -> Iterator[str]:
    kind, classes, labels = data["task"]["kind"], data["task"]["classes"], data["columns"]["labels"]
    if len(set(classes)) < len(classes):
        yield f"data.task.classes: names must differ, are {', '.join(classes)}."
    if kind == "binary" and len(classes) != 2:
        yield f"data.task.classes: a binary task has two classes, not {len(classes)}."
    if kind == "multiclass" and len(classes) < 3:
        yield "data.task.classes: a multiclass task has at least three classes; use binary for two."
    if kind == "multilabel" and len(labels) != len(classes):
        yield f"data.columns.labels: a multilabel task needs one column per class ({len(classes)}), has {len(labels)}."
    if kind != "multilabel" and len(labels) != 1:
        yield f"data.columns.labels: a {kind} task has one label column, not {len(labels)}."
