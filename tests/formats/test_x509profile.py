"""The device certificate profile: what TLS lets through and the profile does not."""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fuseline.errors import CertificateMalformed, CertProfile, CsrKey, CsrMalformed, CsrName, CsrProof
from fuseline.formats import est, x509profile

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
LATER = NOW + dt.timedelta(days=3650)
DOMAIN = "devices.acme.example"
NAME = f"dev-1.{DOMAIN}"
ROOT_KEY, FACTORY_KEY, DEVICE_KEY = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
ROOT = x509profile.issue_ca(
    "Root",
    ROOT_KEY.public_key(),
    issuer=None,
    issuer_key=ROOT_KEY,
    not_before=NOW,
    not_after=LATER,
)
FACTORY = x509profile.issue_ca(
    "Factory",
    FACTORY_KEY.public_key(),
    issuer=ROOT,
    issuer_key=ROOT_KEY,
    not_before=NOW,
    not_after=LATER,
    permitted_dns=DOMAIN,
)

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey
CLIENT_AUTH = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
DNS = x509.DNSName(NAME)
OTHER_NAME = x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), b"\x0c\x05admin")
RSA_KEY = rsa.generate_private_key(65537, 2048)


def idevid(name: str = NAME) -> x509.Certificate:
    return x509profile.issue_device_certificate(
        name=name,
        key=DEVICE_KEY.public_key(),
        issuer=FACTORY,
        issuer_key=FACTORY_KEY,
        serial=0x0ABC,
        not_before=NOW,
        not_after=x509profile.NO_EXPIRY,
    )


def leaf(
    *names: x509.GeneralName,
    key: PublicKey | None = None,
    usage: x509.ExtendedKeyUsage | None = CLIENT_AUTH,
    ca: bool = False,
    key_id: bool = True,
) -> bytes:
    """Issue what a careless or stolen factory CA would."""
    subject = x509.Name([x509.NameAttribute(NameOID.SERIAL_NUMBER, "dev-1")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(FACTORY.subject)
        .public_key(key or DEVICE_KEY.public_key())
        .serial_number(7)
        .not_valid_before(NOW)
        .not_valid_after(LATER)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if usage is not None:
        builder = builder.add_extension(usage, critical=False)
    if key_id:
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(FACTORY_KEY.public_key())
        builder = builder.add_extension(issuer, critical=False)
    return builder.sign(FACTORY_KEY, hashes.SHA256()).public_bytes(Encoding.DER)


def csr(
    *names: x509.GeneralName,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey = DEVICE_KEY,
    ca: bool = False,
) -> x509.CertificateSigningRequest:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if ca:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return builder.sign(key, None)
    return builder.sign(key, hashes.SHA256())


def openssl_verify(folder: Path, certificate: bytes) -> subprocess.CompletedProcess[str]:
    (folder / "root.pem").write_bytes(ROOT.public_bytes(Encoding.PEM))
    (folder / "factory.pem").write_bytes(FACTORY.public_bytes(Encoding.PEM))
    parsed = x509.load_der_x509_certificate(certificate)
    (folder / "leaf.pem").write_bytes(parsed.public_bytes(Encoding.PEM))
    command = ["openssl", "verify", "-x509_strict", "-purpose", "sslclient"]
    command += ["-CAfile", "root.pem", "-untrusted", "factory.pem", "leaf.pem"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=20)


# --- certificates --------------------------------------------------------------------------------


def test_an_idevid_follows_the_profile() -> None:
    certificate = idevid()
    parsed = x509profile.parse_device_certificate(certificate.public_bytes(Encoding.DER))
    assert parsed.name == NAME
    assert parsed.serial == "0abc"
    assert parsed.fingerprint == certificate.fingerprint(hashes.SHA256())
    assert certificate.not_valid_after_utc == x509profile.NO_EXPIRY  # IEEE 802.1AR-2018 8.7
    assert (parsed.not_before, parsed.not_after) == (1767225600, 253402300799)


def test_the_control_leaf_is_accepted() -> None:
    assert x509profile.parse_device_certificate(leaf(DNS)).name == NAME


@pytest.mark.parametrize(
    "names",
    [
        [],
        [x509.UniformResourceIdentifier(f"https://{NAME}/")],
        [OTHER_NAME],
        [x509.IPAddress(ipaddress.ip_address("192.0.2.1"))],
        [x509.RFC822Name(f"root@{NAME}")],
        [x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)]))],
        [x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))],
        [DNS, x509.DNSName(f"dev-2.{DOMAIN}")],
        [DNS, DNS],
        [DNS, x509.UniformResourceIdentifier(f"https://dev-2.{DOMAIN}/")],
        [DNS, OTHER_NAME],
    ],
    ids=[
        "none",
        "URI",
        "otherName",
        "IP",
        "mail",
        "directory",
        "OID",
        "two",
        "twice",
        "and URI",
        "and otherName",
    ],
)
def test_a_leaf_without_exactly_one_dns_name_is_refused(names: list[x509.GeneralName]) -> None:
    with pytest.raises(CertProfile) as caught:
        x509profile.parse_device_certificate(leaf(*names))
    assert caught.value.evidence["names"] == len(names)


