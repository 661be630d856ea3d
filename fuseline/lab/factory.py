"""The development factory: a whole fleet's keys, manifest, devices and releases, made on this machine.

Every key in it is worthless, because it was made where everything else runs. The folder says so, the
settings say so, and the console says so. What it makes has the shape of the real thing:

::

    STATE/
      DEVELOPMENT           the warning
      offline/              root and release keys, and the signed releases
      factory/              factory CA, manufacturing manifest
      plane/                what the cloud gets (see fuseline.plane.config)
      devices/NAME/         what each device gets (see fuseline.device.agent.config)
"""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
)

from fuseline.device.agent.config import DeviceSettings
from fuseline.device.element import virtual
from fuseline.device.element.client import ElementKey, ElementPower
from fuseline.device.element.interface import KeySlot
from fuseline.device.firmware.slots import SlotStore
from fuseline.errors import StateMismatch, StateMissing
from fuseline.formats import cose, manifest, x509profile
from fuseline.lab.releases import ReleaseSpec, build_payload, sign_release
from fuseline.plane.config import Settings

FLEET, DOMAIN = "devfleet", "devfleet.fuseline.test"  # RFC 6761 6.2: .test never resolves
VENDOR, HARDWARE = "fuseline.test", "linux-gateway"
PLANE_NAME = "plane.fuseline.test"  # outside the devices' domain: no device CA can issue it
SLOT_SIZE = 256 * 1024
FIRST_RELEASE, SECOND_RELEASE = "1.0.0", "2.0.0"
_DEVICES = 3
_CA_LIFETIME = dt.timedelta(days=3650)
_SERVER_LIFETIME = dt.timedelta(days=365)
_BACKDATE = dt.timedelta(hours=1)

_NOTICE = """DEVELOPMENT FLEET

Fuseline made this folder on this machine: certificate authorities, release keys, device secrets.
Root and release keys lie beside the plane, which no real fleet allows. Never ship anything from here.
"""

Progress = Callable[[str], None]
"""Called with what is being made."""


@dataclass(frozen=True, slots=True)
class DevelopmentFleet:
    """A development fleet's folder."""

    state: Path

    @property
    def plane(self) -> Path:
        """The plane's folder."""
        return self.state / "plane"

    @property
    def device_names(self) -> list[str]:
        """The devices, by name."""
        return sorted(path.name for path in (self.state / "devices").iterdir())

    def device(self, name: str) -> Path:
        """A device's folder.

        Raises:
            StateMissing: No such device.
        """
        folder = self.state / "devices" / name
        if not folder.is_dir():
            raise StateMissing("no such device in this fleet", device=name, devices=self.device_names)
        return folder

    def manifest(self) -> tuple[bytes, bytes]:
        """The manufacturing manifest and its signature."""
        folder = self.state / "factory"
        return (folder / "manifest.jsonl").read_bytes(), (folder / "manifest.sig").read_bytes()

    def release(self, version: str) -> bytes:
        """A signed release."""
        return (self.state / "offline/releases" / f"{version}.bin").read_bytes()

    @property
    def release_key(self) -> Path:
        """The offline release key; `imgtool` reads it."""
        return self.state / "offline/release.key"


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """What to make.

    Attributes:
        devices: How many; None for as many as there are, three in a new fleet.
        ldevid_seconds: Lifetime of operational certificates.
        poll_seconds: Poll interval the plane asks for.
        attest_seconds: How often devices attest unasked.
        app_seconds: How long a new application may take to say that it is well.
        trial_seconds: How long a new image may take to reach its plane.
    """

    devices: int | None = None
    ldevid_seconds: int = 86_400
    poll_seconds: int = 1
    attest_seconds: float = 10.0
    app_seconds: float = 15.0
    trial_seconds: float = 60.0


def open_fleet(state: Path) -> DevelopmentFleet:
    """Open a fleet that was made before.

    Raises:
        StateMissing: There is none in this folder.
    """
    if not (state / "DEVELOPMENT").is_file():
        raise StateMissing("no fleet in this folder", path=str(state))
    return DevelopmentFleet(state)


