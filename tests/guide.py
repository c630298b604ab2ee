"""Read a guide as a test executes it: commands, and the marks between them where somebody else acts."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
_PART = re.compile(
    r"<!-- test: (?P<mark>.+?) -->(?:\n```yaml\n(?P<yaml>.*?)```)?"
    r"|```console\n(?P<block>.*?)```|```python\n(?P<code>.*?)```",
    re.S,
)


@dataclass(frozen=True)
class Step:
    """One step of a guide: a command's words, lines of Python, or a mark with the YAML below it."""

    words: tuple[str, ...] = ()
    code: str = ""
    mark: str = ""
    yaml: str = ""


def steps(name: str) -> list[Step]:
    """Return what docs/NAME tells to do, in order."""
    found = []
    for part in _PART.finditer((DOCS / name).read_text("utf-8")):
        if part["mark"]:
            found.append(Step(mark=part["mark"], yaml=part["yaml"] or ""))
        elif part["code"]:
            found.append(Step(code=part["code"]))
        else:
            commands = [line.removeprefix("$ ") for line in part["block"].splitlines() if line.startswith("$ ")]
            found += [Step(words=tuple(shlex.split(command))) for command in commands]
    return found
