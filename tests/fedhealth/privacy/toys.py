"""Small models of every kind that the engines must get right, shaped like the zoo's: dict in, logits out."""

import warnings
from collections.abc import Mapping

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet18
from transformers import BertConfig, BertModel

from fedhealth.models.normalization import replace_batch_norm
from fedhealth.privacy.mechanisms.clipping import Clipping

VOCAB, LENGTH, WIDTH = 50, 6, 16
SUMMED_GRAD = "summed_grad"  # the attribute of a parameter in which an engine collects its clipped sum


class ConvTower(nn.Module):
    """Strided, dilated, grouped and depthwise convolutions, with in-place activations."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            nn.GroupNorm(4, 8),
            nn.ReLU(inplace=True),
            nn.Conv2d(8, 8, 3, padding=1, groups=8),
            nn.ReLU(inplace=True),
            nn.Conv2d(8, 8, (3, 1), padding="same", groups=2, dilation=2),
            nn.Conv2d(8, WIDTH, 3, stride=2, padding=(2, 1), dilation=(2, 1)),
            nn.ReLU(inplace=True),
            nn.Conv2d(WIDTH, WIDTH, 1, stride=2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).mean((2, 3))


class ResNetTower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = replace_batch_norm(resnet18(num_classes=WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class TextTower(nn.Module):
    def __init__(self, attention: str = "sdpa", dropout: float = 0.0) -> None:
        super().__init__()
        config = BertConfig(
            vocab_size=VOCAB,
            hidden_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=2 * WIDTH,
            max_position_embeddings=LENGTH,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
        config._attn_implementation = attention
        self.body = BertModel(config)  # its pooler is trainable but never reaches the loss

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.body(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]


class Fusion(nn.Module):
    """Image, text and table; a learned token stands in for a missing modality."""

    def __init__(self, image: nn.Module, text: nn.Module, classes: int = 3) -> None:
        super().__init__()
        self.towers = nn.ModuleDict({"image": image, "text": text, "tabular": nn.Linear(4, WIDTH)})
        self.missing = nn.ModuleDict({"image": nn.Embedding(1, WIDTH), "text": nn.Embedding(1, WIDTH)})
        self.norm = nn.LayerNorm(3 * WIDTH)
        self.head = nn.Linear(3 * WIDTH, classes)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        parts = [self.towers["tabular"](batch["tabular"])]
        for kind in ("image", "text"):
            present = batch[f"{kind}_present"]
            value = self.missing[kind](torch.zeros_like(present, dtype=torch.long))
            if present.any():
                inputs = (batch["image"],) if kind == "image" else (batch["text_ids"], batch["text_mask"])
                value = torch.where(present[:, None], self.towers[kind](*inputs), value)
            parts.append(value)
        return self.head(F.relu(self.norm(torch.cat(parts, 1))))


def fusion(tower: str = "conv", mode: str = "full", seed: int = 0) -> Fusion:
    """Build a fusion model: tower `conv` or `resnet`, mode `full`, `frozen` or `lora` (both towers' bodies)."""
    torch.manual_seed(seed)
    model = Fusion(ConvTower() if tower == "conv" else ResNetTower(), TextTower())
    if mode != "full":
        model.towers.requires_grad_(False)
        model.towers["tabular"].requires_grad_(True)
    if mode == "lora":
        text = model.towers["text"]
        config = LoraConfig(r=2, target_modules=["query", "value"], init_lora_weights=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers in an old way
            text.body = get_peft_model(text.body, config)
    if mode == "last":
        model.towers["image"].body[-1].requires_grad_(True)
        model.towers["text"].body.encoder.layer[-1].requires_grad_(True)
    return model


def fusion_batch(rows: int = 6, *, image: str = "some", text: str = "some", size: int = 9) -> dict[str, Tensor]:
    """Make a batch; each modality present for `all`, `some` or `none` of the rows."""
    torch.manual_seed(1)
    present = {"all": torch.ones, "none": torch.zeros, "some": lambda n: (torch.arange(n) % 3 > 0).float()}
    mask = torch.ones(rows, LENGTH, dtype=torch.long)
    mask[0, LENGTH // 2 :] = 0
    ids = torch.randint(1, VOCAB, (rows, LENGTH))
    ids[:, -1] = 0  # the padding index
    return {
        "image": torch.randn(rows, 3, size, size),
        "image_present": present[image](rows).bool(),
        "text_ids": ids,
        "text_mask": mask,
        "text_present": present[text](rows).bool(),
        "tabular": torch.randn(rows, 4),
        "label": torch.randint(0, 3, (rows,)),
    }


def fusion_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch), batch["label"], reduction="none")


def flat_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """For models of one input with logits [B, K]."""
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def sums(engine_class: type, model: nn.Module, loss_fn, batch, patients, clipping: Clipping) -> dict[str, Tensor]:
    """Return the engine's clipped sums by parameter name."""
    clear_summed_grads(model)
    engine = engine_class(model, loss_fn, clipping)
    groups = patients if isinstance(patients[0], list) else [patients]
    batches = batch if isinstance(patients[0], list) else [batch]
    for some, who in zip(batches, groups, strict=True):
        engine.accumulate(some, who)
    found = get_summed_grads(model)
    clear_summed_grads(model)
    return found


def get_summed_grads(model: nn.Module) -> dict[str, Tensor]:
    """Return the clipped sums by parameter name, without the parameters that have none."""
    sums = {name: getattr(p, SUMMED_GRAD, None) for name, p in model.named_parameters()}
    return {name: value for name, value in sums.items() if value is not None}


def clear_summed_grads(model: nn.Module) -> None:
    for p in model.parameters():
        setattr(p, SUMMED_GRAD, None)


def relative_error(found: dict[str, Tensor], truth: dict[str, Tensor]) -> float:
    """Return |found - truth| / |truth| over all parameters; one that is missing counts as zero."""
    names = {*found, *truth}
    zero = torch.zeros(())
    error = sum((found.get(n, zero) - truth.get(n, zero)).double().square().sum() for n in names)
    size = sum(value.double().square().sum() for value in truth.values())
    return float((error / size).sqrt())
