"""A chip's certificates and its identity request: what a lying chip could send instead."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from fuseline.errors import DiceChain, DiceMalformed, IdentityRequestRefused
from fuseline.formats import dice, x509profile
from fuseline.formats.dice import TCB_INFO, TcbFlags, TcbInfo

NOW = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
DOMAIN = "chips.acme.example"
CHIP_ID = hashlib.sha256(b"a chip").digest()
MEASUREMENT = hashlib.sha256(b"a loader").digest()
CA_KEY, DEVICE_KEY, LOADER_KEY, FIRMWARE_KEY = (ec.generate_private_key(ec.SECP256R1()) for _ in range(4))


def tlv(tag: int, *content: bytes) -> bytes:
    body = b"".join(content)
    length = bytes([len(body)]) if len(body) < 0x80 else bytes([0x81, len(body)])
    return bytes([tag]) + length + body


SHA256_OID = tlv(0x06, bytes.fromhex("608648016503040201"))
FWIDS = tlv(0xA6, tlv(0x30, SHA256_OID, tlv(0x04, MEASUREMENT)))


def tcb(*members: bytes) -> bytes:
    return tlv(0x30, *members)


GOOD_TCB = tcb(tlv(0x83, b"\x07"), tlv(0x84, b"\x01"), FWIDS, tlv(0x87, b"\x04\x10"))


def factory_ca(**changes: object) -> x509.Certificate:
    arguments: dict[str, object] = {"permitted_dns": DOMAIN, "path_length": 2, **changes}
    return x509profile.issue_ca(
        "Chip factory",
        CA_KEY.public_key(),
        issuer=None,
        issuer_key=CA_KEY,
        not_before=START,
        not_after=START + dt.timedelta(days=3650),
        **arguments,  # type: ignore[arg-type]
    )


ANCHOR = factory_ca()


def device_id(**changes: object) -> x509.Certificate:
    arguments: dict[str, object] = {
        "chip_id": CHIP_ID,
        "name": f"chip-1.{DOMAIN}",
        "key": DEVICE_KEY.public_key(),
        "issuer": ANCHOR,
        "issuer_key": CA_KEY,
        "serial": 5,
        "not_before": START,
        **changes,
    }
    return x509profile.issue_device_id_certificate(**arguments)  # type: ignore[arg-type]


DEVICE_ID = device_id()


def layer(
    issuer: x509.Certificate = DEVICE_ID,
    issuer_key: ec.EllipticCurvePrivateKey = DEVICE_KEY,
    *,
    key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | None = None,
    tcb_info: bytes | None = GOOD_TCB,
    ca: bool = True,
    sign_usage: bool = True,
    authority: bytes | None = None,
    not_before: dt.datetime = START,
    critical: x509.ExtensionType | None = None,
    digest: hashes.SHA384 | None = None,
    issuer_name: x509.Name | None = None,
) -> x509.Certificate:
    """Certify a layer as a ROM would, or as a broken or hostile one would."""
    public = key or LOADER_KEY.public_key()
    key_id = authority or issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    usage = x509.KeyUsage(
        digital_signature=not sign_usage,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_usage,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "layer")]))
        .issuer_name(issuer_name or issuer.subject)
        .public_key(public)
        .serial_number(9)
        .not_valid_before(not_before)
        .not_valid_after(x509profile.NO_EXPIRY)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=0 if ca else None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier(key_id, None, None), critical=False)
    )
    if tcb_info is not None:
        builder = builder.add_extension(x509.UnrecognizedExtension(TCB_INFO, tcb_info), critical=True)
    if critical is not None:
        builder = builder.add_extension(critical, critical=True)
    return builder.sign(issuer_key, digest or hashes.SHA256())


def der(*certificates: x509.Certificate) -> list[bytes]:
    return [certificate.public_bytes(Encoding.DER) for certificate in certificates]


# --- DiceTcbInfo -------------------------------------------------------------------------------------


def test_tcb_info_tells_counter_layer_measurement_and_flags() -> None:
    assert dice.parse_tcb_info(GOOD_TCB) == TcbInfo(7, 1, MEASUREMENT, TcbFlags.DEBUG)
    wide = dice.parse_tcb_info(tcb(tlv(0x83, b"\x07"), FWIDS, tlv(0x87, b"\x00\x10\x00\x00\x01")))
    assert wide.flags == TcbFlags.DEBUG
    plain = dice.parse_tcb_info(tcb(tlv(0x82, b"1.0"), tlv(0x83, b"\x00\x80"), FWIDS))
    assert plain == TcbInfo(128, None, MEASUREMENT, TcbFlags(0))


@pytest.mark.parametrize(
    "value",
    [
        b"",
        tlv(0x31, tlv(0x83, b"\x01"), FWIDS),
        tcb(tlv(0x83, b"\x01")),
        tcb(FWIDS),
        tcb(FWIDS, tlv(0x83, b"\x01")),
        tcb(tlv(0x83, b"\x01"), tlv(0x83, b"\x01"), FWIDS),
        tcb(tlv(0x83, b"\x00\x01"), FWIDS),
        tcb(tlv(0x83, b"\x81"), FWIDS),
        tcb(tlv(0x83), FWIDS),
        tcb(tlv(0x83, b"\x01"), FWIDS, tlv(0x87, b"\x03\x08\x04")),
        tcb(tlv(0x83, b"\x01"), FWIDS, tlv(0x87, b"\x00\x00\x01")),
        tcb(tlv(0x83, b"\x01"), FWIDS, tlv(0x87)),
        tcb(tlv(0x83, b"\x01"), FWIDS, tlv(0x95, b"")),
        tcb(tlv(0x83, b"\x01"), tlv(0xA6, tlv(0x30, SHA256_OID, tlv(0x04, MEASUREMENT[:31])))),
        tcb(tlv(0x83, b"\x01"), tlv(0xA6, tlv(0x30, tlv(0x06, b"\x2a"), tlv(0x04, MEASUREMENT)))),
        tcb(tlv(0x83, b"\x01"), tlv(0xA6, FWIDS[2:], FWIDS[2:])),
        tcb(tlv(0x83, b"\x01"), tlv(0xA6, tlv(0x30, SHA256_OID))),
        GOOD_TCB + b"\x00",
        bytes([0x30, 0x81, len(GOOD_TCB) - 2]) + GOOD_TCB[2:],
        bytes([0x30, 0x80]) + GOOD_TCB[2:] + b"\x00\x00",
        bytes([0x30, 0x82, 0x01]),
        b"\x3f\x81\x01\x00",
    ],
)
def test_tcb_info_that_is_not_exactly_der_is_refused(value: bytes) -> None:
    with pytest.raises(DiceMalformed):
        dice.parse_tcb_info(value)


def test_tcb_info_cut_anywhere_is_refused() -> None:
    for length in range(len(GOOD_TCB)):
        with pytest.raises(DiceMalformed):
            dice.parse_tcb_info(GOOD_TCB[:length])


# --- the chain ---------------------------------------------------------------------------------------


def test_a_chain_up_to_the_factory_gives_chip_name_and_layers() -> None:
    chain = dice.verify_chain(der(DEVICE_ID, layer()), anchor=ANCHOR, now=NOW)
    assert (chain.chip_id, chain.name) == (CHIP_ID, f"chip-1.{DOMAIN}")
    assert chain.layers == (TcbInfo(7, 1, MEASUREMENT, TcbFlags.DEBUG),)
    assert chain.key == LOADER_KEY.public_key()


def test_the_loader_may_certify_its_firmware() -> None:
    loader = layer(tcb_info=tcb(tlv(0x83, b"\x01"), tlv(0x84, b"\x01"), FWIDS))
    firmware = layer(
        loader,
        LOADER_KEY,
        key=FIRMWARE_KEY.public_key(),
        tcb_info=tcb(tlv(0x83, b"\x02"), tlv(0x84, b"\x02"), FWIDS),
        ca=False,
    )
    chain = dice.verify_chain(der(DEVICE_ID, loader, firmware), anchor=ANCHOR, now=NOW)
    assert [one.svn for one in chain.layers] == [1, 2]
    assert chain.key == FIRMWARE_KEY.public_key()


BROKEN: dict[str, Callable[[], list[bytes]]] = {
    "no layer": lambda: der(DEVICE_ID),
    "nothing": list,
    "signed by another key": lambda: der(DEVICE_ID, layer(issuer_key=LOADER_KEY)),
    "another issuer's name": lambda: der(DEVICE_ID, layer(issuer_name=ANCHOR.subject)),
    "key identifier": lambda: der(DEVICE_ID, layer(authority=b"x" * 20)),
    "not yet valid": lambda: der(DEVICE_ID, layer(not_before=NOW + dt.timedelta(days=1))),
    "no DiceTcbInfo": lambda: der(DEVICE_ID, layer(tcb_info=None)),
    "a key of another kind": lambda: der(
        DEVICE_ID, layer(key=ed25519.Ed25519PrivateKey.generate().public_key())
    ),
    "another digest": lambda: der(DEVICE_ID, layer(digest=hashes.SHA384())),
    "an unknown critical extension": lambda: der(
        DEVICE_ID, layer(critical=x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\x05\x00"))
    ),
    "wrong layer number": lambda: der(
        DEVICE_ID, layer(tcb_info=tcb(tlv(0x83, b"\x01"), tlv(0x84, b"\x02"), FWIDS))
    ),
    "a layer that is no CA certifies another": lambda: der(
        DEVICE_ID, layer(ca=False), layer(layer(ca=False), LOADER_KEY, key=FIRMWARE_KEY.public_key())
    ),
    "a layer that may not sign certifies another": lambda: der(
        DEVICE_ID, layer(sign_usage=False), layer(layer(), LOADER_KEY, key=FIRMWARE_KEY.public_key())
    ),
    "a name of another domain": lambda: der(device_id(name="chip-1.evil.example"), layer()),
    "another factory": lambda: der(device_id(issuer_key=LOADER_KEY), layer()),
    "order": lambda: der(layer(), DEVICE_ID),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_chain_that_breaks_one_rule_is_refused(case: str) -> None:
    with pytest.raises(DiceChain):
        dice.verify_chain(BROKEN[case](), anchor=ANCHOR, now=NOW)


def test_a_longer_path_than_the_factory_ca_allows_is_refused() -> None:
    narrow = factory_ca(path_length=0)
    with pytest.raises(DiceChain, match="more certificates"):
        dice.verify_chain(der(device_id(issuer=narrow), layer()), anchor=narrow, now=NOW)


def test_a_chain_that_was_cut_or_spoilt_is_refused() -> None:
    first, second = der(DEVICE_ID, layer())
    for spoilt in ([first, second[:-1]], [b"", second], [first, b"\x30\x00"]):
        with pytest.raises(DiceMalformed):
            dice.verify_chain(spoilt, anchor=ANCHOR, now=NOW)


@pytest.mark.filterwarnings("ignore:Parsed a serial number:cryptography.utils.CryptographyDeprecationWarning")
def test_every_flipped_bit_of_a_layers_certificate_is_noticed() -> None:
    first, second = der(DEVICE_ID, layer())
    for position in range(8 * len(second)):
        spoilt = bytearray(second)
        spoilt[position // 8] ^= 1 << position % 8
        with pytest.raises((DiceChain, DiceMalformed)):
            dice.verify_chain([first, bytes(spoilt)], anchor=ANCHOR, now=NOW)


def test_only_verification_makes_verified_things() -> None:
    with pytest.raises(RuntimeError):
        dice.VerifiedChain(CHIP_ID, "x", (), LOADER_KEY.public_key(), object())
    with pytest.raises(RuntimeError):
        dice.VerifiedIdentityRequest(CHIP_ID, LOADER_KEY.public_key(), object())


# --- the identity request ----------------------------------------------------------------------------

NONCE = bytes(range(32))


def answer(key: ec.EllipticCurvePrivateKey = DEVICE_KEY, nonce: bytes = NONCE) -> bytes:
    public = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
    digest = dice.request_digest(nonce, CHIP_ID, public)
    r, s = decode_dss_signature(key.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256()))))
    return CHIP_ID + public + r.to_bytes(32, "big") + s.to_bytes(32, "big")


def test_an_answer_to_this_challenge_gives_the_chips_key() -> None:
    request = dice.verify_identity_request(answer(), nonce=NONCE, chip_id=CHIP_ID)
    assert request.key == DEVICE_KEY.public_key()


@pytest.mark.parametrize(
    ("spoilt", "nonce", "chip_id"),
    [
        (answer(), bytes(32), CHIP_ID),
        (answer(nonce=bytes(32)), NONCE, CHIP_ID),
        (answer(), NONCE, bytes(32)),
        (answer()[:-1], NONCE, CHIP_ID),
        (CHIP_ID + bytes(128), NONCE, CHIP_ID),
        (answer()[:96] + bytes(64), NONCE, CHIP_ID),
        (answer()[:32] + answer(LOADER_KEY)[32:96] + answer()[96:], NONCE, CHIP_ID),
        (b"", NONCE, CHIP_ID),
        (answer(), b"", CHIP_ID),
    ],
    ids=[
        "replayed",
        "old answer",
        "other chip",
        "cut",
        "no point",
        "zeros",
        "other key",
        "empty",
        "no nonce",
    ],
)
def test_an_answer_that_proves_nothing_is_refused(spoilt: bytes, nonce: bytes, chip_id: bytes) -> None:
    with pytest.raises(IdentityRequestRefused):
        dice.verify_identity_request(spoilt, nonce=nonce, chip_id=chip_id)
