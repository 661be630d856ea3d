"""DICE: the chain of certificates that a chip makes of itself, and the request for its first one.

TCG DICE Attestation Architecture 1.1: each layer certifies the key of the layer above it and states in the
extension DiceTcbInfo what that layer is. The chain starts at the DeviceID certificate, which the factory CA
issued for a key that is derived inside the chip. Layer 0 is the boot ROM, layer 1 the loader.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import InitVar, dataclass
from enum import IntFlag
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.x509.oid import NameOID, SignatureAlgorithmOID

from fuseline.errors import DiceChain, DiceMalformed, IdentityRequestRefused
from fuseline.formats import x509profile

TCB_INFO: Final = x509.ObjectIdentifier("2.23.133.5.4.1")
"""tcg-dice-TcbInfo (DICE Attestation Architecture 1.1, 6.1.1)."""

_SHA256: Final = bytes.fromhex("608648016503040201")
"""id-sha256, 2.16.840.1.101.3.4.2.1 (RFC 5754 2.2), content octets."""

_SEQUENCE, _OID, _OCTETS = 0x30, 0x06, 0x04
_SVN, _LAYER, _FWIDS, _FLAGS = 0x83, 0x84, 0xA6, 0x87
_FIELD_TAGS: Final = (0x80, 0x81, 0x82, _SVN, _LAYER, 0x85, _FWIDS, _FLAGS, 0x88, 0x89, 0x8A, 0xAB)
"""DiceTcbInfo's members in order, with implicit tags: vendor, model, version, svn, layer, index, fwids,
flags, vendorInfo, type, flagsMask, integrityRegisters."""

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)

_UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
)
"""What the library raises for bytes that are no certificate."""

_CHIP_ID: Final = re.compile(r"[0-9a-f]{64}")
_UNDERSTOOD: Final = (
    x509.BasicConstraints,
    x509.KeyUsage,
    x509.NameConstraints,
    x509.SubjectAlternativeName,
    x509.ExtendedKeyUsage,
)


class TcbFlags(IntFlag):
    """OperationalFlags, by bit number of the BIT STRING."""

    NOT_CONFIGURED = 1 << 0
    NOT_SECURE = 1 << 1
    RECOVERY = 1 << 2
    DEBUG = 1 << 3
    NOT_REPLAY_PROTECTED = 1 << 4
    NOT_INTEGRITY_PROTECTED = 1 << 5
    NOT_RUNTIME_MEASURED = 1 << 6
    NOT_IMMUTABLE = 1 << 7
    NOT_TCB = 1 << 8


_ALL_FLAGS: Final = sum(TcbFlags)
_FIXED_WIDTH: Final = 1 << 31


@dataclass(frozen=True, slots=True)
class TcbInfo:
    """What a layer states of the layer above it.

    Attributes:
        svn: Security version number: the image's security counter.
        layer: Number of the layer that is described; None if not stated.
        measurement: SHA-256 of the layer's code.
        flags: Operational flags; none set is an ordinary product.
    """

    svn: int
    layer: int | None
    measurement: bytes
    flags: TcbFlags


def parse_tcb_info(der: bytes) -> TcbInfo:
    """Parse the DiceTcbInfo extension's value.

    Args:
        der: The value: one DER SEQUENCE.

    Raises:
        DiceMalformed: Not DER, members out of order or repeated, no svn, or not exactly one SHA-256 digest.
    """
    members = dict(_members(_only(der, _SEQUENCE)))
    if _SVN not in members or _FWIDS not in members:
        raise DiceMalformed("DiceTcbInfo lacks svn or fwids")
    return TcbInfo(
        svn=_integer(members[_SVN]),
        layer=_integer(members[_LAYER]) if _LAYER in members else None,
        measurement=_measurement(members[_FWIDS]),
        flags=_flags(members[_FLAGS]) if _FLAGS in members else TcbFlags(0),
    )


def _members(content: bytes) -> Iterator[tuple[int, bytes]]:
    last = -1
    for tag, value in _elements(content):
        if tag not in _FIELD_TAGS or (position := _FIELD_TAGS.index(tag)) <= last:
            raise DiceMalformed(
                "DiceTcbInfo has an unknown, repeated or misplaced member", tag=f"0x{tag:02x}"
            )
        last = position
        yield tag, value


def _measurement(content: bytes) -> bytes:
    fwid = list(_elements(_only(content, _SEQUENCE)))
    if [tag for tag, _ in fwid] != [_OID, _OCTETS]:
        raise DiceMalformed("a fwid is not an algorithm and a digest")
    (_, algorithm), (_, digest) = fwid
    if algorithm != _SHA256 or len(digest) != hashlib.sha256().digest_size:
        raise DiceMalformed("the fwid is not a SHA-256 digest")
    return digest


def _flags(content: bytes) -> TcbFlags:
    # X.690 8.6.2: the first octet counts the unused bits of the last; bit 0 is the first octet's highest.
    if len(content) < 1 or content[0] > 7 or (len(content) == 1 and content[0]):
        raise DiceMalformed("not a BIT STRING")
    if content[-1] & ((1 << content[0]) - 1):
        raise DiceMalformed("an unused bit of a BIT STRING is set")
    bits = "".join(f"{octet:08b}" for octet in content[1:])
    flags = sum(1 << number for number, bit in enumerate(bits) if bit == "1")
    # fixedWidth (31) says only that the string has all its 32 bits.
    flags &= ~_FIXED_WIDTH
    if flags & ~_ALL_FLAGS:
        raise DiceMalformed("an operational flag that this profile does not know", flags=flags)
    return TcbFlags(flags)


def _integer(content: bytes) -> int:
    # X.690 8.3.2: no superfluous leading octet.
    superfluous = len(content) > 1 and content[0] == 0 and content[1] < 0x80
    if not content or content[0] >= 0x80 or superfluous:
        raise DiceMalformed("not a DER INTEGER of at least 0")
    return int.from_bytes(content, "big")


def _only(der: bytes, tag: int) -> bytes:
    elements = list(_elements(der))
    if len(elements) != 1 or elements[0][0] != tag:
        raise DiceMalformed("not exactly one element of the expected type", tag=f"0x{tag:02x}")
    return elements[0][1]


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Split DER into elements with one-octet tags (X.690 10.1: definite lengths in the fewest octets)."""
    position = 0
    while position < len(der):
        header = der[position : position + 2]
        if len(header) < 2 or header[0] & 0x1F == 0x1F:
            raise DiceMalformed("cut off, or a tag of more than one octet")
        position += 2
        length = header[1]
        if length >= 0x80:
            octets = der[position : position + length - 0x80]
            position += len(octets)
            length = int.from_bytes(octets, "big")
            if length < 0x80 or len(octets) != header[1] - 0x80 or octets[0] == 0:
                raise DiceMalformed("a length is not DER")
        if position + length > len(der):
            raise DiceMalformed("an element is cut off")
        yield header[0], der[position : position + length]
        position += length


