"""FedRep against algorithm 1 of Collins et al. 2021."""

import numpy as np
import pytest
import torch

from clients.personalization.fedrep import FedRep, make_alternating_hook
from fedhealth.site.decline_reasons import redact_reason
from tests.clients.personalization.line import RATE, Line, gradient, local, pair, state


def test_the_head_is_trained_before_the_body():
    w = np.array([0.4, 0.8])
    task = local(state(*w), steps=3)
    FedRep(head_steps=2).train(task)
    for part in ([0, 1], [0, 1], [1, 0]):
        w = w - RATE * np.array(part) * gradient(w)
    assert pair(task.get_current_arrays()) == pytest.approx(w, abs=1e-6)


def test_what_rests_has_no_gradient_so_that_momentum_and_decay_rest_too():
    model = Line()
    parameters = dict(model.named_parameters())
    optimizer = torch.optim.SGD(parameters.values(), lr=0.1, momentum=0.9, weight_decay=0.5)
    before = model.body.weight.item()
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    make_alternating_hook(1)(0, parameters)
    optimizer.step()
    assert model.body.weight.item() == before


def test_a_site_whose_round_has_no_step_for_the_body_declines():
    (reason,) = FedRep(head_steps=2).find_decline_reasons(2)
    assert reason == "personalization.head_steps 2 leaves no step of a round for the body"
    assert redact_reason(reason) == reason
    assert FedRep(head_steps=2).find_decline_reasons(3) == []


def test_the_head_stays():
    assert FedRep().select_shared(Line(), sorted(state(0, 0))) == ["body.weight"]
