"""Reaching a server: credentials, retries, refusals; nothing secret in a message."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fedhealth.data.image.errors import ImageError
from fedhealth.errors import ConfigError, DataError
from fedhealth.ingest.source import SourceFile
from fedhealth.ingest.sources import dicomweb
from fedhealth.ingest.sources.access import check_url, open_session, parse_access, request_json
from fedhealth.ingest.sources.dicomweb import DicomWeb


class Stub:
    """A server that answers by a function (path, headers) -> (status, headers, content)."""

    def __init__(self, answer):
        self.seen = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(handler):
                self.seen.append((handler.path, dict(handler.headers)))
                status, headers, content = answer(handler.path, handler.headers)
                handler.send_response(status)
                for name, value in ({"Content-Length": str(len(content))} | headers).items():
                    handler.send_header(name, value)
                handler.end_headers()
                handler.wfile.write(content)

            def log_message(handler, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(name="serve")
def serve_():
    stubs = []

    def start(answer):
        stubs.append(Stub(answer))
        return stubs[-1]

    yield start
    dicomweb._connect.cache_clear()
    for stub in stubs:
        stub.close()


def get(url, **settings):
    access = parse_access(settings)
    with open_session(access) as session:
        return request_json(session, url, access)


def test_a_token_is_read_for_every_request(serve, tmp_path):
    stub = serve(lambda path, headers: (200, {}, json.dumps(headers["Authorization"]).encode()))
    token = tmp_path / "token"
    access = parse_access({"token_file": str(token)})
    with open_session(access) as session:
        for word in ("one", "two"):
            token.write_text(f"{word}\n")
            assert request_json(session, stub.url, access) == f"Bearer {word}"


def test_a_secret_comes_from_the_environment_and_is_in_no_message(serve, monkeypatch):
    stub = serve(lambda path, headers: (403, {}, b"geheim Mueller"))
    monkeypatch.setenv("PACS_PASSWORD", "geheim")
    with pytest.raises(DataError) as found:
        get(f"{stub.url}/x?patient=Mueller", user="me", password_variable="PACS_PASSWORD")
    assert "status 403" in str(found.value)
    assert "geheim" not in str(found.value)
    assert "Mueller" not in str(found.value)
    monkeypatch.delenv("PACS_PASSWORD")
    with pytest.raises(ConfigError, match="PACS_PASSWORD is not set"):
        get(stub.url, user="me", password_variable="PACS_PASSWORD")


def test_a_busy_server_is_asked_again(serve):
    left = [503, 429, 200]
    stub = serve(lambda path, headers: (left.pop(0), {"Retry-After": "0"}, b"[]"))
    assert get(stub.url) == []
    assert len(stub.seen) == 3
    left[:] = [503]
    with pytest.raises(DataError, match="status 503"):
        get(stub.url, attempts=1)


def test_redirections_are_refused(serve):
    other = serve(lambda path, headers: (200, {}, b"[]"))
    stub = serve(lambda path, headers: (302, {"Location": other.url}, b""))
    with pytest.raises(DataError, match="TooManyRedirects"):
        get(stub.url, user="me", password_file=__file__)
    assert other.seen == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://pacs.example/dicom-web", "not encrypted"),
        ("https://me:word@pacs.example", "contains credentials"),
        ("ftp://pacs.example", "not a server's address"),
        ("pacs.example", "not a server's address"),
    ],
)
def test_unsafe_addresses_are_refused(url, said):
    with pytest.raises(ConfigError, match=said) as found:
        check_url(url)
    assert "word" not in found.value.problem


def test_unknown_settings_are_refused():
    with pytest.raises(ConfigError, match="access: password is not known"):
        DicomWeb("https://pacs.example", access={"password": "x"})


def instances(*names):
    return json.dumps(
        [
            {"00080018": {"Value": [name]}, "0020000E": {"Value": ["1.3"]}, "00080060": {"Value": ["CT"]}}
            for name in names
        ]
    ).encode()


def test_a_study_that_cannot_be_listed_is_one_rejected_file_and_the_others_are_read(serve):
    studies = json.dumps([{"0020000D": {"Value": [uid]}} for uid in ("1.1", "1.2")]).encode()

    def answer(path, headers):
        if "offset=0" not in path:
            return 200, {}, b"[]"
        if "/studies/1.1/" in path:
            return 500, {}, b"broken"
        return 200, {}, instances("1.4", "1.5") if "/studies/1.2/" in path else studies

    stub = serve(answer)
    source = DicomWeb(stub.url, access={"attempts": 1})
    found = [*source.items()]
    assert [each.name for each in found] == ["1.1", "1.2/1.3/1.4", "1.2/1.3/1.5"]
    with pytest.raises(ImageError, match="does not list the study"):
        source.open(found[0])
    with pytest.raises(ImageError, match="does not send it"):
        source.open(SourceFile("1.2/1.3/1.4", ""))


def test_a_server_that_ignores_the_page_is_read_once(serve):
    studies = json.dumps([{"0020000D": {"Value": ["1.2"]}}]).encode()
    stub = serve(lambda path, headers: (200, {}, instances("1.4") if "/studies/1.2" in path else studies))
    assert len([*DicomWeb(stub.url).items()]) == 1


def test_an_answer_that_is_not_dicomweb_is_said_without_its_content(serve):
    stub = serve(lambda path, headers: (200, {}, b"<html>Mueller</html>"))
    with pytest.raises(DataError, match="not DICOMweb") as found:
        [*DicomWeb(stub.url).items()]
    assert "Mueller" not in str(found.value)


def test_a_password_that_went_away_is_no_fault_of_the_file(serve, tmp_path):
    source = DicomWeb(serve(lambda path, headers: (200, {}, b"")).url, access={"user": "me", "password_file": "/gone"})
    with pytest.raises(ImageError, match="password cannot be read"):
        source.open(SourceFile("1.2/1.3/1.4", ""))