_MADE_BY_VERIFICATION: Final = object()


@dataclass(frozen=True, slots=True)
class VerifiedChain:
    """A chain that passed every check of `verify_chain`, which alone can make one.

    Attributes:
        chip_id: 32 octets, from the DeviceID certificate's subject.
        name: The one dNSName of the DeviceID certificate.
        layers: What each layer above the ROM is, bottom first.
        key: The topmost layer's public key.
        proof: Only `verify_chain` has it.
    """

    chip_id: bytes
    name: str
    layers: tuple[TcbInfo, ...]
    key: ec.EllipticCurvePublicKey
    proof: InitVar[object]

    def __post_init__(self, proof: object) -> None:
        if proof is not _MADE_BY_VERIFICATION:
            raise RuntimeError("only verify_chain makes a VerifiedChain")


def verify_chain(
    certificates: Sequence[bytes], *, anchor: x509.Certificate, now: dt.datetime
) -> VerifiedChain:
    """Verify a chip's certificates up to the factory CA (RFC 5280 6.1, for this profile).

    1. Each certificate: P-256, ecdsa-with-SHA256, inside its validity, no critical extension unknown here.
    2. Each is signed by the one before it, which names it and may issue it (CA, keyCertSign, path length,
       key identifiers).
    3. The first is a DeviceID certificate: subject serialNumber is a chip id, one dNSName, inside the
       name constraint of the factory CA if it has one.
    4. Every other one has a DiceTcbInfo; the layers count up from 1.

    Args:
        certificates: DER, from the DeviceID certificate upwards, the factory CA left out.
        anchor: The factory CA's certificate.
        now: The verifier's time, with a time zone.

    Raises:
        DiceMalformed: Not X.509, or not DiceTcbInfo.
        DiceChain: One of the rules above is broken; the evidence names the certificate by its position.
    """
    if len(certificates) < 2:
        raise DiceChain(
            "a chain is a DeviceID certificate and at least one layer", certificates=len(certificates)
        )
    path = [anchor, *(_load(der, position) for position, der in enumerate(certificates))]
    for position, (issuer, subject) in enumerate(itertools.pairwise(path)):
        _check_certificate(subject, position, now)
        _check_issued(subject, issuer, position, below=len(path) - 2 - position)
    device_id = path[1]
    layers = tuple(_tcb_info(certificate, position) for position, certificate in enumerate(path[2:], 1))
    for position, layer in enumerate(layers, 1):
        if layer.layer not in (None, position):
            raise DiceChain("the layers are not in order", certificate=position, layer=layer.layer)
    key = path[-1].public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return VerifiedChain(
        chip_id=_chip_id(device_id),
        name=_device_name(device_id, anchor),
        layers=layers,
        key=key,
        proof=_MADE_BY_VERIFICATION,
    )


