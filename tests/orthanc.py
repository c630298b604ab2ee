"""A real archive for tests: Debian's Orthanc with its DICOMweb plugin, on loopback, with a folder of its own.

TLS ends in a small proxy before it, because Debian's Orthanc 1.10.1 crashes when it verifies a certificate.
"""

import datetime
import ipaddress
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fedhealth.ingest.sources.access import open_session, parse_access
from fedhealth.runtime.local_consortium import find_free_ports

PROGRAM = shutil.which("Orthanc", path="/usr/sbin:/usr/bin:/usr/local/bin")
PLUGIN = next(filter(Path.exists, [Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")]), None)
ABSENT = PROGRAM is None or PLUGIN is None
_DAY = datetime.timedelta(days=1)


def make_certificate(folder, name, issuer=None):
    """Write NAME.crt and NAME.key, signed by the issuer or by itself; return (certificate, key)."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer, signing_key = issuer or (None, key)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer.subject if signer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + _DAY)
        .add_extension(x509.BasicConstraints(ca=signer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(signing_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / f"{name}.crt").write_bytes(certificate.public_bytes(pem))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    )
    return certificate, key


class TlsProxy:
    """Forwards TLS connections of clients with a certificate of the authority to a port of this machine."""

    def __init__(self, folder, port):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.crt", folder / "server.key")
        context.load_verify_locations(folder / "ca.crt")
        context.verify_mode = ssl.CERT_REQUIRED
        self._context, self._port = context, port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._listener.close()

    def _accept(self):
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        with suppress(OSError):
            client = self._context.wrap_socket(client, server_side=True)
            server = socket.create_connection(("127.0.0.1", self._port))
            threading.Thread(target=self._forward, args=(server, client), daemon=True).start()
            self._forward(client, server)

    @staticmethod
    def _forward(source, target):
        with suppress(OSError):
            while content := source.recv(1 << 16):
                target.sendall(content)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


class Orthanc:
    """An archive below `folder`; clients need the password and, with `is_strict`, TLS and a certificate."""

    def __init__(self, folder, is_strict=True):
        self.folder, self.process, self.proxy = folder, None, None
        folder.mkdir(parents=True)
        port, _ = find_free_ports()
        self.inner = self.url = f"http://127.0.0.1:{port}"
        (folder / "password").write_text("secret\n")
        self.access = {"user": "reader", "password_file": str(folder / "password")}
        settings = {
            "Name": "archive",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "index"),
            "TemporaryDirectory": str(folder),
            "Plugins": [str(PLUGIN)],
            "HttpPort": port,
            "DicomServerEnabled": False,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": True,
            "RegisteredUsers": {"reader": "secret"},
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        self.session = open_session(parse_access(self.access | {"attempts": 1}))
        if is_strict:
            authority = make_certificate(folder, "ca")
            for name in ("server", "client"):
                make_certificate(folder, name, authority)
            self.proxy = TlsProxy(folder, port)
            self.url = f"https://127.0.0.1:{self.proxy.port}"
            self.access |= {
                name: str(folder / f"client.{end}") for name, end in (("certificate", "crt"), ("key", "key"))
            }
            self.access |= {"ca": str(folder / "ca.crt")}

    def __enter__(self):
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen([PROGRAM, str(self.folder / "orthanc.json")], stdout=log, stderr=log)
        ends = time.monotonic() + 30
        while True:
            with suppress(OSError):
                if self.session.get(f"{self.inner}/system", timeout=5).status_code == 200:
                    return self
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < ends, (self.folder / "log").read_text()
            time.sleep(0.1)

    def __exit__(self, *fault):
        self.session.close()
        if self.proxy:
            self.proxy.close()
        self.process.terminate()
        self.process.wait(30)

    @property
    def dicomweb(self):
        return f"{self.url}/dicom-web"

    def upload(self, path):
        """Store a file; return its Orthanc id."""
        answer = self.session.post(f"{self.inner}/instances", data=path.read_bytes(), timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()["ID"]

    def read_processor_seconds(self):
        """Return the processor time that the server has used."""
        ticks = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return sum(map(int, ticks)) / 100