@pytest.mark.parametrize(
    "name",
    [
        f"*.{DOMAIN}",
        "*",
        "localhost",
        f"DEV-1.{DOMAIN}",
        f".{DOMAIN}",
        f"{NAME}.",
        f"dev_1.{DOMAIN}",
        f"-dev.{DOMAIN}",
        f"dev-.{DOMAIN}",
        "dev..example",
        "192.0.2.1",
        f"dev-1.{DOMAIN}\n",
        f"dev-1.{DOMAIN}\0.evil.example",
        f"a b.{DOMAIN}",
        f"{'a' * 64}.example",
        f"{'a.' * 127}example",
        "",
    ],
)
def test_a_dns_name_that_is_no_device_name_is_refused(name: str) -> None:
    assert not x509profile.is_device_name(name)
    with pytest.raises(CertProfile):
        x509profile.parse_device_certificate(leaf(x509.DNSName(name)))


@pytest.mark.parametrize("name", ["a.bc", NAME, f"{'a' * 63}.example", "1.a2.b-c", "xn--bcher-kva.example"])
def test_device_names_are_host_names(name: str) -> None:
    assert x509profile.is_device_name(name)


def test_a_ca_is_no_device() -> None:
    with pytest.raises(CertProfile, match="not a CA"):
        x509profile.parse_device_certificate(leaf(DNS, ca=True))
    for authority in (ROOT, FACTORY):
        with pytest.raises(CertProfile):
            x509profile.parse_device_certificate(authority.public_bytes(Encoding.DER))


@pytest.mark.parametrize(
    "usage",
    [
        None,
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]),
    ],
    ids=["none", "server", "code signing", "any"],
)
def test_a_leaf_that_is_not_for_tls_clients_is_refused(usage: x509.ExtendedKeyUsage | None) -> None:
    with pytest.raises(CertProfile):
        x509profile.parse_device_certificate(leaf(DNS, usage=usage))


@pytest.mark.parametrize(
    "key",
    [
        RSA_KEY.public_key(),
        ec.generate_private_key(ec.SECP384R1()).public_key(),
        ec.generate_private_key(ec.SECP256K1()).public_key(),
        ed25519.Ed25519PrivateKey.generate().public_key(),
    ],
    ids=["RSA", "P-384", "secp256k1", "Ed25519"],
)
def test_a_key_that_is_not_p256_is_refused(key: PublicKey) -> None:
    with pytest.raises(CertProfile, match="P-256"):
        x509profile.parse_device_certificate(leaf(DNS, key=key))


def test_a_leaf_that_does_not_name_its_issuer_s_key_is_refused() -> None:
    with pytest.raises(CertProfile, match="authority key"):
        x509profile.parse_device_certificate(leaf(DNS, key_id=False))


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_any_changed_certificate_is_parsed_or_refused_by_name() -> None:
    der = idevid().public_bytes(Encoding.DER)
    for position in range(len(der) * 8):
        flipped = bytearray(der)
        flipped[position // 8] ^= 1 << position % 8
        try:
            parsed = x509profile.parse_device_certificate(bytes(flipped))
        except (CertificateMalformed, CertProfile):
            continue
        # TLS checks the signature; here only the fingerprint tells, and the registry looks up by it.
        assert parsed.fingerprint != idevid().fingerprint(hashes.SHA256())
    for end in range(len(der)):
        with pytest.raises(CertificateMalformed):
            x509profile.parse_device_certificate(der[:end])


# --- the chain, as OpenSSL sees it ------------------------------------------------------------------


def test_openssl_accepts_the_chain(tmp_path: Path) -> None:
    done = openssl_verify(tmp_path, idevid().public_bytes(Encoding.DER))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["plane.acme.example", "dev-1.other.example", f"x{DOMAIN}"])
def test_openssl_refuses_a_leaf_outside_the_name_constraint(tmp_path: Path, name: str) -> None:
    certificate = leaf(x509.DNSName(name))
    done = openssl_verify(tmp_path, certificate)
    assert done.returncode != 0
    assert "permitted subtree violation" in done.stderr
    # The profile alone would take it: the two rules need each other.
    assert x509profile.parse_device_certificate(certificate).name == name


@pytest.mark.parametrize(
    "name",
    [x509.UniformResourceIdentifier("https://plane.acme.example/"), OTHER_NAME],
    ids=["URI", "otherName"],
)
def test_the_bypass_of_the_name_constraint_by_another_type_is_refused(
    tmp_path: Path, name: x509.GeneralName
) -> None:
    certificate = leaf(name)
    assert openssl_verify(tmp_path, certificate).returncode == 0, "the constraint covers DNS names only"
    with pytest.raises(CertProfile):
        x509profile.parse_device_certificate(certificate)


