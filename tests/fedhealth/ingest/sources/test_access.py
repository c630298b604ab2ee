"""Reaching a server: credentials, retries, refusals; nothing secret in a message."""

import json
from urllib.parse import parse_qs, urlsplit

import pytest

from fedhealth.data.image.errors import ImageError
from fedhealth.errors import ConfigError, DataError
from fedhealth.ingest.source import SourceFile
from fedhealth.ingest.sources import dicomweb
from fedhealth.ingest.sources.access import check_url, open_session, parse_access
from fedhealth.ingest.sources.dicomweb import DicomWeb
from fedhealth.ingest.sources.http_request import request_json
from tests.stub_server import Stub


@pytest.fixture(name="serve")
def serve_():
    stubs = []

    def start(answer):
        stubs.append(Stub(answer))
        return stubs[-1]

    yield start
    for cached in (dicomweb._connect, dicomweb._open_connection):
        cached.cache_clear()
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


def test_a_server_cannot_make_it_wait_for_hours(serve, monkeypatch):
    waits = []
    monkeypatch.setattr("urllib3.util.retry.time.sleep", waits.append)
    left = [429, 200]
    stub = serve(lambda path, headers: (left.pop(0), {"Retry-After": "86400"}, b"[]"))
    assert get(stub.url) == []
    assert sum(waits) == 30


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
    with pytest.raises(ConfigError, match="access: password: there is no such key"):
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


@pytest.mark.parametrize("kind", ["right", "capped", "ignores the offset", "loses what is behind the offset"])
@pytest.mark.parametrize("count", [1, 3, 4, 8, 13])
def test_every_study_is_listed_whatever_the_server_makes_of_pages(serve, kind, count):
    def answer(path, headers):
        if "/studies/" in path:
            return 200, {}, instances("1.4") if "offset=0" in path else b"[]"
        query = {name: int(value[0]) for name, value in parse_qs(urlsplit(path).query).items() if value[0].isdigit()}
        offset = 0 if kind == "ignores the offset" else query["offset"]
        most = min(query["limit"], 3) if kind == "capped" else query["limit"]
        chosen = range(count)[offset : offset + most] if kind != "loses what is behind the offset" or not offset else ()
        return 200, {}, json.dumps([{"0020000D": {"Value": [f"1.{uid}"]}} for uid in chosen]).encode()

    assert len([*DicomWeb(serve(answer).url, page=4).items()]) == count


def test_an_answer_that_is_not_dicomweb_is_said_without_its_content(serve):
    stub = serve(lambda path, headers: (200, {}, b"<html>Mueller</html>"))
    with pytest.raises(DataError, match="not DICOMweb") as found:
        [*DicomWeb(stub.url).items()]
    assert "Mueller" not in str(found.value)


def test_a_password_that_went_away_is_no_fault_of_the_file(serve, tmp_path):
    source = DicomWeb(serve(lambda path, headers: (200, {}, b"")).url, access={"user": "me", "password_file": "/gone"})
    with pytest.raises(ImageError, match="password cannot be read"):
        source.open(SourceFile("1.2/1.3/1.4", ""))


def test_an_instance_is_taken_as_it_was_sent(serve):
    sent = b"\0" * 128 + b"DICM" + bytes(range(256))
    whole = b"--b0\r\nContent-Type: application/dicom\r\n\r\n" + sent + b"\r\n--b0--\r\n"
    stub = serve(lambda path, headers: (200, {"Content-Type": "multipart/related; boundary=b0"}, whole))
    assert DicomWeb(stub.url).open(SourceFile("1.2/1.3/..%2f1 4", "")).read() == sent
    [(path, headers)] = stub.seen
    assert path == "/studies/1.2/series/1.3/instances/..%252f1%204"  # no part of a name leaves its place
    assert "transfer-syntax=*" in headers["Accept"]


@pytest.mark.parametrize("cut", [1, 30])
def test_an_instance_that_breaks_off_is_tried_again_later(serve, cut):
    whole = b"--b0\r\n\r\n" + bytes(300) + b"\r\n--b0--\r\n"
    kind = {"Content-Type": "multipart/related; boundary=b0", "Content-Length": str(len(whole))}
    stub = serve(lambda path, headers: (200, kind, whole[:-cut]))
    with pytest.raises(ImageError, match="does not send it"):
        DicomWeb(stub.url, access={"attempts": 1}).open(SourceFile("1.2/1.3/1.4", ""))


def test_an_archive_that_sends_too_much_is_not_read_to_the_end(serve, monkeypatch):
    monkeypatch.setattr(dicomweb, "MAX_BYTES", 1 << 20)
    stub = serve(lambda path, headers: (200, {"Content-Type": "application/dicom"}, bytes((1 << 20) + 1)))
    with pytest.raises(ImageError, match="sends more than 1 MiB"):
        DicomWeb(stub.url).open(SourceFile("1.2/1.3/1.4", ""))


def test_a_study_whose_size_is_known_is_asked_for_once(serve):
    studies = json.dumps([{"0020000D": {"Value": ["1.2"]}, "00201208": {"Value": [2]}}]).encode()

    def answer(path, headers):
        if "/studies/1.2/" in path:
            return 200, {}, instances("1.4", "1.5")
        return 200, {}, studies if "offset=0" in path else b"[]"

    stub = serve(answer)
    assert len([*DicomWeb(stub.url).items()]) == 2
    assert sum("/studies/1.2/" in path for path, _ in stub.seen) == 1


def test_studies_are_listed_in_order_by_several_connections(serve):
    studies = json.dumps([{"0020000D": {"Value": [f"1.{n:03}"]}} for n in range(150)]).encode()
    stub = serve(
        lambda path, headers: (
            200,
            {},
            (instances("1.4") if "/studies/" in path else studies) if "offset=0" in path else b"[]",
        )
    )
    assert [each.name[:5] for each in DicomWeb(stub.url).items()] == [f"1.{n:03}" for n in range(150)]
