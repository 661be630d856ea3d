"""Who gets in at the device port: the certificate, its validity, its registration, on every request."""

from __future__ import annotations

import base64
import datetime as dt
import json
import ssl
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from fuseline.errors import PlaneRefused
from fuseline.formats import cose, est, manifest, rats, x509profile
from fuseline.lab.factory import DOMAIN, DevelopmentFleet
from fuseline.lab.softdevice import Channel, Credential, Reply, SoftDevice
from fuseline.plane.config import read_private_key
from fuseline.plane.store.database import Database
from fuseline.plane.store.schema import events
from fuseline.plane.store.statements import compiled

if TYPE_CHECKING:
    from tests.conftest import RunningPlane

_EVENTS = compiled(sa.select(events))
NOW = dt.datetime.now(dt.UTC)


def _credential(
    fleet: DevelopmentFleet, ca: str, name: str, *, key: ec.EllipticCurvePrivateKey | None = None
) -> Credential:
    """Issue a certificate with a CA key of the fleet, past its registry: what a thief of that key does."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    certificate = x509profile.issue_device_certificate(
        name=name,
        key=key.public_key(),
        issuer=x509.load_pem_x509_certificate((fleet.state / f"{ca}.pem").read_bytes()),
        issuer_key=read_private_key(fleet.state / f"{ca}.key"),
        serial=x509.random_serial_number(),
        not_before=NOW - dt.timedelta(hours=1),
        not_after=NOW + dt.timedelta(hours=1),
    )
    return Credential(certificate.public_bytes(Encoding.PEM), key)


def _still_served(device: SoftDevice) -> bool:
    return device.ask("GET", device.base).status == 200


def test_without_a_certificate_there_is_no_connection(plane: RunningPlane) -> None:
    device = plane.soft_device()
    with pytest.raises((ssl.SSLError, ConnectionError)):
        _ask_bare(device)
    assert _still_served(device)


def _ask_bare(device: SoftDevice) -> Reply:
    channel = Channel(device.context(None), device.url)
    try:
        return channel.request("GET", device.base)
    finally:
        channel.close()


def test_a_certificate_of_another_ca_is_refused_in_the_handshake(plane: RunningPlane) -> None:
    device = plane.soft_device()
    rogue_key = ec.generate_private_key(ec.SECP256R1())
    rogue_ca = x509profile.issue_ca(
        "rogue",
        rogue_key.public_key(),
        issuer=None,
        issuer_key=rogue_key,
        not_before=NOW - dt.timedelta(hours=1),
        not_after=NOW + dt.timedelta(hours=1),
    )
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = x509profile.issue_device_certificate(
        name=device.name,
        key=key.public_key(),
        issuer=rogue_ca,
        issuer_key=rogue_key,
        serial=1,
        not_before=NOW - dt.timedelta(hours=1),
        not_after=NOW + dt.timedelta(hours=1),
    )
    with (
        pytest.raises((ssl.SSLError, ConnectionError)),
        device.channel(Credential(leaf.public_bytes(Encoding.PEM), key)) as channel,
    ):
        channel.request("GET", device.base)
    assert _still_served(device)


def test_an_ldevid_that_the_registry_never_issued_is_refused(plane: RunningPlane) -> None:
    """The operational CA's key alone makes no device: the registry must know the serial."""
    device = plane.soft_device()
    stolen = _credential(plane.fleet, "plane/operational-ca", device.name)
    with device.channel(stolen) as channel:
        reply = channel.request("GET", device.base)
    assert (reply.status, reply.code) == (403, "E_CERT_UNKNOWN")
    assert _still_served(device)


def test_an_idevid_that_is_on_no_manifest_cannot_enrol(plane: RunningPlane) -> None:
    device = plane.soft_device(enrolled=False)
    device.name = f"ghost.{DOMAIN}"
    device.idevid = _credential(plane.fleet, "factory/ca", device.name)
    reply = device.enrol()
    assert (reply.status, reply.code) == (403, "E_NOT_ON_MANIFEST")
    assert device.name not in {one["name"] for one in plane.operator.devices()}  # never self-created


def test_an_idevid_with_another_key_than_the_manifests_cannot_enrol(plane: RunningPlane) -> None:
    device = plane.soft_device(enrolled=False)
    real, device.idevid = device.idevid, _credential(plane.fleet, "factory/ca", device.name)
    assert device.enrol().code == "E_NOT_ON_MANIFEST"
    device.idevid = real
    assert device.enrol().status == 200


