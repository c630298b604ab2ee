"""Compose command-line overrides into one typed, resolved configuration, with Hydra.

`fedhealth run` uses Hydra's own entry point (`fedhealth.cli.run`). Everything else that needs the same configuration (a
site with a job, a test, a benchmark) calls `compose_config` with the same overrides and gets the same result.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from fedhealth.config.explain_hydra import HYDRA_ERRORS, KnownNames, explain_hydra_fault
from fedhealth.config.quoting import quote_value
from fedhealth.config.schema import Config
from fedhealth.errors import ConfigError
from fedhealth.utils.digest import digest_parts
from fedhealth.utils.yaml_model import SAVE_AS_UTF8, describe_undecodable_line, require_utf8

HYDRA_VERSION_BASE = "1.3"

# Settings of one site or machine; they cannot change what is trained.
LOCAL_KEYS = (
    "data.public.root",
    "name",
    "runtime",
    "baselines",
    "sweep",
    "tracking",
    "data.root",
    "data.manifest",
    "data.source",
    "data.cache",
    "data.site_column",
    "data.columns",
    "data.faulty_cells",
    "training.device",
    "training.threads",
    "training.memory_gb",
    "privacy.dataset",
    "privacy.max_epsilon",
    "privacy.lifetime_epsilon",
    "privacy.max_local_epsilon",
    "privacy.lifetime_local_epsilon",
    "privacy.min_noise_multiplier",
    "privacy.min_cohort",
    "privacy.lifetime_delta",
    "privacy.max_failures",
    "privacy.max_physical_batch_size",
)


def get_conf_dir() -> Path:
    """Return the folder of configuration files, in a checkout, an editable install or a wheel."""
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "conf", package.parent / "conf"):
        if (candidate / "config.yaml").is_file():
            return candidate
    raise ConfigError(f"No configuration files beside {package}.", "Reinstall fedhealth: its conf folder is missing.")


@cache
def register_schema() -> None:
    """Make the typed schema known to Hydra, once."""
    ConfigStore.instance().store(name="schema", node=Config)


def compose_config(overrides: Sequence[str] = (), config_dir: Path | None = None) -> DictConfig:
    """Compose the configuration from `overrides`.

    Args:
        overrides: Hydra overrides, such as `experiment=derm` or `training.batch_size=64`.
        config_dir: an additional folder of configuration files, searched after ours.

    Raises:
        ConfigError: unknown key, option or type; the message suggests the closest valid name.

    """
    return _compose(overrides, config_dir)


def _compose(overrides: Sequence[str], config_dir: Path | None, whole: bool = False) -> DictConfig:
    """Compose, with Hydra's own settings if `whole`."""
    register_schema()
    outer = GlobalHydra.instance().hydra  # a job run by Hydra composes again: restore its state
    GlobalHydra.instance().clear()
    try:
        check_group_options(overrides)
        with initialize_config_dir(str(get_conf_dir()), version_base=HYDRA_VERSION_BASE):
            return hydra_compose(
                "config", overrides=[*overrides, *_list_search_path(config_dir)], return_hydra_config=whole
            )
    except UnicodeDecodeError as fault:
        raise explain_encoding(fault, config_dir) from fault
    except HYDRA_ERRORS as fault:
        raise explain_hydra_error(fault, overrides, config_dir) from fault
    finally:
        if outer is not None:
            GlobalHydra.instance().initialize(outer)


def check_group_options(overrides: Sequence[str]) -> None:
    """Refuse a group whose option is not a name, such as `method=null`; Hydra 1.3 fails with a bare Python error there.

    Raises:
        ConfigError: the message lists the options.
        HydraException: an override cannot be parsed.

    """
    for each in OverridesParser.create().parse_overrides(list(overrides)):
        folder = get_conf_dir() / each.key_or_group
        if not folder.is_dir() or each.is_delete() or each.is_sweep_override() or isinstance(each.value(), str):
            continue
        options = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
        raise ConfigError(
            f"{each.input_line}: the group {each.key_or_group!r} needs an option.", f"Options: {options}."
        )


