"""The certificate profiles of the device identity (IEEE 802.1AR on RFC 5280).

A device is one dNSName. A DNS name constraint on a CA does not stop a leaf that carries a URI or an
otherName instead, so the profile adds the rule that the constraint cannot give: exactly one subject
alternative name, of type dNSName.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fuseline.errors import CertificateMalformed, CertProfile, CsrKey, CsrName, CsrProof

# IEEE 802.1AR-2018 8.7: an IDevID that never expires says so with GeneralizedTime 99991231235959Z.
NO_EXPIRY = dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC)

# RFC 1034 3.5 with RFC 5280 4.2.1.6: labels of letters, digits and hyphens; we issue lower case only.
_DNS_NAME = re.compile(
    r"(?=.{4,253}\Z)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?"
)


@dataclass(frozen=True, slots=True)
class DeviceCertificate:
    """A certificate that follows the device profile.

    Attributes:
        name: The one dNSName.
        serial: Serial number, lower-case hex.
        not_before: Seconds since the epoch.
        not_after: Seconds since the epoch; IDevIDs end in the year 9999.
        fingerprint: SHA-256 of the DER.
        issuer_key_id: Authority key identifier.
        key_sha256: SHA-256 of the SubjectPublicKeyInfo.
    """

    name: str
    serial: str
    not_before: int
    not_after: int
    fingerprint: bytes
    issuer_key_id: bytes
    key_sha256: bytes


@dataclass(frozen=True, slots=True)
class VerifiedRequest:
    """A PKCS#10 request whose proof of possession, key and name were checked."""

    name: str
    key: ec.EllipticCurvePublicKey
    key_sha256: bytes


def spki(key: ec.EllipticCurvePublicKey) -> bytes:
    """Return a key's SubjectPublicKeyInfo as DER."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def serial_text(serial: int) -> str:
    """Return a certificate serial number as lower-case hex, as OpenSSL prints it."""
    text = f"{serial:x}"
    return text.zfill(len(text) + len(text) % 2)


def subject_key_id(ca: x509.Certificate) -> x509.SubjectKeyIdentifier:
    """Return a CA's subject key identifier; our CAs have one (RFC 5280 4.2.1.2)."""
    return ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value


def is_device_name(name: str) -> bool:
    """Say whether a text can be a device's dNSName (lower case, no wildcard, two labels or more)."""
    return _DNS_NAME.fullmatch(name) is not None


def parse_device_certificate(der: bytes) -> DeviceCertificate:
    """Parse a certificate and hold it against the device profile.

    The chain is not built here: TLS has done that. This is the part that TLS does not check.

    1. P-256 public key.
    2. End entity: no CA bit.
    3. Exactly one subject alternative name, a dNSName, as we issue them.
    4. Extended key usage allows TLS client authentication.

    Raises:
        CertificateMalformed: Not DER X.509.
        CertProfile: One of the rules above is broken.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        key = certificate.public_key()
        extensions = certificate.extensions
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension) as error:
        raise CertificateMalformed("not an X.509 certificate that can be read") from error
    # 1.
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CertProfile("the key is not P-256")
    _check_end_entity(extensions)
    return DeviceCertificate(
        name=_only_dns_name(extensions, CertProfile),
        serial=serial_text(certificate.serial_number),
        not_before=int(certificate.not_valid_before_utc.timestamp()),
        not_after=int(certificate.not_valid_after_utc.timestamp()),
        fingerprint=hashlib.sha256(der).digest(),
        issuer_key_id=_authority_key_id(extensions),
        key_sha256=hashlib.sha256(spki(key)).digest(),
    )


def _check_end_entity(extensions: x509.Extensions) -> None:
    # 2. RFC 5280 4.2.1.9
    try:
        if extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            raise CertProfile("a device certificate is not a CA")
    except x509.ExtensionNotFound:
        pass
    # 4. RFC 5280 4.2.1.12
    try:
        usage = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound as error:
        raise CertProfile("no extended key usage") from error
    if ExtendedKeyUsageOID.CLIENT_AUTH not in usage:
        raise CertProfile("not for TLS client authentication")


def _authority_key_id(extensions: x509.Extensions) -> bytes:
    try:
        identifier = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except x509.ExtensionNotFound:
        identifier = None
    if not identifier:
        raise CertProfile("no authority key identifier")
    return identifier


def _only_dns_name(extensions: x509.Extensions, refused: type[CertProfile | CsrName]) -> str:
    # 3. RFC 5280 4.2.1.6: one general name, and its type is dNSName.
    try:
        names = list(extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        names = []
    if len(names) != 1 or not isinstance(names[0], x509.DNSName):
        raise refused("not exactly one subject alternative name of type dNSName", names=len(names))
    name = names[0].value
    if not is_device_name(name):
        raise refused("the dNSName is not a device name", name=name[:80])
    return name


def verify_request(request: x509.CertificateSigningRequest, *, name: str) -> VerifiedRequest:
    """Check a PKCS#10 request of the device `name`.

    1. P-256 key.
    2. Proof of possession: the request is signed by its own key (RFC 2986 3).
    3. It asks for the device's own name and nothing else.
    4. It asks for no CA rights.

    Raises:
        CsrKey: Another kind of key.
        CsrProof: The signature does not verify.
        CsrName: Another name, more names, or CA:true.
    """
    try:
        key = request.public_key()
        extensions = request.extensions
        signed = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, InvalidSignature, x509.DuplicateExtension) as error:
        raise CsrKey("the request's key or extensions cannot be read") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CsrKey("the key is not P-256")
    if not signed:
        raise CsrProof("the request's signature does not verify under its own key")
    asked = _only_dns_name(extensions, CsrName)
    if asked != name:
        raise CsrName("the request asks for another device's name", asked=asked, device=name)
    for extension in extensions:
        if isinstance(extension.value, x509.BasicConstraints) and extension.value.ca:
            raise CsrName("the request asks to become a CA")
    return VerifiedRequest(name=name, key=key, key_sha256=hashlib.sha256(spki(key)).digest())


def build_request(name: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateSigningRequest:
    """Build a PKCS#10 request for a device name; `key` may be an element's key."""
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(_device_subject(name))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )


def issue_device_certificate(
    *,
    name: str,
    key: ec.EllipticCurvePublicKey,
    issuer: x509.Certificate,
    issuer_key: ec.EllipticCurvePrivateKey,
    serial: int,
    not_before: dt.datetime,
    not_after: dt.datetime,
) -> x509.Certificate:
    """Issue an IDevID or LDevID that follows the profile."""
    return _issue_end_entity(
        subject=_device_subject(name),
        names=[x509.DNSName(name)],
        usage=ExtendedKeyUsageOID.CLIENT_AUTH,
        key=key,
        issuer=issuer,
        issuer_key=issuer_key,
        serial=serial,
        not_before=not_before,
        not_after=not_after,
    )


def _device_subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.SERIAL_NUMBER, name.split(".", maxsplit=1)[0])])


def _issue_end_entity(
    *,
    subject: x509.Name,
    names: list[x509.DNSName] | list[x509.GeneralName],
    usage: x509.ObjectIdentifier,
    key: ec.EllipticCurvePublicKey,
    issuer: x509.Certificate,
    issuer_key: ec.EllipticCurvePrivateKey,
    serial: int,
    not_before: dt.datetime,
    not_after: dt.datetime,
) -> x509.Certificate:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject)
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(_issued_by(issuer), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


def issue_device_id_certificate(
    *,
    chip_id: bytes,
    name: str,
    key: ec.EllipticCurvePublicKey,
    issuer: x509.Certificate,
    issuer_key: ec.EllipticCurvePrivateKey,
    serial: int,
    not_before: dt.datetime,
) -> x509.Certificate:
    """Issue the IDevID of a chip: the DeviceID certificate of its DICE chain (see `formats.dice`).

    It is a CA, because the chip's ROM certifies the loader's key with it, and the loader the firmware's: so
    goes the path length. It never expires, for it stands in a chip that nobody visits again.

    Args:
        chip_id: 32 octets; the subject's serialNumber is their hexadecimal.
        name: The device's dNSName.
        key: The public key that was derived inside the chip.
        issuer: The factory CA.
        issuer_key: Its key.
        serial: Serial number of the certificate.
        not_before: Start of validity.
    """
    subject = x509.Name([x509.NameAttribute(NameOID.SERIAL_NUMBER, chip_id.hex())])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject)
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(not_before)
        .not_valid_after(NO_EXPIRY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(_usage(digital_signature=True, certificates=True), critical=True)
        .add_extension(_sha256_key_id(key), critical=False)
        .add_extension(_issued_by(issuer), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


def _sha256_key_id(key: ec.EllipticCurvePublicKey) -> x509.SubjectKeyIdentifier:
    # RFC 7093 2 (1): a chip that names its issuer by this has SHA-256, and no SHA-1.
    point = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return x509.SubjectKeyIdentifier(hashlib.sha256(point).digest()[:20])


def _issued_by(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(subject_key_id(issuer))


def _usage(*, digital_signature: bool = False, certificates: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificates,
        crl_sign=certificates,
        encipher_only=False,
        decipher_only=False,
    )


def issue_ca(
    common_name: str,
    key: ec.EllipticCurvePublicKey,
    *,
    issuer: x509.Certificate | None,
    issuer_key: ec.EllipticCurvePrivateKey,
    not_before: dt.datetime,
    not_after: dt.datetime,
    permitted_dns: str | None = None,
    path_length: int | None = None,
) -> x509.Certificate:
    """Issue a CA certificate: the self-signed root when `issuer` is None, else a CA below it.

    Args:
        common_name: Subject common name.
        key: The new CA's public key.
        issuer: The CA above.
        issuer_key: Its key, or the root's own.
        not_before: Start of validity.
        not_after: End of validity.
        permitted_dns: Name constraint: the only DNS subtree below which it may issue (RFC 5280 4.2.1.10).
        path_length: CAs that may stand below it; 1 for the root and 0 for another unless told.
    """
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    if path_length is None:
        path_length = 0 if issuer else 1
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_usage(certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )
    if issuer is not None:
        builder = builder.add_extension(_issued_by(issuer), critical=False)
    if permitted_dns is not None:
        builder = builder.add_extension(
            x509.NameConstraints([x509.DNSName(permitted_dns)], excluded_subtrees=None), critical=True
        )
    return builder.sign(issuer_key, hashes.SHA256())


def issue_server_certificate(
    *,
    names: list[x509.GeneralName],
    key: ec.EllipticCurvePublicKey,
    issuer: x509.Certificate,
    issuer_key: ec.EllipticCurvePrivateKey,
    not_before: dt.datetime,
    not_after: dt.datetime,
) -> x509.Certificate:
    """Issue the plane's TLS server certificate (RFC 5280 with serverAuth only)."""
    return _issue_end_entity(
        subject=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Fuseline plane")]),
        names=names,
        usage=ExtendedKeyUsageOID.SERVER_AUTH,
        key=key,
        issuer=issuer,
        issuer_key=issuer_key,
        serial=x509.random_serial_number(),
        not_before=not_before,
        not_after=not_after,
    )