def test_a_certificate_outside_the_name_constraint_is_refused(plane: RunningPlane) -> None:
    device = plane.soft_device()
    stray = _credential(plane.fleet, "plane/operational-ca", "sn-1.elsewhere.test")
    with (
        pytest.raises((ssl.SSLError, ConnectionError)),
        device.channel(stray) as channel,
    ):
        channel.request("GET", device.base)


@pytest.mark.parametrize("path", ["", "/deploymentBase/1", "/configData"])
def test_another_devices_name_in_the_path_is_refused(plane: RunningPlane, path: str) -> None:
    device, victim = plane.soft_device(), plane.soft_device()
    reply = device.ask("GET", victim.base + path)
    assert (reply.status, reply.code) == (403, "E_DEVICE_MISMATCH")
    assert reply.json()["evidence"]["certificate"] == device.name


def test_the_idevid_enrols_and_does_nothing_else(plane: RunningPlane) -> None:
    device = plane.soft_device()
    with device.channel(device.idevid) as channel:
        assert channel.request("GET", device.base).code == "E_CERT_KIND"
        assert channel.request("POST", rats.NEW_SESSION).code == "E_CERT_KIND"
    reply = device.ask("POST", "/.well-known/est/simpleenroll", b"x", Content_Type="application/pkcs10")
    assert reply.code == "E_CERT_KIND"


def test_a_client_cert_header_means_nothing_on_the_tls_port(plane: RunningPlane) -> None:
    device, victim = plane.soft_device(), plane.soft_device()
    assert victim.ldevid is not None
    der = x509.load_pem_x509_certificate(victim.ldevid.chain_pem).public_bytes(Encoding.DER)
    header = f":{base64.b64encode(der).decode()}:"
    assert device.ask("GET", victim.base, Client_Cert=header).code == "E_DEVICE_MISMATCH"
    assert device.ask("GET", device.base, Client_Cert=header).status == 200


def test_revocation_cuts_an_open_connection_at_its_next_request(plane: RunningPlane) -> None:
    device, other = plane.soft_device(), plane.soft_device()
    with device.channel() as channel:
        assert channel.request("GET", device.base).status == 200
        plane.operator.revoke(device.name, "stolen from the lobby")
        reply = channel.request("GET", device.base)
        assert (reply.status, reply.code) == (403, "E_CERT_REVOKED")
        assert reply.headers["connection"] == "close"
    assert device.enrol().code == "E_CERT_REVOKED"  # the IDevID went with it
    assert _still_served(other)
    shown = plane.operator.device(device.name)
    assert (shown["stage"], shown["revoked"]) == ("revoked", "stolen from the lobby")


def test_an_expired_certificate_ends_open_and_resumed_connections(
    make_fleet: Callable[..., DevelopmentFleet], start_plane: Callable[..., RunningPlane]
) -> None:
    """Resumption skips the chain check of TLS, so the plane looks at the dates on each request."""
    plane = start_plane(make_fleet(devices=1, ldevid_seconds=3))
    device = plane.soft_device()
    assert device.ldevid is not None
    expires = x509.load_pem_x509_certificate(device.ldevid.chain_pem).not_valid_after_utc.timestamp()
    context = device.context(device.ldevid)
    open_channel = Channel(context, device.url)
    assert open_channel.request("GET", device.base).status == 200
    session = open_channel.socket.session
    time.sleep(max(0.0, expires - time.time()) + 1.1)

    late = open_channel.request("GET", device.base)
    assert (late.status, late.code) == (403, "E_CERT_EXPIRED")
    open_channel.close()

    resumed = Channel(context, device.url, session)
    assert resumed.socket.session_reused
    reply = resumed.request("GET", device.base)
    assert (reply.status, reply.code) == (403, "E_CERT_EXPIRED")
    resumed.close()

    with pytest.raises((ssl.SSLError, ConnectionError)):  # a full handshake does not get that far
        device.ask("GET", device.base)
    assert device.enrol().status == 200  # the IDevID cures it
    assert _still_served(device)


# --- EST ---------------------------------------------------------------------------------------------


def _post_csr(device: SoftDevice, body: bytes, content_type: str = est.CSR_MEDIA_TYPE) -> Reply:
    with device.channel(device.idevid) as channel:
        return channel.request("POST", "/.well-known/est/simpleenroll", body, {"Content-Type": content_type})


def _certificates(plane: RunningPlane, device: SoftDevice) -> int:
    stages = {stage["stage"]: stage for stage in plane.operator.device(device.name)["stages"]}
    return int(stages["enrolled"]["evidence"]["certificates"]) if "enrolled" in stages else 0


