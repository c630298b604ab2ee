"""Attacks on the door of either side's page: each is refused, and the log says so in fixed words."""

import json
import signal
import socket
import stat
import time
from contextlib import closing, suppress
from typing import Any

import pytest

from fedhealth.errors import ConfigError
from fedhealth.site.audit_log import AuditLog, verify_log
from fedhealth.utils.file_lock import is_locked
from fedhealth.web import guard, refusal_log, serve
from fedhealth.web.refusal_log import PageRefusal, RefusalLog
from fedhealth.web.sessions import IDLE_SECONDS, LONGEST_SECONDS, Role, SessionStore, make_tokens, read_cookie


def test_another_local_user_without_the_token_sees_nothing(place, refused):
    for path in place.pages:
        answer = place.browse().get(path)
        refused(answer, 403, PageRefusal.session)
        assert not any(secret in answer.body for secret in place.secrets)


def test_another_local_user_cannot_read_the_tokens(place, monkeypatch, capsys):
    shown: dict[str, Any] = {}

    class Server:
        def __init__(self, config):
            pass

        def run(self, sockets):
            path = place.token_file
            shown["mode"], shown["tokens"] = stat.S_IMODE(path.stat().st_mode), json.loads(path.read_text())
            shown["log is free"] = not is_locked(place.audit.with_suffix(".lock"))  # else no one could sign in

    monkeypatch.setattr(serve.uvicorn, "Server", Server)
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place.serve_by_command(port)
    printed = capsys.readouterr().out
    assert shown["mode"] == 0o600
    assert shown["log is free"]
    assert set(shown["tokens"]) == set(place.tokens)
    assert not any(token in printed for token in shown["tokens"].values())  # a service's output is in a journal
    assert not place.token_file.exists()


@pytest.mark.skipif(not serve._has_ipv6(), reason="this machine has no ::1")
def test_another_local_user_cannot_answer_at_localhost():
    """Browsers try ::1 first for that name."""
    with serve.listen_on_loopback(0) as listeners:
        port = listeners[0].getsockname()[1]
        assert [each.getsockname()[:2] for each in listeners] == [("127.0.0.1", port), ("::1", port)]
        for address in ("::1", "::"):
            for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
                with closing(socket.socket(socket.AF_INET6)) as other:
                    other.setsockopt(socket.SOL_SOCKET, option, 1)
                    other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    with pytest.raises(OSError, match="in use"):
                        other.bind((address, port))
    with closing(socket.socket(socket.AF_INET6)) as taken:
        taken.bind(("::1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} of ::1"), serve.listen_on_loopback(port):
            pass


def test_no_token_is_left_behind_by_a_page_that_systemd_stops(place, monkeypatch):
    class Server:
        def __init__(self, config):
            pass

        def run(self, sockets):
            assert place.token_file.exists()
            signal.raise_signal(signal.SIGTERM)  # as uvicorn does after it has shut down

    monkeypatch.setattr(serve.uvicorn, "Server", Server)
    with pytest.raises(SystemExit) as stopped:
        place.serve_by_command(0)
    assert not stopped.value.code
    assert not place.token_file.exists()


@pytest.mark.parametrize("token", ["", "x" * 43, "decide", "é"])
def test_a_guessed_token(place, refused, token):
    browser = place.browse()
    refused(browser.sign_in(token), 403, PageRefusal.token)
    assert not browser.cookie


def test_a_token_of_an_earlier_process(place, refused):
    refused(place.browse().sign_in(make_tokens(is_read_only=False)[Role.read]), 403, PageRefusal.token)


@pytest.mark.parametrize(
    "host", ["evil.example:{}", "127.0.0.1", "localhost.evil.example:{}", "127.0.0.1:80", "[::1]:{}"]
)
def test_dns_rebinding(place, refused, host):
    answer = place.browse(place.highest).get("/", Host=host.format(place.port))
    refused(answer, 421, PageRefusal.host)


@pytest.mark.parametrize("origin", ["https://evil.example", "http://127.0.0.1:9999", "null", None])
def test_a_form_that_another_page_sends(place, refused, origin):
    """The cookie travels: to a browser, all ports of this machine are one site."""
    browser = place.browse(place.highest)
    body = f"form={browser.get('/').forms['/sign-out']}"
    refused(browser.send("POST", "/sign-out", body, Origin=origin), 403, PageRefusal.origin)
    assert browser.get("/").status == 200  # still signed in


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_page_that_embeds_this_one(place, refused, site):
    refused(place.browse(place.highest).get("/", Sec_Fetch_Site=site), 403, PageRefusal.origin)


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/runs/..",
        "/runs/%2e%2e",
        "/runs/..%2f..%2fsite.yaml",
        "/style.css/../site.yaml",
        "/runs/a\\b",
        "/a/b/c/d",
        "/runs/a%00",
    ],
)
def test_path_traversal(place, refused, path):
    answer = place.browse(place.highest).get(path)
    refused(answer, 400, PageRefusal.path)
    assert "root:" not in answer.body


