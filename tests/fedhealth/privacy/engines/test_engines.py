"""Every engine gives the oracle's clipped sum."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.optimizers import DPOptimizer
from torch import nn
from torch.nn import functional as F

from fedhealth.privacy.engines.base import select_rows
from fedhealth.privacy.engines.book_keeping import BookKeepingEngine
from fedhealth.privacy.engines.opacus_hooks import OpacusEngine
from fedhealth.privacy.engines.oracle import OracleEngine
from fedhealth.privacy.mechanisms.clipping import Clipping
from tests.fedhealth.privacy.toys import (
    SUMMED_GRAD,
    VOCAB,
    TextTower,
    flat_loss,
    fusion,
    fusion_batch,
    fusion_loss,
    relative_error,
    sums,
)

FLAT = Clipping(0.5)
ONE_EACH, SEVERAL = [3, 1, 4, 0, 5, 9], [7, 2, 7, 2, 2, 5]


@pytest.mark.parametrize("engine", [BookKeepingEngine, OpacusEngine])
@pytest.mark.parametrize("patients", [ONE_EACH, SEVERAL], ids=["one row each", "several rows"])
@pytest.mark.parametrize("mode", ["full", "frozen", "last", "lora"])
def test_fusion_equals_oracle(engine, mode, patients):
    model, batch = fusion("conv", mode), fusion_batch()
    truth = sums(OracleEngine, model, fusion_loss, batch, patients, FLAT)
    assert relative_error(sums(engine, model, fusion_loss, batch, patients, FLAT), truth) < 1e-5


@pytest.mark.parametrize("engine", [BookKeepingEngine, OpacusEngine])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_resnet18_equals_oracle(engine, memory_format):
    model, batch = fusion("resnet").to(memory_format=memory_format), fusion_batch(3, size=32)
    batch["image"] = batch["image"].contiguous(memory_format=memory_format)
    truth = sums(OracleEngine, model, fusion_loss, batch, [0, 1, 2], FLAT)
    assert relative_error(sums(engine, model, fusion_loss, batch, [0, 1, 2], FLAT), truth) < 1e-5


@pytest.mark.parametrize("text", ["all", "some", "none"])
@pytest.mark.parametrize("image", ["all", "some", "none"])
def test_missing_modality_equals_oracle(image, text):
    model, batch = fusion(), fusion_batch(image=image, text=text)
    truth = sums(OracleEngine, model, fusion_loss, batch, SEVERAL, FLAT)
    assert relative_error(sums(BookKeepingEngine, model, fusion_loss, batch, SEVERAL, FLAT), truth) < 1e-5


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_bert_equals_oracle(attention):
    torch.manual_seed(0)
    model = nn.ModuleDict({"text": TextTower(attention), "head": nn.Linear(16, 3)})

    def loss(model, batch):
        return F.cross_entropy(model["head"](model["text"](batch["ids"], batch["mask"])), batch["y"], reduction="none")

    batch = fusion_batch()
    batch = {"ids": batch["text_ids"], "mask": batch["text_mask"], "y": batch["label"]}
    truth = sums(OracleEngine, model, loss, batch, ONE_EACH, FLAT)
    assert relative_error(sums(BookKeepingEngine, model, loss, batch, ONE_EACH, FLAT), truth) < 1e-5


@pytest.mark.parametrize(
    "clipping",
    [FLAT, Clipping(0.5, "automatic"), Clipping(0.5, "tower", ("towers.image", "towers.text")), Clipping(1e6)],
    ids=["flat", "automatic", "tower", "inactive"],
)
@pytest.mark.parametrize("engine", [BookKeepingEngine, OpacusEngine])
def test_every_clipping_equals_oracle(engine, clipping):
    model, batch = fusion(), fusion_batch()
    truth = sums(OracleEngine, model, fusion_loss, batch, SEVERAL, clipping)
    assert relative_error(sums(engine, model, fusion_loss, batch, SEVERAL, clipping), truth) < 1e-5


@pytest.mark.parametrize("engine", [BookKeepingEngine, OpacusEngine, OracleEngine])
def test_micro_batches_add_up_to_the_logical_batch(engine):
    model, batch = fusion(), fusion_batch()
    truth = sums(OracleEngine, model, fusion_loss, batch, SEVERAL, FLAT)
    rows = [[0, 2], [1, 3, 4], [5]]
    split = [select_rows(batch, some, 6) for some in rows]
    patients = [[SEVERAL[i] for i in some] for some in rows]
    assert relative_error(sums(engine, model, fusion_loss, split, patients, FLAT), truth) < 1e-5


class Tied(nn.Module):
    """A language model whose output layer is its embedding, with a layer used three times."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, 8, padding_idx=0)
        self.mix = nn.Linear(8, 8)
        self.out = nn.Linear(8, VOCAB)
        self.out.weight = self.embed.weight

    def forward(self, ids):
        x = self.embed(ids)
        for _ in range(3):
            x = x + torch.tanh(self.mix(x))
        return self.out(x).mean(1)


