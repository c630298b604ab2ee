"""What a site tells the lead's server about its installation, as a header of its requests.

It names the release, the shared code, the kit, the last check, and what its people answered to studies. None of these
depends on a patient: the checks of data, budget and books are not part of the reported result.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from fedhealth.protocol.study_answer import MAX_REPORTED_STUDIES, REPORT_FORM, ReportedAnswer

REPORT_HEADER = "fedhealth-site"
_FORM = re.compile(
    r"release=(?P<release>[0-9A-Za-z.+!_-]{1,40}) code=(?P<code>[0-9a-f]{64}) kit=(?P<kit>[0-9]{1,9})"
    r" checked=(?P<checked>[0-9]{1,11}) result=(?P<result>PASS|WARN|FAIL|none)"
    rf"( studies=(?P<studies>{REPORT_FORM}(,{REPORT_FORM}){{0,{MAX_REPORTED_STUDIES - 1}}}))?",
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
        studies: what its people answered to studies, at most `MAX_REPORTED_STUDIES`.

    """

    release: str
    code: str
    kit: int
    checked: int = 0
    result: str = NOT_CHECKED
    studies: tuple[ReportedAnswer, ...] = ()

    def dumps(self) -> str:
        """Return the header's value."""
        text = f"release={self.release} code={self.code} kit={self.kit} checked={self.checked} result={self.result}"
        studies = ",".join(each.dumps() for each in self.studies)
        return f"{text} studies={studies}" if studies else text

    @staticmethod
    def parse(text: str) -> SiteReport | None:
        """Parse a header's value, which any client may have written; None if it has another form."""
        found = _FORM.fullmatch(text)
        if found is None:
            return None
        studies = tuple(map(ReportedAnswer.parse, filter(None, (found["studies"] or "").split(","))))
        numbers = int(found["kit"]), int(found["checked"])
        return SiteReport(found["release"], found["code"], *numbers, found["result"], studies)
