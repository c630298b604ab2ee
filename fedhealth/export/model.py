"""A model as a folder: config.json, model.safetensors, and a pretrained text encoder with its tokenizer beside them.

Nothing in it refers to the machine it was trained on, and nothing in it is code.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from fedhealth import __version__
from fedhealth.config.compose import conf_dir, resolve
from fedhealth.config.instantiate import instantiate
from fedhealth.config.schema import DataConfig, ModelConfig
from fedhealth.errors import ModelError
from fedhealth.models.model_state import get_state, set_state, trained_names
from fedhealth.models.multimodal import MultimodalModel, build_model
from fedhealth.types import State
from fedhealth.utils.atomic_io import write_atomic, write_json

FORMAT = 1
CONFIG, WEIGHTS, TEXT = "config.json", "model.safetensors", "text"
ELSEWHERE = "trained_at_each_hospital"  # in config.json: arrays that never left
_TEXT_NETWORK = "towers.text.encoder.network."
_TARGET = re.compile(r"^ *_target_: *([\w.]+) *$", re.MULTILINE)
_MEANING = ("name", "columns", "task", "image", "tabular")  # of data: what a model needs to know of its inputs


@dataclass(frozen=True)
class Exported:
    """A model that was read from its folder.

    Attributes:
        folder: where it lies.
        data: what its inputs mean.
        model: ready to score.

    """

    folder: Path
    data: DataConfig
    model: MultimodalModel


def save_model(config: DictConfig, shared: State, folder: Path) -> None:
    """Write the model of a composed configuration with the federation's arrays.

    Args:
        config: of the run.
        shared: the arrays that the federation trained, a run's model.safetensors.
        folder: to write; its files are replaced.

    """
    plain = resolve(config)
    typed: Any = OmegaConf.to_object(config)
    model = build_model(typed.model, typed.data, typed.seed)
    instantiate(typed.personalization).freeze(model)
    set_state(model, shared)
    elsewhere = sorted(set(trained_names(model)) - set(shared))
    folder.mkdir(parents=True, exist_ok=True)
    described = _portable(plain["model"], folder)
    arrays = get_state(model, list(model.state_dict()))
    beside = _beside(described, folder)
    kept = {n: a for n, a in arrays.items() if n not in beside or not np.array_equal(beside[n], a)}
    write_atomic(folder / WEIGHTS, save(kept))
    data = {name: plain["data"][name] for name in _MEANING}
    head = {"format": FORMAT, "fedhealth": __version__, "seed": plain["seed"], ELSEWHERE: elsewhere}
    write_json(folder / CONFIG, {**head, "data": data, "model": described})


def load_model(folder: Path, own: Path | None = None) -> Exported:
    """Read a model's folder.

    Args:
        folder: as `save_model` wrote it.
        own: arrays in which a hospital's own model differs, its personal.safetensors; None for the shared model.

    Raises:
        ModelError: it is incomplete, damaged, of another format, names code that is not ours, or is the shared part of
            a model of which each hospital trains another part (`own` is needed then).

    """
    described = _config(folder)
    if own is None and (elsewhere := described[ELSEWHERE]):
        raise ModelError(
            f"{folder} is a part of a model: {len(elsewhere)} arrays are trained at each hospital and stay there.",
            "Score with a hospital's own personal.safetensors (--own).",
        )
    blank = {"root": "", "sites": []}
    data, model = _typed(DataConfig, {**described["data"], **blank}), _typed(ModelConfig, _placed(described, folder))
    built = build_model(model, data, int(described["seed"]))
    arrays = _arrays(folder / WEIGHTS)
    beside = _TEXT_NETWORK if (model.text or {}).get("pretrained") else None
    absent = [n for n in built.state_dict() if n not in arrays and not (beside and n.startswith(beside))]
    if absent:
        raise ModelError(f"{folder / WEIGHTS} lacks {len(absent)} arrays, such as {absent[0]}.", "Export it again.")
    set_state(built, arrays)
    if own is not None:
        set_state(built, {name: array for name, array in _arrays(own).items() if name in built.state_dict()})
    return Exported(folder, data, built.eval())


def _portable(model: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the model's configuration without files of this machine; what it needs of them is copied."""
    described: dict[str, Any] = copy.deepcopy(dict(model))
    image, text = described["image"], described["text"]
    if image and "weights" in image:
        image |= {"weights": None, "train": "none" if image.get("lora") else "all"}
    if text and text.get("pretrained"):
        from transformers import AutoModel, AutoTokenizer

        source = text["pretrained"]
        network = AutoModel.from_pretrained(source, use_safetensors=True, trust_remote_code=False)
        network.save_pretrained(folder / TEXT)
        AutoTokenizer.from_pretrained(source, trust_remote_code=False).save_pretrained(folder / TEXT)
        text["pretrained"] = TEXT
    return described


def _beside(described: Mapping[str, Any], folder: Path) -> State:
    """Return what a pretrained text encoder's own file holds, by the name that the model has for it."""
    if not (described["text"] or {}).get("pretrained"):
        return {}
    return {_TEXT_NETWORK + name: array for name, array in _arrays(folder / TEXT / WEIGHTS).items()}


def _config(folder: Path) -> dict[str, Any]:
    advice = "Give the folder `model` of a run."
    try:
        described: dict[str, Any] = json.loads((folder / CONFIG).read_text("utf-8"))
        found = described["format"]
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise ModelError(f"{folder} holds no exported model ({fault}).", advice) from fault
    if found != FORMAT:
        raise ModelError(f"{folder} has format {found}, this release reads {FORMAT}.", "Use the release that wrote it.")
    if strange := sorted(_strange(described)):
        raise ModelError(f"{folder / CONFIG} holds what no export writes: {strange[0]!r}.", "Do not use it.")
    return described


def _strange(node: Any) -> Iterator[str]:
    """Yield code that no installed yaml of the group `model` names, interpolations, and Hydra's other words."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "_target_" and value not in _installed_targets():
                yield str(value)
            elif (key.startswith("_") and key != "_target_") or "${" in key:
                yield key
            yield from _strange(value)
    elif isinstance(node, list):
        for entry in node:
            yield from _strange(entry)
    elif isinstance(node, str) and "${" in node:
        yield node


@lru_cache(maxsize=1)
def _installed_targets() -> frozenset[str]:
    """Return the code that installed model options name: what is built here in any case."""
    files = (conf_dir() / "model").rglob("*.yaml")
    return frozenset(name for file in files for name in _TARGET.findall(file.read_text("utf-8")))


def _placed(described: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the model's configuration with the text encoder's folder where it is now."""
    model: dict[str, Any] = dict(described["model"])
    if (model["text"] or {}).get("pretrained"):
        model["text"] = {**model["text"], "pretrained": str((folder / TEXT).resolve())}
    return model


def _typed(kind: type, values: Mapping[str, Any]) -> Any:
    try:
        merged = OmegaConf.merge(OmegaConf.structured(kind), OmegaConf.create(dict(values), flags={"readonly": True}))
        return OmegaConf.to_object(merged)
    except OmegaConfBaseException as fault:
        raise ModelError(f"{CONFIG}: {str(fault).splitlines()[0]}", "Export the model again.") from fault


def _arrays(path: Path) -> State:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as fault:
        raise ModelError(f"{path} cannot be read ({fault}).", "Export the model again.") from fault
