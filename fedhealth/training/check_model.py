"""Check a run's model before anything is read or sent: build it, run it once, and check its private training.

Only synthetic rows are used. The same faults would otherwise appear at every hospital, in a log that the lead does not
see: an encoder that does not fit the images, or a layer that private training cannot protect.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from fedhealth.config.instantiate import instantiate
from fedhealth.config.schema import Config
from fedhealth.data import tabular
from fedhealth.data.augmentation import make_augmentation
from fedhealth.data.examples import Batch, Examples, ModalitySource
from fedhealth.errors import ConfigError, ModelError, PrivacyError
from fedhealth.models.encoders.checks import check_features, is_mixing_rows
from fedhealth.models.encoders.fresh_tokens import check_fresh_tokens
from fedhealth.models.model_method import build_model_method
from fedhealth.models.multimodal import MultimodalModel, Tower, build_model, get_output_width
from fedhealth.privacy.engines.self_check import run_self_check
from fedhealth.privacy.mechanisms.clipping import Clipping
from fedhealth.training.check_batch import make_check_batch
from fedhealth.training.devices import set_thread_count
from fedhealth.training.losses import compute_row_losses
from fedhealth.training.precision import checkpoint_activations
from fedhealth.training.private_batches import list_checked_losses
from fedhealth.utils.fault_text import get_first_line
from fedhealth.utils.guarded_part import describe_value
from fedhealth.utils.own_code import explain_own_code, name_part

_ABOUT_SIZES = re.compile(r"\b(sizes?|shapes?|channels?|dimensions?)\b", re.IGNORECASE)


def check_model(config: Config) -> None:
    """Check that the configured model can be built, reads the configured inputs, and can be trained as configured.

    Raises:
        ModelError: it cannot be built, does not read inputs of these sizes, gives values that are not finite, or has no
            blocks whose activations could be checkpointed.
        ConfigError: it has batch normalization, and batches of one row.
        PrivacyError: a layer cannot be trained privately; the message names it.

    """
    set_thread_count(config.training)
    model = build_model(config.model, config.data, config.seed)
    build_model_method(config.personalization).freeze(model)
    _check_batch_norm(model.train(), config)
    augmentation = make_augmentation(config.training)
    batch, owners = make_check_batch(model, make_blank_examples(model, config), config.data.task.kind, 1)
    if "text" in model.towers:
        check_fresh_tokens(config.model.text, cast(Tower, model.towers["text"]).encoder, config.seed)
    if augmentation and "image" in batch:
        augmentation.change_images(batch["image"], batch["image_present"])
    _check_forward(model, batch, config)
    with checkpoint_activations(model, config.training):
        _check_private_training(model, batch, owners, config)


def make_blank_examples(model: MultimodalModel, config: Config) -> Examples:
    """Return examples without rows, of the shapes that a site's have."""
    image, columns = config.data.image, config.data.task.classes
    values: dict[str, np.ndarray] = {
        "image": np.zeros((0, image.channels, image.size, image.size), np.uint8),
        "text": np.zeros((0, 1), np.int64),
        "tabular": np.zeros((0, tabular.count_features(config.data.tabular)), np.float32),
    }
    none, labels = np.zeros(0, np.int64), len(columns) if config.data.task.kind.value == "multilabel" else 1
    sources = {name: ModalitySource(values[name], none) for name in model.modalities if name in values}
    return Examples(sources, np.zeros((0, labels), np.float32), none, none)


def _check_batch_norm(model: MultimodalModel, config: Config) -> None:
    batch_norm = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
    ]
    if batch_norm and config.training.batch_size == 1:
        raise ConfigError(
            f"training.batch_size=1: {batch_norm[0]} normalizes over the batch, which needs two rows.",
            "Raise training.batch_size, or set model.image.norm=group.",
        )


def _check_forward(model: MultimodalModel, batch: Batch, config: Config) -> None:
    """Run each encoder and its tower on a few rows, as an evaluation does; nothing of the model changes."""
    model.eval()
    for name in sorted(model.modalities):
        only = {key: value for key, value in batch.items() if key == name or key.endswith("_present")}
        encoder, rows = cast(Tower, model.towers[name]).encoder, len(batch[name])
        with _convert_faults(f"model.{name}", config), torch.inference_mode():
            check_features(f"model.{name}", encoder, encoder(batch[name]), rows)
        with _convert_faults("model.fusion", config), torch.inference_mode():
            logits = model(only)
            if not isinstance(logits, Tensor) or logits.shape != (wanted := (rows, get_output_width(config.data))):
                problem = f"`forward` returned {describe_value(logits)}, not logits of shape {[*wanted]}."
                raise ModelError(
                    f"model.fusion: {name_part(model.fusion)}: {problem}", "See fedhealth/models/fusion.py."
                )
            losses = compute_row_losses(logits, batch["targets"], config.data.task.kind)
        if not bool(losses.isfinite().all()):
            raise ModelError(
                f"model.{name}: the encoder gives values that are not finite on random inputs.",
                "Check its weights; weights in half precision may have lost large values.",
            )


def _check_private_training(model: MultimodalModel, batch: Batch, owners: list[int], config: Config) -> None:
    """Check the engine that clips patients' gradients, if the run's trainer has one."""
    trainer = instantiate(config.privacy)
    if make_engine := getattr(trainer, "make_engine", None):
        towers = tuple(f"towers.{name}" for name in sorted(model.modalities)) if trainer.clipping == "tower" else ()
        _check_rows_alone(model, batch)
        clipping = Clipping(trainer.max_grad_norm, trainer.clipping, towers)
        for loss_fn, tolerance in list_checked_losses(config.data.task.kind, config.training, torch.device("cpu")):
            run_self_check(make_engine, model.train(), loss_fn, clipping, batch, owners, tolerance)


def _check_rows_alone(model: MultimodalModel, batch: Batch) -> None:
    """Refuse an encoder in which a row depends on the others: leaving out a patient would move all of them.

    Raises:
        PrivacyError: naming the encoder.

    """
    model.eval()
    for name in sorted(model.modalities):
        encoder = cast(Tower, model.towers[name]).encoder
        if is_mixing_rows(encoder, batch[name]):
            raise PrivacyError(
                f"model.{name}: {name_part(encoder)} mixes the rows of a batch: a row's features depend on the others.",
                "Compute every row alone: with LayerNorm, for example, and no mean over the batch.",
            )


@contextmanager
def _convert_faults(place: str, config: Config) -> Iterator[None]:
    """Convert a fault of a part of the model into an error that names its place."""
    try:
        yield
    except (RuntimeError, ValueError, AssertionError, LookupError, TypeError, AttributeError) as fault:
        raise _explain_misfit(place, config, fault) from fault


def _explain_misfit(place: str, config: Config, fault: Exception) -> ModelError:
    reason = get_first_line(fault)
    own = explain_own_code(fault)
    if own is not None and not _ABOUT_SIZES.search(reason):
        return ModelError(f"{place}: {own.problem}", own.advice)
    if place == "model.image":
        size, channels = config.data.image.size, config.data.image.channels
        return ModelError(
            f"model.image: the encoder does not read images of {channels} x {size} x {size} pixels ({reason}).",
            "Set data.image.size to the size that the encoder was trained with, or choose another encoder.",
        )
    part = "fusion" if place == "model.fusion" else "encoder"
    return ModelError(f"{place}: the {part} does not read its inputs ({reason}).", f"Choose another {part}.")
