import shlex
import sys

import pytest
from hydra.core.global_hydra import GlobalHydra
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from fedhealth.config.compose import compose_config, compute_config_digest, get_conf_dir, resolve_config
from fedhealth.config.quoting import quote_value
from fedhealth.config.schema import Config, TaskKind
from fedhealth.errors import ConfigError

ROOT = "data.root=/data"


def refused(*overrides):
    with pytest.raises(ConfigError) as caught:
        resolve_config(compose_config([*overrides]))
    return caught.value


def test_the_defaults_compose_to_the_schema():
    config = OmegaConf.to_object(compose_config([ROOT]))
    assert isinstance(config, Config)
    assert config.data.task.kind is TaskKind.binary
    assert (config.training.local_steps, config.training.local_epochs) == (20, None)


@pytest.mark.parametrize(
    ("override", "key", "meant"),
    [
        ("training.bach_size=4", "training.bach_size", "training.batch_size"),
        ("data.image.sise=4", "data.image.sise", "data.image.size"),
        ("strategy.round=4", "strategy.round", "strategy.rounds"),
        ("rounds=4", "rounds", "strategy.rounds"),
        ("batch_size=4", "batch_size", "training.batch_size"),
        ("trainig=sgd", "trainig", "training"),
        ("data.task.knd=binary", "data.task.knd", "data.task.kind"),
    ],
)
def test_a_misspelt_key_is_named_with_what_was_meant(override, key, meant):
    fault = refused(ROOT, override)
    assert fault.problem == f"There is no configuration key {key!r}."
    assert fault.advice == f"Did you mean {meant}?"


@pytest.mark.parametrize(
    ("overrides", "problem", "advice"),
    [
        (["+strategy.rounds=3"], "'strategy.rounds' exists already", "Take the + away: strategy.rounds=..."),
        (["~model.tabular.hiden"], "no 'model.tabular.hiden' to remove", "Did you mean ~model.tabular.hidden?"),
        (["~model/foo"], "no 'model/foo' to remove", "Did you mean ~model/fusion?"),
        (["strategy/aggregaton=krum"], "'strategy/aggregaton'", "Did you mean strategy/aggregation?"),
        (["model/text=words", "model.text.hiden=4"], "'model.text.hiden'", "Did you mean model.text.hidden?"),
        (
            ["strategy/aggregation=trimmed_mean", "strategy.aggregation.rule.shares=0"],
            "'strategy.aggregation.rule.shares'",
            "Did you mean strategy.aggregation.rule.share?",
        ),
        (
            ["model/text=pretrained", "model.text.bucket=0"],
            "'model.text.bucket'",
            "Did you mean +model.text.buckets? fedhealth.models.encoders.text.TextEncoder has it; its file does not.",
        ),
    ],
)
def test_the_advice_is_of_the_options_that_were_chosen(overrides, problem, advice):
    fault = refused(ROOT, *overrides)
    assert problem in fault.problem
    assert fault.advice == advice


def test_a_key_like_nothing_else_points_to_the_list_of_keys():
    assert refused(ROOT, "zzzzzz=1").advice == "`fedhealth run --cfg job` prints every key."


@pytest.mark.parametrize("override", ["method=null", "model/image=3", "data=[null]", "privacy={a:1}"])
def test_a_group_without_a_named_option_is_refused_with_its_options(override):
    fault = refused(ROOT, override)
    assert fault.problem == f"{override}: the group {override.split('=')[0]!r} needs an option."
    assert fault.advice.startswith("Options: ")


@pytest.mark.parametrize("override", ["training=sdg", "model/image=resnet81", "experiment=drem", "data=dermm"])
def test_a_misspelt_option_is_named_with_its_group_and_the_nearest(override):
    group, option = override.split("=")
    fault = refused(ROOT, override)
    assert fault.problem == f"There is no option {option!r} in group {group!r}."
    assert f"Did you mean {group}=" in fault.advice
    assert "Options: " in fault.advice


