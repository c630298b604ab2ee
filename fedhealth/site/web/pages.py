"""The routes of the page: everybody who has signed in reads; whoever may decide sends forms with the passphrase."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from fedhealth.errors import ConfigError, FedhealthError
from fedhealth.protocol.study_answer import REASON_TEXTS
from fedhealth.site.daemon_state import DaemonState
from fedhealth.site.home import SiteHome
from fedhealth.site.study_store import StudyStore
from fedhealth.site.web import contents
from fedhealth.site.web.contents import Content
from fedhealth.site.web.decisions import StudyDesk, digest_verdict
from fedhealth.site.web.guard import FORM, RequestGuard
from fedhealth.site.web.passphrase import PassphraseGate, PassphraseRefusedError
from fedhealth.site.web.refusal_log import PageRefusal, RefusalLog
from fedhealth.site.web.sessions import COOKIE, LONGEST_SECONDS, Role, Session, SessionStore, read_cookie

log = logging.getLogger("fedhealth.site")
_DIGEST, _RUN = re.compile(r"[0-9a-f]{64}"), re.compile(r"[A-Za-z0-9._-]{1,64}")
_LISTS: dict[str, Callable[[SiteHome], Content]] = {
    "/": contents.build_state,
    "/budget": contents.build_budget,
    "/studies": contents.build_studies,
    "/data": contents.build_data,
    "/runs": contents.build_runs,
    "/audit": contents.build_audit,
}


class PageRefusedError(FedhealthError):
    """A request that the page refuses; it is logged."""

    def __init__(self, reason: PageRefusal, status: int) -> None:
        super().__init__(f"Refused: {reason}.", "Open the page again and use its own links and forms.")
        self.reason, self.status = reason, status


class SitePages:
    """The pages of one hospital.

    Args:
        home: the hospital's folder.
        sessions: who has signed in.
        refusals: where refusals are logged.

    """

    def __init__(self, home: SiteHome, sessions: SessionStore, refusals: RefusalLog) -> None:
        self._home, self._sessions, self._refusals = home, sessions, refusals
        self._desk = StudyDesk(home)
        self._gate = PassphraseGate(home)
        self._templates = Environment(
            loader=PackageLoader("fedhealth.site.web", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        self._style = files("fedhealth.site.web").joinpath("style.css").read_text("utf-8")

    def build_routes(self) -> list[Route]:
        """Return the routes; a path that is not among them does not exist."""
        lists = [Route(path, self._answer(self.show_list)) for path in _LISTS]
        posts = {
            "/sign-in": self.sign_in,
            "/sign-out": self.sign_out,
            "/pause": self.change_pause,
            "/resume": self.change_pause,
            "/studies/{digest}/{action}": self.decide_study,
        }
        return [
            *lists,
            Route("/style.css", self._answer(self.show_style)),
            Route("/favicon.ico", lambda request: Response(status_code=204)),
            Route("/sign-in", self._answer(self.show_sign_in)),
            Route("/studies/{digest}", self._answer(self.show_study)),
            Route("/runs/{run}", self._answer(self.show_run)),
            *(Route(path, self._answer(handler), methods=["POST"]) for path, handler in posts.items()),
        ]

    def show_style(self, request: Request) -> Response:
        """Return the style sheet, which shows nothing of the site."""
        return Response(self._style, media_type="text/css")

    def show_missing(self, request: Request, fault: Exception) -> Response:
        """Return the answer to a path, or a method on a path, that does not exist."""
        self._refusals.write_refusal(PageRefusal.unknown)
        return self._render("fault.html.j2", 404, problem="There is no such page.", advice="Use the page's own links.")

    def show_sign_in(self, request: Request) -> Response:
        """Return the form for the token."""
        return self._render("sign_in.html.j2", 200)

    def sign_in(self, request: Request) -> Response:
        """Open a session for a right token."""
        cookie = self._sessions.open_session(request.scope[FORM].get("token", "").strip())
        if cookie is None:
            raise PageRefusedError(PageRefusal.token, 403)
        self._refusals.write_sign_in(self._sessions.find_role(cookie))
        answer = RedirectResponse("/", 303)
        age = int(LONGEST_SECONDS)
        answer.set_cookie(COOKIE, cookie, max_age=age, path="/", httponly=True, samesite="strict")
        return answer

    def sign_out(self, request: Request) -> Response:
        """End the session."""
        session = self._require_session(request)
        self._use_form(request, session)
        self._sessions.close_session(read_cookie(request.headers.get("cookie", "")))
        return RedirectResponse("/sign-in", 303)

    def show_list(self, request: Request) -> Response:
        """Return one of the pages of the menu."""
        session = self._require_session(request)
        content = _LISTS[request.url.path](self._home)
        paused = DaemonState(self._home).is_paused if request.url.path == "/" else None
        return self._show(session, content, pause="" if paused is None else "/resume" if paused else "/pause")

    def show_run(self, request: Request) -> Response:
        """Return the record of a run."""
        session, run = self._require_session(request), str(request.path_params["run"])
        if not _RUN.fullmatch(run):
            raise PageRefusedError(PageRefusal.unknown, 404)
        return self._show(session, contents.build_run(self._home, run))

    def show_study(self, request: Request) -> Response:
        """Return a study, with the forms to decide on it for whoever may."""
        session, digest = self._require_session(request), self._find_digest(request)
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

    def _require_session(self, request: Request) -> Session:
        session = self._sessions.find_session(read_cookie(request.headers.get("cookie", "")))
        if session is None:
            raise PageRefusedError(PageRefusal.session, 403)
        return session

    def _require_form(self, request: Request, needs_passphrase: bool) -> Session:
        """Return the session, which may decide, was shown this form, has not sent it yet, and knows the passphrase."""
        session = self._require_session(request)
        if session.role is not Role.decide:
            raise PageRefusedError(PageRefusal.role, 403)
        self._use_form(request, session)
        if needs_passphrase:
            try:
                self._gate.check_passphrase(request.scope[FORM].get("passphrase", ""))
            except PassphraseRefusedError:
                self._refusals.write_refusal(PageRefusal.passphrase)
                raise
        return session

    def _use_form(self, request: Request, session: Session) -> None:
        if not session.use_form(request.scope[FORM].get("form", ""), request.url.path):
            raise PageRefusedError(PageRefusal.form, 409)

    def _find_digest(self, request: Request) -> str:
        self._require_session(request)
        digest = str(request.path_params["digest"])
        if not _DIGEST.fullmatch(digest) or digest not in StudyStore(self._home).load_studies():
            raise PageRefusedError(PageRefusal.unknown, 404)
        return digest

    def _show(self, session: Session, content: Content, pause: str = "", **more: object) -> Response:
        pause_form = session.issue_form(pause) if pause and session.role is Role.decide else ""
        given = {"forms": [], "verdict": None, "verdict_digest": "", "digest": "", **more}
        return self._render(
            "page.html.j2",
            200,
            content=content,
            menu=_MENU,
            role=session.role,
            pause=pause,
            pause_form=pause_form,
            sign_out_form=session.issue_form("/sign-out"),
            reasons=REASON_TEXTS,
            **given,
        )

    def _render(self, name: str, status: int, **values: object) -> Response:
        return HTMLResponse(self._templates.get_template(name).render(values), status)

    def _answer(self, handler: Callable[[Request], Response]) -> Callable[[Request], Response]:
        """Return the handler with every fault as a page; what was refused is logged."""

        def answer_request(request: Request) -> Response:
            try:
                return handler(request)
            except PageRefusedError as fault:
                if fault.reason is PageRefusal.session and request.method == "GET" and request.url.path == "/":
                    return RedirectResponse("/sign-in", 303)
                self._refusals.write_refusal(fault.reason)
                return self._render("fault.html.j2", fault.status, problem=fault.problem, advice=fault.advice)
            except FedhealthError as fault:
                return self._render("fault.html.j2", 409, problem=fault.problem, advice=fault.advice)
            except Exception:
                log.exception("the page failed")
                problem, advice = "The page failed.", "See the site's log."
                return self._render("fault.html.j2", 500, problem=problem, advice=advice)

        return answer_request


def build_web_app(home: SiteHome, sessions: SessionStore, port: int) -> ASGIApp:
    """Return the guarded application.

    Raises:
        ConfigError: there is no site at `home`.

    """
    if not home.policy.is_file():
        raise ConfigError(f"There is no site in {home.path}.", "Run `fedhealth site init` first.")
    refusals = RefusalLog(home)
    site = SitePages(home, sessions, refusals)
    pages = Starlette(routes=site.build_routes(), exception_handlers={404: site.show_missing, 405: site.show_missing})
    pages.router.redirect_slashes = False
    return RequestGuard(pages, port, refusals)


_MENU = (
    ("/", "State"),
    ("/budget", "Budget"),
    ("/studies", "Studies"),
    ("/data", "Data"),
    ("/runs", "Runs"),
    ("/audit", "Audit log"),
)
