"""People, values and reports from FHIR R4: a small server of ours, and the same resources as files of an export."""

import base64
import gzip
import json
from urllib.parse import parse_qs

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from fedhealth.errors import ConfigError, DataError
from fedhealth.ingest.sources.fhir import FhirPatients, FhirReports
from fedhealth.ingest.sources.smart import SmartClient, sign_assertion
from tests.fhir import (
    ICD,
    LOINC,
    MR,
    FhirStub,
    concept,
    make_condition,
    make_hospital,
    make_observation,
    make_patient,
    make_report,
    write_export,
)
from tests.stub_server import Stub

PATIENTS = [f"KH-{1000 + number}" for number in range(24)]
VARIABLES = {
    "crp": {"resource": "Observation", "codes": [f"{LOINC}|1988-5"]},
    "severe": {"resource": "Condition", "codes": [f"{ICD}|J18.9"], "take": "any"},
}


@pytest.fixture(name="serve")
def serve_():
    stubs = []

    def start(resources, **further):
        stubs.append(FhirStub(resources, **further))
        return stubs[-1]

    yield start
    for stub in stubs:
        stub.close()


def read(stub, **further):
    return FhirPatients(stub.url, variables=VARIABLES, page=7, **further).read_table()


def test_a_row_for_each_person_from_a_server_and_from_files(serve, tmp_path):
    stub = serve(make_hospital(PATIENTS))
    table = read(stub)
    assert table.columns["patient"] == PATIENTS
    assert table.columns["severe"] == ["0", "1"] * 12
    assert table.columns["crp"] == ["20.5 mg/l", "80.5 mg/l"] * 12
    assert table.columns["sex"][:3] == ["F", "M", "M"]
    assert table.columns["birth_year"][:2] == ["1940", "1941"]
    assert table.notes == ()
    assert sum(path.startswith("/Observation") for path, _ in stub.seen) == 7  # 48 in pages of 7
    folder = write_export(tmp_path / "export", make_hospital(PATIENTS))
    exported = FhirPatients(folder=str(folder), variables=VARIABLES).read_table()
    assert exported.columns == table.columns


def test_packed_files_and_a_line_that_is_no_json(tmp_path):
    folder = write_export(tmp_path / "export", make_hospital(PATIENTS))
    plain = folder / "Patient.000.ndjson"
    (folder / "Patient.000.ndjson.gz").write_bytes(gzip.compress(plain.read_bytes() + b'{"resourceType": "Pat\n'))
    plain.unlink()
    table = FhirPatients(folder=str(folder), variables=VARIABLES, max_refused=0.1).read_table()
    assert table.columns["patient"] == PATIENTS
    assert table.notes == ("3 resource(s) are not used: not valid FHIR R4",)  # one for each time the files are read
    (folder / "Patient.000.ndjson.gz").write_bytes(gzip.compress(b"{}" * 1000)[:-20])
    with pytest.raises(DataError, match="cannot be read"):
        FhirPatients(folder=str(folder)).read_table()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no file \*.ndjson"):
        FhirPatients(folder=str(tmp_path / "empty")).read_table()
    with pytest.raises(DataError, match="does not exist"):
        FhirPatients(folder=str(tmp_path / "none")).read_table()


def test_what_a_resource_says_of_itself_is_heeded(serve):
    resources = make_hospital(PATIENTS)
    day = "2023-06-01"
    resources += [
        make_observation(1, 7, 500.0, day, status="entered-in-error"),
        make_observation(2, 7, 500.0, day, status="preliminary"),
        make_observation(3, 7, 500.0, day, valueQuantity={"value": 500, "comparator": ">", "code": "mg/l"}),
        make_observation(4, 7, 500.0, day, valueQuantity=None, dataAbsentReason=concept("x", "unknown")),
        make_observation(5, 7, 500.0, day, subject={"reference": "Patient/unknown"}),
        make_observation(6, 7, 500.0, day, subject={"reference": "Group/p6"}),
        make_observation(7, 7, 500.0, day, code=concept(LOINC, "other")),
        make_condition(8, verificationStatus=concept("x", "refuted"), id="c8"),
    ]
    table = read(serve(resources))
    assert set(table.columns["crp"]) == {"20.5 mg/l", "80.5 mg/l"}
    assert table.columns["severe"] == ["0", "1"] * 12
    assert set(table.notes) == {
        "crp: 2 not final, not used",
        "crp: 1 only a bound (< or >), not used",
        "crp: 1 without a value, not used",
        "crp: 2 of other people, not used",
        "severe: 1 not confirmed, not used",
    }


