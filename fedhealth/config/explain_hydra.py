"""What Hydra and OmegaConf say about an override, in our words: the key, and what was probably meant."""

from __future__ import annotations

import difflib
import inspect
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from fedhealth.config import schema
from fedhealth.config.capabilities import load_target
from fedhealth.config.quoting import quote_value
from fedhealth.errors import ConfigError
from fedhealth.utils.fault_text import get_first_line

HYDRA_ERRORS = (HydraException, OmegaConfBaseException, YAMLError)  # raised while composing
SEE_KEYS = "`fedhealth run --cfg job` prints every key."

# What other frameworks call a key, and its name here.
_COMMON_NAMES = {
    "learning_rate": "training.optimizer.lr",
    "lr": "training.optimizer.lr",
    "epochs": "training.local_epochs",
    "num_rounds": "strategy.rounds",
    "num_clients": "data.sites",
    "clients": "data.sites",
}


@dataclass(frozen=True)
class KnownNames:
    """What a configuration may name.

    Attributes:
        config: the composed configuration with the options that were chosen, plain and not resolved.
        groups: the configuration groups.

    """

    config: Mapping[str, Any]
    groups: Sequence[str]

    @cached_property
    def keys(self) -> list[str]:
        """Every key and group, sorted."""
        return sorted({*_list_keys(self.config), *self.groups})

    def suggest(self, name: str, form: str = "{}") -> str:
        """Return which key was probably meant: one beside it, one of that name elsewhere, or the nearest.

        Args:
            name: no key.
            form: of the override, for example `~{}`.

        """
        parent, _, leaf = name.rpartition(".")
        if added := self._find_parameter(parent, leaf):
            return added
        common = [key for key in self.keys if key == _COMMON_NAMES.get(leaf.lower())]
        beside = [key for key in self.keys if key.rpartition(".")[0] == parent] if parent else []
        by_leaf = [key for key in self.keys if key.rsplit(".", 1)[-1] == leaf]
        nearest = [*difflib.get_close_matches(name, beside, n=1, cutoff=0.7)] or by_leaf
        best = common or nearest or difflib.get_close_matches(name, self.keys, n=1, cutoff=0.5)
        return f"Did you mean {form.format(best[0])}?" if best else SEE_KEYS

    def _find_parameter(self, place: str, name: str) -> str:
        """Return how to give a parameter that the class or function at a place has and its file does not name."""
        node: Any = self.config
        for key in filter(None, place.split(".")):
            node = node.get(key) if isinstance(node, Mapping) else None
        target = node.get("_target_") if isinstance(node, Mapping) else None
        if not isinstance(target, str):
            return ""
        try:
            parameters = inspect.signature(load_target(target)).parameters
        except (ConfigError, TypeError, ValueError):
            return ""
        absent = [each for each in parameters if each not in node]
        close = difflib.get_close_matches(name, absent, n=1, cutoff=0.7)
        return f"Did you mean +{place}.{close[0]}? {target} has it; its file does not." if close else ""


def _find_omegaconf_fault(fault: Exception) -> Exception:
    # Under a debugger or coverage, OmegaConf's own faults have a cause as well, in which names are not filled in yet.
    if not isinstance(fault, OmegaConfBaseException) and isinstance(fault.__cause__, OmegaConfBaseException):
        return fault.__cause__
    return fault


def explain_hydra_fault(fault: Exception, list_names: Callable[[], KnownNames]) -> ConfigError:
    """Convert an exception of Hydra or OmegaConf into an error that names the key and suggests a correction.

    Args:
        fault: one of `HYDRA_ERRORS`.
        list_names: returns what a configuration may name; called only where it is needed.

    """
    cause = _find_omegaconf_fault(fault)
    if isinstance(fault, MissingConfigException):
        return _explain_unknown_option(str(fault), list_names)
    if isinstance(fault, YAMLError):
        return ConfigError(f"This is not YAML: {' '.join(str(fault).split())}.", "Correct the file at that line.")
    if within := re.search(r"In '(.+)': \w+ raised while composing config:\n(.+)\n\s*full_key: (\S+)", str(fault)):
        return _explain_file_error(list_names, *within.groups())
    if isinstance(fault, OverrideParseException):
        return ConfigError(f"{fault.override!r} is not of the form key=value.", _suggest_quoting(str(fault.override)))
    if isinstance(cause, MissingMandatoryValue):
        key = getattr(cause, "full_key", None) or _find_first_quoted(str(cause)) or str(cause).split(":")[-1].strip()
        return ConfigError(f"The configuration needs a value for {key}.", f"Add {key}=... to the command.")
    if there := re.search(r"Could not append to config\. An item is already at '([^']+)'", str(fault)):
        return ConfigError(f"The configuration key {there[1]!r} exists already.", f"Take the + away: {there[1]}=...")
    if gone := re.search(r"Could not delete[^']*'([^']+)'", str(fault)):
        return ConfigError(f"There is no {gone[1]!r} to remove by ~.", list_names().suggest(gone[1], "~{}"))
    entry = re.fullmatch(r"Error merging override (\+*([^=]+)=.*)", str(fault), re.DOTALL)
    if entry and (kind := re.search(r"\w+ is not a subclass of (\w+)\.", str(cause))):
        return _explain_entry(entry[1], entry[2].strip("+"), str(getattr(cause, "full_key", "")), kind[1])
    if key := _find_unknown_key(fault, cause):
        return ConfigError(f"There is no configuration key {key!r}.", list_names().suggest(key))
    where = getattr(cause, "full_key", None)
    first_line = get_first_line(cause)
    return ConfigError(
        f"{where}: {first_line}" if where else first_line, "See `fedhealth run --help` for keys and options."
    )


