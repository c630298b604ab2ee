import pytest
import torch

from fedhealth.config.schema import TaskKind
from fedhealth.training.losses import compute_row_losses


def test_losses_are_the_textbooks():
    logits = torch.tensor([[0.5], [-1.0]])
    found = compute_row_losses(logits, torch.tensor([[1.0], [0.0]]), TaskKind.binary)
    torch.testing.assert_close(found, torch.log1p(torch.exp(torch.tensor([-0.5, -1.0]))))
    found = compute_row_losses(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0]]), TaskKind.multiclass)
    torch.testing.assert_close(found, torch.logsumexp(torch.tensor([[1.0, 2.0, 3.0]]), dim=1) - 2.0)


@pytest.mark.parametrize(("kind", "outputs", "labels"), [("binary", 1, 1), ("multiclass", 3, 1), ("multilabel", 2, 2)])
def test_a_row_without_labels_costs_nothing_and_moves_nothing(kind, outputs, labels):
    logits = torch.randn(3, outputs, requires_grad=True)
    targets = torch.ones(3, labels)
    targets[1] = float("nan")
    losses = compute_row_losses(logits, targets, TaskKind(kind))
    assert losses.shape == (3,)
    assert losses[1] == 0
    losses.sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert not logits.grad[1].any()
    assert logits.grad[0].any()


def test_a_missing_label_of_several_leaves_the_mean_of_the_others():
    logits = torch.tensor([[0.3, -0.7]])
    half = compute_row_losses(logits, torch.tensor([[1.0, float("nan")]]), TaskKind.multilabel)
    torch.testing.assert_close(half, compute_row_losses(logits[:, :1], torch.tensor([[1.0]]), TaskKind.binary))
