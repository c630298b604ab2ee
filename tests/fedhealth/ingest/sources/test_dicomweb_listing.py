"""An archive of many studies is listed whole, page by page, with one request for each study."""

import json
from urllib.parse import parse_qs, urlsplit

import pytest

from fedhealth.ingest.sources.dicomweb import DicomWeb
from tests.stub_server import Stub

STUDY, SERIES, INSTANCE, PATIENT, COUNT = "0020000D", "0020000E", "00080018", "00100020", "00201208"
PAGE = 500


class Archive:
    """A stub of QIDO-RS with one CT instance a study."""

    def __init__(self, studies):
        self.studies = studies
        self.stub = Stub(self.reply)

    def reply(self, path, headers):
        parts = urlsplit(path)
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        offset, limit = int(asked.get("offset", 0)), int(asked["limit"])
        if parts.path == "/studies":
            found = [self.describe(number) for number in range(offset, min(offset + limit, self.studies))]
        else:
            study = parts.path.split("/")[2]
            found = [{SERIES: value("UI", f"{study}.1"), INSTANCE: value("UI", f"{study}.1.1")}][offset:]
        return 200, {"Content-Type": "application/dicom+json"}, json.dumps(found).encode()

    def describe(self, number):
        uid, patient = value("UI", f"1.2.826.0.1.{number + 1}"), value("LO", f"P{number // 2:05d}")
        return {STUDY: uid, PATIENT: patient, COUNT: value("IS", 1)}


def value(kind, content):
    return {"vr": kind, "Value": [content]}


@pytest.mark.parametrize("studies", [0, 1, PAGE, PAGE + 1, pytest.param(10_000, marks=pytest.mark.long)])
def test_every_study_is_listed_once(studies):
    archive = Archive(studies)
    try:
        items = list(DicomWeb(archive.stub.url, page=PAGE).items())
    finally:
        archive.stub.close()
    assert len({item.name for item in items}) == len(items) == studies
    assert [item.name for item in items] == sorted(item.name for item in items)
    pages = studies // PAGE + 2
    assert len(archive.stub.seen) <= studies + pages + 2  # the last page is asked for again, to be sure
