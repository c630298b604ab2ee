"""FedProx against Li et al. 2020, in the open and after the noise."""

import numpy as np
import pytest
import torch

from clients.personalization.fedprox import MU, FedProx
from clients.personalization.proximal import make_proximal_hook
from fedhealth.models.model_state import set_model_arrays
from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource
from tests.clients.personalization.line import RATE, Line, gradient, local, pair, state


def test_two_steps_by_hand():
    w = np.array([0.4, 0.8])
    task = local(state(*w), steps=2)
    FedProx(mu=0.7).train(task)
    expected = w
    for _ in range(2):
        expected = expected - RATE * (gradient(expected) + 0.7 * (expected - w))
    assert pair(task.get_current_arrays()) == pytest.approx(expected, abs=1e-6)


def test_the_leads_mu_is_used_where_there_is_none_of_its_own():
    fixed, sent = local(state(0.4, 0.8), steps=2), local(state(0.4, 0.8), steps=2, extra={MU: np.array([0.7])})
    FedProx(mu=0.7).train(fixed)
    outcome = FedProx(mu=None).train(sent)
    assert pair(fixed.get_current_arrays()).tolist() == pair(sent.get_current_arrays()).tolist()
    assert outcome.extra[MU].tolist() == [0.0]


def test_the_term_is_added_after_the_noise_and_is_not_noised_or_clipped():
    """A proximal term far beyond the clipping bound arrives whole: gradient - term is exactly the noised gradient."""
    from fedhealth.privacy.accounting.plan import PlanConstraints, PrivacyRequest, make_plan
    from fedhealth.privacy.engines.base import add_to_summed_grad
    from fedhealth.privacy.engines.dp_optimizer import NoisyOptimizer
    from fedhealth.privacy.mechanisms.clipping import Clipping

    model = Line()
    set_model_arrays(model, state(50.0, 80.0))
    parameters = dict(model.named_parameters())
    plan = make_plan(
        PrivacyRequest("patient", 1.0, 0.5, 1, 1, Clipping(1.0), None, 1e-5), PlanConstraints(8.0, 0.0, 2), 100
    )
    seen = {}

    def after(_):
        seen["noised"] = {name: p.grad.clone() for name, p in parameters.items()}
        make_proximal_hook(state(0.0, 0.0), 2.0)(0, parameters)
        seen["corrected"] = {name: p.grad.clone() for name, p in parameters.items()}

    optimizer = NoisyOptimizer(torch.optim.SGD(parameters.values(), lr=0.1), plan, NoiseSource(), after)
    optimizer.allow_steps(plan.round_event)
    for parameter in parameters.values():
        add_to_summed_grad(parameter, torch.zeros_like(parameter))
    optimizer.step()
    for name, value in (("body.weight", 100.0), ("fusion.head.weight", 160.0)):
        assert seen["noised"][name].abs().item() < value / 2  # noise alone; on its grid it may be 0
        assert (seen["corrected"][name] - seen["noised"][name]).item() == pytest.approx(value, rel=1e-5)