def _load(der: bytes, position: int) -> x509.Certificate:
    try:
        certificate = x509.load_der_x509_certificate(der)
        # Read here, so that what cannot be read is told here and not in the middle of a check.
        _ = certificate.extensions, certificate.public_key(), certificate.subject, certificate.issuer
    except _UNREADABLE as error:
        raise DiceMalformed("not an X.509 certificate that can be read", certificate=position) from error
    # X.690 8.6.2.2: the library ignores how many bits of the signature are said to be unused.
    if not der.endswith(b"\0" + certificate.signature):
        raise DiceMalformed("the signature is not whole octets", certificate=position)
    return certificate


def _check_certificate(certificate: x509.Certificate, position: int, now: dt.datetime) -> None:
    # 1.
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise DiceChain("the key is not P-256", certificate=position)
    if certificate.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA256:
        raise DiceChain("not signed with ecdsa-with-SHA256", certificate=position)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise DiceChain("outside its period of validity", certificate=position)
    for extension in certificate.extensions:
        known = isinstance(extension.value, _UNDERSTOOD) or extension.oid == TCB_INFO
        if extension.critical and not known:
            raise DiceChain(
                "a critical extension is unknown", certificate=position, oid=extension.oid.dotted_string
            )


def _check_issued(
    certificate: x509.Certificate, issuer: x509.Certificate, position: int, *, below: int
) -> None:
    # 2. RFC 5280 6.1.3 (a)(1), (a)(4) and 6.1.4 (k) to (n).
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError) as error:
        raise DiceChain("not issued by the certificate before it", certificate=position) from error
    constraints = _extension(issuer, x509.BasicConstraints)
    usage = _extension(issuer, x509.KeyUsage)
    if constraints is None or not constraints.ca or usage is None or not usage.key_cert_sign:
        raise DiceChain("the certificate before it may not issue certificates", certificate=position)
    if constraints.path_length is not None and below > constraints.path_length:
        raise DiceChain("more certificates below an issuer than it allows", certificate=position)
    authority = _extension(certificate, x509.AuthorityKeyIdentifier)
    subject = _extension(issuer, x509.SubjectKeyIdentifier)
    if authority is None or subject is None or authority.key_identifier != subject.digest:
        raise DiceChain("the key identifiers do not match", certificate=position)


def _extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _chip_id(device_id: x509.Certificate) -> bytes:
    # 3. One RDN with one attribute: the ROM writes the same name as the issuer of its own certificate.
    attributes = list(device_id.subject)
    text = str(attributes[0].value) if attributes else ""
    if len(attributes) != 1 or attributes[0].oid != NameOID.SERIAL_NUMBER or not _CHIP_ID.fullmatch(text):
        raise DiceChain("the subject is not the serialNumber of a chip", certificate=0)
    return bytes.fromhex(text)


