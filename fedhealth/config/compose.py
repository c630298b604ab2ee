"""Compose command-line overrides into one typed, resolved configuration, with Hydra.

`fedhealth run` uses Hydra's own entry point (`fedhealth.cli.run`). Everything else that needs the same configuration (a
site with a job, a test, a benchmark) calls `compose_config` with the same overrides and gets the same result.
"""

from __future__ import annotations

import difflib
import json
import re
import shlex
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from fedhealth.config.schema import Config
from fedhealth.errors import ConfigError
from fedhealth.utils.digest import digest_parts
from fedhealth.utils.fault_text import get_first_line
from fedhealth.utils.yaml_model import SAVE_AS_UTF8, describe_undecodable_line, require_utf8

HYDRA_VERSION_BASE = "1.3"
HYDRA_ERRORS = (HydraException, OmegaConfBaseException, YAMLError)  # raised while composing

# What other frameworks call a key, and its name here.
_COMMON_NAMES = {
    "learning_rate": "training.optimizer.lr",
    "lr": "training.optimizer.lr",
    "epochs": "training.local_epochs",
    "num_rounds": "strategy.rounds",
    "num_clients": "data.sites",
    "clients": "data.sites",
}

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
    extra = [f"hydra.searchpath=[{quote_value(f'file://{config_dir.resolve()}')}]"] if config_dir else []
    outer = GlobalHydra.instance().hydra  # a job run by Hydra composes again: restore its state
    GlobalHydra.instance().clear()
    try:
        check_group_options(overrides)
        with initialize_config_dir(str(get_conf_dir()), version_base=HYDRA_VERSION_BASE):
            return hydra_compose("config", overrides=[*overrides, *extra], return_hydra_config=whole)
    except UnicodeDecodeError as fault:
        raise explain_encoding(fault, config_dir) from fault
    except HYDRA_ERRORS as fault:
        raise explain_hydra_error(fault) from fault
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
    choices = {group: option for group, option in config.hydra.runtime.choices.items() if isinstance(option, str)}
    with open_dict(config):
        del config["hydra"]
    return config, choices


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


def _find_omegaconf_fault(fault: Exception) -> Exception:
    # Under a debugger or coverage, OmegaConf's own faults have a cause as well, in which names are not filled in yet.
    if not isinstance(fault, OmegaConfBaseException) and isinstance(fault.__cause__, OmegaConfBaseException):
        return fault.__cause__
    return fault


def explain_hydra_error(fault: Exception) -> ConfigError:
    """Convert an exception of Hydra or OmegaConf into an error that names the key and suggests a correction."""
    cause = _find_omegaconf_fault(fault)
    if isinstance(fault, MissingConfigException):
        return _explain_unknown_option(str(fault))
    if isinstance(fault, YAMLError):
        return ConfigError(f"This is not YAML: {' '.join(str(fault).split())}.", "Correct the file at that line.")
    if within := re.search(r"In '(.+)': \w+ raised while composing config:\n(.+)\n\s*full_key: (\S+)", str(fault)):
        return _explain_file_error(*within.groups())
    if isinstance(fault, OverrideParseException):
        return ConfigError(f"{fault.override!r} is not of the form key=value.", _suggest_quoting(str(fault.override)))
    if isinstance(cause, MissingMandatoryValue):
        key = getattr(cause, "full_key", None) or _find_first_quoted(str(cause)) or str(cause).split(":")[-1].strip()
        return ConfigError(f"The configuration needs a value for {key}.", f"Add {key}=... to the command.")
    if key := _find_unknown_key(fault, cause):
        return ConfigError(f"There is no configuration key {key!r}.", _suggest_name(key, _list_known_keys()))
    where = getattr(cause, "full_key", None)
    first_line = get_first_line(cause)
    return ConfigError(
        f"{where}: {first_line}" if where else first_line, "See `fedhealth run --help` for keys and options."
    )


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


def _suggest_quoting(override: str) -> str:
    """Return how to write an override whose value has characters that Hydra or the shell reads otherwise."""
    key, equals, value = override.partition("=")
    if not equals:
        return "Write key=value."
    return f"Quote the value, in a shell like this: {shlex.quote(f'{key}={quote_value(value.strip(chr(39)))}')}"


def _explain_file_error(file: str, reason: str, key: str) -> ConfigError:
    if " not in " in reason:
        return ConfigError(
            f"{file}.yaml: there is no configuration key {key!r}.", _suggest_name(key, _list_known_keys())
        )
    return ConfigError(f"{file}.yaml: {key}: {reason}.", "Correct the value in that file.")


def _explain_unknown_option(message: str) -> ConfigError:
    wanted = (_find_first_quoted(message.partition("Could not")[2]) or _find_first_quoted(message) or "?").strip("/")
    group, _, option = wanted.rpartition("/")
    listed = message.partition("Available options in")[2].partition("Config search path")[0]
    options = [line.strip() for line in listed.splitlines()[1:] if line.strip()]
    if not options and not group:
        return ConfigError(f"There is no configuration group {wanted!r}.", _suggest_name(wanted, _list_groups()))
    close = difflib.get_close_matches(option, options, n=1)
    hint = f"Did you mean {group}={close[0]}? " if close else ""
    return ConfigError(f"There is no option {option!r} in group {group!r}.", f"{hint}Options: {', '.join(options)}.")


def _find_unknown_key(fault: Exception, cause: Exception) -> str | None:
    text = f"{fault}\n{cause}"
    if overridden := re.search(r"Could not (?:override|append to config|delete from config)[^']*'([^'=]+)", text):
        if "not in" in text:
            return overridden[1].strip("+~")
        return None
    if re.search(r"(Key|key) '.*' (is )?not in", text):
        return getattr(cause, "full_key", None) or _find_first_quoted(str(cause))
    return None


def _find_first_quoted(text: str) -> str | None:
    found = re.search(r"'([^']+)'", text)
    return found[1] if found else None


def _suggest_name(override: str, known: Sequence[str]) -> str:
    leaf = override.rsplit(".", 1)[-1]
    common = [key for key in known if key == _COMMON_NAMES.get(leaf.lower())]
    by_leaf = [key for key in known if key.rsplit(".", 1)[-1] == leaf]
    best = (common or by_leaf or difflib.get_close_matches(override, known, n=1, cutoff=0.5))[:1]
    return f"Did you mean {best[0]}?" if best else "`fedhealth run --cfg job` prints every key."


def _list_known_keys() -> list[str]:
    with initialize_config_dir(str(get_conf_dir()), version_base=HYDRA_VERSION_BASE):
        keys = _list_keys(OmegaConf.to_container(hydra_compose("config"), resolve=False))
    return sorted({*keys, *_list_groups()})


def _list_groups() -> list[str]:
    return sorted(folder.name for folder in get_conf_dir().iterdir() if folder.is_dir())


def _list_keys(node: object, prefix: str = "") -> Iterator[str]:
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        path = f"{prefix}{key}"
        yield path
        yield from _list_keys(value, f"{path}.")


def quote_value(value: object) -> str:
    """Return `value` quoted as a Hydra override value; any characters are allowed."""
    literal = re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", str(value))  # no interpolation
    # In Hydra's quotes a backslash is special only before a quote.
    escaped = re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + found[2].replace("'", r"\'"), literal)
    return f"'{escaped}'"
