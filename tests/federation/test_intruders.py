"""Who is not the lead, or not the hospital it says, gets nothing: each try is refused and everything stays up."""

import hashlib
import json
import ssl
import warnings

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.cli.build import build_fab_from_files
from flwr.proto.fleet_pb2 import DeactivateNodeRequest, PullMessagesRequest, PushMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import PullObjectRequest
from flwr.proto.node_pb2 import Node

from fedhealth.errors import FederationError, TrustError
from fedhealth.flower.app_bundle import AppBundle, build_bundle
from fedhealth.flower.client.fleet_client import connect_to_lead
from fedhealth.flower.client.http_client import create_http_client
from fedhealth.flower.server.fleet_api import FLEET_PREFIX
from fedhealth.lead.project import load_project
from fedhealth.lead.sign_job import sign_job
from fedhealth.site.audit_log import verify_log
from tests.federation.conftest import LOOSE, SITES, STRICT

pytestmark = pytest.mark.xdist_group("federation")

NAME = "Mrs Example"
PROTOBUF = "application/protobuf"
EVIL = """
import json, time
from pathlib import Path
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()

@app.main()
def main(grid, context):
    content = RecordDict({"directive": ConfigRecord({"x": 1})})
    nodes = list(grid.get_node_ids())
    asked = [Message(content, dst_node_id=node, message_type="query.handshake") for node in nodes]
    replies = list(grid.send_and_receive(asked, timeout=60))
    said = [reply.error.reason if reply.has_error() else "ANSWERED" for reply in replies]
    Path(str(context.run_config["answers"])).write_text(json.dumps(said))
"""
PROJECT = """
[project]
name = "fedhealth-run"
version = "1.0.0"
description = "x"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "fedhealth"
[tool.flwr.app.components]
serverapp = "evil:app"
clientapp = "clients.app:app"
[tool.flwr.app.config]
job = ""
signature = ""
study = ""
answers = "{answers}"
"""


@pytest.fixture(name="outside")
def outside_(consortium):
    """A client in the hospitals' network: it has the address and the authority's certificate."""
    project = load_project(consortium.poc.lead.project)
    with httpx.Client(base_url=f"https://{project.lead}", verify=tls(consortium)) as client:
        yield client


@pytest.fixture(name="inside")
def inside_(consortium):
    """A client on the lead's machine, without the token."""
    project = load_project(consortium.poc.lead.project)
    with httpx.Client(base_url=f"http://127.0.0.1:{project.control_port}") as client:
        yield client


def tls(consortium):
    return ssl.create_default_context(cafile=str(consortium.poc.lead.ca))


def paths():
    """Every path of Flower's server."""
    from flwr.superlink.main import create_app

    return sorted(create_app().openapi()["paths"])


def test_hospitals_see_the_fleet_paths_and_nothing_else(outside):
    known = paths()
    assert sum(path.startswith("/v1/control/") for path in known) > 5
    assert sum(path.startswith("/v1/runtime/") for path in known) > 5
    hidden = [path for path in known if not path.startswith(FLEET_PREFIX)]
    hidden += [
        f"{FLEET_PREFIX}register-node",
        f"{FLEET_PREFIX}unregister-node",
        "/",
        "/docs",
        "/openapi.json",
        "/v1/fleet/../control/",
    ]
    for path in hidden:
        for method in ("POST", "GET"):
            assert outside.request(method, path, content=b"").status_code == 404, path


def test_without_token_or_secret_the_leads_own_paths_answer_nothing(inside):
    login = {"/v1/control/get-login-details": 200, "/v1/control/get-auth-tokens": 501}  # there is no login: they say so
    guarded = [path for path in paths() if path.startswith(("/v1/control/", "/v1/runtime/"))]
    for headers in ({}, {"Authorization": "Bearer guess"}, {"flwr-task-token": "stolen", "flwr-app-token": "stolen"}):
        for path in guarded:
            reply = inside.post(path, content=b"", headers={"content-type": PROTOBUF, **headers})
            assert reply.status_code == login.get(path, 401), (path, reply.text)