def test_a_modifier_extension_and_invalid_resources_are_refused_and_counted(serve):
    resources = make_hospital(PATIENTS)
    resources[1]["modifierExtension"] = [{"url": "http://x/not", "valueBoolean": True}]
    del resources[2]["status"]
    resources[0]["identifier"].append({"system": MR, "value": "KH-9", "type": concept("x", "y")})
    table = read(serve(resources), identifier="", max_refused=0.1)
    assert set(table.notes) == {
        "1 resource(s) are not used: a modifier extension",
        "1 resource(s) are not used: not valid FHIR R4",
    }
    with pytest.raises(DataError, match=r"2 of .* resources cannot be used") as found:
        read(serve(resources))
    assert "KH-" not in str(found.value)
    told = read(serve(resources), identifier=MR, max_refused=0.1)
    assert "1 resource(s) are not used: a Patient without, or with several, of the identifiers asked for" in told.notes
    assert len(told.columns["patient"]) == 23


def test_a_record_that_another_replaced_is_the_same_person(serve):
    resources = make_hospital(PATIENTS)
    link = [{"other": {"reference": "Patient/p3"}, "type": "replaced-by"}]
    resources += [
        make_patient(99, "OLD-3", link=link),
        make_observation(99, 0, 333.0, "2023-06-01"),
        make_observation(98, 0, 444.0, "2023-06-01", subject={"identifier": {"system": MR, "value": "KH-1004"}}),
    ]
    table = read(serve(resources))
    assert table.columns["patient"] == PATIENTS
    assert table.columns["crp"][3:5] == ["333.0 mg/l", "444.0 mg/l"]


def test_components_words_and_periods(serve):
    resources = make_hospital(PATIENTS)
    for number in range(24):
        part = {"code": concept(LOINC, "8480-6"), "valueQuantity": {"value": 120, "code": "mm[Hg]"}}
        panel = make_observation(number, 8, 0, "2023-05-01", code=concept(LOINC, "85354-9"), component=[part])
        word = make_observation(
            number, 9, 0, "2023-05-01", code=concept(LOINC, "72166-2"), valueQuantity=None,
            valueCodeableConcept=concept("http://snomed.info/sct", "449868002"),
        )  # fmt: skip
        resources += [panel, word]
    variables = {
        "systolic": {"resource": "Observation", "codes": [f"{LOINC}|8480-6"], "component": True},
        "smoker": {"resource": "Observation", "codes": [f"{LOINC}|72166-2"]},
        "early": VARIABLES["crp"] | {"until": "2023-05-02"},
    }
    table = FhirPatients(serve(resources).url, variables=variables).read_table()
    assert set(table.columns["systolic"]) == {"120.0 mm[Hg]"}
    assert set(table.columns["smoker"]) == {"449868002"}
    assert set(table.columns["early"]) == {"5.0 mg/l"}


def test_a_value_of_few_people_stops(serve):
    resources = [*make_hospital(PATIENTS), make_condition(1, "A00", id="x")]
    rare = {"rare": {"resource": "Condition", "codes": [f"{ICD}|A00"], "take": "any"}}
    with pytest.raises(DataError, match="rare: found for fewer than 10 people"):
        FhirPatients(serve(resources).url, variables=rare).read_table()


def encode(content):
    return base64.b64encode(content).decode()


def test_reports_with_the_names_that_must_go_and_the_study_they_belong_to(serve, tmp_path):
    resources = make_hospital(PATIENTS)
    stub = serve(resources)
    table = FhirReports(stub.url, page=5).read_table()
    assert table.columns["patient"] == PATIENTS
    assert table.columns["study"] == [f"1.2.{number}" for number in range(24)]
    assert table.columns["accession"] == [f"A{number}" for number in range(24)]
    assert table.columns["text"][0] == "Befund: Müller, heute besser."
    assert (table.columns["family"][0], table.columns["given"][0]) == ("Müller", "Anna Maria")
    exported = FhirReports(folder=str(write_export(tmp_path / "export", resources))).read_table()
    assert exported.columns == table.columns