def _device_name(device_id: x509.Certificate, anchor: x509.Certificate) -> str:
    names = list(_extension(device_id, x509.SubjectAlternativeName) or ())
    if len(names) != 1 or not isinstance(names[0], x509.DNSName):
        raise DiceChain("not exactly one subject alternative name of type dNSName", certificate=0)
    name = names[0].value
    if not x509profile.is_device_name(name):
        raise DiceChain("the dNSName is not a device name", certificate=0, name=name[:80])
    constraints = _extension(anchor, x509.NameConstraints)
    if constraints is not None and not _permitted(name, constraints):
        raise DiceChain("the name is outside the factory CA's domain", certificate=0, name=name)
    return name


def _permitted(name: str, constraints: x509.NameConstraints) -> bool:
    # RFC 5280 4.2.1.10: adding labels on the left satisfies a dNSName constraint.
    if constraints.excluded_subtrees or not constraints.permitted_subtrees:
        return False
    return any(
        isinstance(subtree, x509.DNSName) and f".{name}".endswith(f".{subtree.value}")
        for subtree in constraints.permitted_subtrees
    )


def _tcb_info(certificate: x509.Certificate, position: int) -> TcbInfo:
    # 4.
    try:
        extension = certificate.extensions.get_extension_for_oid(TCB_INFO).value
    except x509.ExtensionNotFound as error:
        raise DiceChain("a layer's certificate has no DiceTcbInfo", certificate=position) from error
    assert isinstance(extension, x509.UnrecognizedExtension)
    return parse_tcb_info(extension.value)


_REQUEST_LABEL: Final = b"fuseline idevid request"
NONCE_SIZE: Final = 32
REQUEST_SIZE: Final = 32 + 64 + 64
"""Chip id, public key (X || Y), signature (r || s)."""


@dataclass(frozen=True, slots=True)
class VerifiedIdentityRequest:
    """A chip's answer to the factory's challenge, which only `verify_identity_request` makes.

    Attributes:
        chip_id: 32 octets.
        key: The public key that was derived inside the chip.
        proof: Only `verify_identity_request` has it.
    """

    chip_id: bytes
    key: ec.EllipticCurvePublicKey
    proof: InitVar[object]

    def __post_init__(self, proof: object) -> None:
        if proof is not _MADE_BY_VERIFICATION:
            raise RuntimeError("only verify_identity_request makes a VerifiedIdentityRequest")


def request_digest(nonce: bytes, chip_id: bytes, public_key: bytes) -> bytes:
    """Return the SHA-256 that the ROM signs in answer to the factory's challenge.

    Args:
        nonce: `NONCE_SIZE` octets that the factory chose.
        chip_id: 32 octets.
        public_key: X || Y, 64 octets.
    """
    return hashlib.sha256(_REQUEST_LABEL + nonce + chip_id + public_key).digest()


def verify_identity_request(answer: bytes, *, nonce: bytes, chip_id: bytes) -> VerifiedIdentityRequest:
    """Check a chip's answer to the factory's challenge.

    1. Its shape, and that it is this chip's.
    2. The key is a point of P-256.
    3. Proof of possession: the key signed the factory's nonce, the chip id and itself.

    Args:
        answer: `REQUEST_SIZE` octets, as the ROM left them in the mailbox.
        nonce: What the factory sent.
        chip_id: What the tester read from the chip's fuses.

    Raises:
        IdentityRequestRefused: One of the rules above is broken.
    """
    if len(answer) != REQUEST_SIZE or len(nonce) != NONCE_SIZE:
        raise IdentityRequestRefused("the answer or the nonce is of another length", size=len(answer))
    stated, public_key, signature = answer[:32], answer[32:96], answer[96:]
    if stated != chip_id:
        raise IdentityRequestRefused("another chip answered", chip_id=stated.hex(), expected=chip_id.hex())
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + public_key)
    except ValueError as error:
        raise IdentityRequestRefused("the public key is no point of P-256") from error
    der = encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
    try:
        key.verify(der, request_digest(nonce, chip_id, public_key), ec.ECDSA(Prehashed(hashes.SHA256())))
    except InvalidSignature as error:
        raise IdentityRequestRefused("the key did not sign this challenge") from error
    return VerifiedIdentityRequest(chip_id=chip_id, key=key, proof=_MADE_BY_VERIFICATION)