class Norms(nn.Module):
    """The other normalisations, over one and two dimensions, with and without places between."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.LayerNorm((5, 4)), nn.RMSNorm(4), nn.LayerNorm(4, bias=False)])
        self.group, self.head = nn.GroupNorm(1, 4), nn.Linear(4, 3)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(self.group(x.mean(1)))


class Wide(nn.Module):
    """Linear layers that are cheaper as ghost norms, used twice on inputs of different lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.head = nn.Linear(64, 64), nn.Linear(64, 3)

    def forward(self, x):
        y = torch.tanh(self.wide(x))
        return self.head(y.mean(1) + self.wide(y[:, :1])[:, 0])


def few_places(groups):
    """Return convolutions whose patches are smaller than their weights."""
    convs = nn.Conv2d(4, 64, 3, groups=groups), nn.ReLU(), nn.Conv2d(64, 96, 2, stride=2, groups=groups)
    return nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 3))


LAYERS = {
    "reused and tied": (Tied, lambda: torch.randint(0, VOCAB, (6, 5))),
    "norms": (Norms, lambda: torch.randn(6, 5, 4)),
    "ghost, used twice": (Wide, lambda: torch.randn(6, 2, 64)),
    "few places": (lambda: few_places(1), lambda: torch.randn(6, 4, 5, 4)),
    "few places, grouped": (lambda: few_places(2), lambda: torch.randn(6, 4, 5, 4)),
    "plain rows": (lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), lambda: torch.randn(6, 4)),
}


@pytest.mark.parametrize("patients", [ONE_EACH, SEVERAL], ids=["one row each", "several rows"])
@pytest.mark.parametrize("name", LAYERS)
def test_layer_equals_oracle(name, patients):
    torch.manual_seed(0)
    make, inputs = LAYERS[name]
    model, batch = make(), (inputs(), torch.randint(0, 3, (6,)))
    truth = sums(OracleEngine, model, flat_loss, batch, patients, FLAT)
    assert relative_error(sums(BookKeepingEngine, model, flat_loss, batch, patients, FLAT), truth) < 1e-5


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_convolution_equals_oracle(data):
    groups = data.draw(st.sampled_from([1, 2, 4]))
    conv = nn.Conv2d(
        4,
        4 * data.draw(st.integers(1, 2)),
        (data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))),
        stride=(data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2))),
        padding=(data.draw(st.integers(0, 2)), data.draw(st.integers(0, 2))),
        dilation=(data.draw(st.integers(1, 2)), data.draw(st.integers(1, 2))),
        groups=groups,
        bias=data.draw(st.booleans()),
    )
    model = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(conv.out_channels, 3))
    batch = (torch.randn(4, 4, 7, 6), torch.randint(0, 3, (4,)))
    patients = data.draw(st.lists(st.integers(0, 3), min_size=4, max_size=4))
    truth = sums(OracleEngine, model, flat_loss, batch, patients, FLAT)
    assert relative_error(sums(BookKeepingEngine, model, flat_loss, batch, patients, FLAT), truth) < 1e-5


