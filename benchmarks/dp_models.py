"""The models of `benchmarks.dp`: small ones of each kind of layer that a private step knows."""

import warnings
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torchvision.models import mobilenet_v2, resnet18
from torchvision.models.convnext import CNBlock
from transformers import BertConfig, BertModel

from fedhealth.models.normalization import replace_batch_norm

LENGTH, WIDTH, VOCAB = 64, 256, 8192


class Image(nn.Module):
    """ResNet18 with GroupNorm."""

    def __init__(self, outputs: int = 2) -> None:
        super().__init__()
        self.net = replace_batch_norm(resnet18(num_classes=outputs))

    def forward(self, image: Tensor, ids: Tensor) -> Tensor:
        """Return logits [B, outputs] from the image alone."""
        out: Tensor = self.net(image)
        return out


class MobileNet(nn.Module):
    """MobileNetV2 with GroupNorm: pointwise and depthwise convolutions in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.net = replace_batch_norm(mobilenet_v2(num_classes=2, dropout=0.0))

    def forward(self, image: Tensor, ids: Tensor) -> Tensor:
        """Return logits [B, 2] from the image alone."""
        out: Tensor = self.net(image)
        return out


class ConvNeXt(nn.Module):
    """The stem and the first stage of a ConvNeXt: depthwise convolutions of 7 x 7, LayerNorm, linear layers.

    Its layer scales are bare parameters, for which no engine has a rule: they are frozen.
    """

    def __init__(self) -> None:
        super().__init__()
        blocks = [CNBlock(WIDTH // 4, layer_scale=1.0, stochastic_depth_prob=0.0) for _ in range(3)]
        for block in blocks:
            block.layer_scale.requires_grad_(False)
        self.net = nn.Sequential(nn.Conv2d(3, WIDTH // 4, 4, 4), *blocks)
        self.head = nn.Linear(WIDTH // 4, 2)

    def forward(self, image: Tensor, ids: Tensor) -> Tensor:
        """Return logits [B, 2] from the image alone."""
        out: Tensor = self.head(self.net(image).mean((2, 3)))
        return out


class Text(nn.Module):
    """Four layers of BERT, 256 wide, length 64."""

    def __init__(self, outputs: int = 2, rank: int = 0) -> None:
        super().__init__()
        config = BertConfig(
            vocab_size=VOCAB,
            hidden_size=WIDTH,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=4 * WIDTH,
            max_position_embeddings=LENGTH,
        )
        self.net: Any = BertModel(config, add_pooling_layer=False)
        if rank:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.net = get_peft_model(self.net, LoraConfig(r=rank, target_modules=["query", "value"]))
        self.head = nn.Linear(WIDTH, outputs)

    def forward(self, image: Tensor, ids: Tensor) -> Tensor:
        """Return logits [B, outputs] from the text alone."""
        out: Tensor = self.head(self.net(input_ids=ids).last_hidden_state[:, 0])
        return out


class Fused(nn.Module):
    """Both towers and a head over their concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text, self.head = Image(WIDTH), Text(WIDTH), nn.Linear(2 * WIDTH, 2)

    def forward(self, image: Tensor, ids: Tensor) -> Tensor:
        """Return logits [B, 2]."""
        out: Tensor = self.head(torch.cat([self.image(image, ids), self.text(image, ids)], 1).relu())
        return out
