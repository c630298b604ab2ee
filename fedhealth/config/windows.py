"""The display windows of images with physical values, such as CT: the consortium's, not those of the headers.

The same tissue then has the same grey value at every hospital. Named windows are common clinical presets in Hounsfield
units (for example Radiopaedia, "Windowing (CT)").
"""

from __future__ import annotations

from typing import Any, NamedTuple

from fedhealth.errors import ConfigError


class ValueWindow(NamedTuple):
    """The range of physical values that is shown: centre and width."""

    center: float
    width: float


NAMED_WINDOWS = {
    "abdomen": ValueWindow(60, 400),
    "bone": ValueWindow(400, 1800),
    "brain": ValueWindow(40, 80),
    "liver": ValueWindow(30, 150),
    "lung": ValueWindow(-600, 1500),
    "mediastinum": ValueWindow(50, 350),
    "soft_tissue": ValueWindow(40, 400),
}


def parse_windows(window: Any) -> tuple[ValueWindow, ...]:
    """Return the windows of `data.image.window`, one for each channel; none if the headers' are used.

    Args:
        window: null, a name, [center, width], or a list of names and pairs.

    Raises:
        ConfigError: it is none of these.

    """
    if window is None:
        return ()
    many = window if isinstance(window, list) and not _is_pair(window) else [window]
    return tuple(_parse_window(each) for each in many)


def _parse_window(window: Any) -> ValueWindow:
    if isinstance(window, str) and window in NAMED_WINDOWS:
        return NAMED_WINDOWS[window]
    if _is_pair(window) and window[1] > 0:
        return ValueWindow(float(window[0]), float(window[1]))
    raise ConfigError(
        f"data.image.window: {window!r} is no window.",
        f"Give [center, width] with a positive width, or one of {', '.join(NAMED_WINDOWS)}.",
    )


def _is_pair(window: Any) -> bool:
    return isinstance(window, list) and len(window) == 2 and all(type(each) in (int, float) for each in window)
