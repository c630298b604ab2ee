"""Check the hospital's proxy: its name, its port, user and password, and whether it connects to the lead."""

from __future__ import annotations

import socket

from fedhealth.flower.client.proxy import Proxy, ProxyFault, ProxyRefusedError
from fedhealth.site.check.base import CheckResult, report_failure, report_pass, report_warning

_FIXES = {
    ProxyFault.PASSWORD_NEEDED: "Name a file with one line user:password in proxy.credentials in site.yaml.",
    ProxyFault.PASSWORD_WRONG: "Correct the file that proxy.credentials names in site.yaml.",
    ProxyFault.FORBIDDEN: "Ask the proxy's staff to allow the method CONNECT to {lead} from this machine.",
    ProxyFault.NAME_UNKNOWN: "Correct `lead` in site.yaml, or have the name added to the DNS server of the proxy.",
    ProxyFault.NO_CONNECTION: "Ask the lead whether its server is running, and the proxy's staff whether a firewall"
    " is between the proxy and {lead}.",
    ProxyFault.NO_PROXY: "Correct the proxy's address: another program answers there.",
}


def describe_proxy(proxy: Proxy) -> CheckResult:
    """Return which proxy opened the tunnel; a warning where only the shell's environment names it."""
    if proxy.source != "site.yaml":
        return report_warning(
            "proxy",
            f"{proxy.address}, named by the environment",
            "The service has another environment than this shell: write the proxy into site.yaml.",
        )
    as_user = f" as {proxy.user}" if proxy.user else ""
    return report_pass("proxy", f"{proxy.address}{as_user} opens connections to the lead")


def explain_refusal(fault: ProxyRefusedError, lead: str) -> CheckResult:
    """Return the cause and the fix for a proxy that opens no tunnel."""
    return report_failure("proxy", fault.problem.rstrip("."), _FIXES[fault.kind].format(lead=lead))


def explain_unreachable(proxy: Proxy, fault: OSError, reason: str) -> CheckResult:
    """Return the cause and the fix for a proxy that cannot be reached."""
    if isinstance(fault, socket.gaierror):
        finding, fix = f"the name of the proxy {proxy.address} is not known ({reason})", "Correct the proxy's name"
    elif isinstance(fault, ConnectionRefusedError):
        finding, fix = f"nothing listens at the proxy's address {proxy.address}", "Correct the proxy's port"
    else:
        finding, fix = f"the proxy {proxy.address} cannot be reached: {reason}", "Open the firewall to the proxy"
    place = "in site.yaml" if proxy.source == "site.yaml" else "in HTTPS_PROXY, or write `proxy` into site.yaml"
    return report_failure("proxy", finding, f"{fix}, {place}.")
