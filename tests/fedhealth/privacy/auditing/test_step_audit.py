"""The audits pass what is right and catch planted bugs."""

import numpy as np
import pytest
import torch
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import nn
from torch.nn import functional as F

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.accountant import PrivacyEvent
from fedhealth.privacy.accounting.ledger import Ledger
from fedhealth.privacy.accounting.limits import EpsilonLimits
from fedhealth.privacy.accounting.plan import PlanConstraints, PrivacyRequest, make_plan
from fedhealth.privacy.auditing.canaries import (
    bound_from_scores,
    compute_binomial_pmf,
    run_canary_audit,
    run_membership_test,
)
from fedhealth.privacy.auditing.step_audit import run_step_audit
from fedhealth.privacy.engines.base import ClippedBatch, add_to_summed_grad, get_trainable_parameters
from fedhealth.privacy.engines.book_keeping import BookKeepingEngine
from fedhealth.privacy.engines.opacus_hooks import OpacusEngine
from fedhealth.privacy.engines.oracle import OracleEngine
from fedhealth.privacy.engines.self_check import run_self_check
from fedhealth.privacy.engines.step import take_private_step
from fedhealth.privacy.mechanisms.clipping import Clipping
from tests.fedhealth.privacy.toys import TextTower, fusion, fusion_batch, fusion_loss

PLAN = make_plan(PrivacyRequest("patient", 1.0, 0.5, 20, 1, Clipping(0.1), delta=1e-5), PlanConstraints(), 500)


class ForgottenClip(BookKeepingEngine):
    """Adds the plain sum."""

    def accumulate(self, batch, patients):
        loss = self._loss_fn(self._model, batch)
        loss.sum().backward()
        for p in get_trainable_parameters(self._model).values():
            if p.grad is not None:
                add_to_summed_grad(p, p.grad)
                p.grad = None
        return ClippedBatch(loss.detach(), loss.detach())


def forgotten_noise(engine, optimizer, physical):
    optimizer.zero_grad()
    for batch, patients in physical:
        engine.accumulate(batch, patients)
    for p in optimizer.params:
        p.grad = p.summed_grad / optimizer.expected_batch_size if p.summed_grad is not None else None
    optimizer.original_optimizer.step()


def doubled_noise_free_step(engine, optimizer, physical):
    take_private_step(engine, optimizer, physical)
    for batch, patients in physical:
        engine.accumulate(batch, patients)
    for p in optimizer.params:
        p.grad = p.summed_grad / optimizer.expected_batch_size if p.summed_grad is not None else None
    optimizer.original_optimizer.step()


def only_touched_rows(engine, optimizer, physical):
    """Noise on the embedding rows that were touched only: the others betray that they were not."""
    touched = {}
    optimizer.zero_grad()
    for batch, patients in physical:
        engine.accumulate(batch, patients)
    for p in optimizer.params:
        if p.dim() == 2 and p.summed_grad is not None:
            touched[p] = (p.summed_grad != 0).any(1)
    start = {p: p.detach().clone() for p in touched}
    optimizer.step()
    with torch.no_grad():
        for p, rows in touched.items():
            p[~rows] = start[p][~rows]


def failed(step=take_private_step, make_engine=BookKeepingEngine, **options):
    model = fusion()
    findings = run_step_audit(
        model, fusion_loss, PLAN, fusion_batch(), [7, 2, 7, 2, 2, 5], make_engine=make_engine, step=step, **options
    )
    return [f.name for f in findings if not f.passed]


@pytest.mark.parametrize("make_engine", [BookKeepingEngine, OpacusEngine, OracleEngine])
def test_quick_audit_passes_what_is_right_and_leaves_the_model(make_engine):
    model = fusion()
    before = {n: v.clone() for n, v in model.state_dict().items()}
    findings = run_step_audit(model, fusion_loss, PLAN, fusion_batch(), range(6), make_engine=make_engine)
    assert [f for f in findings if not f.passed] == []
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())


