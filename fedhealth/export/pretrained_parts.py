"""The pretrained Hugging Face encoders of an exported model: each is stored in a folder beside the other weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class PretrainedPart:
    """One pretrained encoder.

    Attributes:
        node: its configuration, a part of the model's.
        modality: `image` or `text`.
        folder: name of its folder in the export.
        prefix: of its arrays in the model.

    """

    node: dict[str, Any]
    modality: str
    folder: str
    prefix: str


def list_pretrained_parts(model: Mapping[str, Any]) -> list[PretrainedPart]:
    """Return the pretrained encoders of a model's configuration."""
    return [
        PretrainedPart(node, modality, f"{modality}{place}", f"towers.{modality}.encoder.{path}network.")
        for modality in ("text", "image")
        for node, place, path in _iter_encoders(model.get(modality))
        if node.get("pretrained")
    ]


def copy_encoders(model: Mapping[str, Any], folder: Path) -> None:
    """Copy the pretrained encoders into the export, and remove all paths of this machine from the configuration."""
    for part in list_pretrained_parts(model):
        (_copy_text_encoder if part.modality == "text" else _copy_image_encoder)(part.node, folder / part.folder)
        part.node["pretrained"] = part.folder
    for node, _, _ in _iter_encoders(model.get("image")):
        if "weights" in node:
            node |= {"weights": None, "train": "none" if node.get("lora") else "all"}


def _iter_encoders(node: Any) -> Iterator[tuple[dict[str, Any], str, str]]:
    """Yield the encoders of a modality: itself, or several side by side; and their place in names."""
    if node:
        yield node, "", ""
        for name, each in (node.get("encoders") or {}).items():
            yield each, f"-{name}", f"encoders.{name}."


def _copy_text_encoder(node: Mapping[str, Any], target: Path) -> None:
    from fedhealth.models.encoders.pretrained_text import load_text_encoder

    network, tokenizer = load_text_encoder(node["pretrained"])
    network.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _copy_image_encoder(node: dict[str, Any], target: Path) -> None:
    """Copy the weights; the scale of the pixels moves into the configuration."""
    from fedhealth.models.encoders.pretrained_image import find_pixel_scale, load_image_encoder

    network, source = load_image_encoder(node["pretrained"])
    network.save_pretrained(target)  # type: ignore[operator]
    scale = find_pixel_scale(source, node.get("mean"), node.get("std"), node.get("normalization"))
    node |= {"mean": list(scale.mean), "std": list(scale.std), "normalization": None}
