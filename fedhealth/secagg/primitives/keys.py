"""Keys: identity signatures (Ed25519), one pairwise key per run (X25519) and everything derived from it (HKDF).

Pair keys are ratcheted: chain_r = HKDF(chain_{r-1}, "next"), and the old key is erased (forward secrecy). A site
that is compromised after exchange r reveals no mask of an earlier exchange.
"""

from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from fedhealth.secagg.primitives.codec import PROTOCOL
from fedhealth.secagg.primitives.remembered_digests import RememberedDigests
from fedhealth.utils.digest import encode_parts

KEY_BYTES = 32
SIGNATURE_BYTES = 64
_REMEMBERED_BYTES = 2**15  # of a signed message whose verification is remembered
_SHA256 = SHA256()
_verified = RememberedDigests(4096)  # of valid signatures with key and message, which would be hundreds of megabytes


def derive_key(key: bytes, *label: bytes) -> bytes:
    """Derive an independent 32-byte key for this label."""
    return expand_key(key, build_label(*label))


def build_label(*label: bytes) -> bytes:
    """Return a label as `expand_key` takes it: built once where many keys have the same one."""
    return encode_parts(PROTOCOL, *label)


def expand_key(key: bytes, label: bytes) -> bytes:
    """Do what `derive_key` does, for a label from `build_label`."""
    return HKDFExpand(_SHA256, KEY_BYTES, label).derive(key)


_NEXT = build_label(b"next")


def ratchet_chain(chain: bytes, steps: int) -> bytes:
    """Ratchet a chain key forward by `steps` exchanges; this cannot be reversed."""
    for _ in range(steps):
        chain = expand_key(chain, _NEXT)
    return chain


def sign_parts(identity: Ed25519PrivateKey, purpose: bytes, *parts: bytes) -> bytes:
    """Sign the parts; the signature is valid for this purpose only."""
    return identity.sign(encode_parts(PROTOCOL, purpose, *parts))


def is_signed_by(public: bytes, signature: bytes, purpose: bytes, *parts: bytes) -> bool:
    """Return whether `sign_parts` made this signature with the identity key of `public`.

    A short message is verified once in a process: lists, statements and links come back from every member, and to all
    virtual sites.
    """
    message = encode_parts(PROTOCOL, purpose, *parts)
    if len(message) > _REMEMBERED_BYTES:
        return _is_valid(public, signature, message)
    name = sha256(encode_parts(public, signature, message)).digest()
    if name not in _verified:
        if not _is_valid(public, signature, message):
            return False
        _verified.add(name)
    return True


def _is_valid(public: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def generate_private_key() -> bytes:
    """Generate an X25519 private key."""
    return X25519PrivateKey.generate().private_bytes_raw()


def derive_public_key(private: bytes) -> bytes:
    """Return the public key of an X25519 private key."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def is_low_order(public: bytes) -> bool:
    """Return whether an X25519 key would force the shared secret to zero (RFC 7748, section 6.1)."""
    try:
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        return True
    return False


def derive_pair_root(private: bytes, public: bytes, *label: bytes) -> bytes:
    """Derive the root of a pair's chain; both sides pass the same label."""
    shared = X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))
    return HKDF(SHA256(), KEY_BYTES, None, encode_parts(PROTOCOL, b"root", *label)).derive(shared)


def derive_self_root(private: bytes) -> bytes:
    """Derive the root of the chain with which a site seals its shares to itself."""
    return HKDF(SHA256(), KEY_BYTES, None, encode_parts(PROTOCOL, b"self")).derive(private)