def compose_with_choices(overrides: Sequence[str], config_dir: Path | None = None) -> tuple[DictConfig, dict[str, str]]:
    """Return the configuration and the chosen option of every group, such as {"model/text": "words"}.

    Raises:
        ConfigError: as `compose_config`.

    """
    config = _compose(overrides, config_dir, whole=True)
    choices = read_choices(config.hydra)
    with open_dict(config):
        del config["hydra"]
    return config, choices


def read_choices(hydra: Any) -> dict[str, str]:
    """Return the chosen option of every group from Hydra's own settings of a configuration."""
    return {group: option for group, option in hydra.runtime.choices.items() if isinstance(option, str)}


def resolve_config(config: DictConfig) -> dict[str, Any]:
    """Return the configuration as plain dicts and lists, every interpolation resolved, enums by name.

    Raises:
        ConfigError: a mandatory value is missing.

    """
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True, enum_to_str=True)
    except OmegaConfBaseException as fault:
        raise explain_hydra_error(fault) from fault
    assert isinstance(plain, dict)  # noqa: S101 - a DictConfig resolves to a dict
    return {str(key): value for key, value in plain.items()}


def select_shared_settings(config: DictConfig) -> dict[str, Any]:
    """Return all settings that decide what is trained, resolved: those of one site or machine are left out.

    Raises:
        ConfigError: a mandatory value is missing.

    """
    shared = resolve_config(config)
    for path in LOCAL_KEYS:
        *parents, leaf = path.split(".")
        node = shared
        for parent in parents:
            node = node[parent]
        node.pop(leaf, None)
    return shared


def compose_shared_settings(overrides: Sequence[str], config_dir: Path | None = None) -> dict[str, Any]:
    """Compose all settings that decide what is trained; the folder of the data need not be known.

    Raises:
        ConfigError: as `compose_config`, or a mandatory value is missing.

    """
    return select_shared_settings(compose_config([*overrides, "data.root=elsewhere"], config_dir))


def compute_config_digest(config: DictConfig) -> str:
    """Return the SHA-256 of all settings that decide what is trained; it is equal at the lead and at every site."""
    shared = select_shared_settings(config)
    return digest_parts(b"fedhealth configuration 2", json.dumps(shared, sort_keys=True).encode()).hex()


def explain_encoding(fault: UnicodeDecodeError, config_dir: Path | None) -> ConfigError:
    """Convert the fault of a configuration file that is not UTF-8 into an error that names file and line.

    Args:
        fault: Hydra's; it does not know the file.
        config_dir: the user's own folder of configuration files; ours are UTF-8.

    """
    for path in sorted(config_dir.rglob("*.yaml")) if config_dir else ():
        try:
            require_utf8(path)
        except ConfigError as found:
            return found
    return ConfigError(f"A configuration file is not in UTF-8: {describe_undecodable_line(fault)}.", SAVE_AS_UTF8)


def explain_hydra_error(fault: Exception, overrides: Sequence[str] = (), config_dir: Path | None = None) -> ConfigError:
    """Convert an exception of Hydra or OmegaConf into an error that names the key and suggests a correction.

    Args:
        fault: one of `HYDRA_ERRORS`.
        overrides: that were composed; suggestions are of the options that they choose.
        config_dir: as for `compose_config`.

    """
    return explain_hydra_fault(fault, lambda: _list_known_names(overrides, config_dir))


def _list_known_names(overrides: Sequence[str], config_dir: Path | None) -> KnownNames:
    """Return the names of the configuration with these options, or of the default one if they do not compose."""
    groups = sorted({path.parent.relative_to(get_conf_dir()).as_posix() for path in get_conf_dir().rglob("*/*.yaml")})
    chosen = [each for each in overrides if each.partition("=")[0].lstrip("+") in groups]
    search = _list_search_path(config_dir)
    for options in (chosen, []):
        with suppress(*HYDRA_ERRORS, UnicodeDecodeError):
            with initialize_config_dir(str(get_conf_dir()), version_base=HYDRA_VERSION_BASE):
                composed = hydra_compose("config", overrides=[*options, *search])
            plain: Any = OmegaConf.to_container(composed, resolve=False)
            return KnownNames(plain, groups)
    return KnownNames({}, groups)


def _list_search_path(config_dir: Path | None) -> list[str]:
    """Return the override that adds a folder of configuration files."""
    return [f"hydra.searchpath=[{quote_value(f'file://{config_dir.resolve()}')}]"] if config_dir else []
