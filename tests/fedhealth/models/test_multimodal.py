import numpy as np
import pytest
import torch
from torch import nn

from fedhealth.config.schema import DataConfig, ModelConfig, TabularColumnConfig, TaskConfig, TaskKind
from fedhealth.errors import ConfigError, ModelError
from fedhealth.models.fusion import ConcatFusion, GatedFusion
from fedhealth.models.multimodal import ModalityDropout, MultimodalModel, Tower, build_model, get_output_width

CONCAT = {"_target_": "fedhealth.models.fusion.ConcatFusion", "hidden": 6}
GATED = {"_target_": "fedhealth.models.fusion.GatedFusion"}
LINEAR = CONCAT | {"hidden": 0, "dropout": 0.0, "zero": True}
IMAGE = {"_target_": "fedhealth.models.encoders.image.ImageEncoder"}
TEXT = {"_target_": "fedhealth.models.encoders.text.TextEncoder", "hidden": 8, "buckets": 20, "layers": 0}
TABULAR = {"_target_": "fedhealth.models.encoders.tabular.TabularEncoder", "hidden": 4}


def data(task=None):
    return DataConfig(name="t", root=".", sites=["a"], tabular={"x": TabularColumnConfig()}, task=task or TaskConfig())


def model(seed=0, task=None, dim=5, **parts):
    towers = {"image": IMAGE, "text": TEXT, "tabular": TABULAR, "fusion": CONCAT} | parts
    return build_model(ModelConfig(dim=dim, **towers), data(task), seed).eval()


def batch(size=4):
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.randint(0, 256, (size, 1, 16, 16), generator=generator).to(torch.uint8),
        "text": torch.randint(0, 20, (size, 3), generator=generator),
        "tabular": torch.randn(size, 2, generator=generator),
    } | {f"{name}_present": torch.ones(size, dtype=torch.bool) for name in ("image", "text", "tabular")}


@pytest.mark.parametrize("fusion", [CONCAT, GATED, LINEAR])
@pytest.mark.parametrize(
    ("task", "width"),
    [
        (TaskConfig(), 1),
        (TaskConfig(TaskKind.multiclass, ["a", "b", "c"]), 3),
        (TaskConfig(TaskKind.multilabel, ["a", "b"]), 2),
    ],
)
def test_logits_have_one_column_per_output(fusion, task, width):
    assert model(task=task, fusion=fusion)(batch()).shape == (4, width)
    assert get_output_width(data(task)) == width


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, same, other = model(1).state_dict(), model(1).state_dict(), model(2).state_dict()
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_any_tower_may_be_absent():
    alone = model(image=None, text=None)
    assert alone.modalities == {"tabular"}
    assert alone(batch()).shape == (4, 1)


@pytest.mark.parametrize("name", ["image", "text", "tabular"])
def test_a_missing_value_is_the_learned_token_whatever_the_values_say(name):
    network, whole = model(), batch()
    gone = dict(whole)
    gone[f"{name}_present"] = torch.tensor([True, False, True, False])
    garbled = gone | {name: torch.where(_like(gone[f"{name}_present"], whole[name]), whole[name], 0)}
    torch.testing.assert_close(network(gone), network(garbled))
    torch.testing.assert_close(network(gone)[[0, 2]], network(whole)[[0, 2]])
    assert not torch.equal(network(gone)[[1, 3]], network(whole)[[1, 3]])
    absent = {key: value for key, value in whole.items() if not key.startswith(name)}
    nobody = dict(whole) | {f"{name}_present": torch.zeros(4, dtype=torch.bool)}
    torch.testing.assert_close(network(absent), network(nobody))


def _like(present, values):
    return present.view(-1, *[1] * (values.dim() - 1))


def test_the_token_learns_only_from_rows_that_miss_the_modality():
    network, whole = model(), batch()
    network(whole).sum().backward()
    assert not network.towers["text"].missing.weight.grad.any()
    whole["text_present"][0] = False
    network(whole).sum().backward()
    assert network.towers["text"].missing.weight.grad.any()


def test_cached_features_are_as_good_as_values():
    network, whole = model(), batch()
    features = network.towers["image"].encoder(whole["image"])
    instead = {key: value for key, value in whole.items() if key != "image"} | {"image_features": features}
    torch.testing.assert_close(network(instead), network(whole))


def test_an_empty_batch_has_logits_of_the_right_width():
    nobody = {f"{name}_present": torch.zeros(0, dtype=torch.bool) for name in ("image", "text", "tabular")}
    assert model(task=TaskConfig(TaskKind.multiclass, ["a", "b", "c"]))(nobody).shape == (0, 3)


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(ModelError, match="names no modality"):
        model()({})