def test_a_token_in_an_address_is_refused_and_in_no_log(place, refused):
    token = place.tokens[place.highest]
    refused(place.browse().get(f"/?token={token}"), 400, PageRefusal.query)
    assert token not in place.audit.read_text()


def test_clickjacking_and_scripts_have_no_way_in(place):
    browser = place.browse(place.highest)
    answers = [browser.get(path) for path in ("/", place.titled, "/style.css", "/nothing", "/?x")]
    for answer in [*answers, browser.send("PUT", "/"), place.browse().get("/sign-in")]:
        policy = answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in policy
        assert "default-src 'none'" in policy
        assert "script" not in policy
        assert "unsafe" not in policy
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers
    assert "<script>" not in answers[1].body
    assert "&lt;script&gt;2&lt;/script&gt;" in answers[1].body


def test_a_line_break_in_the_head(place):
    answer = place.browse(place.highest).get("/", X_Test="a\r\nHost: evil.example")
    assert answer.status in (400, 421)
    assert place.browse().get("/sign-in\r\nX-Injected: 1").headers.get("x-injected") is None


def test_a_head_that_never_ends(place, monkeypatch):
    monkeypatch.setattr(serve, "HEAD_SECONDS", 0.3)
    with closing(socket.create_connection(("127.0.0.1", place.port), timeout=10)) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: 127")
        began = time.monotonic()
        with suppress(ConnectionResetError):
            assert connection.recv(100) == b""
        assert time.monotonic() - began < 5


def test_a_body_that_never_comes(place, refused, monkeypatch):
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.2)
    refused(place.browse().send("POST", "/sign-in", "token=", Content_Length="100"), 408, PageRefusal.slow)


def test_a_body_that_is_too_large_or_has_no_length(place, refused):
    browser = place.browse()
    refused(browser.send("POST", "/sign-in", "", Content_Length=str(10**9)), 413, PageRefusal.size)
    refused(browser.send("POST", "/sign-in", "", Content_Length=None), 411, PageRefusal.length)
    answer = browser.send("POST", "/sign-in", "0\r\n\r\n", Content_Length=None, Transfer_Encoding="chunked")
    refused(answer, 400, PageRefusal.headers)


def test_a_second_request_in_a_body(place, refused):
    smuggled = f"token=x GET /audit HTTP/1.1\r\nHost: 127.0.0.1:{place.port}\r\n\r\n"
    answer = place.browse().send("POST", "/sign-in", smuggled, Content_Length="7")
    refused(answer, 403, PageRefusal.token)
    assert answer.body.count("HTTP/1.1 ") == 0  # one answer, then the connection ends
    for lengths in ("7\r\nContent-Length: 8", "+7", "7, 8"):
        assert place.browse().send("POST", "/sign-in", "token=x", Content_Length=lengths).status in (400, 411)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "get"])
def test_methods_that_the_page_does_not_have(place, refused, method):
    refused(place.browse(place.highest).send(method, "/"), 405, PageRefusal.method)


def test_a_method_in_disguise(place, refused):
    browser = place.browse(place.highest)
    refused(browser.get("/", X_HTTP_Method_Override="POST"), 400, PageRefusal.headers)
    refused(browser.get("/sign-out"), 404, PageRefusal.unknown)
    refused(browser.send("GET", "/", "x=1", Content_Length="3"), 400, PageRefusal.headers)


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=x", "text/plain", None])
def test_content_of_another_kind(place, refused, kind):
    refused(place.browse().send("POST", "/sign-in", "token=x", Content_Type=kind), 415, PageRefusal.kind)


