"""Save and load an exported model: a folder with config.json and model.safetensors.

Pretrained encoders, and the tokenizer of one for text, are stored beside them. The folder contains no code and no paths
of the machine on which the model was trained.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from fedhealth.config.compose import resolve_config
from fedhealth.config.schema import DataConfig, ModelConfig
from fedhealth.errors import ModelError
from fedhealth.export.known_targets import iter_targets, list_known_targets
from fedhealth.export.pretrained_parts import copy_encoders, list_pretrained_parts
from fedhealth.models.model_method import build_model_method
from fedhealth.models.model_state import get_model_arrays, list_trained_arrays, set_model_arrays
from fedhealth.models.multimodal import MultimodalModel, build_model
from fedhealth.types import State
from fedhealth.utils.atomic_io import write_atomic, write_json
from fedhealth.utils.fault_text import get_first_line
from fedhealth.utils.own_code import explained_own_code
from fedhealth.version import __version__

FORMAT = 1
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
LOCAL_ARRAYS_KEY = "trained_at_each_hospital"  # in config.json: arrays that never left the hospitals
_DATA_KEYS = ("name", "columns", "task", "image", "tabular")  # keys of `data` that describe the model's inputs


@dataclass(frozen=True)
class ExportedModel:
    """A model loaded from its folder.

    Attributes:
        folder: its folder.
        data: meaning of its inputs.
        model: ready to score studies.

    """

    folder: Path
    data: DataConfig
    model: MultimodalModel

    def __repr__(self) -> str:
        numbers = sum(array.numel() for array in self.model.state_dict().values())
        return f"ExportedModel({str(self.folder)!r}): {', '.join(sorted(self.model.modalities))}; {numbers:,} numbers"


def save_model(config: DictConfig, shared: State, folder: Path) -> None:
    """Write the federated model of a run to a folder.

    Args:
        config: the run's composed configuration.
        shared: the arrays that the federation trained, a run's model.safetensors.
        folder: where to write; existing files are replaced.

    """
    plain = resolve_config(config)
    typed: Any = OmegaConf.to_object(config)
    model = build_model(typed.model, typed.data, typed.seed)
    build_model_method(typed.personalization).freeze(model)
    set_model_arrays(model, shared)
    elsewhere = sorted(set(list_trained_arrays(model)) - set(shared))
    folder.mkdir(parents=True, exist_ok=True)
    described = _make_portable(plain["model"], folder)
    arrays = get_model_arrays(model, list(model.state_dict()))
    encoder_arrays = _load_encoders(described, folder)
    new_arrays = {
        name: array
        for name, array in arrays.items()
        if name not in encoder_arrays or not np.array_equal(encoder_arrays[name], array)
    }
    write_atomic(folder / WEIGHTS_FILE, save(new_arrays))
    data = {name: plain["data"][name] for name in _DATA_KEYS}
    head = {"format": FORMAT, "fedhealth": __version__, "seed": plain["seed"], LOCAL_ARRAYS_KEY: elsewhere}
    write_json(folder / CONFIG_FILE, {**head, "data": data, "model": described})


@explained_own_code()
def load_model(folder: Path, own: Path | None = None, config_dir: Path | None = None) -> ExportedModel:
    """Load a model from its folder.

    Args:
        folder: as written by `save_model`.
        own: arrays in which a hospital's own model differs, its personal.safetensors; None for the shared model.
        config_dir: the folder of configuration files that names parts of an own package, as for training; the model's
            folder itself cannot name one.

    Raises:
        ModelError: the folder is incomplete, damaged, has another format, refers to code that neither an installed
            option nor `config_dir` names, or contains only the shared part of a personalized model (`own` is required
            then).
        ConfigError: `config_dir` cannot be used, or a part of the model cannot be built.

    """
    described = _read_config(folder, config_dir)
    if own is None and (elsewhere := described[LOCAL_ARRAYS_KEY]):
        raise ModelError(
            f"{folder} contains only part of a model: {len(elsewhere)} arrays are trained and stored at each hospital.",
            "Score with a hospital's own personal.safetensors (--own).",
        )
    blank = {"root": "", "sites": []}
    data, model = (
        _parse_config(DataConfig, {**described["data"], **blank}),
        _parse_config(ModelConfig, _locate_encoders(described, folder)),
    )
    built = build_model(model, data, int(described["seed"]))
    arrays = _load_arrays(folder / WEIGHTS_FILE)
    stored = tuple(part.prefix for part in list_pretrained_parts(described["model"]))
    absent = [name for name in built.state_dict() if name not in arrays and not name.startswith(stored)]
    if absent:
        raise ModelError(
            f"{folder / WEIGHTS_FILE} lacks {len(absent)} arrays, such as {absent[0]}.", "Export it again."
        )
    set_model_arrays(built, arrays)
    if own is not None:
        set_model_arrays(
            built, {name: array for name, array in _load_arrays(own).items() if name in built.state_dict()}
        )
    return ExportedModel(folder, data, built.eval())


def _make_portable(model: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the model's configuration without paths of this machine; copy pretrained encoders into the folder."""
    described: dict[str, Any] = copy.deepcopy(dict(model))
    copy_encoders(described, folder)
    return described


