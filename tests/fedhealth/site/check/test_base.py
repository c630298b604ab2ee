"""A fault in one check becomes a FAIL and does not end the others."""

import errno

import pytest

from fedhealth.errors import DataError
from fedhealth.site.check.base import CheckStatus, catch_errors, report_pass


@pytest.mark.parametrize(
    ("fault", "finding"),
    [
        (DataError("The table is empty.", "Fill it."), "The table is empty."),
        (PermissionError(errno.EACCES, "denied", "/srv/ward/manifest.csv"), "/srv/ward/manifest.csv: the user of the"),
        (OSError(errno.EIO, "broken", "/srv/ward/a.dcm"), "/srv/ward/a.dcm: the disk has an input/output error"),
    ],
)
def test_a_fault_is_a_failed_check(fault, finding):
    def check():
        yield report_pass("first", "fine")
        raise fault

    first, second = catch_errors("data", check())
    assert (first.status, second.status, second.name) == (CheckStatus.PASS, CheckStatus.FAIL, "data")
    assert second.finding.startswith(finding)
    assert second.fix


def test_a_bug_is_not_hidden():
    def check():
        yield report_pass("first", "fine")
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        list(catch_errors("data", check()))
