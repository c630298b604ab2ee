"""Different lists of survivors for different sites, with colluders: what falls out, and where the rules stop it."""

import pytest

from fedhealth.secagg.client import credentials
from fedhealth.secagg.errors import ProtocolViolationError
from fedhealth.secagg.protocol import rules
from fedhealth.secagg.protocol.threshold import ThresholdPolicy, Thresholds, compute_smallest_split, compute_thresholds
from fedhealth.secagg.server import server_protocol
from tests.fedhealth.secagg.adversary.coalition import Coalition
from tests.fedhealth.secagg.federation import Federation

DEFAULT = ThresholdPolicy()


@pytest.fixture
def weak(monkeypatch):
    """Sites whose rules on the threshold and on signatures are switched off."""

    def switch(threshold: int, colluders: int) -> None:
        def lax(n: int, policy: ThresholdPolicy, approved: int) -> Thresholds:
            return Thresholds(n, colluders, 1, threshold)

        monkeypatch.setattr(server_protocol, "compute_thresholds", lax)
        monkeypatch.setattr(credentials, "compute_thresholds", lax)
        monkeypatch.setattr(rules, "needs_signatures", lambda *_: False)

    return switch


def without(ids, *missing):
    return [site for site in ids if site not in missing]


def split_in_halves(coalition: Coalition) -> list[str]:
    """Half of the honest sites hear that all survived, the other half that the first did not."""
    ids, honest = coalition.federation.ids, coalition.honest
    half = len(honest) // 2
    stories = dict.fromkeys(honest[:half], ids) | {site: without(ids, honest[0]) for site in honest[half:]}
    return coalition.tell(stories)


@pytest.mark.parametrize(("n", "c"), [(6, 2), (7, 1), (8, 2)])
def test_isolation_succeeds_at_twice_t_equal_n_plus_c(weak, n, c):
    weak((n + c) // 2, c)
    coalition = Coalition(Federation(n), [f"site-{n - 1 - i:02d}" for i in range(c)])
    assert split_in_halves(coalition) == []
    assert coalition.smallest_opened() == ("site-00",)


@pytest.mark.parametrize(("n", "c"), [(6, 2), (7, 1), (8, 2)])
def test_isolation_fails_one_above(weak, n, c):
    weak((n + c) // 2 + 1, c)
    coalition = Coalition(Federation(n), [f"site-{n - 1 - i:02d}" for i in range(c)])
    assert split_in_halves(coalition) == []
    assert coalition.smallest_opened() == ()


def choose_few_honest(coalition: Coalition, n: int) -> list[str]:
    """One honest site too few, together with all colluders."""
    honest = coalition.honest[: compute_thresholds(n, DEFAULT).min_honest - 1]
    return sorted([*honest, *coalition.colluders])


@pytest.mark.parametrize("n", [4, 6, 7])
def test_a_sum_of_too_few_honest_sites_opens_one_below_c_plus_min_honest(weak, n):
    real = compute_thresholds(n, DEFAULT)
    weak(real.min_owners - 1, real.colluders)
    coalition = Coalition(Federation(n), [f"site-{n - 1 - i:02d}" for i in range(real.colluders)])
    few = choose_few_honest(coalition, n)
    honest = [site for site in few if site in coalition.honest]
    assert coalition.tell(dict.fromkeys(honest, few)) == []
    assert coalition.smallest_opened() == tuple(honest)


@pytest.mark.parametrize("n", [4, 6, 7])
def test_with_the_real_threshold_it_is_refused(n):
    real = compute_thresholds(n, DEFAULT)
    coalition = Coalition(Federation(n), [f"site-{n - 1 - i:02d}" for i in range(real.colluders)])
    few = choose_few_honest(coalition, n)
    assert set(coalition.tell(dict.fromkeys(coalition.honest[: len(few)], few))) == {"R1"}
    assert coalition.smallest_opened() == ()


def test_real_sites_refuse_the_weak_threshold(weak, monkeypatch):
    weak(4, 2)
    federation = Federation(6)
    descriptor = federation.server.open_attempt(federation.plan())
    monkeypatch.undo()
    with pytest.raises(ProtocolViolationError, match="R8: threshold 4 is below 5"):
        federation.accept("site-00", descriptor, federation.plan())


@pytest.mark.parametrize("n", [7, 10])
def test_where_the_split_would_be_too_small_the_lists_are_signed(n):
    """s* of 7 and 10 sites is 2: two honest sites could be told apart from the rest. Signatures stop that."""
    thresholds = compute_thresholds(n, DEFAULT)
    assert compute_smallest_split(n, thresholds.threshold, thresholds.colluders) == 2
    coalition = Coalition(Federation(n), [f"site-{n - 1 - i:02d}" for i in range(thresholds.colluders)])
    assert set(split_in_halves(coalition)) == {"R1"}
    assert coalition.smallest_opened() == ()


def test_the_split_that_the_signatures_stop(weak):
    """Without them, seven sites with two colluders: the sum of two honest sites falls out, as s* says."""
    weak(5, 2)
    coalition = Coalition(Federation(7), ["site-05", "site-06"])
    ids = coalition.federation.ids
    # Three of five honest answers must leave out each of sites 2, 3, 4, and nobody leaves out itself.
    stories = {
        "site-00": without(ids, "site-02", "site-03"),
        "site-01": without(ids, "site-02", "site-04"),
        "site-02": without(ids, "site-03", "site-04"),
        "site-03": without(ids, "site-02", "site-04"),
        "site-04": without(ids, "site-03"),
    }
    assert coalition.tell(stories) == []
    assert coalition.smallest_opened() == ("site-00", "site-01")


def test_one_share_less_than_t_and_all_colluders_open_nothing():
    federation = Federation(6)  # t = 5, c = 1
    coalition = Coalition(federation, ["site-05"])
    answering = coalition.honest[:3]
    assert coalition.tell(dict.fromkeys(answering, federation.ids)) == []
    assert coalition.smallest_opened() == ()
    assert coalition.tell({coalition.honest[3]: federation.ids}) == []
    assert coalition.smallest_opened() == coalition.honest


def test_an_honest_dropout_still_leaves_the_rest_hidden_in_their_sum():
    federation = Federation(8)
    coalition = Coalition(federation, ["site-06", "site-07"])
    survivors = without(federation.ids, "site-00")
    assert coalition.tell(dict.fromkeys(coalition.honest[1:], survivors)) == []
    assert coalition.smallest_opened() == coalition.honest[1:]
