"""Getting an operational certificate: the device believes no certificate that is not its own."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fuseline.device.agent import enrol
from fuseline.device.agent.config import DeviceConfig, DeviceSettings
from fuseline.device.agent.link import Answer, Line, PlaneLink, TlsMode
from fuseline.device.element import virtual
from fuseline.device.element.client import ElementKey, ElementPower
from fuseline.device.element.interface import KeySlot
from fuseline.errors import CertificateMalformed, FormatError, PlaneRefused
from fuseline.formats import est, x509profile
from fuseline.formats.mcuboot import TrustedKey

NAME = "dev-1.acme.example"
NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)
CA_KEY, OTHER_KEY = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
CA = x509profile.issue_ca(
    "CA",
    CA_KEY.public_key(),
    issuer=None,
    issuer_key=CA_KEY,
    not_before=NOW,
    not_after=NOW + dt.timedelta(days=1),
)


def certificate(key: ec.EllipticCurvePublicKey, name: str = NAME) -> x509.Certificate:
    return x509profile.issue_device_certificate(
        name=name,
        key=key,
        issuer=CA,
        issuer_key=CA_KEY,
        serial=0x0A1B,
        not_before=NOW,
        not_after=NOW + dt.timedelta(hours=1),
    )


def server_certificate(key: ec.EllipticCurvePublicKey) -> x509.Certificate:
    return x509profile.issue_server_certificate(
        names=[x509.DNSName(NAME)],
        key=key,
        issuer=CA,
        issuer_key=CA_KEY,
        not_before=NOW,
        not_after=NOW + dt.timedelta(hours=1),
    )


class EstLink(PlaneLink):
    """An EST server that verifies the request and answers as the test says."""

    def __init__(self, answer: Callable[[ec.EllipticCurvePublicKey], bytes]) -> None:
        self._answer = answer
        self.paths: list[str] = []

    def request(self, method: str, path: str, *, body: bytes = b"", headers: object = None) -> Answer:
        del method, headers
        self.paths.append(path)
        verified = x509profile.verify_request(est.decode_request(body), name=NAME)
        return Answer(200, {}, self._answer(verified.key))


@dataclass(frozen=True)
class Bench:
    """A device with an element and a current certificate."""

    config: DeviceConfig
    line: Line
    current: enrol.Ldevid

    def renew(self, answer: Callable[[ec.EllipticCurvePublicKey], bytes]) -> enrol.Ldevid:
        link = EstLink(answer)
        try:
            return enrol.renew(self.config, self.line, link, self.current)
        finally:
            assert link.paths == ["/.well-known/est/simplereenroll"]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    virtual.provision(tmp_path / "element", b"i" * 32)
    power = ElementPower(tmp_path / "element")
    element = power.on()
    settings = DeviceSettings(NAME, "acme.example", "lock-v1", "acme", "plane.example", 4096)
    spki = OTHER_KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    config = DeviceConfig(tmp_path, settings, (TrustedKey(spki),))
    line = Line("127.0.0.1", 9, "plane.example", b"", element, power.relay_path, TlsMode.RELAY)
    pem = certificate(ElementKey(element, KeySlot.LDEVID).public_key()).public_bytes(
        Encoding.PEM
    ) + CA.public_bytes(Encoding.PEM)
    config.ldevid_path.write_bytes(pem)
    yield Bench(config, line, enrol.Ldevid.parse(pem))
    element.close()
    power.dispose()


def test_a_certificate_for_our_key_and_name_is_kept(bench: Bench) -> None:
    fresh = bench.renew(lambda key: est.encode_certificates([certificate(key)]))
    assert fresh.serial == "0a1b"
    assert enrol.stored(bench.config) == fresh
    assert [link.subject for link in x509.load_pem_x509_certificates(fresh.pem)][1:] == [CA.subject]
    assert bench.config.ldevid_path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "answer",
    [
        lambda _: est.encode_certificates([certificate(OTHER_KEY.public_key())]),
        lambda key: est.encode_certificates([certificate(key, "dev-2.acme.example")]),
        lambda key: est.encode_certificates([server_certificate(key)]),
        lambda _: est.encode_certificates([CA]),
        lambda _: b"MA8GCSqGSIb3DQEHAaACBAA=",
        lambda _: b"",
        lambda _: b"<html>",
    ],
    ids=["other key", "other name", "server's", "CA", "no certificates", "nothing", "no base64"],
)
def test_any_other_answer_leaves_the_current_certificate_in_use(
    bench: Bench, answer: Callable[[ec.EllipticCurvePublicKey], bytes]
) -> None:
    with pytest.raises(FormatError):
        bench.renew(answer)
    assert enrol.stored(bench.config) == bench.current


def test_a_certificate_that_is_no_device_s_is_malformed_for_the_agent(bench: Bench) -> None:
    # The agent goes on after a FormatError; a CertProfile, which is about peers, would end it.
    with pytest.raises(CertificateMalformed):
        bench.renew(lambda key: est.encode_certificates([server_certificate(key)]))


@pytest.mark.parametrize(
    "content", [b"", b"-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n", b"\0"]
)
def test_a_spoilt_certificate_on_the_disk_counts_as_none(bench: Bench, content: bytes) -> None:
    bench.config.ldevid_path.write_bytes(content)
    assert enrol.stored(bench.config) is None


def test_a_certificate_is_renewed_at_half_its_life(bench: Bench) -> None:
    begin, end = bench.current.not_before, bench.current.not_after
    middle = (begin + end) / 2
    assert [bench.current.due(now) for now in (begin, middle - 1, middle, end)] == [False, False, True, True]
    assert [bench.current.usable(now) for now in (begin - 1, begin, end - 1, end)] == [
        False,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("code", "again"),
    [("E_CERT_EXPIRED", True), ("E_CERT_UNKNOWN", True), ("E_CERT_REVOKED", False), ("", False)],
)
def test_only_what_enrolling_cures_leads_to_enrolling(bench: Bench, code: str, again: bool) -> None:
    refusal = PlaneRefused("refused", plane_code=code)
    assert enrol.must_enrol_again(refusal, bench.current) is again
