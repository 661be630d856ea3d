"""EST bodies: one line out, whatever real clients send in, and OpenSSL as the judge."""

from __future__ import annotations

import base64
import datetime as dt
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from fuseline.errors import CertificateMalformed, CsrMalformed, MessageMalformed
from fuseline.formats import est, x509profile

KEY = ec.generate_private_key(ec.SECP256R1())
NAME = "dev-1.acme.example"
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
REQUEST = x509profile.build_request(NAME, KEY)
CERTIFICATES = [
    x509profile.issue_ca(
        common_name, KEY.public_key(), issuer=None, issuer_key=KEY, not_before=NOW, not_after=NOW
    )
    for common_name in ("One", "Two")
]


def openssl(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["openssl", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=20
    )
    return done.stdout + done.stderr


def test_certificates_travel_on_one_line() -> None:
    body = est.encode_certificates(CERTIFICATES)
    assert b"\n" not in body
    assert b"-----" not in body
    assert {c.subject for c in est.decode_certificates(body)} == {c.subject for c in CERTIFICATES}


def test_line_breaks_of_other_servers_are_read() -> None:
    broken = base64.encodebytes(base64.b64decode(est.encode_certificates(CERTIFICATES)))
    assert len(est.decode_certificates(broken.replace(b"\n", b"\r\n"))) == 2


def test_openssl_reads_our_certificates(tmp_path: Path) -> None:
    (tmp_path / "certs.p7").write_bytes(base64.b64decode(est.encode_certificates(CERTIFICATES)))
    shown = openssl(tmp_path, "pkcs7", "-inform", "DER", "-in", "certs.p7", "-print_certs", "-noout")
    assert shown.count("subject=") == 2
    assert "One" in shown
    assert "Two" in shown


def test_openssl_verifies_our_request(tmp_path: Path) -> None:
    (tmp_path / "request.der").write_bytes(base64.b64decode(est.encode_request(REQUEST)))
    shown = openssl(tmp_path, "req", "-inform", "DER", "-in", "request.der", "-verify", "-noout", "-text")
    assert "verify OK" in shown
    assert f"DNS:{NAME}" in shown


def test_we_verify_openssl_s_request(tmp_path: Path) -> None:
    openssl(tmp_path, "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "key.pem")
    names = ["-subj", "/CN=anything", "-addext", f"subjectAltName=DNS:{NAME}"]
    openssl(tmp_path, "req", "-new", "-key", "key.pem", *names, "-out", "request.pem")
    request = est.decode_request((tmp_path / "request.pem").read_bytes())
    assert x509profile.verify_request(request, name=NAME).name == NAME


@pytest.mark.parametrize(
    "body",
    [
        est.encode_request(REQUEST),
        est.encode_request(REQUEST) + b"\n",
        base64.encodebytes(REQUEST.public_bytes(Encoding.DER)),
        base64.encodebytes(REQUEST.public_bytes(Encoding.DER)).replace(b"\n", b"\r\n"),
        REQUEST.public_bytes(Encoding.PEM),
        REQUEST.public_bytes(Encoding.PEM).replace(b"\n", b"\r\n"),
    ],
    ids=["one line", "line end", "lines", "CRLF", "PEM", "PEM CRLF"],
)
def test_a_request_is_read_as_real_clients_write_it(body: bytes) -> None:
    assert est.decode_request(body) == REQUEST


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"-----BEGIN CERTIFICATE REQUEST-----",
        REQUEST.public_bytes(Encoding.DER),
        est.encode_request(REQUEST)[:-8],
        base64.b64encode(REQUEST.public_bytes(Encoding.DER) + b"\0"),
        base64.b64encode(CERTIFICATES[0].public_bytes(Encoding.DER)),
        b"A" * (est.MAX_CSR + 1),
        b"A" * est.MAX_CSR,
    ],
)
def test_what_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(CsrMalformed) as caught:
        est.decode_request(body)
    assert caught.value.evidence["length"] == len(body)


def test_a_request_of_another_version_is_refused() -> None:
    der = REQUEST.public_bytes(Encoding.DER)
    # RFC 2986 4.1: the version is 0; it is the first INTEGER.
    at = der.index(b"\x02\x01\x00")
    with pytest.raises(CsrMalformed):
        est.decode_request(base64.b64encode(der[: at + 2] + b"\x01" + der[at + 3 :]))


# RFC 5652 4: a ContentInfo of type data, which is a PKCS#7 and holds no certificates.
PLAIN_DATA = bytes.fromhex("300f06092a864886f70d010701a0020400")


@pytest.mark.parametrize("der", [b"", b"\x30\x00", PLAIN_DATA, CERTIFICATES[0].public_bytes(Encoding.DER)])
def test_an_answer_without_certificates_is_refused(der: bytes) -> None:
    with pytest.raises(CertificateMalformed):
        est.decode_certificates(base64.b64encode(der))


def test_an_answer_that_is_not_base64_is_refused() -> None:
    with pytest.raises(MessageMalformed):
        est.decode_certificates(b"<html>captive portal</html>")


@given(st.binary(max_size=100))
def test_any_answer_is_certificates_or_refused(raw: bytes) -> None:
    with pytest.raises((CertificateMalformed, MessageMalformed)):
        est.decode_certificates(raw)
    with pytest.raises(CertificateMalformed):
        est.decode_certificates(base64.b64encode(raw))


def test_every_changed_byte_of_an_answer_is_certificates_or_refused() -> None:
    der = base64.b64decode(est.encode_certificates(CERTIFICATES[:1]))
    survived = 0
    for position in range(len(der)):
        flipped = bytearray(der)
        flipped[position] ^= 0x41
        try:
            found = est.decode_certificates(base64.b64encode(flipped))
        except CertificateMalformed:
            continue
        survived += 1
        assert all(isinstance(certificate, x509.Certificate) for certificate in found)
    assert survived, "bytes of the signature are not this format's to judge"
