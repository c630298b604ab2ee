"""With checkpointed blocks the engine still gives the oracle's clipped sum, and needs less memory."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fedhealth.errors import PrivacyError
from fedhealth.privacy.engines.book_keeping import BookKeepingEngine
from fedhealth.privacy.engines.oracle import OracleEngine
from fedhealth.privacy.engines.self_check import run_self_check
from fedhealth.privacy.mechanisms.clipping import Clipping
from fedhealth.utils.activation_checkpointing import checkpoint_blocks, find_blocks
from fedhealth.utils.tensor_memory import PeakCounter
from tests.fedhealth.privacy.engines.test_engines import LAYERS, ONE_EACH, SEVERAL
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


class Deep(nn.Module):
    """Embeddings, and residual blocks of every kind of layer; the last layer is tied to the embedding."""

    def __init__(self, depth: int = 3, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, width, padding_idx=0)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.out = nn.Linear(width, VOCAB)
        self.out.weight = self.embed.weight

    def forward(self, ids):
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.out(x).mean(1)


class Block(nn.Module):
    """A block with a layer that is used twice, in-place operations and a layer on few places."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.scale = nn.LayerNorm(width), nn.RMSNorm(width)
        self.wide, self.back = nn.Linear(width, 64), nn.Linear(64, width)
        self.mix = nn.Conv2d(width, width, (1, 3), padding=(0, 1), groups=2)
        self.group = nn.GroupNorm(2, width)

    def forward(self, x):
        y = self.back(F.relu(self.wide(self.norm(x)), inplace=True))
        y = y + self.back(F.relu(self.wide(y), inplace=True))
        images = self.group(self.mix(y.transpose(1, 2)[:, :, None])).relu_()
        return x + self.scale(images[:, :, 0].transpose(1, 2))


def compare(model, loss, batch, patients, clipping=FLAT):
    """Return the engine's relative error with every block checkpointed, and the error of one pass that keeps records.

    The latter is what a model gets that checkpoints its activations itself.
    """
    truth = sums(OracleEngine, model, loss, batch, patients, clipping)
    blocks = find_blocks(model)
    assert blocks
    with checkpoint_blocks(blocks):
        two = sums(BookKeepingEngine, model, loss, batch, patients, clipping)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("fedhealth.privacy.engines.book_keeping.has_checkpointed_blocks", lambda model: False)
            one = sums(BookKeepingEngine, model, loss, batch, patients, clipping)
    assert two.keys() == one.keys() == truth.keys()
    return relative_error(two, truth), relative_error(one, truth)


@pytest.mark.parametrize("patients", [ONE_EACH, SEVERAL], ids=["one row each", "several rows"])
@pytest.mark.parametrize("mode", ["full", "frozen", "last", "lora"])
def test_fusion_equals_oracle(mode, patients):
    assert max(compare(fusion("conv", mode), fusion_loss, fusion_batch(), patients)) < 1e-5


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_resnet18_equals_oracle(memory_format):
    model, batch = fusion("resnet").to(memory_format=memory_format), fusion_batch(3, size=32)
    batch["image"] = batch["image"].contiguous(memory_format=memory_format)
    assert max(compare(model, fusion_loss, batch, [0, 1, 1])) < 1e-5


@pytest.mark.parametrize(
    "clipping",
    [Clipping(0.5, "automatic"), Clipping(0.5, "tower", ("towers.image", "towers.text")), Clipping(1e6)],
    ids=["automatic", "tower", "inactive"],
)
def test_every_clipping_equals_oracle(clipping):
    assert max(compare(fusion(), fusion_loss, fusion_batch(), SEVERAL, clipping)) < 1e-5


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_depth_length_and_patients_equal_oracle(data):
    torch.manual_seed(data.draw(st.integers(0, 9)))
    model = Deep(data.draw(st.integers(1, 3)), data.draw(st.sampled_from([4, 8]))).double()  # norms over few values
    for module in model.modules():
        if isinstance(module, nn.LayerNorm | nn.RMSNorm | nn.Linear) and data.draw(st.booleans()):
            module.requires_grad_(False)
    if not any(p.requires_grad for p in model.parameters()):
        model.out.bias.requires_grad_(True)
    batch = torch.randint(0, VOCAB, (4, data.draw(st.integers(1, 6)))), torch.randint(0, VOCAB, (4,))
    patients = data.draw(st.lists(st.integers(0, 3), min_size=4, max_size=4))
    assert max(compare(model, flat_loss, batch, patients)) < 1e-6


@pytest.mark.parametrize("patients", [ONE_EACH, SEVERAL], ids=["one row each", "several rows"])
@pytest.mark.parametrize("name", LAYERS)
def test_layer_inside_of_a_block_equals_oracle(name, patients):
    torch.manual_seed(0)
    make, inputs = LAYERS[name]
    model, batch = nn.Sequential(nn.Sequential(make(), nn.Identity())), (inputs(), torch.randint(0, 3, (6,)))
    truth = sums(OracleEngine, model, flat_loss, batch, patients, FLAT)
    with checkpoint_blocks([model[0]]):
        found = sums(BookKeepingEngine, model, flat_loss, batch, patients, FLAT)
    assert relative_error(found, truth) < 1e-5


