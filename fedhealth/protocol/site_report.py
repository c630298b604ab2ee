"""What a site tells the lead's server about its installation, as a header of its requests.

It names the release, the shared code, the kit and the last check. None of these depends on a patient: the checks of
data, budget and books are not part of the reported result.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

REPORT_HEADER = "fedhealth-site"
_FORM = re.compile(
    r"release=(?P<release>[0-9A-Za-z.+!_-]{1,40}) code=(?P<code>[0-9a-f]{64}) kit=(?P<kit>[0-9]{1,9})"
    r" checked=(?P<checked>[0-9]{1,11}) result=(?P<result>PASS|WARN|FAIL|none)",
    re.ASCII,
)
NOT_CHECKED = "none"


@dataclass(frozen=True)
class SiteReport:
    """A site's installation.

    Attributes:
        release: of fedhealth.
        code: digest of the shared code, see `fedhealth.protocol.compatibility`.
        kit: serial number of the installed membership; 0 for none.
        checked: time of the last `fedhealth site check`, seconds since 1970; 0 for never.
        result: the worst result of its checks of installation, machine, kit and network: PASS, WARN, FAIL or none.

    """

    release: str
    code: str
    kit: int
    checked: int = 0
    result: str = NOT_CHECKED

    def dumps(self) -> str:
        """Return the header's value."""
        return f"release={self.release} code={self.code} kit={self.kit} checked={self.checked} result={self.result}"

    @staticmethod
    def parse(text: str) -> SiteReport | None:
        """Parse a header's value, which any client may have written; None if it has another form."""
        found = _FORM.fullmatch(text)
        if found is None:
            return None
        return SiteReport(found["release"], found["code"], int(found["kit"]), int(found["checked"]), found["result"])
