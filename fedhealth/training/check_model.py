"""Check a run's model before anything is read or sent: build it, run it once, and check its private training.

Only synthetic rows are used. The same faults would otherwise appear at every hospital, in a log that the lead does not
see: an encoder that does not fit the images, or a layer that private training cannot protect.
"""

from __future__ import annotations

import re

import numpy as np
import torch
from torch import nn

from fedhealth.config.instantiate import instantiate
from fedhealth.config.schema import Config
from fedhealth.data import tabular
from fedhealth.data.augmentation import make_augmentation
from fedhealth.data.examples import Batch, Examples, ModalitySource
from fedhealth.errors import ConfigError, ModelError
from fedhealth.models.multimodal import MultimodalModel, build_model
from fedhealth.privacy.engines.self_check import run_self_check
from fedhealth.privacy.mechanisms.clipping import Clipping
from fedhealth.training.check_batch import make_check_batch
from fedhealth.training.losses import compute_row_losses
from fedhealth.training.private_batches import list_checked_losses
from fedhealth.training.trainer import set_thread_count
from fedhealth.utils.fault_text import get_first_line
from fedhealth.utils.own_code import explain_own_code

_ABOUT_SIZES = re.compile(r"\b(sizes?|shapes?|channels?|dimensions?)\b", re.IGNORECASE)


def check_model(config: Config) -> None:
    """Check that the configured model can be built, reads the configured inputs, and can be trained as configured.

    Raises:
        ModelError: it cannot be built, does not read inputs of these sizes, or gives values that are not finite.
        ConfigError: it has batch normalization, and batches of one row.
        PrivacyError: a layer cannot be trained privately; the message names it.

    """
    set_thread_count(config.training)
    model = build_model(config.model, config.data, config.seed)
    instantiate(config.personalization).freeze(model)
    _check_batch_norm(model.train(), config)
    augmentation = make_augmentation(config.training)
    batch, owners = make_check_batch(model, make_blank_examples(model, config), config.data.task.kind, 1)
    if augmentation and "image" in batch:
        augmentation.change_images(batch["image"], batch["image_present"])
    _check_forward(model, batch, config)
    trainer = instantiate(config.privacy)
    if make_engine := getattr(trainer, "make_engine", None):
        towers = tuple(f"towers.{name}" for name in sorted(model.modalities)) if trainer.clipping == "tower" else ()
        clipping = Clipping(trainer.max_grad_norm, trainer.clipping, towers)
        for loss_fn, tolerance in list_checked_losses(config.data.task.kind, config.training, torch.device("cpu")):
            run_self_check(make_engine, model.train(), loss_fn, clipping, batch, owners, tolerance)


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
    """Run each tower on a few rows, as an evaluation does; nothing of the model changes."""
    model.eval()
    for name in sorted(model.modalities):
        only = {key: value for key, value in batch.items() if key == name or key.endswith("_present")}
        try:
            with torch.inference_mode():
                losses = compute_row_losses(model(only), batch["targets"], config.data.task.kind)
        except (RuntimeError, ValueError, AssertionError, LookupError, TypeError, AttributeError) as fault:
            raise _explain_misfit(name, config, fault) from fault
        if not bool(losses.isfinite().all()):
            raise ModelError(
                f"model.{name}: the encoder gives values that are not finite on random inputs.",
                "Check its weights; weights in half precision may have lost large values.",
            )


def _explain_misfit(name: str, config: Config, fault: Exception) -> ModelError:
    reason = get_first_line(fault)
    own = explain_own_code(fault)
    if own is not None and not _ABOUT_SIZES.search(reason):
        return ModelError(f"model.{name}: {own.problem}", own.advice)
    if name == "image":
        size, channels = config.data.image.size, config.data.image.channels
        return ModelError(
            f"model.image: the encoder does not read images of {channels} x {size} x {size} pixels ({reason}).",
            "Set data.image.size to the size that the encoder was trained with, or choose another encoder.",
        )
    return ModelError(f"model.{name}: the encoder does not read its inputs ({reason}).", "Choose another encoder.")