def test_a_request_for_another_devices_name_is_refused(plane: RunningPlane) -> None:
    device, victim = plane.soft_device(enrolled=False), plane.soft_device(enrolled=False)
    key = ec.generate_private_key(ec.SECP256R1())
    body = est.encode_request(x509profile.build_request(victim.name, key))
    assert _post_csr(device, body).code == "E_CSR_NAME"
    assert (_certificates(plane, device), _certificates(plane, victim)) == (0, 0)


def test_a_request_without_proof_of_possession_is_refused(plane: RunningPlane) -> None:
    device = plane.soft_device(enrolled=False)
    request = x509profile.build_request(device.name, ec.generate_private_key(ec.SECP256R1()))
    der = bytearray(request.public_bytes(Encoding.DER))
    der[-1] ^= 1  # the last byte of the signature's s
    assert _post_csr(device, base64.b64encode(bytes(der))).code == "E_CSR_PROOF"
    assert _certificates(plane, device) == 0


def test_a_request_with_another_devices_key_is_refused_and_told(plane: RunningPlane) -> None:
    device, victim = plane.soft_device(enrolled=False), plane.soft_device()
    assert victim.ldevid is not None
    assert device.enrol(key=victim.ldevid.key).code == "E_CSR_KEY"
    assert _certificates(plane, device) == 0
    database = Database(plane.config.database)
    told = [row["device"] for row in database.all(_EVENTS) if row["kind"] == "registry.duplicate_key"]
    database.close()
    assert told == [device.name]


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b"", est.CSR_MEDIA_TYPE, 400, "E_CSR_MALFORMED"),
        (b"not base64!", est.CSR_MEDIA_TYPE, 400, "E_CSR_MALFORMED"),
        (b"AAAA", est.CSR_MEDIA_TYPE, 400, "E_CSR_MALFORMED"),
        (b"A" * 20_000, est.CSR_MEDIA_TYPE, 400, "E_CSR_MALFORMED"),
        (b"A" * 100_000, est.CSR_MEDIA_TYPE, 413, "E_BODY_SIZE"),
        (b"AAAA", "text/plain", 415, "E_MEDIA_TYPE"),
    ],
)
def test_malformed_enrolments_get_a_code(
    plane: RunningPlane, body: bytes, content_type: str, status: int, code: str
) -> None:
    device = plane.soft_device(enrolled=False)
    reply = _post_csr(device, body, content_type)
    assert (reply.status, reply.code) == (status, code)
    assert device.enrol().status == 200


def test_reenrolment_gives_the_next_certificate_under_the_current_one(plane: RunningPlane) -> None:
    device = plane.soft_device()
    body = est.encode_request(x509profile.build_request(device.name, ec.generate_private_key(ec.SECP256R1())))
    reply = device.ask("POST", "/.well-known/est/simplereenroll", body, Content_Type=est.CSR_MEDIA_TYPE)
    assert reply.status == 200
    assert b"\n" not in reply.body  # strongSwan's client cannot read line-broken base64
    assert reply.headers["content-type"] == est.CERTS_MEDIA_TYPE
    assert _certificates(plane, device) == 2


def test_cacerts_gives_the_chain_to_the_root(plane: RunningPlane) -> None:
    chain = est.decode_certificates(plane.soft_device().ask("GET", "/.well-known/est/cacerts").body)
    assert sorted(one.subject == one.issuer for one in chain) == [False, True]


# --- manifests ---------------------------------------------------------------------------------------


def test_a_manifest_that_the_factory_did_not_sign_registers_nobody(plane: RunningPlane) -> None:
    body, signature = plane.fleet.manifest()
    forged = body.replace(b"sn-0001", b"sn-6666")
    rogue = cose.signer_for(ec.generate_private_key(ec.SECP256R1()))
    for candidate in (signature, manifest.sign(forged, rogue)):
        with pytest.raises(PlaneRefused) as caught:
            plane.operator.import_manifest(forged, candidate)
        assert caught.value.evidence["plane_code"] == "E_MANIFEST_SIGNATURE"
    assert not any("6666" in one["name"] for one in plane.operator.devices())


def test_a_manifest_cannot_change_a_registered_devices_keys(plane: RunningPlane) -> None:
    device = plane.soft_device()
    signer = cose.signer_for(read_private_key(plane.fleet.state / "factory/ca.key"))
    [entry] = [json.loads(line) for line in plane.fleet.manifest()[0].splitlines()]
    entry |= {"name": device.name}
    body = json.dumps(entry).encode() + b"\n"
    with pytest.raises(PlaneRefused) as caught:
        plane.operator.import_manifest(body, manifest.sign(body, signer))
    assert caught.value.evidence["plane_code"] == "E_MANIFEST_MALFORMED"
    assert _still_served(device)
