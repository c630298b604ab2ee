"""The self-check before a run: it measures the bound, and finds an engine that breaks it."""

import pytest
import torch
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import nn
from torch.nn import functional as F

from fedhealth.errors import PrivacyError
from fedhealth.privacy.engines.base import add_to_summed_grad
from fedhealth.privacy.engines.book_keeping import BookKeepingEngine
from fedhealth.privacy.engines.self_check import run_self_check
from fedhealth.privacy.mechanisms.clipping import Clipping
from fedhealth.utils.activation_checkpointing import checkpoint_blocks
from tests.fedhealth.privacy.toys import TextTower, fusion, fusion_batch, fusion_loss


class OpacusGhost:
    """Opacus's ghost clipping as one would use it with a binary loss of shape [B, 1]."""

    def __init__(self, model, loss_fn, clipping):
        self._model, self._clipping = model, clipping

    def accumulate(self, batch, patients):
        ghost = GradSampleModuleFastGradientClipping(
            self._model, max_grad_norm=self._clipping.max_grad_norm, use_ghost_clipping=True, loss_reduction="mean"
        )
        optimizer = DPOptimizerFastGradientClipping(
            torch.optim.SGD(self._model.parameters(), lr=1.0),
            noise_multiplier=0.0,
            max_grad_norm=self._clipping.max_grad_norm,
            expected_batch_size=1,
        )
        criterion = DPLossFastGradientClipping(ghost, optimizer, nn.BCEWithLogitsLoss(reduction="mean"), "mean")
        losses = criterion(ghost(batch[0]), batch[1])
        losses.backward()
        for p in self._model.parameters():
            add_to_summed_grad(p, p.grad.detach().clone() * len(patients))
            p.grad = None
        ghost.remove_hooks()
        ghost.cleanup()


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_self_check_catches_the_b1_loss_of_a_ghost_engine():
    torch.manual_seed(0)
    model = nn.Linear(5, 1)
    batch = torch.randn(6, 5) * 10, torch.randint(0, 2, (6, 1)).float()

    def loss(model, batch):
        return F.binary_cross_entropy_with_logits(model(batch[0]), batch[1], reduction="none")

    run_self_check(BookKeepingEngine, model, loss, Clipping(0.1), batch, range(6))
    with pytest.raises(PrivacyError, match="differs from the exact one"):
        run_self_check(OpacusGhost, model, loss, Clipping(0.1), batch, range(6))


def test_self_check_measures_the_bound_and_leaves_no_trace():
    torch.manual_seed(0)
    model = nn.Sequential(TextTower(dropout=0.3), nn.Dropout(0.5), nn.Linear(16, 3)).train()

    def loss(model, batch):
        hidden = model[0](batch["text_ids"], batch["text_mask"])
        return F.cross_entropy(model[2](model[1](hidden)), batch["label"], reduction="none")

    checked = run_self_check(BookKeepingEngine, model, loss, Clipping(1.0), fusion_batch(), range(6))
    assert checked.difference < 1e-4
    assert 0.99 < checked.sensitivity <= 1.0001
    assert model[1].p == 0.5
    assert all(m.training for m in model.modules())
    assert all(getattr(p, "summed_grad", None) is None and p.grad is None for p in model.parameters())


class Growing(nn.Module):
    """A block that computes more with each of its training passes."""

    def __init__(self):
        super().__init__()
        self.linear, self.passes = nn.Linear(5, 3), 0

    def forward(self, x):
        self.passes += self.training
        return self.linear(torch.tanh(x) * (1 + self.passes))


def test_self_check_refuses_a_checkpointed_block_that_does_not_compute_the_same_again():
    torch.manual_seed(0)
    model, batch = nn.Sequential(nn.Linear(5, 5), Growing()), (torch.randn(6, 5), torch.randint(0, 3, (6,)))

    def loss(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1], reduction="none")

    def check(model):
        return run_self_check(BookKeepingEngine, model, loss, Clipping(1.0), batch, [0, 0, 1, 2, 3, 4])

    assert check(model).sensitivity <= 1.0001
    with checkpoint_blocks(model[:1]):  # what is not computed again may change
        assert check(model).sensitivity <= 1.0001
    with checkpoint_blocks(model[1:]), pytest.raises(PrivacyError, match="does not compute the same again"):
        check(model)


def test_self_check_needs_two_patients():
    with pytest.raises(PrivacyError, match="at least two patients"):
        run_self_check(BookKeepingEngine, fusion(), fusion_loss, Clipping(1.0), fusion_batch(), [1] * 6)
