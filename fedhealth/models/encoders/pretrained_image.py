"""Image encoders of Hugging Face, from a local folder: ViT, Swin, DINOv2, CLIP's vision tower, ConvNeXt and others.

Weights come from safetensors only, and no code. The features are the class token (of CLIP and DINOv2 after the last
norm), or the mean over places for networks without one. Images of another size than the encoder was trained with get
bicubically interpolated position embeddings, where the network offers them.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers.utils import logging as hf_logging

from fedhealth.errors import ModelError
from fedhealth.models.encoders.base import TrainablePart, set_trainable
from fedhealth.models.encoders.pixel_scaling import (
    Level,
    PixelScale,
    check_scale_fits,
    describe_scale,
    make_pixel_scale,
    scale_pixels,
)
from fedhealth.models.lora import LoraSettings
from fedhealth.models.normalization import replace_batch_norm
from fedhealth.models.weights import find_weights
from fedhealth.utils.fault_text import get_first_line

_WHERE, _ADVICE = "model.image.pretrained", "Give a folder with config and safetensors weights."
_PROCESSOR = "preprocessor_config.json"  # holds the published mean and standard deviation


class PretrainedImageEncoder(nn.Module):
    """Images [B, C, H, W], uint8, uint16 or float in 0..255, -> features [B, width].

    Args:
        pretrained: the folder of a Hugging Face vision encoder, by path or by name in the folder of weights.
        train: which part is trained, see `set_trainable`.
        mean: subtracted after scaling to 0..1, for all channels or one by one; null takes the folder's own.
        std: divided by after that.
        normalization: replaces the two by a published scale, see `make_pixel_scale`; null for none.
        norm: of batch normalization, see `ImageEncoder`.
        lora: adapters to train in a frozen encoder (`train: none`); null for none.

    """

    may_have_own_adapters = False  # beside those of the `lora` setting

    def __init__(
        self,
        pretrained: str,
        train: TrainablePart = "none",
        mean: Level | None = None,
        std: Level | None = None,
        normalization: str | None = None,
        norm: Literal["keep", "group", "freeze"] = "keep",
        lora: LoraSettings | None = None,
    ) -> None:
        super().__init__()
        network, folder = load_image_encoder(pretrained)
        config: Any = network.config
        self.planes = int(getattr(config, "num_channels", 3))
        self.scale = find_pixel_scale(folder, mean, std, normalization)
        check_scale_fits(self.scale, self.planes)
        self.width = int(getattr(config, "hidden_size", None) or config.hidden_sizes[-1])
        self.network: Any = network if norm == "keep" else replace_batch_norm(network, norm)
        self._interpolates = "interpolate_pos_encoding" in inspect.signature(network.forward).parameters
        size = getattr(config, "image_size", None)
        self._size = int(size) if isinstance(size, int) else None
        set_trainable(self.network, train, "image", lora)

    def forward(self, images: Tensor) -> Tensor:
        """Encode a batch of images."""
        scaled = scale_pixels(images, self.scale, self.planes)
        resized = self._interpolates and self._size is not None and scaled.shape[-1] != self._size
        found = self.network(scaled, **({"interpolate_pos_encoding": True} if resized else {}))
        pooled = getattr(found, "pooler_output", None)
        features: Tensor = found.last_hidden_state[:, 0] if pooled is None else pooled.flatten(1)
        return features

    def extra_repr(self) -> str:
        """Return the settings that change the features, for the fingerprint of the cache."""
        return describe_scale(self.scale)


def load_image_encoder(name: str) -> tuple[nn.Module, Path]:
    """Return the network in float32, without a pooler that has weights, and its folder.

    Raises:
        ModelError: it cannot be loaded, lacks weights, or does not read images.

    """
    hf_logging.disable_progress_bar()
    folder = find_weights(name)
    if not folder.is_dir():
        raise ModelError(
            f"{_WHERE}: there is no folder {folder}.", "Give a folder with config and safetensors weights."
        )
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        config = getattr(config, "vision_config", config)  # of a model that reads texts too
        network, loaded = AutoModel.from_pretrained(
            folder,
            config=config,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, AttributeError) as fault:
        first = get_first_line(fault)
        raise ModelError(f"{_WHERE}: cannot load {folder} ({first}).", _ADVICE) from fault
    if getattr(network, "main_input_name", "") != "pixel_values":
        raise ModelError(
            f"{_WHERE}: {folder} does not read images ({type(network).__name__}).", "Use model/text=pretrained for it."
        )
    if absent := sorted(key for key in loaded["missing_keys"] if "pooler" not in key):
        raise ModelError(
            f"{_WHERE}: {folder} lacks {len(absent)} of the encoder's weights, such as {absent[0]}.",
            "Save the whole encoder with save_pretrained.",
        )
    pooler = getattr(network, "pooler", None)
    if pooler is not None and any(isinstance(layer, nn.Linear) for layer in pooler.modules()):
        network.pooler = None  # made for another task; the class token takes its place
    return network, folder


def find_pixel_scale(folder: Path, mean: Level | None, std: Level | None, normalization: str | None) -> PixelScale:
    """Return the configured scale, or the published one in the encoder's folder.

    Raises:
        ModelError: there is neither.

    """
    if normalization is not None or (mean is not None and std is not None):
        return make_pixel_scale(0.5 if mean is None else mean, 0.5 if std is None else std, normalization)
    path = folder / _PROCESSOR
    try:
        about = json.loads(path.read_text("utf-8"))
        return make_pixel_scale(about["image_mean"], about["image_std"], None)
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise ModelError(
            f"model.image: {path} does not say which mean and std the encoder was trained with.",
            "Set model.image.normalization (such as imagenet), or model.image.mean and model.image.std.",
        ) from fault
