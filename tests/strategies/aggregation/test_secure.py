"""Secure aggregation as the product runs it: real institutions, the real lead, messages through Flower's grid."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import Error, Message
from safetensors.numpy import load_file

import clients.app
from fedhealth.config.compose import compose_config
from fedhealth.config.validate import validate_config
from fedhealth.consortium.identity import get_secrets_folder, make_identity, save_roster
from fedhealth.errors import ConfigError, FederationError, SecureAggregationError
from fedhealth.experiment.launch import launch_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.flower.in_process_grid import InProcessGrid
from fedhealth.protocol.array_codec import unpack_arrays
from fedhealth.protocol.messages import ABANDON, SEALED, STATISTICS, TRAIN, UNMASK, UPDATE
from fedhealth.runs.run_dir import PRIVATE_FILE, RunDir
from strategies.aggregation.secure import SecureSum

SIX = tuple(f"site-{number}" for number in range(6))


@pytest.fixture(scope="module")
def six_hospitals(tmp_path_factory, site_writer):
    root = tmp_path_factory.mktemp("six")
    for seed, site in enumerate(SIX):
        site_writer(root, site, seed=seed)
    return root


@pytest.fixture
def run(good_hospitals, tiny_overrides, tmp_path):
    def start(name, *overrides, root=good_hospitals):
        overrides = [*tiny_overrides(root), *overrides]
        folder = RunDir(tmp_path / name)
        launch_run(RunSpec.compose(overrides, folder))
        return folder

    return start


@pytest.fixture
def replies(monkeypatch):
    """Record every reply that leaves a site; a rule in `lost` decides which replies are dropped."""
    watched = SimpleNamespace(seen=[], lost=[])
    genuine = clients.app.handle_message

    def handle_message(message, context, job):
        kind, site = message.metadata.message_type, context.node_config["site"]
        reply = genuine(message, context, job)
        watched.seen.append((kind, site, reply))
        nth = len([s for s in watched.seen if s[0] == kind and s[1] == site])
        if any(rule(kind, site, nth) for rule in watched.lost):
            return Message(Error(1, "lost"), reply_to=message)
        return reply

    monkeypatch.setattr(clients.app, "handle_message", handle_message)
    return watched


def model(folder):
    return load_file(folder.path / "model.safetensors")


def distance(first, second):
    one, other = model(first), model(second)
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


@pytest.mark.parametrize(("bits", "bound", "error"), [(32, 8.0, 1e-6), (16, 0.5, 2e-3)])
def test_it_gives_the_model_of_the_open_run(run, bits, bound, error):
    # SGD, since Adam turns a rounding of 1e-9 in a gradient near zero into a whole step.
    overrides = ["training=sgd", "training.optimizer.lr=0.05"]
    plain = run("plain", *overrides)
    overrides += ["secagg=on", "secagg.weights=exact", f"secagg.bits={bits}", f"secagg.clipping_range={bound}"]
    sealed = run(f"sealed-{bits}", *overrides)
    assert 0.0 < distance(plain, sealed) <= error
    one, other = (json.loads((folder.path / "evaluation.json").read_text()) for folder in (plain, sealed))
    assert one["test"]["studies"] == other["test"]["studies"]
    assert one["test"]["positives"] == other["test"]["positives"]


def test_nothing_but_masked_words_leaves_a_site(run, replies):
    folder = run("sealed", "secagg=on")
    for kind, _, reply in replies.seen:
        assert not {UPDATE, STATISTICS} & set(reply.content), kind
        assert all(name in ("acceptance", "secagg", SEALED) for name in reply.content)
    masked = [reply.content[SEALED] for kind, _, reply in replies.seen if kind == TRAIN]
    words = np.concatenate([array.ravel() for record in masked for array in unpack_arrays(record).values()])
    counts = np.bincount(words, minlength=256)
    assert counts.std() / counts.mean() < 4 / np.sqrt(counts.mean())  # the bytes of a mask are uniform
    answered = [event for event in folder.read_events()[0] if event["event"] == "site_answered"]
    assert answered
    assert all(event["own"] is None for event in answered)


def test_weights_are_announced_in_coarse_buckets(run, replies):
    run("sealed", "secagg=on")
    announced = [reply.content["acceptance"]["weights"] for kind, _, reply in replies.seen if kind == "query.handshake"]
    steps = 2 * np.log2(np.concatenate(announced))
    assert np.allclose(steps, np.round(steps), atol=1e-3)


def test_a_site_that_drops_before_upload_costs_its_own_part_only(run, replies, six_hospitals):
    replies.lost.append(lambda kind, site, nth: kind == TRAIN and site == "site-2" and nth == 2)
    sites = f"data.sites=[{','.join(SIX)}]"
    folder = run("dropped", "secagg=on", sites, "strategy.quorum=0.8", "strategy.min_sites=5", root=six_hospitals)
    completed = [event for event in folder.read_events()[0] if event["event"] == "round_completed"]
    assert [len(event["sites"]) for event in completed] == [6, 5]


def test_a_site_that_drops_before_unmasking_is_still_in_the_sum(run, replies, six_hospitals):
    replies.lost.append(lambda kind, site, nth: kind == UNMASK and site == "site-4")
    sites = f"data.sites=[{','.join(SIX)}]"
    folder = run("late", "secagg=on", sites, root=six_hospitals)
    completed = [event for event in folder.read_events()[0] if event["event"] == "round_completed"]
    assert [len(event["sites"]) for event in completed] == [6, 6]


def test_a_failed_attempt_is_masked_again_without_training(run, replies, monkeypatch):
    trained = []
    from fedhealth.training.trainer import PlainTrainer

    fit = PlainTrainer.fit
    monkeypatch.setattr(PlainTrainer, "fit", lambda self, task, place=None: trained.append(1) or fit(self, task, place))
    replies.lost.append(lambda kind, site, nth: kind == TRAIN and site == "south" and nth == 1)
    folder = run("again", "secagg=on", "strategy.rounds=1")
    failed = [event for event in folder.read_events()[0] if event["event"] == "attempt_failed"]
    assert len(failed) == 1
    assert len(trained) == 3
    uploads = [reply for kind, site, reply in replies.seen if kind == TRAIN and site == "north"]
    first, second = (np.concatenate(list(unpack_arrays(reply.content[SEALED]).values())) for reply in uploads)
    assert (first == second).mean() < 0.05  # fresh masks


def test_an_abandoned_sum_is_masked_again_without_training(run, monkeypatch):
    """South is silent while the sum is opened, then promises never to open it: the others may upload the same again."""
    from fedhealth.training.trainer import PlainTrainer

    asked, trained = [], []
    fit, genuine = PlainTrainer.fit, clients.app.handle_message
    monkeypatch.setattr(PlainTrainer, "fit", lambda self, task, place=None: trained.append(1) or fit(self, task, place))

    def handle_message(message, context, job):
        kind, site = message.metadata.message_type, context.node_config["site"]
        asked.append(kind)
        if kind == UNMASK and site == "south" and asked.count(ABANDON) == 0:
            return Message(Error(1, "lost"), reply_to=message)
        return genuine(message, context, job)

    monkeypatch.setattr(clients.app, "handle_message", handle_message)
    folder = run("abandoned", "secagg=on", "strategy.rounds=1")
    events = folder.read_events()[0]
    assert len([event for event in events if event["event"] == "attempt_failed"]) == 1
    assert asked.count(ABANDON) >= 1
    assert len(trained) == 3
    assert [len(event["sites"]) for event in events if event["event"] == "round_completed"] == [3]


def test_below_the_threshold_the_round_is_aborted_cleanly(run, replies, tmp_path):
    replies.lost.append(lambda kind, site, nth: kind == TRAIN and site == "south")
    with pytest.raises(Exception, match="2 of 3 sites replied"):
        run("aborted", "secagg=on")
    assert RunDir(tmp_path / "aborted").info.state == "failed"
    assert not [s for s in replies.seen if s[0] == UNMASK]


def test_silence_while_the_sum_is_opened_does_not_last_for_a_rounds_timeout(run, monkeypatch):
    genuine = InProcessGrid.pull_messages

    def without_shares(self, ids):
        return genuine(self, [key for key in ids if self._pushed[key].metadata.message_type != UNMASK])

    monkeypatch.setattr(InProcessGrid, "pull_messages", without_shares)
    monkeypatch.setattr("strategies.round_driver._FOLLOW_UP_SECONDS", 0.1)
    with pytest.raises(FederationError, match="missing replies: east, north, south"):
        run("silent", "secagg=on", "strategy.round_timeout=3600")


def test_two_sites_are_too_few_and_the_message_says_what_to_do(run):
    with pytest.raises(ConfigError, match=r"secagg=on with fewer sites than its threshold.*Invite more hospitals"):
        run("two", "secagg=on", "data.sites=[north,south]")


@pytest.mark.parametrize("colluders", [None, 0, 1, 3])
@pytest.mark.parametrize("min_honest", [None, 1, 4])
@pytest.mark.parametrize("min_sites", [1, 3, 5])
def test_composition_refuses_as_many_sites_as_the_protocol(colluders, min_honest, min_sites, tmp_path):
    members = {f"site-{number}": make_identity(tmp_path / str(number)) for number in range(8)}
    for count in range(1, 9):
        folder, sites = tmp_path / f"of-{count}", sorted(members)[:count]
        save_roster(folder, {site: members[site] for site in sites})
        settings = {"colluders": colluders, "min_honest": min_honest, "min_sites": min_sites, "sites": sites}
        refused = False
        try:
            SecureSum(**settings).start("run", "00" * 32, folder)
        except SecureAggregationError:
            refused = True
        assert SecureSum.has_too_few_sites(settings) is refused, settings


@pytest.mark.parametrize("setting", ["colluders=-1", "min_honest=0", "min_sites=0"])
def test_an_impossible_assumption_is_named(setting):
    with pytest.raises(ConfigError, match=f"secagg.{setting.partition('=')[0]}: must"):
        validate_config(compose_config(["data.root=x", "secagg=on", f"secagg.{setting}"]))


def test_a_run_waits_for_as_many_sites_as_a_sum_needs(run, replies, six_hospitals):
    """Five of six answers open a sum: with four, no round is begun, whatever strategy.min_sites says."""
    replies.lost.append(lambda kind, site, nth: site in SIX[4:])
    sites = f"data.sites=[{','.join(SIX)}]"
    with pytest.raises(FederationError, match="5 are needed"):
        run("few", "secagg=on", sites, "strategy.min_sites=3", "strategy.join_timeout=1", root=six_hospitals)
    assert all(kind == "query.handshake" for kind, _, _ in replies.seen)


def test_a_value_beyond_the_bound_names_the_layer_in_the_sites_log(run, tmp_path):
    with pytest.raises(Exception, match=r"3 are needed|fewer than|survivors"):
        run("narrow", "secagg=on", "secagg.clipping_range=1e-6")
    assert "towers." in (tmp_path / "narrow" / "fedhealth.log").read_text()


def test_a_tower_with_one_owner_stays_local(run, site_writer, table_writer, tmp_path):
    root = tmp_path / "hospitals"
    for seed, site in enumerate(("north", "south", "east")):
        rows = site_writer(root, site, seed=seed)
        if site != "north":
            table_writer(root / site / "manifest.csv", [row | {"crp": "", "ldh": ""} for row in rows])
    folder = run("local-tower", "secagg=on", root=root)
    private = {site: folder.site_dir(site) / PRIVATE_FILE for site in ("north", "south", "east")}
    names = set(load_file(private["north"]))
    assert names
    assert all(name.startswith("towers.tabular.") and ".missing." not in name for name in names)
    initial = run("untrained", "secagg=on", "training.optimizer.lr=0", root=root)
    assert all(np.array_equal(model(folder)[name], model(initial)[name]) for name in names)
    assert any(not np.array_equal(load_file(private["north"])[name], model(folder)[name]) for name in names)


def test_secrets_are_gone_when_the_run_is_over_and_keys_are_private(run):
    folder = run("sealed", "secagg=on")
    site = folder.site_dir("north")
    assert not get_secrets_folder(folder.info.run, "north", site).exists()
    assert (site / "identity.key").stat().st_mode & 0o777 == 0o600
