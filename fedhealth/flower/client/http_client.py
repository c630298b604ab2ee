"""Single HTTPS requests to the lead's server: Flower's client with our limits, retries and errors.

Stock Flower ends the whole process on some errors. Here a failed request raises `ConnectionLostError`, and the caller
connects again.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from typing import Any, TypeVar

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.supercore.error import ApiErrorCode
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufClientInterceptor, ProtobufRequestContext
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from fedhealth.errors import TrustError
from fedhealth.flower.client.proxy import Proxy
from fedhealth.flower.compat import restrict_http_client
from fedhealth.protocol.messages import WAIT_HEADER
from fedhealth.protocol.site_report import REPORT_HEADER

T = TypeVar("T")
WAIT_SECONDS = 5  # that the server may hold a request (long polling); stopping a site takes as long
_ATTEMPTS = 3  # of one request before the connection counts as lost
_MAX_RESPONSE_BYTES = 2**26  # Flower splits arrays into chunks of 5 MB


class ConnectionLostError(Exception):
    """The server is unreachable or sends invalid responses; connect again."""


class RequestRefusedError(ConnectionLostError):
    """The server refuses this request, and a retry would be refused too."""


class _RequestHeaders:
    """Adds our Flower release, the site's report, and the time that the server may hold the request (long polling).

    Flower's own interceptor ends the process when the releases of site and server differ; this one does not.
    """

    def __init__(self, describe_site: Callable[[], str]) -> None:
        self._describe_site = describe_site
        self._headers = dict(RuntimeVersionMetadata.from_local_component("SuperNode").as_metadata())
        self._headers[WAIT_HEADER] = str(WAIT_SECONDS)

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Add the headers."""
        context.request.headers.update({**self._headers, REPORT_HEADER: self._describe_site()})
        return call_next(context)


class _ProxyErrors:
    """Names the proxy where it cannot be reached: the request itself is addressed to the lead."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Raise `httpx.ProxyError` for a failed connection; a failed TLS handshake went through the proxy."""
        try:
            return call_next(context)
        except (httpx.ConnectError, httpx.ConnectTimeout) as fault:
            if "SSL:" in str(fault):
                raise
            raise httpx.ProxyError(f"{self._proxy.address}, named by {self._proxy.source}: {fault}") from fault


def _refuse_large_response(response: httpx.Response) -> None:
    """Refuse a response that is too large before its body is read."""
    size = response.headers.get("content-length", "")
    if response.is_success and not (size.isascii() and size.isdigit() and int(size) <= _MAX_RESPONSE_BYTES):
        raise ConnectionLostError(f"the server's response has {size or 'an unknown number of'} bytes")


def create_http_client(
    address: str,
    ca: str,
    key: ec.EllipticCurvePrivateKey,
    describe_site: Callable[[], str] = str,
    proxy: Proxy | None = None,
) -> FleetHttpClient:
    """Return Flower's client, which signs requests with the node's key and trusts the kit's authority only."""
    interceptors: list[ProtobufClientInterceptor] = [
        _RequestHeaders(describe_site),
        NodeAuthHttpInterceptor(key, key.public_key()),
        *([_ProxyErrors(proxy)] if proxy else []),
    ]
    trusted = ssl.create_default_context(cafile=ca)  # with a file, the machine's own authorities are not trusted
    client = FleetHttpClient(f"https://{address}", interceptors=interceptors, verify=trusted)
    restrict_http_client(client, trusted, _describe_proxy(proxy), response=_refuse_large_response)
    return client


def _describe_proxy(proxy: Proxy | None) -> httpx.Proxy | None:
    if proxy is None:
        return None
    return httpx.Proxy(f"http://{proxy.address}", auth=(proxy.user, proxy.password) if proxy.user else None)


def _is_run_closed(response: httpx.Response) -> bool:
    """Return whether the run of a refused request has ended or not begun; Flower has one code for both."""
    try:
        return bool(response.json()["code"] == ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED)
    except (ValueError, KeyError, TypeError):
        return False


def send_request(method: Callable[[Any], T], request: Any, attempts: int = _ATTEMPTS) -> T:
    """Send one request and return the response; retry after a network or server error.

    Raises:
        ConnectionLostError: every attempt failed, or the response is invalid.
        TrustError: the server does not know this node, or its certificate is not the lead's.

    """
    for attempt in range(1, attempts + 1):
        try:
            return method(request)
        except httpx.HTTPStatusError as fault:
            code = fault.response.status_code
            if _is_run_closed(fault.response):
                raise RequestRefusedError("the run is not running") from fault
            if code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
                raise TrustError("The lead's server does not accept this site's key.", "Ask the lead.") from fault
            if code < 500 or attempt == attempts:
                kind = RequestRefusedError if code < 500 else ConnectionLostError
                raise kind(f"the server returned status {code}: {fault.response.text[:300]}") from fault
        except httpx.TransportError as fault:
            if "CERTIFICATE_VERIFY_FAILED" in str(fault):
                problem = f"The server's certificate is not covered by the kit (request {request.DESCRIPTOR.name})."
                raise TrustError(f"{problem} ({fault})", "Ask the lead for a new kit. Nothing was sent.") from fault
            if attempt == attempts:
                place = "the proxy opens no connection" if isinstance(fault, httpx.ProxyError) else "no connection"
                raise ConnectionLostError(f"{place} ({fault})") from fault
        except ValueError as fault:  # the bytes are not a valid response
            raise ConnectionLostError(str(fault)) from fault
        time.sleep(0.2 * attempt)
    raise ConnectionLostError("no response")