class Normed(nn.Module):
    width = 3

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
        self.drop = nn.Dropout(0.5)

    def forward(self, values):
        return self.second(self.drop(self.first(values)))


def test_what_is_frozen_stays_as_it_is_in_training():
    encoder = Normed()
    encoder.first.requires_grad_(False)
    network = MultimodalModel({"tabular": Tower(encoder, 2)}, ConcatFusion([2], 1))
    network.train()
    assert not encoder.first.training
    assert encoder.second.training
    encoder.requires_grad_(False)
    network.train()
    assert not encoder.drop.training
    network({"tabular": torch.randn(4, 3), "tabular_present": torch.ones(4, dtype=torch.bool)})
    assert not encoder.second.running_mean.any()


def test_the_gates_weigh_the_modalities():
    torch.manual_seed(0)
    fusion = GatedFusion([3, 3], 1).eval()
    one, other = torch.randn(4, 3), torch.randn(4, 3)
    with torch.no_grad():
        fusion.gate.weight.zero_()
        fusion.gate.bias.copy_(torch.tensor([50.0, -50.0]))
    torch.testing.assert_close(fusion([one, other]), fusion([one, torch.zeros(4, 3)]))
    with torch.no_grad():
        fusion.gate.bias.zero_()
    torch.testing.assert_close(fusion([one, other]), fusion.head((one + other) / 2))


def test_without_projection_a_linear_classifier_is_logistic_regression_from_zero():
    network = model(dim=None, fusion=LINEAR, tabular=TABULAR | {"hidden": 0}, image=None, text=None)
    assert {name for name, _ in network.named_parameters()} == {
        "towers.tabular.missing.weight",
        "fusion.head.1.weight",
        "fusion.head.1.bias",
    }
    rows = batch()
    assert not network(rows).any()
    with torch.no_grad():
        network.fusion.head[-1].weight.copy_(torch.tensor([[2.0, -1.0]]))
    normal = torch.nn.functional.layer_norm(rows["tabular"], (2,))
    torch.testing.assert_close(network(rows), normal @ torch.tensor([[2.0], [-1.0]]))


def test_without_projection_every_modality_keeps_its_width():
    network = model(dim=None, fusion=CONCAT)
    assert network.fusion.head[0].in_features == sum(tower.width for tower in network.towers.values()) == 96 + 8 + 4
    assert network(batch()).shape == (4, 1)


def test_a_row_without_a_modality_gets_its_token_also_without_projection():
    network, rows = model(dim=None, fusion=LINEAR, image=None, text=None), batch()
    nn.init.normal_(network.fusion.head[-1].weight)
    rows["tabular_present"][1] = False
    torch.testing.assert_close(network(rows)[1], network.fusion([network.towers["tabular"].missing.weight])[0])


def test_gates_refuse_features_of_several_widths():
    with pytest.raises(ModelError, match=r"gates cannot mix features of widths 96, 8, 4"):
        model(dim=None, fusion=GATED)


def test_a_part_that_cannot_be_built_names_itself():
    with pytest.raises(ConfigError, match=r"TabularEncoder cannot be built: .*hiden"):
        model(tabular={"_target_": TABULAR["_target_"], "hiden": 3})
    with pytest.raises(ModelError, match="torchvision has no"):
        model(image=IMAGE | {"architecture": "nothing"})


def test_weights_are_plain_float32():
    assert {value.dtype for value in model().state_dict().values()} <= {torch.float32, torch.int64}
    assert np.isfinite([value.double().sum() for value in model().state_dict().values()]).all()


def test_modality_dropout_hides_modalities_in_training_only_and_never_all():
    hide = ModalityDropout(0.9)
    present = torch.tensor([[True, True, False], [False, True, True], [False, False, False], [True, False, False]])
    torch.manual_seed(0)
    drawn = torch.stack([hide(present) for _ in range(200)])
    assert not (drawn & ~present).any()
    assert torch.equal(drawn.any(dim=2), present.any(dim=1).expand(200, 4))
    assert 0 < drawn[:, 0].float().mean() < 0.5
    assert torch.equal(hide.eval()(present), present)


def test_without_modality_dropout_nothing_is_drawn():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    ModalityDropout(0.0)(torch.ones(3, 2, dtype=torch.bool))
    assert torch.equal(before, torch.get_rng_state())
