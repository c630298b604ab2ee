"""Signatures in minisign's format: ours and the published program agree, and one changed byte is refused."""

import base64
import shutil
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.errors import TrustError
from fedhealth.utils.minisign import format_public_key, sign_file, verify_file

needs_minisign = pytest.mark.skipif(
    shutil.which("minisign") is None, reason="needs minisign (scripts/system-packages.sh installs it)"
)


@pytest.fixture(name="signed")
def signed_(tmp_path):
    """A file, its signature and the public key, as texts."""
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    path = tmp_path / "archive.tar.gz"
    path.write_bytes(b"release" * 1000)
    return path, sign_file(key, path, "archive.tar.gz commit 1"), format_public_key(key.public_key().public_bytes_raw())


def change_byte(text, line, position):
    """Return a signature in which one byte of the decoded line differs."""
    lines = text.splitlines()
    body = bytearray(base64.b64decode(lines[line]))
    body[position] ^= 1
    lines[line] = base64.b64encode(body).decode()
    return "\n".join(lines) + "\n"


def run_minisign(path, signature, public, tmp_path):
    (tmp_path / "key.pub").write_text(public)
    path.with_name(path.name + ".minisig").write_text(signature)
    return subprocess.run(["minisign", "-Vm", path, "-p", tmp_path / "key.pub"], capture_output=True).returncode


def test_a_signature_is_valid_and_always_the_same(signed):
    path, signature, public = signed
    assert verify_file(path, signature, public) == "archive.tar.gz commit 1"
    assert (
        sign_file(Ed25519PrivateKey.from_private_bytes(bytes(range(32))), path, "archive.tar.gz commit 1") == signature
    )
    assert verify_file(path, signature, public.splitlines()[-1])  # the key alone, as people pass it on


def test_one_changed_byte_of_the_file_is_refused(signed):
    path, signature, public = signed
    content = bytearray(path.read_bytes())
    content[123] ^= 1
    path.write_bytes(content)
    with pytest.raises(TrustError, match="not valid"):
        verify_file(path, signature, public)


@pytest.mark.parametrize(("line", "position"), [(1, 0), (1, 5), (1, 10), (1, 73), (3, 0), (3, 63)])
def test_one_changed_byte_of_the_signature_is_refused(signed, line, position):
    path, signature, public = signed
    with pytest.raises(TrustError):
        verify_file(path, change_byte(signature, line, position), public)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("commit 1", "commit 2"),
        lambda text: text.replace("trusted comment: archive", "comment: archive"),
        lambda text: text + "more\n",
        lambda text: "",
        lambda text: text.replace("RU", "!!"),
    ],
)
def test_a_changed_text_is_refused(signed, change):
    path, signature, public = signed
    with pytest.raises(TrustError):
        verify_file(path, change(signature), public)


def test_another_key_is_refused(signed):
    path, signature, public = signed
    other = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes_raw()
    with pytest.raises(TrustError, match="another key"):
        verify_file(path, signature, format_public_key(other))
    with pytest.raises(TrustError, match="public key"):
        verify_file(path, signature, public[:-5])


@needs_minisign
def test_minisign_agrees(signed, tmp_path):
    path, signature, public = signed
    assert run_minisign(path, signature, public, tmp_path) == 0
    assert run_minisign(path, change_byte(signature, 1, 20), public, tmp_path) != 0
    path.write_bytes(path.read_bytes() + b".")
    assert run_minisign(path, signature, public, tmp_path) != 0
