"""Public keys as OpenPGP writes them (RFC 4880, RFC 9580): which keys a keyring has, and until when they hold.

It reads packets and verifies no signature: a full fingerprint says which primary key it is, and whoever uses the keyring
verifies what that key has signed.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator

from gpumend.text.pattern import Pattern
from gpumend.text.record import Record

ARMORED = Pattern(
    r"-----BEGIN PGP PUBLIC KEY BLOCK-----[ \t]*\n((?:[A-Za-z]+: [^\n]*\n)*)[ \t]*\n([A-Za-z0-9+/=\s]*?)-----END PGP PUBLIC KEY BLOCK-----"
)
PUBLIC, SUBKEY, SIGNATURE, SECRET = 6, 14, 2, (5, 7)
CERTIFICATIONS = (0x10, 0x11, 0x12, 0x13, 0x1F)  # of a user id or of the key itself, by whom it belongs to
REVOCATION = 0x20
BROKEN_HASHES = (1, 2, 3)  # RFC 9580 9.5: MD5, SHA-1, RIPEMD-160
EXPIRES, ISSUER, FINGERPRINT, CREATED = 9, 16, 33, 2  # subpackets


class PublicKey(Record):
    """A primary key. fingerprint: in capitals, whole. expires: seconds since the epoch, None for never. weak: whether all its
    own signatures on it are by a hash that is broken, so that what takes no such hash takes none of it."""

    fingerprint: str
    expires: int | None
    revoked: bool
    weak: bool


class _Signature(Record):
    kind: int
    hash: int
    created: int
    lifetime: int
    issuers: frozenset[str]


def binary(data: bytes) -> bytes:
    """The keyring without its armour. Raises ValueError where it is armoured and nothing is in it."""
    if b"-----BEGIN PGP" not in data:
        return data
    text = data.decode("ascii", "replace").replace("\r\n", "\n")
    found = b""
    for match in ARMORED.finditer(text):
        rows = [row for row in match.group(2).split() if not row.startswith("=")]
        try:
            found += base64.b64decode("".join(rows), validate=True)
        except binascii.Error as error:
            raise ValueError(f"its armour is damaged: {error}") from None
    if not found:
        raise ValueError("no public key block is in it")
    return found


def _length(data: bytes, at: int) -> tuple[int, int]:
    """(length, where the body begins) of a packet or subpacket in the new form."""
    first = data[at]
    if first < 192:
        return first, at + 1
    if first < 224:
        return ((first - 192) << 8) + data[at + 1] + 192, at + 2
    if first < 255:
        raise ValueError("a packet of unknown length")
    return int.from_bytes(data[at + 1 : at + 5], "big"), at + 5


def packets(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(tag, body) of each packet. Raises ValueError where the data is cut off or no OpenPGP."""
    at = 0
    while at < len(data):
        head = data[at]
        if not head & 0x80:
            raise ValueError("this is no OpenPGP data")
        try:
            if head & 0x40:
                tag = head & 0x3F
                length, begin = _length(data, at + 1)
            else:
                tag, size = (head >> 2) & 0x0F, 1 << (head & 3)
                if size == 8:
                    raise ValueError("a packet of unknown length")
                length, begin = int.from_bytes(data[at + 1 : at + 1 + size], "big"), at + 1 + size
        except IndexError:
            raise ValueError("it is cut off") from None
        if begin + length > len(data):
            raise ValueError("it is cut off")
        yield tag, data[begin : begin + length]
        at = begin + length


def fingerprint(body: bytes) -> str:
    """Of a public key packet. Raises ValueError for a version that nobody may use any more."""
    import hashlib  # loads OpenSSL's library, and few hosts have a keyring that is looked into

    if body[:1] == b"\x04":
        return hashlib.sha1(b"\x99" + len(body).to_bytes(2, "big") + body).hexdigest().upper()
    if body[:1] == b"\x06":
        return hashlib.sha256(b"\x9b" + len(body).to_bytes(4, "big") + body).hexdigest().upper()
    raise ValueError(f"a key of version {body[0] if body else 'none'}")


def _subpackets(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        length, begin = _length(data, at)
        if length:
            yield data[begin] & 0x7F, data[begin + 1 : begin + length]
        at = begin + length


def _signature(body: bytes) -> _Signature | None:
    """None for a version that is not read here: such a one binds nothing."""
    wide = {b"\x04": 2, b"\x06": 4}.get(body[:1])
    if wide is None:
        return None
    size = int.from_bytes(body[4 : 4 + wide], "big")
    hashed = body[4 + wide : 4 + wide + size]
    rest = body[4 + wide + size :]
    unhashed = rest[wide : wide + int.from_bytes(rest[:wide], "big")]
    created = lifetime = 0
    issuers = set()
    for kind, value in _subpackets(hashed):
        created = int.from_bytes(value, "big") if kind == CREATED else created
        lifetime = int.from_bytes(value, "big") if kind == EXPIRES else lifetime
    for kind, value in [*_subpackets(hashed), *_subpackets(unhashed)]:
        if kind == ISSUER:
            issuers.add(value.hex().upper())
        elif kind == FINGERPRINT:
            issuers.add(value[1:].hex().upper())
    return _Signature(body[1], body[3], created, lifetime, frozenset(issuers))


def _key(body: bytes, found: list[_Signature]) -> PublicKey:
    name = fingerprint(body)
    short = name[-16:] if body[:1] == b"\x04" else name[:16]
    own = [each for each in found if not each.issuers or each.issuers & {name, short}]
    binding = [each for each in own if each.kind in CERTIFICATIONS]
    newest = max(binding, key=lambda each: each.created, default=None)
    made = int.from_bytes(body[1:5], "big")
    return PublicKey(
        fingerprint=name,
        expires=made + newest.lifetime if newest and newest.lifetime else None,
        revoked=any(each.kind == REVOCATION for each in own),
        weak=all(each.hash in BROKEN_HASHES for each in binding),
    )


def public_keys(data: bytes) -> tuple[PublicKey, ...]:
    """The primary keys of a keyring, armoured or not, in their order. Raises ValueError where it is none, is cut off, or holds
    a secret key."""
    found: list[tuple[bytes, list[_Signature]]] = []
    primary = False
    try:
        for tag, body in packets(binary(data)):
            if tag in SECRET:
                raise ValueError("it holds a secret key")
            if tag == PUBLIC:
                found.append((body, []))
                primary = True
            elif tag == SUBKEY:
                primary = False  # what follows binds the subkey
            elif tag == SIGNATURE and primary and found and (read := _signature(body)):
                found[-1][1].append(read)
    except IndexError:
        raise ValueError("it is cut off") from None
    if not found:
        raise ValueError("no public key is in it")
    return tuple(_key(body, signatures) for body, signatures in found)
