"""Private training of your own torch model: each patient's rows are clipped together, and every step is booked.

    python examples/private_step.py FOLDER

The optimizer is an `opacus.optimizers.DPOptimizer`; the engine takes the place of Opacus's GradSampleModule and needs
one backward pass and no wrapper around the model. FOLDER keeps the privacy ledger.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from fedhealth.privacy import (
    AccountingContext,
    BookKeepingEngine,
    Clipping,
    NoisyOptimizer,
    PatientSampler,
    PrivacyBudget,
    PrivacyRequest,
    digest_words,
    load_release_key,
    record_release,
)

PATIENTS, ROWS_PER_PATIENT, STEPS = 300, 2, 40


def compute_losses(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return one loss per row, [B]: the engine sums and clips."""
    x, y = batch
    return nn.functional.cross_entropy(model(x), y, reduction="none")


def train_privately(folder: Path) -> tuple[nn.Module, float]:
    """Return the trained model and the epsilon that the ledger shows."""
    x = torch.randn(PATIENTS * ROWS_PER_PATIENT, 8)
    y = (x[:, 0] > 0).long()
    rows_of_patient = [[2 * i, 2 * i + 1] for i in range(PATIENTS)]
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))

    budget = PrivacyBudget("my-cohort", epsilon=8.0, lifetime_epsilon=10.0)
    request = PrivacyRequest(
        "patient", epsilon=4.0, sample_rate=0.2, steps=STEPS, rounds=1, clipping=Clipping(max_grad_norm=1.0)
    )
    plan = budget.make_plan(request, units=PATIENTS)  # the noise that the epsilon needs
    engine = BookKeepingEngine(model, compute_losses, plan.clipping)
    optimizer = NoisyOptimizer(torch.optim.SGD(model.parameters(), lr=0.5), plan)
    sampler = PatientSampler(
        rows_of_patient,
        sample_rate=plan.sample_rate,
        steps=plan.steps,
        max_records_per_patient=plan.max_records_per_patient,
        max_physical_batch_size=64,
    )

    booking = AccountingContext("run-1", "my-hospital", folder, round=1, rounds=1)
    with budget.open_ledger(folder) as ledger:
        optimizer.allow_steps(budget.book(ledger, plan, booking, plan.round_event).mechanism)  # before any step
        for logical_batch in sampler:  # each patient is in a step with the same probability
            optimizer.zero_grad()
            for physical in logical_batch:
                rows = torch.tensor(physical.rows)
                engine.accumulate((x[rows], y[rows]), physical.patients)
            optimizer.step()
        spent = ledger.compute_spent_epsilon(plan.delta)
    # From here on the model may leave. Without this line, training again would use the same booking.
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    record_release(folder, budget.dataset, booking, digest_words(load_release_key(folder), weights, {}))
    return model, spent


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train a small model privately on random data.")
    parser.add_argument("folder", type=Path, help="where the privacy ledger is kept")
    _, spent = train_privately(parser.parse_args().folder)
    print(f"epsilon spent: {spent:.2f}")
