"""What a site keeps of the initial model."""

import numpy as np
import pytest
from omegaconf import OmegaConf

from clients.context import SiteContext
from clients.merge import StateMerger
from clients.site_setup import SiteSetup
from fedhealth.config.compose import compose_config, compute_config_digest
from fedhealth.errors import RequestMismatchError
from fedhealth.protocol.messages import Directive, digest_arrays
from strategies.app import build_initial_state


@pytest.fixture(name="setup")
def setup_(good_hospitals, tiny_overrides, tmp_path):
    def make(*overrides):
        composed = compose_config([*tiny_overrides(good_hospitals), *overrides])
        site = SiteContext.virtual("north", tmp_path)
        return SiteSetup(site, OmegaConf.to_object(composed), compute_config_digest(composed))

    return make


@pytest.mark.parametrize(("method", "keeps_some"), [("none", False), ("fedper", True)])
def test_of_shared_arrays_only_the_digest_is_kept(setup, method, keeps_some):
    found = setup(f"personalization={method}")
    shared = build_initial_state(found.config)
    assert found.initial.digest == digest_arrays(shared)
    assert bool(found.initial.own) == keeps_some
    assert set(found.initial.own) == found.initial.names - set(shared)
    with_training = found.model.state_dict()
    for name, array in found.initial.own.items():
        with_training[name].add_(1.0)
        assert not np.array_equal(array, with_training[name].numpy())  # a copy of its own


def test_a_request_that_lacks_an_array_is_refused(setup):
    class Attempt:
        def load_private(self, store, number):
            return {}

    found = setup()
    incoming = build_initial_state(found.config)
    directive = Directive("run", found.digest, 1, 1, 0, ("north", "south", "east"))
    whole = StateMerger(found).merge(directive, incoming, incoming, Attempt())
    assert set(whole.merged) == set(incoming)
    lost = sorted(incoming)[0]
    del incoming[lost]
    with pytest.raises(RequestMismatchError, match=f"lacks the array {lost}"):
        StateMerger(found).merge(directive, incoming, incoming, Attempt())
