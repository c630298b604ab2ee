"""Image encoders: any torchvision classification network without its last layer, or a small one for small images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fedhealth.errors import ModelError
from fedhealth.models.encoders.base import TrainablePart, is_frozen, set_trainable
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

SMALL_CNN = "small_cnn"


class ImageEncoder(nn.Module):
    """Images [B, C, H, W], uint8, uint16 or float in 0..255, -> features [B, width].

    Args:
        architecture: `small_cnn` or a torchvision classification model, such as `mobilenet_v2`.
        weights: a safetensors file with the architecture's full state; null starts from random weights.
        train: which part is trained, see `set_trainable`.
        mean: subtracted after scaling to 0..1, for all channels or one by one.
        std: divided by after that.
        normalization: replaces the two by a published scale: `imagenet`, or the name of torchvision's weights, such as
            `ResNet18_Weights.IMAGENET1K_V1`; null for none.
        norm: `keep` batch normalization, replace it by `group` normalization, or `freeze` it; pretrained scales are
            kept. Private training requires one of the last two for trained layers.
        lora: adapters to train in a frozen encoder (`train: none`); null for none.
        widths: of the small network's layers, multiples of 8; fewer weights need less noise in private training.
        depth: the number of layers of a torchvision network's `features` to keep, from the input; null keeps all. The
            last layer is often wide and specific to ImageNet's classes: without it private training needs less noise.

    """

    may_have_own_adapters = False  # beside those of the `lora` setting

    def __init__(
        self,
        architecture: str = SMALL_CNN,
        weights: str | None = None,
        train: TrainablePart = "all",
        mean: Level = 0.5,
        std: Level = 0.5,
        norm: Literal["keep", "group", "freeze"] = "keep",
        lora: LoraSettings | None = None,
        widths: Sequence[int] = (16, 32, 64, 96),
        depth: int | None = None,
        normalization: str | None = None,
    ) -> None:
        super().__init__()
        network, self.width = (
            _build_small_cnn(widths) if architecture == SMALL_CNN else _build_torchvision(architecture, weights)
        )
        if depth is not None:
            self.width = _truncate_network(network, depth, architecture)
        if architecture == SMALL_CNN and weights:
            _load_weights(network, weights, architecture)
        if train == "none" and not weights and not lora:
            raise ModelError(
                f"model.image: a frozen {architecture} without weights learns nothing.",
                "Give model.image.weights=FILE or model.image.train=all.",
            )
        network = network if norm == "keep" else replace_batch_norm(network, norm)
        set_trainable(network, train, "image", lora)
        layers, self.network = _split_off_front(network)
        scale, planes = make_pixel_scale(mean, std, normalization), 1 if architecture == SMALL_CNN else 3
        check_scale_fits(scale, planes)
        self.front = FrozenFront(layers, planes, scale)

    def forward(self, images: Tensor) -> Tensor:
        """Encode a batch of images."""
        return self.finish(self.front(images))

    def finish(self, maps: Tensor) -> Tensor:
        """Encode the outputs of `front` for a batch of images."""
        features: Tensor = self.network(maps)
        return features


class FrozenFront(nn.Module):
    """The frozen layers before the first trained one: images [B, C, H, W] in 0..255 -> inputs of that layer.

    Args:
        layers: frozen; empty for a network that is trained from its first layer, or not trained at all.
        planes: channels of the network's input.
        scale: of the pixels.

    """

    def __init__(self, layers: nn.Sequential, planes: int, scale: PixelScale) -> None:
        super().__init__()
        self.layers, self.planes, self.scale = layers, planes, scale

    def forward(self, images: Tensor) -> Tensor:
        """Scale the images and pass them through the frozen layers."""
        maps: Tensor = self.layers(scale_pixels(images, self.scale, self.planes))
        return maps

    def extra_repr(self) -> str:
        """Return the settings that change the features, for the fingerprint of the cache."""
        return describe_scale(self.scale)


def _split_off_front(network: nn.Module) -> tuple[nn.Sequential, nn.Module]:
    """Return the frozen layers before the first trained one, and the rest, whose parameters keep their names.

    Layers can be split off a sequential module only: the network itself, or `features` in most torchvision networks.
    """
    chain = network if isinstance(network, nn.Sequential) else getattr(network, "features", None)
    if not isinstance(chain, nn.Sequential) or is_frozen(network):
        return nn.Sequential(), network
    first = next((place for place, layer in enumerate(chain) if not is_frozen(layer)), len(chain))
    if chain is network:
        return chain[:first], chain[first:]
    network.features = chain[first:]
    return chain[:first], network


def _build_small_cnn(widths: Sequence[int]) -> tuple[nn.Module, int]:
    """Return strided convolutions with group norm; by default 1 x 64 x 64 -> 96 features, 91 k parameters.

    Raises:
        ModelError: a width is not a multiple of eight.

    """
    if not widths or any(width < 8 or width % 8 for width in widths):
        raise ModelError(f"model.image.widths: {list(widths)} are not multiples of 8.", "Use such as [8, 16, 16, 16].")
    layers: list[nn.Module] = []
    for before, after in pairwise((1, *widths)):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), widths[-1]


def _build_torchvision(architecture: str, weights: str | None) -> tuple[nn.Module, int]:
    from torchvision import models  # takes half a second to import, and small images do without

    known = models.list_models(module=models)  # classification only
    if architecture not in known:
        raise ModelError(
            f"model.image.architecture: torchvision has no {architecture!r}.",
            f"Use {SMALL_CNN} or one of: {', '.join(known)}.",
        )
    network: nn.Module = models.get_model(architecture, weights=None)
    linears = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linears:
        raise ModelError(
            f"model.image.architecture: {architecture} has no linear classifier to remove.",
            "Use another architecture.",
        )
    head = linears[-1]
    if weights:
        _load_weights(network, weights, architecture, head)
    width = network.get_submodule(head).in_features
    parent, _, leaf = head.rpartition(".")
    setattr(network.get_submodule(parent), leaf, nn.Identity())
    return network, int(width)  # type: ignore[arg-type]


def _truncate_network(network: nn.Module, depth: int, architecture: str) -> int:
    """Keep the first layers of the network's `features` and return the width of their output."""
    chain = getattr(network, "features", None)
    if not isinstance(chain, nn.Sequential) or not 0 < depth <= len(chain):
        has = f"has {len(chain)} layers" if isinstance(chain, nn.Sequential) else "is not a sequence of layers"
        raise ModelError(f"model.image.depth={depth}: {architecture} {has}.", "Use a number up to that, or null.")
    network.features = chain[:depth]
    network.eval()  # otherwise the batch statistics of this image would be stored
    try:
        with torch.inference_mode():
            width = int(network(torch.zeros(1, 3, 128, 128)).shape[1])
    except RuntimeError as fault:
        raise ModelError(
            f"model.image.depth={depth}: the layers after `features` in {architecture} do not fit its layer {depth}.",
            "Use null.",
        ) from fault
    network.train()
    return width