def test_the_second_forward_pass_has_the_dropout_of_the_first():
    torch.manual_seed(0)
    model, batch = nn.Sequential(TextTower(dropout=0.5)), fusion_batch()

    def loss(model, batch):
        return model[0](batch["text_ids"], batch["text_mask"]).square().sum(1)

    def compute(engine):
        torch.manual_seed(3)
        return sums(engine, model, loss, batch, SEVERAL, FLAT)

    without = compute(BookKeepingEngine)
    blocks = find_blocks(model)
    assert len(blocks) == 2
    with checkpoint_blocks(blocks):
        assert relative_error(compute(BookKeepingEngine), without) < 1e-5
    other = sums(BookKeepingEngine, model, loss, batch, SEVERAL, FLAT)  # further random numbers
    assert relative_error(other, without) > 1e-2


def test_norms_and_losses_are_those_of_one_pass():
    model, batch = fusion(), fusion_batch()
    plain = BookKeepingEngine(model, fusion_loss, FLAT).accumulate(batch, SEVERAL)
    with checkpoint_blocks(find_blocks(model)):
        found = BookKeepingEngine(model, fusion_loss, FLAT).accumulate(batch, SEVERAL)
    assert torch.equal(found.norms, plain.norms)
    assert torch.equal(found.losses, plain.losses)


def test_patient_with_non_finite_gradient_is_left_out_and_harms_nobody():
    model, batch = fusion(), fusion_batch()
    batch["image"][3] = torch.inf  # through the checkpointed blocks, too
    batch["image_present"][3] = True
    keep = [0, 1, 2, 4, 5]
    less = {name: value[keep] for name, value in batch.items()}
    truth = sums(OracleEngine, model, fusion_loss, less, [1, 2, 3, 5, 6], FLAT)
    with checkpoint_blocks([model.towers["image"], model.towers["text"]]):
        found = sums(BookKeepingEngine, model, fusion_loss, batch, [1, 2, 3, 4, 5, 6], FLAT)
    assert relative_error(found, truth) < 1e-5


def test_the_self_check_passes_and_leaves_nothing_behind():
    model, batch = fusion(), fusion_batch()
    with checkpoint_blocks(find_blocks(model)):
        checked = run_self_check(BookKeepingEngine, model, fusion_loss, Clipping(1.0), batch, SEVERAL)
    assert checked.difference < 1e-5
    assert not any("forward" in vars(module) or module._forward_hooks for module in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_only_a_second_pass_saves_memory():
    layers = [nn.Linear(32, 32), nn.Tanh()]
    model = nn.Sequential(*[nn.Sequential(*copy.deepcopy(layers * 3)) for _ in range(8)], nn.Linear(32, 2))
    batch = torch.randn(64, 16, 32), torch.randint(0, 2, (64,))

    def loss(model, batch):
        return F.cross_entropy(model(batch[0]).mean(1), batch[1], reduction="none")

    def measure():
        for p in model.parameters():
            setattr(p, SUMMED_GRAD, torch.zeros_like(p))
        with PeakCounter() as count:
            BookKeepingEngine(model, loss, FLAT).accumulate(batch, range(64))
        return count.peak

    kept = measure()
    with checkpoint_blocks(model[:8]):
        recomputed = measure()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("fedhealth.privacy.engines.book_keeping.has_checkpointed_blocks", lambda model: False)
            assert measure() > 0.9 * kept  # the records take what the activations leave
    assert recomputed < 0.5 * kept


@pytest.mark.parametrize("is_inside", [True, False])
def test_an_input_changed_in_place_in_a_block_is_refused_by_name(is_inside):
    class Changing(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(5, 5)

        def forward(self, x):
            x = x * 2 if is_inside else x
            out = self.head(x)
            x.add_(1)
            return torch.tanh(out) if is_inside else out  # it is saved late, so the second pass comes as far

    model = nn.Sequential(Changing(), nn.Linear(5, 2))
    with checkpoint_blocks([model[0]]), pytest.raises(PrivacyError, match=r"input of layer 0\.head was changed"):
        BookKeepingEngine(model, flat_loss, FLAT).accumulate((torch.randn(6, 5), torch.randint(0, 2, (6,))), range(6))


def test_a_checkpoint_of_the_old_kind_is_refused_by_name():
    second = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 2))
    model = nn.ModuleDict({"first": nn.Linear(5, 5), "second": second})

    def loss(model, batch):
        return checkpoint(model["second"], model["first"](batch[0]), use_reentrant=True).sum(1)

    with pytest.raises(PrivacyError, match=r"layer second\.2 ran again during backward"):
        BookKeepingEngine(model, loss, FLAT).accumulate((torch.randn(6, 5),), range(6))