@pytest.mark.parametrize("engine", [BookKeepingEngine, OpacusEngine, OracleEngine])
def test_patient_with_non_finite_gradient_is_left_out_and_harms_nobody(engine):
    model, batch = fusion(), fusion_batch()
    truth = sums(OracleEngine, model, fusion_loss, select_rows(batch, [0, 2, 5], 6), [7, 7, 5], FLAT)
    batch["tabular"][3] = torch.inf
    found = sums(engine, model, fusion_loss, batch, SEVERAL, FLAT)
    assert relative_error(found, truth) < 1e-5


@pytest.mark.parametrize("engine", [BookKeepingEngine, OpacusEngine, OracleEngine])
def test_sensitivity_stays_within_the_bound(engine):
    model, batch = fusion(), fusion_batch()
    whole = sums(engine, model, fusion_loss, batch, SEVERAL, FLAT)
    less = sums(engine, model, fusion_loss, select_rows(batch, [0, 2, 5], 6), [7, 7, 5], FLAT)
    moved = sum((whole[n] - less[n]).double().square().sum() for n in less) ** 0.5
    assert 0.9 * FLAT.max_grad_norm < float(moved) <= FLAT.max_grad_norm * (1 + 1e-5)


def test_cancelling_terms_never_lower_the_ghost_norm():
    """Two tokens whose gradients nearly cancel: the true norm is far below what rounding leaves of the terms."""
    torch.manual_seed(0)
    model = nn.Linear(64, 64, bias=False)
    x = torch.randn(8, 1, 64).expand(8, 2, 64)
    sign = torch.tensor([1.0, -1.0 + 1e-4])

    def loss(model, batch):
        return (model(batch) * sign[:, None]).sum((1, 2))

    engine = BookKeepingEngine(model, loss, Clipping(1.0))
    found = engine.accumulate(x.contiguous(), range(8)).norms
    exact = OracleEngine(model.double(), loss, Clipping(1.0)).accumulate(x.double(), range(8)).norms
    assert bool((found.double() >= exact * (1 - 1e-6)).all())


@pytest.mark.parametrize("engine", [BookKeepingEngine, OpacusEngine, OracleEngine])
def test_opacus_own_optimizer_takes_over_from_the_clipped_sum(engine):
    model, batch = fusion(), fusion_batch()
    truth = sums(OracleEngine, model, fusion_loss, batch, SEVERAL, FLAT)
    plain = torch.optim.SGD(model.parameters(), lr=1.0)
    options = {"max_grad_norm": FLAT.max_grad_norm, "expected_batch_size": None, "loss_reduction": "sum"}
    optimizer = DPOptimizer(plain, noise_multiplier=0.0, **options)
    engine(model, fusion_loss, FLAT).accumulate(batch, SEVERAL)
    for p in model.parameters():  # the tower's pooler never reaches the loss
        if getattr(p, SUMMED_GRAD) is None:
            setattr(p, SUMMED_GRAD, torch.zeros_like(p))
    optimizer.add_noise()
    optimizer.scale_grad()
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert relative_error(found, truth) < 1e-5


def test_engine_leaves_the_model_as_it_was():
    model, batch = fusion(), fusion_batch()
    before = {n: (p.clone(), p.requires_grad) for n, p in model.state_dict(keep_vars=True).items()}
    sums(BookKeepingEngine, model, fusion_loss, batch, ONE_EACH, FLAT)
    after = model.state_dict(keep_vars=True)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n][0], after[n]) and before[n][1] == after[n].requires_grad for n in after)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("tower", ["conv", "resnet"])
def test_cuda_equals_oracle(tower):
    model = fusion(tower).cuda()
    batch = {k: v.cuda() for k, v in fusion_batch(size=32).items()}
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        truth = sums(OracleEngine, model, fusion_loss, batch, SEVERAL, FLAT)
        found = sums(BookKeepingEngine, model, fusion_loss, batch, SEVERAL, FLAT)
    assert relative_error(found, truth) < 1e-5