@pytest.mark.parametrize("body", ["token=a&token=b", "&".join(f"f{n}=1" for n in range(40)), "token=%ff", "token"])
def test_a_form_with_a_strange_body(place, refused, body):
    refused(place.browse().send("POST", "/sign-in", body), 415, PageRefusal.kind)


def test_heads_that_are_too_large(place, refused):
    browser = place.browse()
    many = {f"X_Many_{number}": "1" for number in range(80)}
    refused(browser.get("/sign-in", **many), 400, PageRefusal.headers)
    assert browser.get("/sign-in", X_Large="x" * 40_000).status == 400


def test_an_upgrade_to_a_web_socket(place, refused):
    answer = place.browse(place.highest).get("/", Upgrade="websocket", Connection="Upgrade")
    refused(answer, 400, PageRefusal.headers)


def test_a_page_for_reading_has_no_token_to_decide():
    assert set(make_tokens(is_read_only=True)) == {Role.read}


def test_a_session_that_was_planted(place, refused):
    browser = place.browse()
    browser.cookie = "planted"
    refused(browser.get("/runs"), 403, PageRefusal.session)
    answer = browser.sign_in(place.tokens[place.highest])
    assert browser.cookie not in ("", "planted")
    flags = answer.headers["set-cookie"].lower()
    assert "httponly" in flags
    assert "samesite=strict" in flags
    assert "domain" not in flags


def test_a_form_of_another_session_or_a_second_time(place, refused):
    browser, other = place.browse(place.highest), place.browse(place.highest)
    theirs = other.get("/").forms["/sign-out"]
    refused(browser.post("/sign-out", form=theirs), 409, PageRefusal.form)
    refused(browser.post("/sign-out", form=""), 409, PageRefusal.form)
    assert other.post("/sign-out", form=theirs).status == 303
    refused(other.post("/sign-out", form=theirs), 403, PageRefusal.session)


def test_a_session_after_sign_out_or_time(place, refused):
    browser = place.browse(place.highest)
    assert browser.post("/sign-out", form=browser.get("/").forms["/sign-out"]).status == 303
    refused(browser.get("/runs"), 403, PageRefusal.session)
    now = [0.0]
    store = SessionStore(place.side, place.tokens, lambda: now[0])
    idle, busy = (store.open_session(place.tokens[place.highest]) for _ in range(2))
    while now[0] <= LONGEST_SECONDS:
        assert store.find_session(busy) is not None
        now[0] += IDLE_SECONDS - 1
    assert store.find_session(busy) is None
    assert store.find_session(idle) is None


def test_a_flood_does_not_fill_the_log(place, monkeypatch):
    monkeypatch.setattr(refusal_log, "_MOST_ENTRIES", 3)
    now, before = [0.0], len(place.list_refusals())
    refusals = RefusalLog(AuditLog(place.audit), lambda: now[0])
    for _ in range(50):
        refusals.write_refusal(PageRefusal.token)
    assert len(place.list_refusals()) == before + 3
    now[0] = 3601.0
    refusals.write_refusal(PageRefusal.token)
    assert verify_log(place.audit)[-1]["not_logged_before"] == 47


def test_a_flood_of_one_reason_hides_no_other(place, monkeypatch):
    monkeypatch.setattr(refusal_log, "_MOST_ENTRIES", 3)
    refusals = RefusalLog(AuditLog(place.audit), lambda: 0.0)
    for _ in range(50):
        refusals.write_refusal(PageRefusal.path)
    refusals.write_refusal(PageRefusal.passphrase)
    assert place.list_refusals()[-1] == PageRefusal.passphrase


@pytest.mark.parametrize("other", ['prefs={"dark":true}', "a b=c", "a[b]=1", "n\u00e4me=1", "=", ";;"])
def test_cookies_of_other_ports_sign_nobody_out(other):
    assert read_cookie(f"{other}; fedhealth_site=ours", "fedhealth_site") == "ours"
    assert read_cookie(f"fedhealth_site=ours; {other}; fedhealth_lead=theirs", "fedhealth_site") == "ours"
    assert read_cookie("xfedhealth_site=theirs", "fedhealth_site") == ""
