"""How numbers and lists are written on the page: the only place that formats them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedhealth.evaluation.metrics import Estimate

UNDEFINED = "not defined"
METRIC_NAMES = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "balanced_accuracy": "Balanced accuracy",
    "calibration_error": "Calibration error",
}
_UNITS = ("B", "kB", "MB", "GB", "TB")
_MINUS = "\N{MINUS SIGN}"
_SPACE = "\N{NO-BREAK SPACE}"


def number(value: float, digits: int = 3, sign: bool = False) -> str:
    """Write `0.925`, with sign `+0.135` or `−0.012`; NaN is not defined."""
    if math.isnan(value):
        return UNDEFINED
    return f"{value:{'+' if sign else ''}.{digits}f}".replace("-", _MINUS)


def bracket(estimate: Estimate, sign: bool = False) -> str:
    """Write the interval alone, `[0.907, 0.941]`; empty where there is none."""
    if math.isnan(estimate.low) or math.isnan(estimate.high):
        return ""
    return f"[{number(estimate.low, sign=sign)},{_SPACE}{number(estimate.high, sign=sign)}]"


def interval(estimate: Estimate, sign: bool = False) -> str:
    """Write `0.925 [0.907, 0.941]`."""
    return f"{number(estimate.value, sign=sign)} {bracket(estimate, sign)}".strip()


def integer(value: int) -> str:
    """Write `1,211`."""
    return f"{value:,}"


def counted(value: int, noun: str) -> str:
    """Write `1 round`, `12 rounds`, `2 studies`."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{integer(value)}{_SPACE}{noun if value == 1 else plural}"


def percent(share: float) -> str:
    """Write `12 %`; what is above 0 and below 1 % is said so."""
    return f"<1{_SPACE}%" if 0 < share < 0.01 else f"{100 * share:.0f}{_SPACE}%"


def size(count: float, exact: bool = True) -> str:
    """Write bytes in decimal units with three figures, `512 B`, `1.39 MB`, `212 MB`; not exact: `9 MB`, for an axis."""
    power = min(int(math.log10(count) / 3), len(_UNITS) - 1) if count >= 1 else 0
    if power and f"{count / 1000**power:.3g}" in ("1e+03", "1000") and power < len(_UNITS) - 1:
        power += 1
    scaled = count / 1000**power
    digits = 0 if power == 0 or scaled >= 100 else 1 if scaled >= 10 else 2
    return f"{f'{scaled:.{digits}f}' if exact else f'{scaled:g}'}{_SPACE}{_UNITS[power]}"


def duration(seconds: float) -> str:
    """Write `0.3 s`, `47 s`, `2 min 45 s`, `3 h 05 min`."""
    if math.isnan(seconds):
        return "unknown"
    if seconds < 9.95:
        return f"{seconds:.1f}{_SPACE}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{_SPACE}s"
    if whole < 3600:
        return f"{whole // 60}{_SPACE}min {whole % 60:02d}{_SPACE}s"
    return f"{whole // 3600}{_SPACE}h {whole % 3600 // 60:02d}{_SPACE}min"


def listed(words: Sequence[str], last: str = "and") -> str:
    """Write `a, b and c`."""
    return f" {last} ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)