def test_forms_of_texts(serve):
    resources = [each for each in make_hospital(PATIENTS[:9]) if each["resourceType"] != "DiagnosticReport"]
    form = {"contentType": "text/html", "data": encode(b"<p>Kein&nbsp;Erguss<br>links</p><script>x()</script>")}
    resources += [
        make_report(0, "", presentedForm=[{"contentType": "application/pdf", "data": encode(b"%PDF-1.4")}]),
        make_report(1, "", presentedForm=[form]),
        make_report(
            2, "", presentedForm=[{"contentType": "text/plain", "data": encode("Größe normal.".encode("cp1252"))}]
        ),
        make_report(
            3, "", presentedForm=[{"contentType": "text/plain", "data": encode("Größe normal.".encode("utf-16"))}]
        ),
        make_report(4, "", presentedForm=[], conclusion="Kein Erguss."),
        make_report(5, "", presentedForm=[], text={"status": "generated", "div": "<div>Nur <b>hier</b></div>"}),
        make_report(6, "", presentedForm=[{"contentType": "text/plain", "url": "http://other.example/Binary/1"}]),
        make_report(7, "", presentedForm=[{"data": "%%%"}]),
        make_report(8, "x", status="entered-in-error"),
    ]
    table = FhirReports(serve(resources).url, max_refused=0.5).read_table()
    assert table.columns["text"] == ["Kein Erguss\nlinks", "Größe normal.", "Größe normal.", "Kein Erguss.", "Nur hier"]
    assert set(table.notes) == {
        "1 resource(s) are not used: a DiagnosticReport: it is application/pdf",
        "2 resource(s) are not used: a DiagnosticReport: its text is on another server, or cannot be fetched",
        "1 report(s) are left out: entered-in-error",
    }


def test_documents(serve):
    resources = [each for each in make_hospital(PATIENTS[:3]) if each["resourceType"] != "DiagnosticReport"]
    for number in range(3):
        resources.append(
            {
                "resourceType": "DocumentReference",
                "id": f"d{number}",
                "status": "superseded" if number == 2 else "current",
                "subject": {"reference": f"Patient/p{number}"},
                "content": [{"attachment": {"contentType": "text/plain", "data": encode(b"Brief")}}],
                "context": {"related": [{"reference": f"ImagingStudy/s{number}"}]},
            }
        )
    table = FhirReports(serve(resources).url, resource="DocumentReference").read_table()
    assert table.columns["text"] == ["Brief", "Brief"]
    assert table.columns["study"] == ["1.2.0", "1.2.1"]


@pytest.mark.parametrize(
    ("following", "said"),
    [("https://other.example/Patient?_page=2", "next page is on another server"), ("?_count=500", "form a circle")],
)
def test_the_next_page_must_be_on_the_same_server_and_pages_must_end(following, said):
    page = {"resourceType": "Bundle", "link": [{"relation": "next", "url": following}]}
    stub = Stub(lambda path, headers: (200, {}, json.dumps(page).encode()))
    with pytest.raises(DataError, match=said):
        FhirPatients(stub.url).read_table()
    stub.close()
    assert len(stub.seen) == 1


def test_an_answer_that_is_not_fhir_is_said_without_its_content(serve):
    stub = Stub(lambda path, headers: (200, {}, b'{"resourceType": "Mueller"}'))
    with pytest.raises(DataError, match="not FHIR") as found:
        FhirPatients(stub.url).read_table()
    stub.close()
    assert "Mueller" not in str(found.value)


@pytest.mark.parametrize("kind", ["rsa", "ec"])
def test_a_program_proves_who_it_is_and_renews_its_token(serve, tmp_path, monkeypatch, kind):
    key = ec.generate_private_key(ec.SECP384R1()) if kind == "ec" else rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "key.pem").write_bytes(pem)
    asked, seconds = [], [300]

    def give_token(path, body):
        asked.append(check_assertion(body, key.public_key(), f"{stub.url}/token"))
        answer = {"access_token": f"token{len(asked)}", "token_type": "bearer", "expires_in": seconds[0]}
        return 200, {}, json.dumps(answer).encode()

    used = []

    def check(headers):
        used.append(headers["Authorization"])
        return used[-1] == f"Bearer token{len(asked)}"

    stub = serve(make_hospital(PATIENTS), check=check, answer_form=give_token)
    smart = {"client_id": "fedhealth", "token_url": f"{stub.url}/token", "key_file": str(tmp_path / "key.pem")}
    smart["key_id"] = "k1"
    assert read(stub, smart=smart).columns["patient"] == PATIENTS
    assert len(asked) == 1
    assert set(used) == {"Bearer token1"}
    seconds[0] = 1  # ends at once: a new token for each request
    read(stub, smart=smart)
    assert len(asked) > 5
    assert len({each["jti"] for each in asked}) == len(asked)


