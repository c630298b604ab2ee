"""FedPer: the head, and nothing else, stays."""

import pytest

from clients.personalization.fedper import FedPer
from fedhealth.errors import ConfigError
from tests.clients.personalization.line import Line, state


def test_the_head_stays():
    assert FedPer().select_shared(Line(), sorted(state(0, 0))) == ["body.weight"]


@pytest.mark.parametrize("trained", [["body.weight"], ["fusion.head.weight"]])
def test_a_model_without_head_or_body_is_refused(trained):
    with pytest.raises(ConfigError, match="head"):
        FedPer().select_shared(Line(), trained)
