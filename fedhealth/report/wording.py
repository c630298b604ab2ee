"""Format numbers and lists for the report; no other module formats them."""

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
_ROUNDS_TO_THOUSAND = 999.5  # a number from here on is written as 1000 or more without decimals
_MINUS = "\N{MINUS SIGN}"
_SPACE = "\N{NO-BREAK SPACE}"


def format_number(value: float, digits: int = 3, sign: bool = False) -> str:
    """Return `0.925`, with sign `+0.135` or `−0.012`; NaN becomes `not defined`."""
    if math.isnan(value):
        return UNDEFINED
    return f"{value:{'+' if sign else ''}.{digits}f}".replace("-", _MINUS)


def format_interval(estimate: Estimate, sign: bool = False) -> str:
    """Return the confidence interval, `[0.907, 0.941]`; empty if there is none."""
    if math.isnan(estimate.low) or math.isnan(estimate.high):
        return ""
    return f"[{format_number(estimate.low, sign=sign)},{_SPACE}{format_number(estimate.high, sign=sign)}]"


def format_estimate(estimate: Estimate, sign: bool = False) -> str:
    """Return value and confidence interval, `0.925 [0.907, 0.941]`."""
    return f"{format_number(estimate.value, sign=sign)} {format_interval(estimate, sign)}".strip()


def format_integer(value: int) -> str:
    """Return `1,211`."""
    return f"{value:,}"


def format_count(value: int, noun: str) -> str:
    """Return `1 round`, `12 rounds`, `2 studies`."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{format_integer(value)}{_SPACE}{noun if value == 1 else plural}"


def format_noised_count(value: int, half_width: float, noun: str) -> str:
    """Return `about 1,211 ± 18 studies`; the half width is that of the 95 % interval of the noise."""
    number, _, word = format_count(value, noun).partition(_SPACE)
    return f"about {number} ±{_SPACE}{format_integer(math.ceil(half_width))}{_SPACE}{word}"


def format_percent(share: float) -> str:
    """Return `12 %`; `<1 %` for a share between 0 and 1 %."""
    return f"<1{_SPACE}%" if 0 < share < 0.01 else f"{100 * share:.0f}{_SPACE}%"


def format_bytes(count: float, exact: bool = True) -> str:
    """Return bytes in decimal units with three figures, `512 B`, `1.39 MB`, `212 MB`; not exact: `9 MB`, for an axis.

    Unit and decimals are chosen by the rounded number: 999.5 kB is 1.00 MB, 9.995 kB is 10.0 kB, never 10.00 kB.
    """
    power = 0
    while power < len(_UNITS) - 1 and count / 1000**power >= _ROUNDS_TO_THOUSAND:
        power += 1
    scaled = count / 1000**power
    if not exact:
        return f"{scaled:g}{_SPACE}{_UNITS[power]}"
    candidates = (f"{scaled:.{decimals}f}" for decimals in ((2, 1) if power else ()))
    number = next((text for text in candidates if len(text) <= len("9.99")), f"{scaled:.0f}")
    return f"{number}{_SPACE}{_UNITS[power]}"


def format_duration(seconds: float) -> str:
    """Return `0.3 s`, `47 s`, `2 min 45 s`, `3 h 05 min`."""
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


def join_words(words: Sequence[str], last: str = "and") -> str:
    """Return `a, b and c`."""
    return f" {last} ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)
