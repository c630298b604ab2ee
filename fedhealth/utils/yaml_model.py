"""Load a YAML file into a frozen dataclass, validated by pydantic: strict types, no unknown key, all faults at once.

Nothing is interpolated. The only conversions are a whole number to a float, a list to a tuple and a text to a path.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from yaml import MarkedYAMLError, YAMLError

from fedhealth.errors import ConfigError
from fedhealth.utils.json_model import explain_fault, validate_json
from fedhealth.utils.plain_files import read_plain_file

Kind = TypeVar("Kind")

SAVE_AS_UTF8 = "Save it as UTF-8: in Notepad with Save as, Encoding; or iconv -f cp1252 -t utf-8 OLD > NEW."
_NOT_DECIMAL = re.compile(r"[+-]?0\d+|.*:.*")  # octal numbers, and those to the base of 60
_READ_AS = {"int": "another number", "bool": "true or false"}


def load_yaml(path: Path, kind: type[Kind], check: Callable[[Kind], list[str]], advice: str) -> Kind:
    """Read the file and return it as `kind`.

    Args:
        path: of a YAML file.
        kind: a dataclass of dataclasses, tuples, mappings, `fedhealth.types.UserPath`, texts and numbers.
        check: returns what is wrong with values that have the right type.
        advice: what to do about a fault.

    Raises:
        ConfigError: it cannot be read, or holds a fault; all faults are listed.

    """
    try:
        require_utf8(path)
        text = read_plain_file(path).decode()
        if ambiguous := find_ambiguous_words(text):
            raise ConfigError("\n".join(f"{path}: {fault}" for fault in ambiguous), "Put these words into quotes.")
        content = json.dumps([OmegaConf.to_container(OmegaConf.load(path), resolve=False)])
    except MarkedYAMLError as fault:
        raise ConfigError(f"{path}{_describe_yaml_fault(fault)}", advice) from fault
    except (YAMLError, OmegaConfBaseException, OSError, ValueError, TypeError, RecursionError) as fault:
        raise ConfigError(f"{path}: cannot be read ({' '.join(str(fault).split())}).", advice) from fault
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    return _validate(content, kind, check, str(path), advice, root)


def parse_settings(content: Any, kind: type[Kind], where: str, advice: str) -> Kind:
    """Return a part of a settings file as `kind`, a dataclass; as strict as `load_yaml`.

    Args:
        content: plain mappings, lists, texts and numbers.
        kind: as for `load_yaml`.
        where: name of the part in messages.
        advice: what to do about a fault.

    Raises:
        ConfigError: it holds a fault; all faults are listed.

    """
    return _validate(json.dumps([content], default=str), kind, lambda found: [], where, advice)


def _validate(
    content: str,
    kind: type[Kind],
    check: Callable[[Kind], list[str]],
    where: str,
    advice: str,
    root: yaml.Node | None = None,
) -> Kind:
    """Return the content as `kind`; `root` is the text's YAML node, for the lines of faults."""
    try:
        found = validate_json(content, kind)
        faults = [f"{where}: {fault}" for fault in check(found)]
    except ValidationError as fault:
        faults = [
            f"{where}{_describe_line(root, error['loc'][1:])}: {_explain_error(error)}." for error in fault.errors()
        ]
    if faults:
        raise ConfigError("\n".join(faults), advice)
    return found


def _describe_line(root: yaml.Node | None, location: tuple[Any, ...]) -> str:
    """Return `, line N` of a key in a YAML text, or of the section that lacks it; empty for the whole file."""
    line, node = None, root
    for part in location:
        if isinstance(node, yaml.MappingNode):
            pairs = {str(key.value): (key.start_mark.line, value) for key, value in node.value}
        elif isinstance(node, yaml.SequenceNode):
            pairs = {str(index): (value.start_mark.line, value) for index, value in enumerate(node.value)}
        else:
            break
        if str(part) not in pairs:
            break
        line, node = pairs[str(part)]
    return "" if line is None else f", line {line + 1}"


def _describe_yaml_fault(fault: MarkedYAMLError) -> str:
    """Return where and why a text is not YAML."""
    mark, problem = fault.problem_mark, fault.problem or "not YAML"
    if "expected" in problem:  # where it began; what is missing there is noticed later
        mark = fault.context_mark or mark
    if "'\\t'" in problem:
        problem = "a tab; indent with blanks"
    return f", line {mark.line + 1}: {problem}." if mark else f": {problem}."


def describe_undecodable_line(fault: UnicodeDecodeError) -> str:
    """Return number and content of the line that is not UTF-8, as a Western Windows program shows it."""
    before, rest = fault.object[: fault.start], fault.object[fault.start :]
    number, line = before.count(b"\n") + 1, before.rpartition(b"\n")[2] + rest.partition(b"\n")[0]
    return f"line {number}, {line.decode('cp1252', 'replace').strip()[:80]!r}"


def require_utf8(path: Path) -> None:
    """Raise if a YAML file is not in UTF-8.

    Raises:
        ConfigError: it names the line.

    """
    try:
        read_plain_file(path).decode()
    except UnicodeDecodeError as fault:
        raise ConfigError(f"{path} is not in UTF-8: {describe_undecodable_line(fault)}.", SAVE_AS_UTF8) from fault


def find_ambiguous_words(text: str) -> list[str]:
    """Return the places where YAML would read something else than what is written: keys such as `no`, and `01`, `1:30`.

    Raises:
        YAMLError: the text is not YAML.

    """
    return [*_find_in_node(yaml.compose(text, Loader=yaml.SafeLoader))]


def _find_in_node(node: yaml.Node | None, is_key: bool = False) -> Iterator[str]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _find_in_node(key, is_key=True)
            yield from _find_in_node(value)
    elif isinstance(node, yaml.SequenceNode):
        for each in node.value:
            yield from _find_in_node(each)
    elif isinstance(node, yaml.ScalarNode) and node.style is None:
        kind = node.tag.rpartition(":")[2]
        changed = kind == "int" and _NOT_DECIMAL.fullmatch(node.value) is not None
        if changed or (is_key and kind == "bool"):
            yield f"line {node.start_mark.line + 1}: YAML reads {node.value} as {_READ_AS.get(kind, kind)}."


def _explain_error(error: ErrorDetails) -> str:
    told = explain_fault(error)
    if error["type"] == "string_type" and isinstance(error["input"], bool):
        key = told.partition(":")[0]
        return f"{key}: YAML reads yes, no, on, off, true and false as {error['input']}: put the word into quotes"
    return told.replace("expected an object", "expected a mapping (`key: value` lines)")