def _load_weights(network: nn.Module, weights: str, architecture: str, head: str | None = None) -> None:
    """Load a file of weights; without the head, which is removed: the file may lack it, or have another one.

    Args:
        network: loaded in place.
        weights: path, or name in the folder of weights.
        architecture: for messages.
        head: name of the last linear layer; None where all weights are needed.

    """
    path = find_weights(weights)
    try:
        loaded = load_file(path)
    except (OSError, SafetensorError) as fault:
        raise ModelError(
            f"model.image.weights: {path} cannot be read ({fault}).", "Give a safetensors file."
        ) from fault
    state = {
        name: tensor.to(torch.float32) if tensor.is_floating_point() else tensor
        for name, tensor in loaded.items()
        if head is None or not _is_of_head(name, head)
    }
    try:
        found = network.load_state_dict(state, strict=False)
    except RuntimeError as fault:
        first = str(fault).splitlines()[1].strip() if "\n" in str(fault) else str(fault)
        raise _explain_other_weights(path, architecture, first) from fault
    missing = [name for name in found.missing_keys if head is None or not _is_of_head(name, head)]
    if missing or found.unexpected_keys:
        word, names = ("lacks", missing) if missing else ("has no place for", found.unexpected_keys)
        raise _explain_other_weights(path, architecture, f"it {word} {len(names)} arrays, such as {names[0]}")


def _is_of_head(name: str, head: str) -> bool:
    return name.startswith(f"{head}.")


def _explain_other_weights(path: Path, architecture: str, reason: str) -> ModelError:
    return ModelError(
        f"model.image.weights: {path} does not fit {architecture}: {reason}", "Use the weights of this architecture."
    )
