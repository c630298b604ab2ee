"""A site's connection to the lead's server: Flower's fleet protocol over TLS, authenticated by the node's key.

This file and `parcel.py` hold every seam on Flower's insides at the site (see docs/decisions.md; checked against the
release that pyproject.toml pins). Stock Flower starts a process for each message, sleeps three seconds between looks
and ends the whole process on some faults; here a fault raises `LostError` and the caller connects again.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL
from flwr.common.serde import run_from_proto
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest, PullMessagesRequest, PushMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.error import ApiErrorCode
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufClientInterceptor, ProtobufRequestContext
from flwr.supercore.run import Run
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from fedhealth.errors import FederationError, TrustError
from fedhealth.flower.client.message_codec import Parcel, object_ids
from fedhealth.protocol.messages import WAIT_HEADER

T = TypeVar("T")
_PULL_SECONDS, _PULL_TRIES = 0.05, 600  # until an announced object has arrived at the server
_TRIES = 3  # of one request before the connection counts as lost
_AT_ONCE = 8  # objects that are fetched or sent side by side
WAIT_SECONDS = 5  # that the server may keep a question; a site that is told to stop waits as long
_LARGEST_ANSWER = 2**26  # bytes; Flower cuts arrays into pieces of 5 MB


class LostError(Exception):
    """The server cannot be reached, or does not answer as it should; connect again."""


class RefusedError(LostError):
    """The server does not take this request; it will not take it later either."""


@dataclass(frozen=True)
class Task:
    """A message that is waiting, without its content.

    Attributes:
        run: Flower's run id.
        head: metadata (protobuf).
        tree: which objects it consists of.
        message_id: Flower's.
        kind: its type, such as `train.fit`.

    """

    run: int
    head: bytes
    tree: ObjectTree
    message_id: str
    kind: str


class Link:
    """An activated connection; several threads may use it."""

    def __init__(self, client: FleetHttpClient, node: int) -> None:
        self._client, self.node = client, node
        self._node = Node(node_id=node)

    def receive(self) -> Task | None:
        """Return the next waiting message, or None.

        Raises:
            LostError: no answer; there may have been a message in it, which is handed out again to who connects anew.

        """
        answer = _call(self._client.PullMessages, PullMessagesRequest(node=self._node), tries=1)
        if not answer.messages_list:
            return None
        if not answer.message_object_trees:
            raise LostError("the server sends a message without saying what it consists of")
        message: MessageProto = answer.messages_list[0]
        about = message.metadata
        tree = answer.message_object_trees[0]
        return Task(about.run_id, message.SerializeToString(), tree, about.message_id, about.message_type)

    def run(self, number: int) -> Run:
        """Return what the server says of a run."""
        return run_from_proto(_call(self._client.GetRun, GetRunRequest(node=self._node, run_id=number)).run)

    def pull(self, task: Task, most: int) -> Parcel:
        """Fetch a message's objects.

        Raises:
            FederationError: it is larger than `most` bytes, or incomplete.

        """
        objects, size = dict[str, bytes](), 0
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for names in _some(object_ids(task.tree), _AT_ONCE):
                contents = list(pool.map(lambda name: self._object(task.run, name), names))
                objects |= dict(zip(names, contents, strict=True))
                size += sum(map(len, contents))
                if size > most:
                    raise FederationError(f"A message is larger than {most} bytes.", "Raise incoming_megabytes.")
        return Parcel(task.head, task.tree.SerializeToString(), objects)

    def confirm(self, task: Task) -> None:
        """Tell the server that a message is done with; it forgets the content."""
        request = ConfirmMessageReceivedRequest(node=self._node, run_id=task.run, message_object_id=task.message_id)
        _call(self._client.ConfirmMessageReceived, request)

    def push(self, run: int, parcel: Parcel, seconds: float) -> None:
        """Send an answer; it counts at the lead when all of it is there.

        Raises:
            LostError: it is not there, and is to be sent again from its beginning.
            RefusedError: nobody waits for it.

        """
        request = PushMessagesRequest(
            node=self._node,
            messages_list=[MessageProto.FromString(parcel.head)],
            message_object_trees=[ObjectTree.FromString(parcel.tree)],
            clientapp_runtime_list=[seconds],
        )
        answer = _call(self._client.PushMessages, request)

        def put(name: str) -> None:
            content = parcel.objects[name]
            part = PushObjectRequest(
                node=self._node, run_id=run, object_id=name, object_content=content, session_id=answer.session_id
            )
            if not _call(self._client.PushObject, part).stored:
                raise LostError("the server has not kept the beginning of an answer")

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(put, answer.objects_to_push))

    def beat(self) -> bool:
        """Tell the server that this site is there; return whether it agrees."""
        request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL)
        return bool(_call(self._client.SendNodeHeartbeat, request).success)

    def _object(self, run: int, name: str) -> bytes:
        for _ in range(_PULL_TRIES):
            answer = _call(self._client.PullObject, PullObjectRequest(node=self._node, run_id=run, object_id=name))
            if not answer.object_found:
                raise FederationError("A part of a message is not on the server.", "The lead sends it again.")
            if answer.object_available:
                return bytes(answer.object_content)
            time.sleep(_PULL_SECONDS)
        raise FederationError("A part of a message did not arrive at the server.", "The lead sends it again.")


class _Headers:
    """Tells the server our Flower release (unlike Flower's own, it does not end the process when the two differ).

    And that a question may be kept until there is an answer.
    """

    def __init__(self) -> None:
        self._headers = dict(RuntimeVersionMetadata.from_local_component("SuperNode").as_metadata())
        self._headers[WAIT_HEADER] = str(WAIT_SECONDS)

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Add the headers."""
        context.request.headers.update(self._headers)
        return call_next(context)


def _refuse_large(response: httpx.Response) -> None:
    """Refuse an answer before its body is read."""
    size = response.headers.get("content-length", "")
    if response.is_success and not (size.isascii() and size.isdigit() and int(size) <= _LARGEST_ANSWER):
        raise LostError(f"the server sends {size or 'an unknown number of'} bytes at once")


@contextmanager
def connected(address: str, ca: str, key: ec.EllipticCurvePrivateKey) -> Iterator[Link]:
    """Connect, answer heartbeats in the background, and sign off at the end so that a restart is not locked out.

    Args:
        address: host:port of the lead's server.
        ca: file of the certificate that the server's must be signed with.
        key: the node's.

    Raises:
        LostError: it cannot be reached now.
        TrustError: it does not accept this node, or is not the lead's server.

    """
    with client_of(address, ca, key) as client:
        request = ActivateNodeRequest(
            public_key=public_key_to_bytes(key.public_key()), heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL
        )
        try:
            link = Link(client, _call(client.ActivateNode, request).node_id)
        except RefusedError as fault:
            raise TrustError(
                f"The lead's server does not let this site in ({fault}).",
                "The lead has not admitted its key, or has just started: it lets its members in within seconds.",
            ) from fault
        ended = threading.Event()
        beats = threading.Thread(target=_keep_beating, args=(link, ended), daemon=True, name="heartbeat")
        beats.start()
        try:
            yield link
        finally:
            ended.set()
            with suppress(LostError, TrustError, httpx.HTTPError):
                client.DeactivateNode(DeactivateNodeRequest(node_id=link.node))


def client_of(address: str, ca: str, key: ec.EllipticCurvePrivateKey) -> FleetHttpClient:
    """Return Flower's client, which signs with the node's key and believes the kit's authority alone."""
    interceptors: list[ProtobufClientInterceptor] = [_Headers(), NodeAuthHttpInterceptor(key, key.public_key())]
    trusted = ssl.create_default_context(cafile=ca)  # with a file, the machine's own authorities do not count
    client = FleetHttpClient(f"https://{address}", interceptors=interceptors, verify=trusted)
    client._client.event_hooks, client._client.follow_redirects = {"response": [_refuse_large]}, False
    return client


def _keep_beating(link: Link, ended: threading.Event) -> None:
    """Beat at a third of the interval; a missed beat is not the end, the next request will tell."""
    while not ended.wait(HEARTBEAT_DEFAULT_INTERVAL / 3):
        try:
            link.beat()
        except (LostError, TrustError):
            continue
        except RuntimeError:  # httpx: the client was closed meanwhile, which nobody waits with for a beat
            if not ended.is_set():
                raise


def _is_over(answer: httpx.Response) -> bool:
    """Tell whether a request is refused for its run, which has ended or not begun; Flower says the same for both."""
    try:
        return bool(answer.json()["code"] == ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED)
    except (ValueError, KeyError, TypeError):
        return False


def _some(names: Iterable[str], count: int) -> Iterator[list[str]]:
    """Yield names in groups."""
    rest = iter(names)
    while group := list(islice(rest, count)):
        yield group


def _call(method: Callable[[Any], T], request: Any, tries: int = _TRIES) -> T:
    """Make one request; after a hiccup of network or server again, as often as that makes sense.

    Raises:
        LostError: still no answer, or one that makes no sense.
        TrustError: the server does not know this node, or shows a certificate of somebody else.

    """
    for attempt in range(1, tries + 1):
        try:
            return method(request)
        except httpx.HTTPStatusError as fault:
            code = fault.response.status_code
            if _is_over(fault.response):
                raise RefusedError("the run is not running") from fault
            if code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
                raise TrustError("The lead's server does not accept this site's key.", "Ask the lead.") from fault
            if code < 500 or attempt == tries:
                kind = RefusedError if code < 500 else LostError
                raise kind(f"the server answers {code}: {fault.response.text[:300]}") from fault
        except httpx.TransportError as fault:
            if "CERTIFICATE_VERIFY_FAILED" in str(fault):
                problem = f"The server at {request.DESCRIPTOR.name} shows a certificate that the kit does not cover."
                raise TrustError(f"{problem} ({fault})", "Ask the lead for a new kit; send nothing.") from fault
            if attempt == tries:
                raise LostError(f"no connection ({fault})") from fault
        except ValueError as fault:  # bytes that are no answer
            raise LostError(str(fault)) from fault
        time.sleep(0.2 * attempt)
    raise LostError("no answer")