def ensure_fleet(state: Path, plan: FleetPlan, progress: Progress) -> DevelopmentFleet:
    """Open the fleet in `state`, making it first if the folder is new.

    It is made beside the folder and moved there whole, so a stop halfway leaves nothing behind that
    looks like a fleet.

    Raises:
        StateMissing: The folder has something else in it.
        StateMismatch: The fleet in it has another number of devices.
        ToolMissing: imgtool is not installed.
    """
    if (state / "DEVELOPMENT").is_file():
        fleet = DevelopmentFleet(state)
        if plan.devices not in (None, len(fleet.device_names)):
            raise StateMismatch(
                "the fleet in this folder has another number of devices",
                devices=len(fleet.device_names),
                asked=plan.devices,
            )
        return fleet
    if state.exists() and any(state.iterdir()):
        raise StateMissing("the folder is not empty and holds no fleet", path=str(state))
    making = state.with_name(f"{state.name}.making")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True, mode=0o700)
    _Factory(making, plan, progress).make()
    if state.exists():
        state.rmdir()
    making.rename(state)
    return DevelopmentFleet(state)


@dataclass(frozen=True, slots=True)
class _Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


class _Factory:
    """Makes one fleet."""

    def __init__(self, state: Path, plan: FleetPlan, progress: Progress) -> None:
        self._state = state
        self._plan = plan
        self._progress = progress
        self._now = dt.datetime.now(dt.UTC).replace(microsecond=0)

    def make(self) -> None:
        self._progress("certificate authorities: offline root, factory CA, operational CA")
        root = self._root()
        factory = self._ca("Fuseline development factory CA", root, "factory", "ca")
        operational = self._ca("Fuseline development operational CA", root, "plane", "operational-ca")
        self._progress("release key, and releases 1.0.0 and 2.0.0 signed by imgtool")
        release_key = self._release_key()
        first = self._releases()
        self._progress("the plane's server certificate, verifier key and operator token")
        self._plane(root, factory, release_key)
        entries = []
        for number in range(1, (self._plan.devices or _DEVICES) + 1):
            name = f"sn-{number:04}.{DOMAIN}"
            self._progress(f"device {name}: secure element, IDevID, release {FIRST_RELEASE} in slot 0")
            entries.append(self._device(name, root, factory, release_key, first))
        body = manifest.encode_entries(entries)
        _write(self._state / "factory/manifest.jsonl", body, mode=0o644)
        signature = manifest.sign(body, cose.signer_for(factory.key))
        _write(self._state / "factory/manifest.sig", signature, mode=0o644)
        assert operational.certificate is not None
        _write(self._state / "DEVELOPMENT", _NOTICE.encode(), mode=0o644)

    def _root(self) -> _Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = x509profile.issue_ca(
            "Fuseline development root",
            key.public_key(),
            issuer=None,
            issuer_key=key,
            not_before=self._now - _BACKDATE,
            not_after=self._now + _CA_LIFETIME,
        )
        _write_key(self._state / "offline/root.key", key)
        _write(self._state / "offline/root.pem", _pem(certificate), mode=0o644)
        return _Authority(certificate, key)

    def _ca(self, common_name: str, root: _Authority, folder: str, name: str) -> _Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = x509profile.issue_ca(
            common_name,
            key.public_key(),
            issuer=root.certificate,
            issuer_key=root.key,
            not_before=self._now - _BACKDATE,
            not_after=self._now + _CA_LIFETIME,
            permitted_dns=DOMAIN,
        )
        _write_key(self._state / folder / f"{name}.key", key)
        _write(self._state / folder / f"{name}.pem", _pem(certificate), mode=0o644)
        return _Authority(certificate, key)

    def _release_key(self) -> bytes:
        key = ec.generate_private_key(ec.SECP256R1())
        _write_key(self._state / "offline/release.key", key)
        return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def _releases(self) -> bytes:
        images = []
        for counter, version in enumerate((FIRST_RELEASE, SECOND_RELEASE), 1):
            spec = ReleaseSpec(version, counter, VENDOR, HARDWARE, SLOT_SIZE)
            image = sign_release(build_payload(version), spec, self._state / "offline/release.key")
            _write(self._state / "offline/releases" / f"{version}.bin", image, mode=0o644)
            images.append(image)
        return images[0]

    def _plane(self, root: _Authority, factory: _Authority, release_key: bytes) -> None:
        folder = self._state / "plane"
        server_key = ec.generate_private_key(ec.SECP256R1())
        server = x509profile.issue_server_certificate(
            names=[
                x509.DNSName(PLANE_NAME),
                x509.DNSName("localhost"),
                x509.IPAddress(ipaddress.IPv4Address("127.0.0.1")),
            ],
            key=server_key.public_key(),
            issuer=root.certificate,
            issuer_key=root.key,
            not_before=self._now - _BACKDATE,
            not_after=self._now + _SERVER_LIFETIME,
        )
        settings = Settings(
            fleet=FLEET,
            domain=DOMAIN,
            development=True,
            ldevid_seconds=self._plan.ldevid_seconds,
            poll_seconds=self._plan.poll_seconds,
        )
        _write(folder / "plane.toml", _toml(msgspec.to_builtins(settings)), mode=0o644)
        _write(folder / "root.pem", _pem(root.certificate), mode=0o644)
        _write(folder / "factory-ca.pem", _pem(factory.certificate), mode=0o644)
        _write_key(folder / "server.key", server_key)
        _write(folder / "server.pem", _pem(server), mode=0o644)
        _write(folder / "release-keys/release.pem", release_key, mode=0o644)
        _write_key(folder / "verifier.key", ec.generate_private_key(ec.SECP256R1()))
        _write(folder / "nonce.secret", secrets.token_bytes(32))
        _write(folder / "operator.token", secrets.token_urlsafe(32).encode() + b"\n")

    def _device(
        self, name: str, root: _Authority, factory: _Authority, release_key: bytes, image: bytes
    ) -> manifest.ManifestEntry:
        folder = self._state / "devices" / name
        settings = DeviceSettings(
            name=name,
            vendor=VENDOR,
            hardware=HARDWARE,
            tenant=FLEET,
            plane_name=PLANE_NAME,
            slot_size=SLOT_SIZE,
            attest_seconds=self._plan.attest_seconds,
            app_seconds=self._plan.app_seconds,
            trial_seconds=self._plan.trial_seconds,
        )
        _write(folder / "device.toml", _toml(msgspec.to_builtins(settings)), mode=0o644)
        _write(folder / "trust/root.pem", _pem(root.certificate), mode=0o644)
        _write(folder / "trust/release-keys/release.pem", release_key, mode=0o644)
        implementation_id = hashlib.sha256(f"{VENDOR}/{HARDWARE}".encode()).digest()
        virtual.provision(folder / "element", implementation_id)
        entry, idevid = self._personalise(name, folder, factory, implementation_id)
        _write(folder / "idevid.pem", _pem(idevid) + _pem(factory.certificate), mode=0o644)
        store = SlotStore.create(folder / "slots", SLOT_SIZE)
        with store.begin_write(0) as writer:
            writer.write(image)
            writer.finish("permanent")
        return entry

    def _personalise(
        self, name: str, folder: Path, factory: _Authority, implementation_id: bytes
    ) -> tuple[manifest.ManifestEntry, x509.Certificate]:
        """Power the element once, have it sign its request, and certify the key it made."""
        power = ElementPower(folder / "element")
        try:
            element = power.on()
            request = x509profile.verify_request(
                x509profile.build_request(name, ElementKey(element, KeySlot.IDEVID)), name=name
            )
            attestation_key = element.attestation_key()
            element.close()
        finally:
            power.dispose()
        assert isinstance(load_der_public_key(attestation_key), ec.EllipticCurvePublicKey)
        idevid = x509profile.issue_device_certificate(
            name=name,
            key=request.key,
            issuer=factory.certificate,
            issuer_key=factory.key,
            serial=x509.random_serial_number(),
            not_before=self._now - _BACKDATE,
            not_after=x509profile.NO_EXPIRY,
        )
        entry = manifest.ManifestEntry(
            name=name,
            idevid_serial=x509profile.serial_text(idevid.serial_number),
            idevid_key_sha256=request.key_sha256.hex(),
            attestation_key=attestation_key,
            implementation_id=implementation_id.hex(),
            vendor=VENDOR,
            hardware=HARDWARE,
        )
        return entry, idevid


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def _toml(values: dict[str, Any]) -> bytes:
    # Strings, numbers and booleans are written alike in JSON and in TOML.
    return b"".join(
        b"%s = %s\n" % (key.encode(), msgspec.json.encode(value)) for key, value in values.items()
    )


def _write(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    _write(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
