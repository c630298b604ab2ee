"""Keys: identity signatures (Ed25519), one pairwise key per run (X25519) and everything derived from it (HKDF).

Pair keys live in chains: chain_r = HKDF(chain_{r-1}, "next"), the old one erased, so a site that is broken into after
exchange r gives away no mask of an earlier exchange.
"""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from fedhealth.protocol.digest import transcript
from fedhealth.secagg.primitives.codec import PROTOCOL

KEY_BYTES = 32
SIGNATURE_BYTES = 64


def derive(key: bytes, *label: bytes) -> bytes:
    """Derive an independent 32-byte key for this label."""
    return HKDFExpand(SHA256(), KEY_BYTES, transcript(PROTOCOL, *label)).derive(key)


def advance(chain: bytes, steps: int) -> bytes:
    """Move a chain key `steps` exchanges on; there is no way back."""
    for _ in range(steps):
        chain = derive(chain, b"next")
    return chain


def sign(identity: Ed25519PrivateKey, purpose: bytes, *parts: bytes) -> bytes:
    """Sign the parts for one purpose only."""
    return identity.sign(transcript(PROTOCOL, purpose, *parts))


def signed_by(public: bytes, signature: bytes, purpose: bytes, *parts: bytes) -> bool:
    """Tell whether `sign` made this signature with the identity behind `public`."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, transcript(PROTOCOL, purpose, *parts))
    except (InvalidSignature, ValueError):
        return False
    return True


def new_private_key() -> bytes:
    """Make an X25519 private key."""
    return X25519PrivateKey.generate().private_bytes_raw()


def public_key(private: bytes) -> bytes:
    """Return the public half of an X25519 private key."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def is_low_order(public: bytes) -> bool:
    """Tell whether an X25519 key would force the shared secret to zero (RFC 7748, section 6.1)."""
    try:
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        return True
    return False


def pair_root(private: bytes, public: bytes, *label: bytes) -> bytes:
    """Agree on the root of a pair's chain; both sides pass the same label."""
    shared = X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))
    return HKDF(SHA256(), KEY_BYTES, None, transcript(PROTOCOL, b"root", *label)).derive(shared)


def self_root(private: bytes) -> bytes:
    """Return the root of the chain under which a site seals its shares to itself."""
    return HKDF(SHA256(), KEY_BYTES, None, transcript(PROTOCOL, b"self")).derive(private)