def test_quick_audit_catches_a_forgotten_clip():
    assert "removing one patient moves the sum by at most the bound" in failed(make_engine=ForgottenClip)


def test_quick_audit_catches_forgotten_noise():
    assert "noise of the planned size was added once to every weight" in failed(forgotten_noise)


def test_quick_audit_catches_a_doubled_noise_free_step():
    assert failed(doubled_noise_free_step) == ["the model moved by the noised sums and nothing else"]


def test_quick_audit_catches_embedding_rows_without_noise():
    assert failed(only_touched_rows) == ["the model moved by the noised sums and nothing else"]


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


def test_self_check_needs_two_patients():
    with pytest.raises(PrivacyError, match="at least two patients"):
        run_self_check(BookKeepingEngine, fusion(), fusion_loss, Clipping(1.0), fusion_batch(), [1] * 6)


def test_quick_audit_replays_the_ledger(tmp_path):
    path = tmp_path / "derm.ledger"
    with Ledger.open(path) as ledger:
        ledger.book("a", 1, "patient", PrivacyEvent(1.0, 0.1, 10), EpsilonLimits(1e-5))
    assert failed(ledger=path) == []
    path.write_bytes(path.read_bytes()[:-3])
    assert failed(ledger=path) == ["the ledger is whole and adds up"]


def test_one_run_audit_is_compatible_with_a_true_claim():
    result = run_canary_audit(PLAN, canaries=500)
    assert result.is_consistent
    assert str(result).startswith("claimed epsilon 0.99")
    assert "at delta 1e-5 for each patient, noise multiplier" in str(result)


@pytest.mark.parametrize(
    "bug", [{"step": forgotten_noise}, {"make_engine": ForgottenClip}], ids=["forgotten noise", "forgotten clip"]
)
def test_one_run_audit_catches_planted_bugs(bug):
    result = run_canary_audit(PLAN, canaries=500, **bug)
    assert not result.is_consistent
    assert result.found > 2


def test_one_run_audit_refuses_towers():
    plan = make_plan(
        PrivacyRequest("patient", 1.0, 0.5, 2, 1, Clipping(0.1, "tower", ("a",)), delta=1e-5), PlanConstraints(), 500
    )
    with pytest.raises(PrivacyError, match="no towers"):
        run_canary_audit(plan)


def test_randomised_response_is_bounded_near_its_epsilon():
    """Scores that tell the truth with probability e / (1 + e): exactly 1-DP."""
    rng = np.random.default_rng(0)
    included = rng.random(20_000) < 0.5
    told = np.where(rng.random(20_000) < 1 / (1 + np.exp(-1.0)), included, ~included)
    found = bound_from_scores(told + rng.random(20_000) * 0.1, list(included), 0.0)
    assert 0.85 < found < 1.0


def test_binomial_probabilities():
    assert compute_binomial_pmf(3, 0.5) == pytest.approx([1 / 8, 3 / 8, 3 / 8, 1 / 8])
    assert compute_binomial_pmf(400, 0.3).sum() == pytest.approx(1.0)
    assert list(compute_binomial_pmf(2, 0.0)) == [1, 0, 0]
    assert list(compute_binomial_pmf(2, 1.0)) == [0, 0, 1]


def test_membership_test_tells_memorised_losses():
    rng = np.random.default_rng(0)
    others = rng.normal(1.0, 0.3, 400)
    assert run_membership_test(rng.normal(1.0, 0.3, 400), others, PLAN).found < 0.6
    leaked = run_membership_test(rng.normal(0.1, 0.3, 400), others, PLAN)
    assert leaked.found > 1.5
    assert not leaked.is_consistent


def test_membership_test_needs_patients():
    with pytest.raises(PrivacyError, match="at least four"):
        run_membership_test(np.zeros(3), np.zeros(9), PLAN)