def test_openssl_refuses_a_ca_below_the_factory(tmp_path: Path) -> None:
    below = x509profile.issue_ca(
        "Below",
        DEVICE_KEY.public_key(),
        issuer=FACTORY,
        issuer_key=FACTORY_KEY,
        not_before=NOW,
        not_after=LATER,
    )
    chained = x509profile.issue_device_certificate(
        name=NAME,
        key=DEVICE_KEY.public_key(),
        issuer=below,
        issuer_key=DEVICE_KEY,
        serial=1,
        not_before=NOW,
        not_after=LATER,
    )
    (tmp_path / "root.pem").write_bytes(ROOT.public_bytes(Encoding.PEM))
    (tmp_path / "between.pem").write_bytes(
        FACTORY.public_bytes(Encoding.PEM) + below.public_bytes(Encoding.PEM)
    )
    (tmp_path / "leaf.pem").write_bytes(chained.public_bytes(Encoding.PEM))
    command = ["openssl", "verify", "-CAfile", "root.pem", "-untrusted", "between.pem", "leaf.pem"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode != 0
    assert "path length constraint exceeded" in done.stderr


def test_the_plane_s_certificate_is_no_device_s() -> None:
    server = x509profile.issue_server_certificate(
        names=[x509.DNSName("plane.acme.example")],
        key=DEVICE_KEY.public_key(),
        issuer=ROOT,
        issuer_key=ROOT_KEY,
        not_before=NOW,
        not_after=LATER,
    )
    with pytest.raises(CertProfile):
        x509profile.parse_device_certificate(server.public_bytes(Encoding.DER))


# --- requests --------------------------------------------------------------------------------------


def test_a_request_of_the_device_for_itself_is_verified() -> None:
    request = x509profile.verify_request(x509profile.build_request(NAME, DEVICE_KEY), name=NAME)
    assert request.name == NAME
    assert x509profile.spki(request.key) == x509profile.spki(DEVICE_KEY.public_key())


def test_a_request_with_a_tampered_proof_of_possession_is_refused() -> None:
    der = bytearray(x509profile.build_request(NAME, DEVICE_KEY).public_bytes(Encoding.DER))
    der[-1] ^= 1
    with pytest.raises(CsrProof):
        x509profile.verify_request(x509.load_der_x509_csr(bytes(der)), name=NAME)


def test_a_request_for_a_key_that_somebody_else_holds_is_refused() -> None:
    victim = ec.generate_private_key(ec.SECP256R1()).public_key()
    der = x509profile.build_request(NAME, DEVICE_KEY).public_bytes(Encoding.DER)
    swapped = der.replace(x509profile.spki(DEVICE_KEY.public_key()), x509profile.spki(victim))
    assert swapped != der
    with pytest.raises(CsrProof):
        x509profile.verify_request(x509.load_der_x509_csr(swapped), name=NAME)


@pytest.mark.parametrize(
    "names",
    [
        [],
        [x509.DNSName(f"dev-2.{DOMAIN}")],
        [x509.DNSName(f"*.{DOMAIN}")],
        [x509.DNSName(NAME.upper())],
        [DNS, x509.DNSName(f"dev-2.{DOMAIN}")],
        [DNS, x509.UniformResourceIdentifier("https://plane.acme.example/")],
        [DNS, DNS],
        [x509.UniformResourceIdentifier(f"https://{NAME}/")],
        [OTHER_NAME],
    ],
    ids=["none", "other", "wildcard", "upper case", "extra", "extra URI", "twice", "URI", "otherName"],
)
def test_a_request_for_any_other_name_is_refused(names: list[x509.GeneralName]) -> None:
    with pytest.raises(CsrName):
        x509profile.verify_request(csr(*names), name=NAME)


def test_a_request_to_become_a_ca_is_refused() -> None:
    with pytest.raises(CsrName, match="CA"):
        x509profile.verify_request(csr(DNS, ca=True), name=NAME)


@pytest.mark.parametrize(
    "key",
    [RSA_KEY, ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()],
    ids=["RSA", "P-384", "Ed25519"],
)
def test_a_request_with_another_kind_of_key_is_refused(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey,
) -> None:
    with pytest.raises(CsrKey):
        x509profile.verify_request(csr(DNS, key=key), name=NAME)


def test_no_bit_flip_of_a_request_changes_what_is_certified() -> None:
    request = x509profile.build_request(NAME, DEVICE_KEY)
    der = request.public_bytes(Encoding.DER)
    # X.690 8.6.2.2: the octet before the signature counts unused bits; it is idle where those are 0.
    unused_bits = len(der) - len(request.signature) - 1
    for position in range(len(der) * 8):
        flipped = bytearray(der)
        flipped[position // 8] ^= 1 << position % 8
        try:
            verified = x509profile.verify_request(est.decode_request(base64.b64encode(flipped)), name=NAME)
        except (CsrMalformed, CsrKey, CsrName, CsrProof):
            continue
        assert position // 8 == unused_bits
        assert verified == x509profile.verify_request(request, name=NAME)