def _explain_entry(override: str, key: str, name: str, kind: str) -> ConfigError:
    """Return what is wrong with a new entry of a mapping, such as a column; OmegaConf says only its last name.

    Args:
        override: as it was written.
        key: of the override: of the entry, or below it.
        name: the entry's own.
        kind: the name of the schema's class for such entries.

    """
    before, _, after = f".{key}.".partition(f".{name}.")
    place, inside = f"{before}.{name}".strip("."), after.strip(".")
    given = OverridesParser.create().parse_override(override).value()
    shape = OmegaConf.structured(getattr(schema, kind))
    keys = ", ".join(map(str, shape))
    if not isinstance(given, dict) and not inside:
        return ConfigError(f"{place}: {given!r} is no mapping.", f"Write +{place}={{key: value}} with keys of: {keys}.")
    try:
        OmegaConf.merge(shape, OmegaConf.from_dotlist([f"{inside}={given}"]) if inside else given)
    except OmegaConfBaseException as fault:
        leaf = str(fault.full_key or "")
        path = f"{place}.{leaf}".strip(".")
        if not leaf or leaf.partition(".")[0] in shape:
            return ConfigError(f"{path}: {get_first_line(fault)}", "Correct the value.")
        close = difflib.get_close_matches(leaf, list(map(str, shape)), n=1)
        hint = f"Did you mean {place}.{close[0]}?" if close else f"It takes {keys}."
        return ConfigError(f"There is no configuration key {path!r}.", hint)
    return ConfigError(f"{place} does not exist yet.", f"Add it as a whole: +{place}={{{inside}: {given}}}.")


def _suggest_quoting(override: str) -> str:
    """Return how to write an override whose value has characters that Hydra or the shell reads otherwise."""
    key, equals, value = override.partition("=")
    if not equals:
        return "Write key=value."
    return f"Quote the value, in a shell like this: {shlex.quote(f'{key}={quote_value(value.strip(chr(39)))}')}"


def _explain_file_error(list_names: Callable[[], KnownNames], file: str, reason: str, key: str) -> ConfigError:
    if " not in " in reason:
        return ConfigError(f"{file}.yaml: there is no configuration key {key!r}.", list_names().suggest(key))
    return ConfigError(f"{file}.yaml: {key}: {reason}.", "Correct the value in that file.")


def _explain_unknown_option(message: str, list_names: Callable[[], KnownNames]) -> ConfigError:
    wanted = (_find_first_quoted(message.partition("Could not")[2]) or _find_first_quoted(message) or "?").strip("/")
    group, _, option = wanted.rpartition("/")
    listed = message.partition("Available options in")[2].partition("Config search path")[0]
    options = [line.strip() for line in listed.splitlines()[1:] if line.strip()]
    if not options and not group:
        return ConfigError(
            f"There is no configuration group {wanted!r}.", KnownNames({}, list_names().groups).suggest(wanted)
        )
    close = difflib.get_close_matches(option, options, n=1)
    hint = f"Did you mean {group}={close[0]}? " if close else ""
    return ConfigError(f"There is no option {option!r} in group {group!r}.", f"{hint}Options: {', '.join(options)}.")


def _find_unknown_key(fault: Exception, cause: Exception) -> str | None:
    text = f"{fault}\n{cause}"
    if overridden := re.search(r"Could not (?:override|append to config)[^']*'([^'=]+)", text):
        if "not in" not in text:
            return None
        key, inside = overridden[1].strip("+~"), str(getattr(cause, "full_key", None) or "")
        return inside if inside.startswith(f"{key}.") else key
    if re.search(r"(Key|key) '.*' (is )?not in", text):
        return getattr(cause, "full_key", None) or _find_first_quoted(str(cause))
    return None


def _find_first_quoted(text: str) -> str | None:
    found = re.search(r"'([^']+)'", text)
    return found[1] if found else None


def _list_keys(node: object, prefix: str = "") -> Iterator[str]:
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        if str(key).startswith("_"):  # Hydra's own
            continue
        path = f"{prefix}{key}"
        yield path
        yield from _list_keys(value, f"{path}.")