@pytest.mark.parametrize(
    ("override", "where"),
    [
        ("seed=many", "seed"),
        ("training.batch_size=1.5", "training.batch_size"),
        ("data.task.kind=ternary", "data.task.kind"),
        ("data.sites=3", "sites"),
        ("baselines.local_only=perhaps", "baselines.local_only"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_with_its_key(override, where):
    fault = refused(ROOT, override)
    assert where in fault.problem
    assert "\n" not in fault.problem


@pytest.mark.parametrize("debugger", [False, True])
def test_a_missing_value_is_asked_for(monkeypatch, debugger):
    monkeypatch.setattr(sys, "gettrace", lambda: object() if debugger else None)  # what OmegaConf looks at
    fault = refused()
    assert fault.problem == "The configuration needs a value for data.root."
    assert fault.advice == "Add data.root=... to the command."


def test_a_word_that_is_no_override_is_refused():
    assert "'nonsense('" in refused("nonsense(").problem


def test_a_folder_of_ones_own_adds_options(tmp_path):
    folder = tmp_path / "our conf, (2)"
    (folder / "data").mkdir(parents=True)
    text = "name: ours\nroot: /ours\nsites: [a]\ncolumns:\n  image: img\n"
    (folder / "data" / "ours.yaml").write_text(text, "utf-8")
    config = compose_config(["data=ours"], folder)
    assert (config.data.root, config.data.columns.image) == ("/ours", "img")
    with pytest.raises(ConfigError, match="no option 'ours'"):
        compose_config(["data=ours"])


@pytest.mark.parametrize(
    ("line", "problem", "advice"),
    [
        ("manifst: m.csv", "data/ours.yaml: there is no configuration key 'data.manifst'.", "mean data.manifest?"),
        ("columns: {imge: x}", "data/ours.yaml: there is no configuration key 'data.columns.imge'.", "columns.image?"),
        ("max_rejected: x", "data/ours.yaml: data.max_rejected: Value 'x'", "Correct the value in that file."),
        ("  max_rejected: 0", "This is not YAML: ", "Correct the file at that line."),
    ],
)
def test_a_fault_in_a_file_of_ones_own_is_found(tmp_path, line, problem, advice):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "ours.yaml").write_text(f"name: ours\nroot: /ours\nsites: [a]\n{line}\n", "utf-8")
    with pytest.raises(ConfigError) as caught:
        compose_config(["data=ours"], tmp_path)
    assert caught.value.problem.startswith(problem)
    assert caught.value.advice.endswith(advice)


def test_composing_leaves_hydra_as_it_was_found():
    compose_config([ROOT])
    assert not GlobalHydra.instance().is_initialized()
    with pytest.raises(ConfigError):
        compose_config(["nothing=1"])
    assert not GlobalHydra.instance().is_initialized()


def test_a_digest_is_of_what_decides_the_training_only():
    one = compute_config_digest(compose_config([ROOT]))
    for override in (
        "data.root=/elsewhere",
        "data.cache=/c",
        "runtime=simulation",
        "name=x",
        "baselines.local_only=false",
    ):
        assert compute_config_digest(compose_config([ROOT, override])) == one, override
    for override in ("seed=1", "training=sgd", "model.dim=9", "data.sites=[a]", "data.max_rejected=0.5"):
        assert compute_config_digest(compose_config([ROOT, override])) != one, override


def test_the_digest_does_not_depend_on_the_order_of_words():
    overrides = [ROOT, "seed=3", "training=sgd"]
    assert compute_config_digest(compose_config(overrides)) == compute_config_digest(compose_config(overrides[::-1]))


@settings(max_examples=25, deadline=None)
@given(st.text(st.sampled_from("\\'\"${}[](),=:é #ax"), min_size=1, max_size=12))
def test_any_path_can_be_quoted(path):
    assert compose_config([f"data.root={quote_value(path)}"]).data.root == path


def test_the_configuration_files_are_found():
    assert (get_conf_dir() / "config.yaml").is_file()
    assert (get_conf_dir() / "data" / "demo.yaml").is_file()


def test_a_user_who_loses_them_is_told(tmp_path, monkeypatch):
    module = sys.modules["fedhealth.config.compose"]
    monkeypatch.setattr(module, "__file__", str(tmp_path / "site" / "fedhealth" / "config" / "compose.py"))
    with pytest.raises(ConfigError, match="No configuration files"):
        get_conf_dir()


def test_the_quoting_of_a_path_is_given():
    with pytest.raises(ConfigError) as caught:
        compose_config(["data.root=/srv/Müller's (alt)/a=b&c"])
    wanted = shlex.split(caught.value.advice.partition(": ")[2])[0]
    assert str(compose_config([wanted, "data.sites=[a]"]).data.root) == "/srv/Müller's (alt)/a=b&c"
