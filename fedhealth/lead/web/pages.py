"""The routes of the lead's page: it is for reading, and no form of it changes anything but the session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from fedhealth.errors import ConfigError
from fedhealth.lead.home import LeadHome
from fedhealth.lead.web import contents, run_contents
from fedhealth.site.audit_log import AuditLog
from fedhealth.utils.plain_files import is_plain_file, open_plain_file
from fedhealth.web.content import Content
from fedhealth.web.page_frame import PageFrame, PageRefusedError
from fedhealth.web.refusal_log import PageRefusal, RefusalLog
from fedhealth.web.sessions import SessionStore

_LISTS: dict[str, Callable[[LeadHome], Content]] = {
    "/": contents.build_members,
    "/studies": contents.build_studies,
    "/runs": run_contents.build_runs,
    "/budget": contents.build_budget,
}
_MENU = (("/", "Members"), ("/studies", "Studies"), ("/runs", "Runs"), ("/budget", "Budget"))
_REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; sandbox"
)
"""A report brings its own style; what else a file there might hold does not run."""
_CHUNK = 1 << 16


class LeadPages:
    """The pages of one consortium's lead.

    Args:
        home: the lead's folder.
        frame: of its pages.

    """

    def __init__(self, home: LeadHome, frame: PageFrame) -> None:
        self._home, self._frame = home, frame

    def build_routes(self) -> list[Route]:
        """Return the routes; there is none to change anything."""
        paths = {
            **dict.fromkeys(_LISTS, self.show_list),
            "/studies/{name}": self.show_study,
            "/runs/{run}": self.show_run,
            "/runs/{run}/report": self.show_report,
        }
        return [Route(path, self._frame.answer(handler)) for path, handler in paths.items()]

    def show_list(self, request: Request) -> Response:
        """Return one of the pages of the menu."""
        session = self._frame.require_session(request)
        return self._frame.show(session, _LISTS[request.url.path](self._home))

    def show_study(self, request: Request) -> Response:
        """Return a study and its answers."""
        session = self._frame.require_session(request)
        versions = contents.list_versions(self._home, str(request.path_params["name"]))
        if not versions:
            raise PageRefusedError(PageRefusal.unknown, 404)
        return self._frame.show(session, contents.build_study_page(self._home, versions))

    def show_run(self, request: Request) -> Response:
        """Return the state of a run."""
        session = self._frame.require_session(request)
        return self._frame.show(session, run_contents.build_run(self._find_run(request)))

    def show_report(self, request: Request) -> Response:
        """Return the report of a run as it was written, under a policy of its own."""
        self._frame.require_session(request)
        path = self._find_run(request) / run_contents.REPORT_FILE
        if not is_plain_file(path):
            raise PageRefusedError(PageRefusal.unknown, 404)
        headers = {"content-security-policy": _REPORT_POLICY}
        return StreamingResponse(_read_chunks(path), media_type="text/html", headers=headers)

    def _find_run(self, request: Request) -> Path:
        """Return the directory of the run that a path names: one of the lead's jobs, never a part of a file's path."""
        folder = run_contents.find_run_folder(self._home, str(request.path_params["run"]))
        if folder is None:
            raise PageRefusedError(PageRefusal.unknown, 404)
        return folder


def _read_chunks(path: Path) -> Iterator[bytes]:
    """Yield a file in parts: a report of many hospitals may be as large as the memory."""
    with open_plain_file(path) as file:
        while part := file.read(_CHUNK):
            yield part


def build_lead_app(home: LeadHome, sessions: SessionStore, port: int) -> ASGIApp:
    """Return the guarded application.

    Raises:
        ConfigError: there is no consortium at `home`.

    """
    if not home.project.is_file():
        raise ConfigError(f"There is no consortium in {home.path}.", "Run `fedhealth lead provision` first.")
    refusals = RefusalLog(AuditLog(home.web_log))
    frame = PageFrame("lead", _MENU, sessions, refusals)
    return frame.build_app(LeadPages(home, frame).build_routes(), port)