def check_assertion(body, public, url):
    """Verify a token request as a server does; return the claims."""
    form = {name: values[0] for name, values in parse_qs(body).items()}
    assert form["grant_type"] == "client_credentials"
    assert form["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    signed, _, signature = form["client_assertion"].rpartition(".")
    header, claims, raw = (
        base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in (*signed.split("."), signature)
    )
    header, claims = json.loads(header), json.loads(claims)
    if header["alg"] == "RS384":
        public.verify(raw, signed.encode(), padding.PKCS1v15(), SHA384())
    else:
        assert header["alg"] == "ES384"
        numbers = (int.from_bytes(raw[:48], "big"), int.from_bytes(raw[48:], "big"))
        public.verify(encode_dss_signature(*numbers), signed.encode(), ec.ECDSA(SHA384()))
    assert header["kid"] == "k1"
    assert (claims["iss"], claims["sub"], claims["aud"]) == ("fedhealth", "fedhealth", url)
    return claims


def test_keys_that_are_no_good_are_refused(tmp_path):
    client = SmartClient("x", "https://x.example/token", str(tmp_path / "key.pem"), "k")
    with pytest.raises(ConfigError, match="does not exist"):
        sign_assertion(client, 0)
    (tmp_path / "key.pem").write_text("geheim")
    with pytest.raises(ConfigError, match="not a private key") as found:
        sign_assertion(client, 0)
    assert "geheim" not in str(found.value)
    weak = ec.generate_private_key(ec.SECP256R1())
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "key.pem").write_bytes(weak.private_bytes(*form))
    with pytest.raises(ConfigError, match="RSA with 2048 bits, or on P-384"):
        sign_assertion(client, 0)


def test_a_bearer_token_is_sent_and_a_refusal_is_said(serve, tmp_path):
    (tmp_path / "token").write_text("abc\n")
    stub = serve(make_hospital(PATIENTS), check=lambda headers: headers["Authorization"] == "Bearer abc")
    assert len(read(stub, access={"token_file": str(tmp_path / "token")}).columns["patient"]) == 24
    with pytest.raises(DataError, match="status 401"):
        read(stub)


def test_the_requests_are_shown(tmp_path):
    shown = FhirPatients("https://fhir.example/r4/", variables=VARIABLES, patients={"_has:Condition:patient:code": "x"})
    assert shown.describe_request().splitlines() == [
        "GET https://fhir.example/r4/Patient?_has:Condition:patient:code=x&_count=500",
        "GET https://fhir.example/r4/Observation?code=http://loinc.org|1988-5&_count=500",
        "GET https://fhir.example/r4/Condition?code=http://hl7.org/fhir/sid/icd-10|J18.9&_count=500",
    ]
    assert "GET https://fhir.example/r4/DiagnosticReport" in FhirReports("https://fhir.example/r4").describe_request()
    assert FhirReports(folder=str(tmp_path)).describe_request() == f"every *.ndjson file below {tmp_path}"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "either a url or a folder"),
        ({"url": "http://fhir.example"}, "not encrypted"),
        ({"url": "https://fhir.example", "page": 0}, "page must be positive"),
        ({"url": "https://fhir.example", "smart": {"client_id": "x"}}, "token_url: is missing"),
        ({"url": "https://fhir.example", "variables": {"x": {"resource": "Patient", "codes": ["a|b"]}}}, "x.resource"),
        ({"url": "https://fhir.example", "variables": {"x": {"resource": "Observation", "codes": ["b"]}}}, "SYSTEM|"),
        ({"url": "https://fhir.example", "variables": {"x": {"resource": "Condition", "codes": ["a|b"]}}}, "any"),
        ({"url": "https://fhir.example", "variables": {"sex": VARIABLES["crp"]}}, "is a column already"),
        ({"url": "https://fhir.example", "min_persons": 0}, "min_persons must be positive"),
    ],
)
def test_faults_of_the_settings_are_said_before_anything_is_read(settings, said):
    with pytest.raises(ConfigError, match=said):
        FhirPatients(**settings)
    with pytest.raises(ConfigError, match="resource: must be"):
        FhirReports("https://fhir.example", resource="Patient")
