import pytest

from fedhealth.config.compose import compose_with_choices
from fedhealth.config.method_consistency import check_method_components
from fedhealth.errors import ConfigError


def check_components(overrides, config_dir=None):
    check_method_components(compose_with_choices(overrides, config_dir)[1], config_dir)


def test_a_method_keeps_its_halves():
    check_components(["method=scaffold"])
    check_components(["method=scaffold", "training=default"])  # any optimizer will do
    check_components(["method=fedprox_adaptive"])
    check_components(["method=fedavg", "personalization=ditto"])


@pytest.mark.parametrize(
    ("method", "half"),
    [
        ("scaffold", "personalization=ditto"),
        ("scaffold", "personalization=none"),
        ("fedprox_adaptive", "personalization=mr_mtl"),
    ],
)
def test_another_half_beside_it_is_refused_by_name(method, half):
    with pytest.raises(ConfigError, match=f"method={method} needs personalization=.* {half} replaces it"):
        check_components([f"method={method}", half])


def test_a_method_in_a_folder_of_its_own(tmp_path):
    (tmp_path / "method").mkdir()
    text = "# @package _global_\ndefaults:\n  - override /personalization: fedbn\nstrategy: {rounds: 2}\n"
    (tmp_path / "method" / "own.yaml").write_text(text)
    check_components(["method=own"], tmp_path)
    with pytest.raises(ConfigError, match="personalization=ditto replaces it"):
        check_components(["method=own", "personalization=ditto"], tmp_path)
