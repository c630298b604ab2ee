"""The models that conf/ offers: the default engine gives the oracle's clipped sum for each of them.

Every image and text tower, with every fusion, fully trained, frozen or adapted; in each case with every modality
missing somewhere, and with the logical batch whole and split.
"""

import pytest
import torch
from torch.nn import functional as F

from fedhealth.config.schema import DataConfig, ModelConfig, TabularColumnConfig, TaskConfig, TaskKind
from fedhealth.models.multimodal import build_model
from fedhealth.privacy.engines.base import select_rows
from fedhealth.privacy.engines.book_keeping import BookKeepingEngine
from fedhealth.privacy.engines.oracle import OracleEngine
from fedhealth.privacy.mechanisms.clipping import Clipping
from tests.fedhealth.privacy.toys import relative_error, sums

PATIENTS = [7, 2, 7, 4]
PARTS = [[0, 2], [1, 3]]  # a patient's rows stay together
MISSING = {"nothing": (), "image": ("image",), "text": ("text",), "both": ("image", "text"), "some": None}

IMAGE = "fedhealth.models.encoders.image.ImageEncoder"
# architecture, and the layers that can have adapters
IMAGES = {
    "small_cnn": ({"architecture": "small_cnn", "widths": [8, 16]}, ["3"]),
    "mobilenet_v2": ({"architecture": "mobilenet_v2", "depth": 4}, ["features.2.conv.2", "features.3.conv.2"]),
    "resnet18": ({"architecture": "resnet18"}, ["layer4.1.conv1", "layer4.1.conv2"]),
}
SMALL = {"hidden": 8, "buckets": 20, "dropout": 0.0}
TEXTS = {"words": SMALL | {"layers": 0}, "small_bert": SMALL | {"layers": 1}, "pretrained": {}}
# fusion, and model.dim
FUSIONS = {
    "concat": ({"_target_": "fedhealth.models.fusion.ConcatFusion", "hidden": 5, "dropout": 0.0}, 6),
    "gated": ({"_target_": "fedhealth.models.fusion.GatedFusion", "dropout": 0.0}, 6),
    "linear": ({"_target_": "fedhealth.models.fusion.ConcatFusion", "hidden": 0, "zero": True}, None),
}


def lora(targets):
    return {"_target_": "fedhealth.models.lora.LoraSettings", "rank": 2, "targets": targets}


@pytest.fixture
def build(tmp_path, encoder_saver):
    """Build the model of a configuration; `frozen` and `adapted` are about both encoders."""

    def made(image, text, fusion, mode):
        settings, targets = IMAGES[image]
        image_node = {"_target_": IMAGE, "norm": "freeze" if mode == "adapted" else "group", **settings}
        text_node = {"_target_": "fedhealth.models.encoders.text.TextEncoder", "max_length": 6, **TEXTS[text]}
        if text == "pretrained":
            text_node["pretrained"] = str(encoder_saver(tmp_path / "bert"))
        if mode == "adapted":
            image_node |= {"train": "none", "lora": lora(targets)}
            if text != "words":  # it has no layer to adapt
                text_node |= {"train": "none", "lora": lora(["query", "value"])}
        node, dim = FUSIONS[fusion]
        tabular = {"_target_": "fedhealth.models.encoders.tabular.TabularEncoder", "hidden": 4 if dim else 0}
        task = TaskConfig(TaskKind.multiclass, ["a", "b", "c"])
        data = DataConfig(name="t", root=".", sites=["a"], tabular={"x": TabularColumnConfig()}, task=task)
        model = build_model(ModelConfig(dim, image_node, text_node, tabular, node), data, 0)
        torch.manual_seed(0)
        for name, parameter in model.named_parameters():
            if name.startswith("fusion.head") or "lora_B" in name:  # zeros would leave gradients out of what is tested
                torch.nn.init.normal_(parameter, std=0.3)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0  # two engines would draw differently
        if mode == "frozen":
            for kind in ("image", "text"):
                model.towers[kind].encoder.requires_grad_(False)
        return model.train()

    return made


def batch(missing):
    torch.manual_seed(1)
    rows = {
        "image": torch.randint(0, 256, (4, 1, 32, 32)).to(torch.uint8),
        "text": torch.tensor([[1, 2, 3, 4], [5, 3, 0, 0], [2, 0, 0, 0], [6, 6, 1, 0]]),
        "tabular": torch.randn(4, 2),
        "targets": torch.randint(0, 3, (4,)),
    }
    present = {kind: torch.ones(4, dtype=torch.bool) for kind in ("image", "text", "tabular")}
    if missing is None:
        present["image"], present["text"] = torch.tensor([1, 0, 1, 1]).bool(), torch.tensor([0, 0, 1, 1]).bool()
    for kind in missing or ():
        present[kind][:] = False
        del rows[kind]  # as Examples.batch does
    return rows | {f"{kind}_present": value for kind, value in present.items()}


def loss(model, rows):
    return F.cross_entropy(model(rows), rows["targets"], reduction="none")


@pytest.mark.parametrize("mode", ["full", "frozen", "adapted"])
@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize(("image", "text"), list(zip(IMAGES, TEXTS, strict=True)))
def test_every_tower_and_fusion_equals_the_oracle(build, image, text, fusion, mode):
    model = build(image, text, fusion, mode)
    for kinds in MISSING.values():
        rows = batch(kinds)
        truth = sums(OracleEngine, model, loss, rows, PATIENTS, Clipping(0.5))
        assert relative_error(sums(BookKeepingEngine, model, loss, rows, PATIENTS, Clipping(0.5)), truth) < 1e-5
        split = [select_rows(rows, part, 4) for part in PARTS]
        owners = [[PATIENTS[row] for row in part] for part in PARTS]
        assert relative_error(sums(BookKeepingEngine, model, loss, split, owners, Clipping(0.5)), truth) < 1e-5
