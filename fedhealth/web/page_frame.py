"""What the pages of both sides share: signing in and out, forms that work once, rendering, and faults as pages."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from importlib.resources import files

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from fedhealth.errors import FedhealthError
from fedhealth.web.content import Content
from fedhealth.web.guard import FORM, RequestGuard
from fedhealth.web.refusal_log import PageRefusal, RefusalLog
from fedhealth.web.sessions import LONGEST_SECONDS, Session, SessionStore, read_cookie

log = logging.getLogger("fedhealth.web")
Handler = Callable[[Request], Response]
Menu = Sequence[tuple[str, str]]


class PageRefusedError(FedhealthError):
    """A request that the page refuses; it is logged."""

    def __init__(self, reason: PageRefusal, status: int) -> None:
        super().__init__(f"Refused: {reason}.", "Open the page again and use its own links and forms.")
        self.reason, self.status = reason, status


class PageFrame:
    """The frame of one side's pages.

    Args:
        side: `site` or `lead`.
        menu: path and name of the pages that every page links to.
        sessions: who has signed in.
        refusals: where refusals are logged.
        package: with further templates.

    """

    def __init__(
        self, side: str, menu: Menu, sessions: SessionStore, refusals: RefusalLog, package: str = "fedhealth.web"
    ) -> None:
        self._side, self._menu, self._sessions, self._refusals = side, menu, sessions, refusals
        loaders = [PackageLoader(name, "") for name in dict.fromkeys((package, "fedhealth.web"))]
        self._templates = Environment(
            loader=ChoiceLoader(loaders), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        self._style = files("fedhealth.web").joinpath("style.css").read_text("utf-8")

    def build_app(self, routes: Sequence[Route], port: int) -> ASGIApp:
        """Return the guarded application of these routes and the frame's own; no other path exists."""
        own = [
            Route("/style.css", self.answer(self.show_style)),
            Route("/favicon.ico", lambda request: Response(status_code=204)),
            Route("/sign-in", self.answer(self.show_sign_in)),
            Route("/sign-in", self.answer(self.sign_in), methods=["POST"]),
            Route("/sign-out", self.answer(self.sign_out), methods=["POST"]),
        ]
        missing = dict.fromkeys((404, 405), self.show_missing)
        pages = Starlette(routes=[*own, *routes], exception_handlers=missing)
        pages.router.redirect_slashes = False
        return RequestGuard(pages, port, self._refusals)

    def show_style(self, request: Request) -> Response:
        """Return the style sheet, which shows nothing of the side."""
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
        answer.set_cookie(self._sessions.cookie, cookie, max_age=age, path="/", httponly=True, samesite="strict")
        return answer

    def sign_out(self, request: Request) -> Response:
        """End the session."""
        self.use_form(request, self.require_session(request))
        self._sessions.close_session(self._read_cookie(request))
        return RedirectResponse("/sign-in", 303)

    def require_session(self, request: Request) -> Session:
        """Return the session of a request.

        Raises:
            PageRefusedError: nobody has signed in.

        """
        session = self._sessions.find_session(self._read_cookie(request))
        if session is None:
            raise PageRefusedError(PageRefusal.session, 403)
        return session

    def use_form(self, request: Request, session: Session) -> None:
        """Take the token of a form.

        Raises:
            PageRefusedError: this session was not shown the form, or has sent it before.

        """
        if not session.use_form(request.scope[FORM].get("form", ""), request.url.path):
            raise PageRefusedError(PageRefusal.form, 409)

    def show(
        self, session: Session, content: Content, template: str = "page.html.j2", **values: object
    ) -> HTMLResponse:
        """Return a page of somebody who has signed in."""
        shared = {"content": content, "role": session.role, "sign_out_form": session.issue_form("/sign-out")}
        return self._render(template, 200, menu=self._menu, **shared, **values)

    def answer(self, handler: Handler) -> Handler:
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
            except OSError as fault:
                log.warning("a page cannot be shown: %s", fault)
                problem, advice = f"{fault.filename or 'A file'}: {fault.strerror}.", "Look at it on this machine."
                return self._render("fault.html.j2", 409, problem=problem, advice=advice)
            except Exception:
                log.exception("the page failed")
                problem, advice = "The page failed.", "See the log of its process."
                return self._render("fault.html.j2", 500, problem=problem, advice=advice)

        return answer_request

    def _read_cookie(self, request: Request) -> str:
        return read_cookie(request.headers.get("cookie", ""), self._sessions.cookie)

    def _render(self, name: str, status: int, **values: object) -> HTMLResponse:
        return HTMLResponse(self._templates.get_template(name).render(side=self._side, **values), status)
