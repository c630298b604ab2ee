import pytest

from fedhealth.config.compose import compose_config
from fedhealth.config.validate import validate_config
from fedhealth.errors import ConfigError

ROOT = "data.root=/data"


def faults(*overrides):
    with pytest.raises(ConfigError) as caught:
        validate_config(compose_config([ROOT, *overrides]))
    return caught.value.problem.splitlines()


def test_the_defaults_are_valid():
    validate_config(compose_config([ROOT]))


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        (["training.batch_size=0"], "training.batch_size: must be at least 1, is 0."),
        (["training.local_steps=-2"], "training.local_steps: must be at least 1, is -2."),
        (["training.threads=0"], "training.threads: must be at least 1, is 0."),
        (["model.dim=0"], "model.dim: must be at least 1, is 0."),
        (["training.encoder_lr=0"], "training.encoder_lr: must be positive, is 0.0."),
        (["strategy.rounds=0"], "strategy.rounds: must be at least 1, is 0."),
        (["strategy.round_timeout=0"], "strategy.round_timeout: must be positive, is 0.0."),
        (["strategy.quorum=1.5"], "strategy.quorum: must be between 0 and 1, is 1.5."),
        (["strategy.min_sites=5"], "strategy.min_sites: 5 of 4 sites cannot be required."),
        (["seed=-1"], "seed: must not be negative, is -1."),
        (["data.image.size=0"], "data.image.size: must be at least 1, is 0."),
        (["data.image.channels=2"], "data.image.channels: must be 1 (grey) or 3 (colour), is 2."),
        (["data.max_rejected=2"], "data.max_rejected: must be between 0 and 1, is 2.0."),
        (
            ["data.split.test=0.9"],
            "data.split: validation and test must be >= 0 and leave something to train on, are 1.05 together.",
        ),
        (["training.local_epochs=1"], "training: give exactly one of local_steps and local_epochs."),
        (["strategy.patience=0"], "strategy.patience: must be at least 1, is 0."),
        (["strategy.ema=1"], "strategy.ema: must be at least 0 and below 1, is 1.0."),
        (["model.modality_dropout=1"], "model.modality_dropout: must be at least 0 and below 1, is 1.0."),
        (["training.memory_gb=0"], "training.memory_gb: must be positive or null, is 0.0."),
        (
            ["privacy=patient", "privacy.max_physical_batch_size=0"],
            "privacy.max_physical_batch_size: must be at least 1, is 0.",
        ),
        (["training.micro_batch_size=0"], "training.micro_batch_size: must be at least 1, is 0."),
        (["training.warmup=99"], "training.warmup: must be between 0 and strategy.rounds (8), is 99."),
        (["training.label_smoothing=1"], "training.label_smoothing: must be at least 0 and below 1, is 1.0."),
        (["training.prevalence=[0.1,0.9]"], "training.prevalence: a binary task needs 1 numbers, not 2."),
        (["training.prevalence=[1.0]"], "training.prevalence: [1.0] are not shares between 0 and 1."),
        (["training.local_steps=null"], "training: give exactly one of local_steps and local_epochs."),
        (["data.sites=[]"], "data.sites: must name at least one site."),
        (
            ["data.sites=[a,../b]"],
            "data.sites: '../b' is no site name (lower case letters, digits, . _ and -).",
        ),
        (
            ["data.sites=[North]"],
            "data.sites: 'North' is no site name (lower case letters, digits, . _ and -).",
        ),
        (["data.sites=[a,a]"], "data.sites: 'a' is named twice."),
        (["data.tabular.age.scale=0"], "data.tabular.age.scale: must be positive, is 0.0."),
        (["data.tabular.age.scale=nan"], "data.tabular.age.scale: must be positive, is nan."),
        (["data.tabular.sex.levels=[]"], "data.tabular.sex.levels: a categorical column needs its levels."),
        (["data.task.classes=[a]"], "data.task.classes: a binary task has two classes, not 1."),
        (["data.task.classes=[a,a]"], "data.task.classes: names must differ, are a, a."),
        (
            ["data.task.kind=multiclass"],
            "data.task.classes: a multiclass task has at least three classes; use binary for two.",
        ),
        (
            ["data.task.kind=multilabel"],
            "data.columns.labels: a multilabel task needs one column per class (2), has 1.",
        ),
        (["data.columns.labels=[a,b]"], "data.columns.labels: a binary task has one label column, not 2."),
        (
            ["model.image=null", "model.text=null", "model.tabular=null"],
            "model: every tower is absent; keep at least one of image, text, tabular.",
        ),
    ],
)
def test_a_value_that_cannot_work_is_refused(overrides, fault):
    assert fault in faults(*overrides)


def test_all_faults_are_reported_at_once():
    found = faults("training.batch_size=0", "data.image.channels=2", "data.sites=[]", "+model.image.aritecture=x")
    assert len(found) >= 3


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        (
            "+model.image.wieghts=w",
            "model.image.wieghts: fedhealth.models.encoders.image.ImageEncoder has no such parameter.",
        ),
        ("+model.fusion.hiden=3", "model.fusion.hiden: fedhealth.models.fusion.ConcatFusion has no such parameter."),
        ("+strategy.server_optimizer.rate=1", "strategy.server_optimizer.rate: "),
    ],
)
def test_a_parameter_its_target_does_not_take_is_refused(override, fault):
    [found] = faults(override)
    assert found.startswith(fault)


def test_a_close_parameter_is_suggested():
    assert faults("+model.image.weigths=w")[0].endswith("Did you mean 'weights'?")


@pytest.mark.parametrize(
    "target", ["fedhealth.models.nothing.X", "nosuchpackage.f", "fedhealth.models.encoders.image.Nope", "x"]
)
def test_a_target_that_does_not_exist_is_refused(target):
    [found] = faults(f"model.image._target_={target}")
    assert found.startswith(f"model.image._target_: cannot load {target!r}")


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("+bogus=1", "bogus"),
        ("+data.bogus=1", "data.bogus"),
        ("+data.columns.bogus=x", "data.columns.bogus"),
        ("+data.tabular.age.bogus=1", "data.tabular.age.bogus"),
        ("+training.bogus=1", "training.bogus"),
    ],
)
def test_a_key_beside_the_schema_is_refused(override, key):
    assert faults(override) == [f"{key}: there is no such configuration key."]


def test_a_missing_value_comes_before_all_checks():
    with pytest.raises(ConfigError, match=r"needs a value for data\.root"):
        validate_config(compose_config(["training.batch_size=0"]))


RULE = "strategy.aggregation.rule"


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        ([f"~{RULE}._partial_"], f"{RULE}: strategies.aggregation.robust.trimmed_mean needs vectors. If it gets that"),
        (
            [f"{RULE}._target_=strategies.aggregation.robust.trimed_mean"],
            "has no trimed_mean; did you mean trimmed_mean?",
        ),
        ([f"+{RULE}.bogus=1"], f"It takes vectors, share; '~{RULE}.bogus' removes this one."),
        (["+strategy.round=3"], "strategy.round: there is no such configuration key. Did you mean strategy.rounds?"),
    ],
)
def test_a_fault_of_a_rule_is_told_with_what_to_write(overrides, fault):
    [found] = faults("strategy/aggregation=trimmed_mean", "secagg=off", *overrides)
    assert fault in found