def test_nobody_without_an_approved_key_connects(consortium):
    project = load_project(consortium.poc.lead.project)
    stranger = ec.generate_private_key(ec.SECP384R1())
    with pytest.raises(TrustError), connect_to_lead(project.lead, str(consortium.poc.lead.ca), stranger):
        pass


def test_a_hospital_speaks_for_itself_only(consortium):
    """With its own key it can neither sign another off, nor take or confirm its messages, nor answer for it."""
    poc, project = consortium.poc, load_project(consortium.poc.lead.project)
    theirs = poc.site_home(SITES[1]).load_node_public_key().strip()
    victim = next(node.id for node in consortium.control.list_nodes() if node.public_key.strip() == theirs)
    node = Node(node_id=victim)
    with create_http_client(project.lead, str(poc.lead.ca), poc.site_home(SITES[0]).load_node_key()) as client:
        for method, request in (
            (client.DeactivateNode, DeactivateNodeRequest(node_id=victim)),
            (client.PullMessages, PullMessagesRequest(node=node)),
            (client.PushMessages, PushMessagesRequest(node=node)),
            (client.PullObject, PullObjectRequest(node=node, run_id=1, object_id="0")),
            (client.SendNodeHeartbeat, SendNodeHeartbeatRequest(node=node, heartbeat_interval=30)),
        ):
            with pytest.raises(httpx.HTTPStatusError) as fault:
                method(request)
            assert fault.value.response.status_code in (401, 403)
    assert poc.count_online(consortium.control) == len(SITES)


def test_a_run_with_code_of_its_own_is_refused_by_every_hospital(consortium, tmp_path):
    """Somebody has the lead's token and even a genuine signed job, but another bundle under the right name."""
    answers = tmp_path / "answers.json"
    files = {"pyproject.toml": PROJECT.format(answers=answers).encode(), "evil.py": EVIL.encode()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Flower's, of pathspec
        content, _ = build_fab_from_files(files)
    evil = AppBundle(content, hashlib.sha256(content).hexdigest())
    job = sign_job(consortium.poc.lead, "a1b2c3d4e5f6", ["seed=1"], "0" * 64, build_bundle().digest, 1.0)
    before = [declined(consortium, site) for site in SITES]
    consortium.control.start_run(evil, *job)
    consortium.poc.wait_until(answers.is_file, "the hospitals' answers")
    consortium.poc.wait_until(lambda: answers.read_text().endswith("]"), "all of them")
    assert json.loads(answers.read_text()) == ["other-release"] * len(SITES)
    assert [declined(consortium, site) for site in SITES] == [count + 1 for count in before]
    assert consortium.poc.count_online(consortium.control) == len(SITES)


def test_what_the_policy_does_not_allow_is_declined_with_reasons(consortium, tmp_path):
    consortium.agree(STRICT)
    with pytest.raises(FederationError) as refused:
        consortium.run(tmp_path / "run", "secagg=off", "privacy=none", "strategy.rounds=1", "strategy.join_timeout=5")
    for reason in ("secure aggregation", "the privacy unit none"):
        assert str(refused.value).count(reason) >= 1
    assert consortium.poc.count_online(consortium.control) == len(SITES)


def test_a_patients_name_in_a_fault_stays_in_the_hospital(consortium, tmp_path):
    consortium.agree(LOOSE)
    manifest = consortium.poc.data["west"] / "manifest.csv"
    genuine = manifest.read_text()
    header, rows = genuine.split("\n", 1)
    assert "label" in header
    manifest.write_text(header.replace("label", NAME) + "\n" + rows)  # a title that lost its way
    try:
        with pytest.raises(FederationError) as refused:
            consortium.run(tmp_path / "run", "secagg=off", "strategy.rounds=1", "strategy.join_timeout=5")
    finally:
        manifest.write_text(genuine)
    assert NAME not in str(refused.value)
    assert NAME in (consortium.poc.site_home("west").daemon_folder / "site.log").read_text()
    for folder in (consortium.poc.lead.path, tmp_path / "run"):
        assert not [path for path in folder.rglob("*") if path.is_file() and NAME.encode() in path.read_bytes()]


def declined(consortium, site):
    return sum(entry["event"] == "declined" for entry in verify_log(consortium.poc.site_home(site).audit))
