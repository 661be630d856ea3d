"""The certificate that the ROM writes for the loader: where each changing octet stands.

The ROM copies a template and fills in what differs from boot to boot. Every such field has one length, so
that no length of DER has to be computed by machine code, except around the signature at the end.

- RFC 5280 profile; ECDSA with SHA-256 on P-256 (RFC 5758 3.2, RFC 5480).
- Issuer: `serialNumber` = chip id, 64 lower-case hexadecimal digits, which is the subject of the IDevID.
- Key identifiers: the first 160 bits of SHA-256 over the BIT STRING's content (RFC 7093 2, method 1).
  Subject and serial number come from the same digest.
- TCG DICE Attestation Architecture 1.1, 6.1.1: DiceTcbInfo, not critical, so that validators which do not
  know it still check the chain. Flags in their fixed-width form (bit 31 set).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

CERTIFICATE_MAX: Final = 1024
"""Octets that the boot record keeps for the certificate."""

_OID_SERIAL_NUMBER: Final = bytes.fromhex("0603550405")
_OID_COMMON_NAME: Final = bytes.fromhex("0603550403")
_ALGORITHM: Final = bytes.fromhex("300a06082a8648ce3d040302")
"""ecdsa-with-SHA256 (RFC 5758 3.2)."""
SPKI_P256_PREFIX: Final = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")
"""SubjectPublicKeyInfo of P-256 before the 65 octets of the uncompressed point (RFC 5480 2)."""
_NOT_BEFORE: Final = b"\x17\x0d260101000000Z"
_NOT_AFTER: Final = b"\x18\x0f99991231235959Z"
"""RFC 5280 4.1.2.5: no well-defined end."""
_DICE_TCB_INFO: Final = bytes.fromhex("0606678105050401")
_OID_SHA256: Final = bytes.fromhex("0609608648016503040201")

LOADER_LAYER: Final = 1
"""The ROM is layer 0."""


@dataclass(frozen=True, slots=True)
class CertificateTemplate:
    """What is to be signed, with zeros where the ROM fills in.

    Attributes:
        tbs: DER of the TBSCertificate.
        offsets: Where each field begins in `tbs`, by name.
    """

    tbs: bytes
    offsets: dict[str, int]


class _Field:
    """Marks octets to be filled in."""

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        # Unique octets, so that the field can be found in the finished DER.
        self.marker = (name.encode() * size)[:size].translate(bytes(octet ^ 0x80 for octet in range(256)))


def _der(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    size = len(body)
    if size < 0x80:
        return bytes((tag, size)) + body
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + body


def _name(oid: bytes, string_tag: int, value: bytes) -> bytes:
    return _der(0x30, _der(0x31, _der(0x30, oid, _der(string_tag, value))))


def _extension(oid: bytes, value: bytes, *, critical: bool = False) -> bytes:
    return _der(0x30, oid, b"\x01\x01\xff" if critical else b"", _der(0x04, value))


def _extensions(subject_id: _Field, issuer_id: _Field, tcb_info: bytes) -> bytes:
    # RFC 5280 4.2.1.9, 4.2.1.3 (keyCertSign is bit 5), 4.2.1.2, 4.2.1.1.
    return _der(
        0xA3,
        _der(
            0x30,
            _extension(bytes.fromhex("0603551d13"), _der(0x30, b"\x01\x01\xff"), critical=True),
            _extension(bytes.fromhex("0603551d0f"), bytes.fromhex("03020204"), critical=True),
            _extension(bytes.fromhex("0603551d0e"), _der(0x04, subject_id.marker)),
            _extension(bytes.fromhex("0603551d23"), _der(0x30, _der(0x80, issuer_id.marker))),
            _extension(_DICE_TCB_INFO, tcb_info),
        ),
    )


def loader_certificate_template() -> CertificateTemplate:
    """Build the template that `tools/chip.py header` renders for the ROM."""
    fields = {
        name: _Field(name, size)
        for name, size in (
            ("serial", 20),
            ("issuer", 64),
            ("subject", 64),
            ("public", 64),
            ("subject_id", 20),
            ("issuer_id", 20),
            ("svn", 1),
            ("measurement", 32),
            ("flags", 4),
        )
    }
    tcb_info = _der(
        0x30,
        _der(0x83, b"\xa5"),
        _der(0x84, bytes((LOADER_LAYER,))),
        _der(0xA6, _der(0x30, _OID_SHA256, _der(0x04, fields["measurement"].marker))),
        _der(0x87, b"\x00", fields["flags"].marker),
    )
    tbs = _der(
        0x30,
        _der(0xA0, b"\x02\x01\x02"),
        _der(0x02, fields["serial"].marker),
        _ALGORITHM,
        _name(_OID_SERIAL_NUMBER, 0x13, fields["issuer"].marker),
        _der(0x30, _NOT_BEFORE, _NOT_AFTER),
        _name(_OID_COMMON_NAME, 0x0C, fields["subject"].marker),
        SPKI_P256_PREFIX + b"\x04" + fields["public"].marker,
        _extensions(fields["subject_id"], fields["issuer_id"], tcb_info),
    )
    offsets = {"svn": tbs.index(_der(0x83, b"\xa5")) + 2}
    blank = bytearray(tbs)
    blank[offsets["svn"]] = 0
    for name, field in fields.items():
        if name != "svn":
            offsets[name] = tbs.index(field.marker)
            blank[offsets[name] : offsets[name] + len(field.marker)] = bytes(len(field.marker))
    return CertificateTemplate(bytes(blank), offsets)
