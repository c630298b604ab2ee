"""The multimodal model: one tower per modality, a learned token for each missing modality, and fusion."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from fedhealth.config.part_contracts import FUSION, PARTS, build_part
from fedhealth.config.schema import DataConfig, ModelConfig, TaskKind
from fedhealth.data import tabular
from fedhealth.data.examples import Batch, get_feature_source_names
from fedhealth.errors import ModelError
from fedhealth.models.encoders.base import is_frozen
from fedhealth.utils.own_code import name_part

MODALITIES = ("image", "text", "tabular")
_GUIDE = "See docs/add-an-encoder.md."


class Tower(nn.Module):
    """One modality: encoder -> projection, with a learned token for rows that lack the modality.

    Args:
        encoder: has a `width`.
        dim: the common width to project to; null only normalizes the encoder's features.

    """

    def __init__(self, encoder: nn.Module, dim: int | None) -> None:
        super().__init__()
        width = cast(int, encoder.width)
        self.encoder = encoder
        if dim is None:
            self.project: nn.Module = nn.LayerNorm(width, elementwise_affine=False)
        else:
            self.project = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, dim), nn.ReLU())
        self.width = dim or width
        self.missing = nn.Embedding(1, self.width)  # not a bare parameter: an embedding has per-sample gradients

    def forward(self, values: Tensor | None, maps: Tensor | None, features: Tensor | None, present: Tensor) -> Tensor:
        """Return [B, width] from raw values or cached outputs; all three may be absent.

        Args:
            values: the encoder's inputs.
            maps: cached outputs of the encoder's frozen front.
            features: cached outputs of the frozen encoder.
            present: bool [B].

        """
        token = self.missing(torch.zeros(len(present), dtype=torch.long, device=present.device))
        if features is not None:
            encoded = features
        elif maps is not None:
            encoded = self.encoder.finish(maps)  # type: ignore[operator]
        elif values is not None:
            encoded = self.encoder(values)
        else:
            return cast(Tensor, token)
        return torch.where(present.unsqueeze(1), self.project(encoded), token)


class ModalityDropout(nn.Dropout):
    """In training, hide modalities of single rows at random, as if they were missing; each row keeps at least one.

    Neverova et al., "ModDrop: adaptive multi-modal gesture recognition", TPAMI 2016. A row's draws do not depend on
    other rows, so a patient's gradient stays the patient's own.
    """

    def forward(self, present: Tensor) -> Tensor:
        """Return which modalities are used, bool [B, modalities], of those that are present."""
        if not self.training or not self.p:
            return present
        used = present & (torch.rand(present.shape, device=present.device) >= self.p)
        return torch.where(used.any(dim=1, keepdim=True), used, present)


class MultimodalModel(nn.Module):
    """Inputs by modality (see `Examples.batch`) -> logits [B, outputs].

    Args:
        towers: by modality.
        fusion: from their features to logits.
        modality_dropout: share of the modalities that are hidden in training.

    """

    def __init__(self, towers: dict[str, Tower], fusion: nn.Module, modality_dropout: float = 0.0) -> None:
        super().__init__()
        self.towers = nn.ModuleDict(towers)
        self.fusion = fusion
        self.hide = ModalityDropout(modality_dropout)

    @property
    def modalities(self) -> frozenset[str]:
        """The modalities that this model has a tower for."""
        return frozenset(self.towers)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits; a modality that is not in the batch counts as missing in every row."""
        size, device = _get_batch_size(batch)
        nobody = torch.zeros(size, dtype=torch.bool, device=device)
        present = self.hide(torch.stack([batch.get(f"{name}_present", nobody) for name in self.towers], dim=1))
        features = [
            tower(*(batch.get(key) for key in (name, *get_feature_source_names(name))), present[:, place])
            for place, (name, tower) in enumerate(self.towers.items())
        ]
        return cast(Tensor, self.fusion(features))

    def train(self, mode: bool = True) -> MultimodalModel:
        """Set training mode; frozen modules stay in evaluation mode, so that their statistics do not change."""
        super().train(mode)
        if mode and not all(parameter.requires_grad for parameter in self.parameters()):
            for module in self.modules():
                if any(True for _ in module.parameters()) and is_frozen(module):
                    nn.Module.train(module, False)
        return self


def _get_batch_size(batch: Batch) -> tuple[int, torch.device]:
    present = next((value for key, value in batch.items() if key.endswith("_present")), None)
    if present is None:
        raise ModelError("The batch names no modality.", "Build it with Examples.batch.")
    return len(present), present.device


def build_model(model: ModelConfig, data: DataConfig, seed: int) -> MultimodalModel:
    """Build the configured model; the same seed gives the same weights everywhere.

    Raises:
        ModelError: an encoder cannot be built or its weights do not fit.

    """
    needs: dict[str, dict[str, Any]] = {
        "image": {},
        "text": {},
        "tabular": {"inputs": tabular.count_features(data.tabular)},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoders = {name: _build_encoder(model, name, needs[name]) for name in MODALITIES if getattr(model, name)}
        towers = {name: Tower(encoder, model.dim) for name, encoder in encoders.items()}
        widths = [tower.width for tower in towers.values()]
        fusion = build_part(model.fusion, "model.fusion", FUSION, widths=widths, outputs=get_output_width(data))
        return MultimodalModel(towers, fusion, model.modality_dropout)


def _build_encoder(model: ModelConfig, name: str, needs: dict[str, Any]) -> nn.Module:
    """Return the encoder of a modality.

    Raises:
        ConfigError: it cannot be built, or lacks what an encoder needs.
        ModelError: it is no torch module, or its `width` is no number of features.

    """
    place = f"model.{name}"
    encoder = build_part(getattr(model, name), place, PARTS[place], **needs)
    if not isinstance(encoder, nn.Module):
        raise ModelError(f"{place}: {name_part(encoder)} is no torch.nn.Module.", _GUIDE)
    if not isinstance(encoder.width, int) or encoder.width < 1:
        raise ModelError(f"{place}: {name_part(encoder)}.width is no number of features: {encoder.width!r}.", _GUIDE)
    if name == "text" and not isinstance(encoder.pad, int | float):
        raise ModelError(f"{place}: {name_part(encoder)}.pad is no number: {encoder.pad!r}.", _GUIDE)
    return encoder


def get_output_width(data: DataConfig) -> int:
    """Return the number of logits: 1 for a binary task, one per class otherwise."""
    return 1 if data.task.kind is TaskKind.binary else len(data.task.classes)
