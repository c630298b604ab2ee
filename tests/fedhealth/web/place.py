"""Whoever has a page: its people's browsers, and what its log says of refused requests."""

from fedhealth.site.audit_log import verify_log
from tests.fedhealth.web.browser import Browser


class WebPlace:
    """One side and its page.

    Attributes:
        side: `site` or `lead`.
        highest: the role that may do most.
        pages: that nobody sees who has not signed in.
        secrets: words of these pages.
        titled: a page with a title that somebody else wrote: `<script>2</script>`.

    """

    side, highest, pages, secrets, titled = "", None, (), (), "/studies"

    @property
    def shown(self):
        """Pages of every kind, to look at."""
        return ("/", *(path for path in self.pages if not path.endswith(("/abc", "/report"))))

    def __init__(self, tokens, audit):
        self.tokens, self.audit, self.port = tokens, audit, 0

    def browse(self, role=None):
        """Return a browser, signed in for a role."""
        browser = Browser(self.port, self.side)
        if role is not None:
            browser.sign_in(self.tokens[role])
        return browser

    def list_refusals(self):
        """Return the reasons of all refusals in the log."""
        return [entry["reason"] for entry in verify_log(self.audit) if entry["event"] == "page refused"]


def make_refusal_check(place):
    """Return `refused(answer, status, reason)`: only this refusal was logged since the last call."""
    before = len(place.list_refusals())

    def check(answer, status, reason):
        nonlocal before
        logged = place.list_refusals()
        assert (answer.status, logged[before:]) == (status, [reason])
        before = len(logged)

    return check
