"""A real Squid in front of a lead's server, with or without a password; and a proxy that inspects TLS."""

import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fedhealth.site.check.tls import HOST

SQUID = shutil.which("squid") or "/usr/sbin/squid"
AUTHENTICATOR = "/usr/lib/squid/basic_ncsa_auth"
SETTINGS = """\
http_port {host}:{port}
pid_filename {folder}/squid.pid
access_log none
cache_log {folder}/cache.log
cache_store_log none
cache deny all
coredump_dir {folder}
shutdown_lifetime 0 seconds
pinger_enable off
netdb_filename none
acl lead_port port {lead_port}
{access}
"""
OPEN = "http_access allow CONNECT lead_port\nhttp_access deny all\n"
PASSWORD = """\
auth_param basic program {authenticator} {folder}/users
auth_param basic realm hospital
auth_param basic children 1
acl known proxy_auth REQUIRED
http_access allow CONNECT lead_port known
http_access deny all
"""


def find_free_port():
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def hash_word(word):
    """Return a password as Apache's files hold it."""
    command = ["openssl", "passwd", "-apr1", word]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@contextmanager
def run_squid(lead_port, users=None, port=None):
    """Run Squid, which connects to one port; yield its address. `users`: name and password of each."""
    with tempfile.TemporaryDirectory() as name:  # pytest's folders are closed to the user that Squid becomes
        Path(name).chmod(0o777)
        with start_squid(Path(name), lead_port, users, port or find_free_port()) as address:
            yield address


@contextmanager
def start_squid(folder, lead_port, users, port):
    if not os.access(SQUID, os.X_OK):
        pytest.skip("needs Squid (scripts/system-packages.sh installs it)")
    access = OPEN
    if users:
        (folder / "users").write_text("".join(f"{name}:{hash_word(word)}" for name, word in users.items()))
        access = PASSWORD.format(authenticator=AUTHENTICATOR, folder=folder)
    path = folder / "squid.conf"
    path.write_text(SETTINGS.format(host=HOST, port=port, folder=folder, lead_port=lead_port, access=access))
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen([SQUID, "-N", "-f", str(path)], stdout=output, stderr=output)
    try:
        wait_for_port(port, process, folder)
        yield f"{HOST}:{port}"
    finally:
        process.terminate()
        process.wait(20)


def wait_for_port(port, process, folder):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        assert process.poll() is None, (folder / "output").read_text() + (folder / "cache.log").read_text()
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("Squid does not listen")


@contextmanager
def inspect_tls(context, answer=b"HTTP/1.1 200 Connection established\r\n\r\n"):
    """Run a proxy that opens every tunnel and answers TLS itself, or answers CONNECT with something else."""
    listener, stop = socket.create_server((HOST, 0)), threading.Event()
    listener.settimeout(0.05)

    def serve():
        while not stop.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            with connection:
                connection.settimeout(5)
                try:
                    connection.recv(4096)
                    connection.sendall(answer)
                    if context is not None:
                        context.wrap_socket(connection, server_side=True).close()
                except (OSError, ssl.SSLError):
                    pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"{HOST}:{listener.getsockname()[1]}"
    finally:
        stop.set()
        thread.join()
        listener.close()
