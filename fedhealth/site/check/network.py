"""Check the connection to the lead: proxy, port, TLS certificate against the kit's authority, and the clocks.

Nothing is sent except an empty HTTP request.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Iterator
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from cryptography import x509

from fedhealth.consortium.certificates import DAMAGED, compute_days_left
from fedhealth.flower.client.proxy import Proxy, ProxyRefusedError, open_tunnel
from fedhealth.site.check.base import CheckResult, report_failure, report_pass, report_warning
from fedhealth.site.check.proxy import describe_proxy, explain_refusal, explain_unreachable
from fedhealth.site.policy import ProxySettings

_TIMEOUT_SECONDS = 10.0
_WARN_DAYS = 14  # days
_CLOCK_WARNS, _CLOCK_FAILS = 30.0, 240.0  # seconds; a signed job tolerates 300
_CERTIFICATE_EXPIRED, _NAME_MISMATCH = 10, (62, 64)  # OpenSSL's X509_V_ERR numbers


def check_network(lead: str, ca: Path, settings: ProxySettings) -> Iterator[CheckResult]:
    """Yield the checks of proxy, port, certificate and clock; the first failure ends them.

    Args:
        lead: host:port.
        ca: the kit's certificate, PEM.
        settings: which proxy the site uses.

    Raises:
        ConfigError: the proxy is malformed.
        TrustError: others can read its password.

    """
    proxy = settings.find(lead)
    try:
        raw = _connect(lead, proxy)
    except ProxyRefusedError as fault:
        yield explain_refusal(fault, lead)
        return
    except OSError as fault:
        if proxy is not None:
            yield explain_unreachable(proxy, fault, _describe_error(fault))
        else:
            yield report_failure("lead", f"{lead}: {_describe_error(fault)}", _advise_on_port(fault, lead))
        return
    with raw:
        if proxy is not None:
            yield describe_proxy(proxy)
        yield report_pass("lead", f"{lead} accepts connections")
        yield from _check_tls(raw, lead, ca, proxy)


def _connect(lead: str, proxy: Proxy | None) -> socket.socket:
    """Return a connection to the lead, through the proxy if there is one."""
    if proxy is not None:
        return open_tunnel(proxy, lead, _TIMEOUT_SECONDS)
    host, _, port = lead.rpartition(":")
    return socket.create_connection((host, int(port)), _TIMEOUT_SECONDS)


def _check_tls(raw: socket.socket, lead: str, ca: Path, proxy: Proxy | None) -> Iterator[CheckResult]:
    host = lead.rpartition(":")[0]
    try:
        secured = ssl.create_default_context(cafile=str(ca)).wrap_socket(raw, server_hostname=host)
    except ssl.SSLCertVerificationError as fault:
        yield _explain_certificate_error(fault, lead, proxy)
        return
    except (ssl.SSLError, OSError) as fault:
        fix = "Another program answers at this address. Check `lead` in site.yaml, and the firewall."
        if proxy is not None:
            fix = f"The proxy {proxy.address} or another program answers instead of the lead: exempt {lead} from it."
        yield report_failure("TLS", f"no TLS at {lead}: {_describe_error(fault)}", fix)
        return
    with secured:
        yield _check_validity(secured)
        yield _check_clock(secured, host)


def _explain_certificate_error(fault: ssl.SSLCertVerificationError, lead: str, proxy: Proxy | None) -> CheckResult:
    """Explain why the certificate is not trusted; the usual cause is a proxy that intercepts TLS."""
    if fault.verify_code == _CERTIFICATE_EXPIRED:
        fix = "Check this machine's clock. If it is right, ask the lead to run `fedhealth lead renew`."
        return report_failure("TLS", "the lead's certificate has expired", fix)
    if fault.verify_code in _NAME_MISMATCH:
        fix = "Ask the lead to add this name to `names` in project.yaml and to run `fedhealth lead provision` again."
        return report_failure("TLS", f"the lead's certificate is for another name than {lead.rpartition(':')[0]}", fix)
    issuer = _describe_issuer(lead, proxy)
    if proxy is not None:
        return report_failure(
            "TLS",
            f"the proxy {proxy.address} opens TLS connections and answers with a certificate of {issuer}",
            f"Ask the proxy's staff to exempt {lead} from TLS inspection: fedhealth trusts the kit's authority only.",
        )
    fix = "If a proxy intercepts TLS here, exempt the lead's address from it. Otherwise ask the lead for a new kit."
    return report_failure(
        "TLS", f"the certificate was not issued by the kit's authority but by {issuer} ({fault.verify_message})", fix
    )


def _check_validity(secured: ssl.SSLSocket) -> CheckResult:
    certificate = x509.load_der_x509_certificate(secured.getpeercert(binary_form=True) or b"")
    left = compute_days_left(certificate)
    finding = f"{secured.version()}, certificate issued by the kit's authority, valid for {left:.0f} more days"
    return (
        report_pass("TLS", finding)
        if left > _WARN_DAYS
        else report_warning("TLS", finding, "Ask the lead to run `fedhealth lead renew`.")
    )


def _check_clock(secured: ssl.SSLSocket, host: str) -> CheckResult:
    """Compare this machine's clock with the Date header of the server's response."""
    try:
        secured.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode("ascii"))
        response = http.client.HTTPResponse(secured)
        response.begin()
        server_time = parsedate_to_datetime(response.headers["Date"] or "")
    except (OSError, http.client.HTTPException, ValueError, TypeError):
        return report_warning("clock", "the lead's server sends no Date header", "Check that NTP runs on this machine.")
    return compare_clocks(server_time, time.time())


def compare_clocks(server_time: datetime, own: float) -> CheckResult:
    """Compare the time of the lead's server with this machine's, in seconds since 1970."""
    apart = own - server_time.timestamp()
    finding = f"{abs(apart):.0f} s {'ahead of' if apart > 0 else 'behind'} the lead's clock"
    if abs(apart) > _CLOCK_FAILS:
        return report_failure("clock", finding, "Set this machine's clock and synchronise it with NTP.")
    return (
        report_warning("clock", finding, "Synchronise this machine's clock with NTP.")
        if abs(apart) > _CLOCK_WARNS
        else report_pass("clock", finding)
    )


def _describe_issuer(lead: str, proxy: Proxy | None) -> str:
    """Return the issuer of the certificate that the server presents, so that a person can recognise a proxy."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # only inspected, never trusted
    try:
        with (
            _connect(lead, proxy) as raw,
            context.wrap_socket(raw, server_hostname=lead.rpartition(":")[0]) as secured,
        ):
            presented = x509.load_der_x509_certificate(secured.getpeercert(binary_form=True) or b"")
    except (OSError, ProxyRefusedError, *DAMAGED):
        return "an unknown issuer"
    return repr(presented.issuer.rfc4514_string()[:120])


def _describe_error(fault: OSError) -> str:
    if isinstance(fault, TimeoutError):
        return "no response"
    return str(fault.strerror or getattr(fault, "reason", None) or type(fault).__name__)


def _advise_on_port(fault: OSError, lead: str) -> str:
    if isinstance(fault, socket.gaierror):
        return (
            "Correct `lead` in site.yaml, or have the name added to your DNS server. If this network has a proxy, write"
            " `proxy` into site.yaml."
        )
    if isinstance(fault, ConnectionRefusedError):
        return "Ask the lead whether its server is running."
    return (
        f"Open the firewall for outgoing TCP connections to {lead}. If this network has a proxy, write `proxy` into"
        " site.yaml."
    )
