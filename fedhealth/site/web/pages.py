"""The routes of the page: everybody who has signed in reads; whoever may decide sends forms with the passphrase."""

from __future__ import annotations

import re
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from fedhealth.errors import ConfigError
from fedhealth.protocol.study_answer import REASON_TEXTS
from fedhealth.site.audit_log import AuditLog
from fedhealth.site.daemon_state import DaemonState
from fedhealth.site.home import SiteHome
from fedhealth.site.study_store import StudyStore
from fedhealth.site.web import contents
from fedhealth.site.web.decisions import StudyDesk, digest_verdict
from fedhealth.site.web.passphrase import PassphraseGate, PassphraseRefusedError
from fedhealth.web.content import Content
from fedhealth.web.guard import FORM
from fedhealth.web.page_frame import PageFrame, PageRefusedError
from fedhealth.web.refusal_log import PageRefusal, RefusalLog
from fedhealth.web.sessions import Role, Session, SessionStore

_DIGEST, _RUN = re.compile(r"[0-9a-f]{64}"), re.compile(r"[A-Za-z0-9._-]{1,64}")
_LISTS: dict[str, Callable[[SiteHome], Content]] = {
    "/": contents.build_state,
    "/budget": contents.build_budget,
    "/studies": contents.build_studies,
    "/data": contents.build_data,
    "/runs": contents.build_runs,
    "/audit": contents.build_audit,
}
_MENU = (
    ("/", "State"),
    ("/budget", "Budget"),
    ("/studies", "Studies"),
    ("/data", "Data"),
    ("/runs", "Runs"),
    ("/audit", "Audit log"),
)


class SitePages:
    """The pages of one hospital.

    Args:
        home: the hospital's folder.
        frame: of its pages.
        refusals: where refusals are logged.

    """

    def __init__(self, home: SiteHome, frame: PageFrame, refusals: RefusalLog) -> None:
        self._home, self._frame, self._refusals = home, frame, refusals
        self._desk = StudyDesk(home)
        self._gate = PassphraseGate(home)

    def build_routes(self) -> list[Route]:
        """Return the routes of the hospital's own pages and decisions."""
        answer = self._frame.answer
        posts = {
            "/pause": self.change_pause,
            "/resume": self.change_pause,
            "/studies/{digest}/{action}": self.decide_study,
        }
        return [
            *(Route(path, answer(self.show_list)) for path in _LISTS),
            Route("/studies/{digest}", answer(self.show_study)),
            Route("/runs/{run}", answer(self.show_run)),
            *(Route(path, answer(handler), methods=["POST"]) for path, handler in posts.items()),
        ]

    def show_list(self, request: Request) -> Response:
        """Return one of the pages of the menu."""
        session = self._frame.require_session(request)
        content = _LISTS[request.url.path](self._home)
        paused = DaemonState(self._home).is_paused if request.url.path == "/" else None
        return self._show(session, content, pause="" if paused is None else "/resume" if paused else "/pause")

    def show_run(self, request: Request) -> Response:
        """Return the record of a run."""
        session, run = self._frame.require_session(request), str(request.path_params["run"])
        if not _RUN.fullmatch(run):
            raise PageRefusedError(PageRefusal.unknown, 404)
        return self._show(session, contents.build_run(self._home, run))

    def show_study(self, request: Request) -> Response:
        """Return a study, with the forms to decide on it for whoever may."""
        session, digest = self._frame.require_session(request), self._find_digest(request)
        study = StudyStore(self._home).load_studies()[digest]
        steps = self._desk.list_steps(study) if session.role is Role.decide else ()
        forms = [(each, session.issue_form(f"/studies/{digest}/{each}")) for each in steps]
        found = self._desk.get_verdict(digest)
        named = digest_verdict(found) if found else ""
        content = contents.build_study(self._home, study)
        return self._show(session, content, forms=forms, verdict=found, verdict_digest=named, digest=digest)

    def decide_study(self, request: Request) -> Response:
        """Examine, approve, decline or withdraw a study."""
        digest, action = self._find_digest(request), str(request.path_params["action"])
        session = self._require_form(request, needs_passphrase=action != "examine")
        study = StudyStore(self._home).load_studies()[digest]
        if session.role is not Role.decide or action not in self._desk.list_steps(study):
            raise PageRefusedError(PageRefusal.form, 409)
        self._desk.take_step(action, study, request.scope[FORM])
        return RedirectResponse(f"/studies/{digest}", 303)

    def change_pause(self, request: Request) -> Response:
        """Stop accepting work, or accept it again."""
        self._require_form(request, needs_passphrase=True)
        state = DaemonState(self._home)
        state.pause("page") if request.url.path == "/pause" else state.resume("page")
        return RedirectResponse("/", 303)

    def _require_form(self, request: Request, needs_passphrase: bool) -> Session:
        """Return the session, which may decide, was shown this form, has not sent it yet, and knows the passphrase."""
        session = self._frame.require_session(request)
        if session.role is not Role.decide:
            raise PageRefusedError(PageRefusal.role, 403)
        self._frame.use_form(request, session)
        if needs_passphrase:
            try:
                self._gate.check_passphrase(request.scope[FORM].get("passphrase", ""))
            except PassphraseRefusedError:
                self._refusals.write_refusal(PageRefusal.passphrase)
                raise
        return session

    def _find_digest(self, request: Request) -> str:
        self._frame.require_session(request)
        digest = str(request.path_params["digest"])
        if not _DIGEST.fullmatch(digest) or digest not in StudyStore(self._home).load_studies():
            raise PageRefusedError(PageRefusal.unknown, 404)
        return digest

    def _show(self, session: Session, content: Content, pause: str = "", **more: object) -> Response:
        pause_form = session.issue_form(pause) if pause and session.role is Role.decide else ""
        values = {"forms": [], "verdict": None, "verdict_digest": "", "digest": "", "reasons": REASON_TEXTS, **more}
        return self._frame.show(session, content, "site_page.html.j2", pause=pause, pause_form=pause_form, **values)


def build_web_app(home: SiteHome, sessions: SessionStore, port: int) -> ASGIApp:
    """Return the guarded application.

    Raises:
        ConfigError: there is no site at `home`.

    """
    if not home.policy.is_file():
        raise ConfigError(f"There is no site in {home.path}.", "Run `fedhealth site init` first.")
    refusals = RefusalLog(AuditLog(home.audit))
    frame = PageFrame("site", _MENU, sessions, refusals, package="fedhealth.site.web")
    return frame.build_app(SitePages(home, frame, refusals).build_routes(), port)
