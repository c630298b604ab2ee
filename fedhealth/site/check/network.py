"""The way to the lead: its port, its certificate under TLS against the kit's authority, and both clocks.

Nothing is sent but an empty request for a page that does not exist.
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

from fedhealth.consortium.certificates import DAMAGED, days_left
from fedhealth.site.check.contract import Check, failed, passed, warned

_SECONDS = 10.0
_SOON = 14  # days
_CLOCK_WARNS, _CLOCK_FAILS = 30.0, 240.0  # seconds; orders tolerate 300
_EXPIRED, _ANOTHER_NAME = 10, (62, 64)  # OpenSSL's X509_V_ERR numbers


def check_network(lead: str, ca: Path) -> Iterator[Check]:
    """Yield the checks of port, certificate and clock; the first that fails ends them.

    Args:
        lead: host:port.
        ca: the kit's certificate, PEM.

    """
    host, _, port = lead.rpartition(":")
    try:
        raw = socket.create_connection((host, int(port)), _SECONDS)
    except OSError as fault:
        yield failed("lead", f"{lead}: {_reason(fault)}", _port_advice(fault, lead))
        return
    with raw:
        yield passed("lead", f"{lead} answers")
        yield from _check_tls(raw, host, lead, ca)


def _check_tls(raw: socket.socket, host: str, lead: str, ca: Path) -> Iterator[Check]:
    try:
        secured = ssl.create_default_context(cafile=str(ca)).wrap_socket(raw, server_hostname=host)
    except ssl.SSLCertVerificationError as fault:
        yield _distrusted(fault, lead)
        return
    except (ssl.SSLError, OSError) as fault:
        fix = "Something else than the lead's server answers there: check site.yaml and the firewall."
        yield failed("TLS", f"no TLS at {lead}: {_reason(fault)}", fix)
        return
    with secured:
        yield _check_validity(secured)
        yield _check_clock(secured, host)


def _distrusted(fault: ssl.SSLCertVerificationError, lead: str) -> Check:
    """Say why the certificate is not believed; the classic is a proxy that opens TLS."""
    if fault.verify_code == _EXPIRED:
        fix = "Check this machine's clock. Ask the lead to run `fedhealth lead renew`."
        return failed("TLS", "the lead's certificate has expired", fix)
    if fault.verify_code in _ANOTHER_NAME:
        fix = "Ask the lead to add this name to `names` in project.yaml and to provision again."
        return failed("TLS", f"the lead's certificate is for another name than {lead.rpartition(':')[0]}", fix)
    fix = "If a proxy opens TLS here, exempt the lead's address from it; otherwise ask the lead for a new kit."
    issuer = _issuer(lead)
    return failed("TLS", f"the certificate is not of the kit's authority but of {issuer} ({fault.verify_message})", fix)


def _check_validity(secured: ssl.SSLSocket) -> Check:
    certificate = x509.load_der_x509_certificate(secured.getpeercert(binary_form=True) or b"")
    left = days_left(certificate)
    seen = f"{secured.version()}, certificate of the kit's authority, valid for {left:.0f} more days"
    return passed("TLS", seen) if left > _SOON else warned("TLS", seen, "Ask the lead to run `fedhealth lead renew`.")


def _check_clock(secured: ssl.SSLSocket, host: str) -> Check:
    """Compare this machine's clock with the Date in the server's answer."""
    try:
        secured.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode("ascii"))
        answer = http.client.HTTPResponse(secured)
        answer.begin()
        said = parsedate_to_datetime(answer.headers["Date"] or "")
    except (OSError, http.client.HTTPException, ValueError, TypeError):
        return warned("clock", "the lead's server does not tell the time", "Check that NTP runs on this machine.")
    return compare_clocks(said, time.time())


def compare_clocks(said: datetime, own: float) -> Check:
    """Compare what the lead's server says with this machine's seconds since 1970."""
    apart = own - said.timestamp()
    seen = f"{abs(apart):.0f} s {'ahead of' if apart > 0 else 'behind'} the lead's"
    if abs(apart) > _CLOCK_FAILS:
        return failed("clock", seen, "Set the clock, and let NTP keep it.")
    return warned("clock", seen, "Let NTP keep it.") if abs(apart) > _CLOCK_WARNS else passed("clock", seen)


def _issuer(lead: str) -> str:
    """Return who issued the certificate that is shown, for a person to recognise a proxy."""
    host, _, port = lead.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # looked at, never trusted
    try:
        with (
            socket.create_connection((host, int(port)), _SECONDS) as raw,
            context.wrap_socket(raw, server_hostname=host) as secured,
        ):
            shown = x509.load_der_x509_certificate(secured.getpeercert(binary_form=True) or b"")
    except (OSError, *DAMAGED):
        return "an unknown issuer"
    return repr(shown.issuer.rfc4514_string()[:120])


def _reason(fault: OSError) -> str:
    if isinstance(fault, TimeoutError):
        return "no answer"
    return str(fault.strerror or getattr(fault, "reason", None) or type(fault).__name__)


def _port_advice(fault: OSError, lead: str) -> str:
    if isinstance(fault, socket.gaierror):
        return "Correct `lead` in site.yaml, or have the name added to your DNS."
    if isinstance(fault, ConnectionRefusedError):
        return "Ask the lead whether its server runs."
    return f"Open the firewall for outgoing TCP connections to {lead}."