def _load_encoders(described: Mapping[str, Any], folder: Path) -> State:
    """Return the arrays in the pretrained encoders' own files, by their names in the model."""
    return {
        part.prefix + name: array
        for part in list_pretrained_parts(described)
        for name, array in _load_arrays(folder / part.folder / WEIGHTS_FILE).items()
    }


def _read_config(folder: Path, config_dir: Path | None) -> dict[str, Any]:
    advice = "Give the folder `model` of a run."
    try:
        described: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_text("utf-8"))
        found = described["format"]
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise ModelError(f"{folder} contains no exported model ({fault}).", advice) from fault
    if found != FORMAT:
        raise ModelError(
            f"{folder} has format {found}; this release reads format {FORMAT}.", "Use the release that wrote it."
        )
    if forbidden := sorted(_find_forbidden_values(described)):
        raise ModelError(
            f"{folder / CONFIG_FILE} contains a value that no export writes: {forbidden[0]!r}.", "Do not use it."
        )
    if unknown := sorted(set(iter_targets(described)) - list_known_targets(config_dir)):
        raise _explain_unknown_target(folder, unknown[0], config_dir)
    return described


def _find_forbidden_values(node: Any) -> Iterator[str]:
    """Yield targets that are no names, interpolations, and other special keys of Hydra."""
    if isinstance(node, dict):
        for key, value in node.items():
            if (key == "_target_" and not isinstance(value, str)) or "${" in key:
                yield str(key)
            elif key.startswith("_") and key != "_target_":
                yield key
            yield from _find_forbidden_values(value)
    elif isinstance(node, list):
        for entry in node:
            yield from _find_forbidden_values(entry)
    elif isinstance(node, str) and "${" in node:
        yield node


def _explain_unknown_target(folder: Path, target: str, config_dir: Path | None) -> ModelError:
    """Return the error for a class that the person who loads the model did not name; it was not imported."""
    where = f"no file below {config_dir} names" if config_dir else "no installed option names"
    return ModelError(
        f"{folder / CONFIG_FILE} names {target!r}, which {where}.",
        "If you trained it, name the folder of configuration files that you trained with: --config-dir FOLDER, in "
        "Python config_dir=FOLDER. If you do not know this class, do not use the model.",
    )


def _locate_encoders(described: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the model's configuration with the current paths of the pretrained encoders' folders."""
    model: dict[str, Any] = copy.deepcopy(dict(described["model"]))
    for part in list_pretrained_parts(model):
        part.node["pretrained"] = str((folder / part.folder).resolve())
    return model


def _parse_config(kind: type, values: Mapping[str, Any]) -> Any:
    try:
        merged = OmegaConf.merge(OmegaConf.structured(kind), OmegaConf.create(dict(values), flags={"readonly": True}))
        return OmegaConf.to_object(merged)
    except OmegaConfBaseException as fault:
        raise ModelError(f"{CONFIG_FILE}: {get_first_line(fault)}", "Export the model again.") from fault


def _load_arrays(path: Path) -> State:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as fault:
        raise ModelError(f"{path} cannot be read ({fault}).", "Export the model again.") from fault
