import pytest

from fedhealth.config.windows import NAMED_WINDOWS, parse_windows
from fedhealth.errors import ConfigError


def test_windows():
    assert parse_windows(None) == ()
    assert parse_windows([40, 400.0]) == ((40.0, 400.0),)
    assert parse_windows("lung") == (NAMED_WINDOWS["lung"],)
    assert parse_windows(["lung", [40, 400], "bone"]) == (NAMED_WINDOWS["lung"], (40.0, 400.0), NAMED_WINDOWS["bone"])


@pytest.mark.parametrize("window", ["softt", [40], [40, 0], [40, -1], 7, ["lung", 7], {"lung": 1}, [True, True]])
def test_what_is_no_window(window):
    with pytest.raises(ConfigError, match=r"data\.image\.window"):
        parse_windows(window)
