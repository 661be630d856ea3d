"""Enrolment over Secure Transport: the wire's bodies (RFC 7030).

Certificates travel as a certs-only PKCS#7 in base64 *on one line*: strongSwan's `pki --est` cannot read
the line-broken form, everybody else reads both.
"""

from __future__ import annotations

import base64
import binascii

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from fuseline.errors import CertificateMalformed, CsrMalformed, MessageMalformed

PREFIX = "/.well-known/est/"
CACERTS, SIMPLE_ENROLL, SIMPLE_REENROLL = "cacerts", "simpleenroll", "simplereenroll"
CSR_MEDIA_TYPE = "application/pkcs10"  # RFC 7030 4.2.1
CERTS_MEDIA_TYPE = "application/pkcs7-mime; smime-type=certs-only"  # RFC 7030 4.1.3
MAX_CSR = 16 * 1024  # bytes of base64; a P-256 request needs 600


def encode_certificates(certificates: list[x509.Certificate]) -> bytes:
    """Encode certificates as a certs-only PKCS#7, base64 on one line (RFC 7030 4.1.3)."""
    return base64.b64encode(pkcs7.serialize_certificates(certificates, Encoding.DER))


def decode_certificates(body: bytes) -> list[x509.Certificate]:
    """Decode a certs-only PKCS#7.

    Raises:
        MessageMalformed: Not base64.
        CertificateMalformed: Not a certs-only PKCS#7, or empty.
    """
    try:
        der = base64.b64decode(b"".join(body.split()), validate=True)
    except binascii.Error as error:
        raise MessageMalformed("the EST answer is not base64") from error
    try:
        certificates = pkcs7.load_der_pkcs7_certificates(der)
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise CertificateMalformed("the EST answer is not a certs-only PKCS#7") from error
    if not certificates:
        raise CertificateMalformed("the EST answer holds no certificate")
    return certificates


def encode_request(request: x509.CertificateSigningRequest) -> bytes:
    """Encode a PKCS#10 request as base64 DER (RFC 7030 4.2.1)."""
    return base64.b64encode(request.public_bytes(Encoding.DER))


def decode_request(body: bytes) -> x509.CertificateSigningRequest:
    """Decode a base64 DER PKCS#10 request; white space and PEM armour are passed over.

    RFC 7030 erratum 5107 and RFC 8951 make the body plain base64, but OpenSSL users post PEM.

    Raises:
        CsrMalformed: Not base64, not PKCS#10, or too large.
    """
    if len(body) > MAX_CSR:
        raise CsrMalformed("the request is larger than any P-256 request", length=len(body))
    lines = [line for line in body.split(b"\n") if not line.startswith(b"-----")]
    try:
        der = base64.b64decode(b"".join(b"".join(lines).split()), validate=True)
        return x509.load_der_x509_csr(der)
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise CsrMalformed("not a base64 DER PKCS#10 request", length=len(body)) from error
