"""A device's folder: what the factory put there and what the device keeps.

::

    DEVICE/
      device.toml          name, hardware, where its plane is
      trust/root.pem       the one anchor for the plane's certificate
      trust/release-keys/  public halves of the keys that may author firmware
      idevid.pem           leaf and factory CA
      ldevid.pem           the operational certificate, once enrolled
      element/             the secure element's persistent part
      slots/               slot0.bin, slot1.bin
      agent/               a download under way, the update under way
      app/                 the application's own folder
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from fuseline.errors import StateMissing
from fuseline.formats import x509profile
from fuseline.formats.mcuboot import HardwareId, TrustedKey


class DeviceSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What stands in ``device.toml``.

    Attributes:
        name: The device's dNSName.
        vendor: Vendor domain of its hardware class.
        hardware: Name of its hardware class.
        tenant: Fleet name, the tenant in the hawkBit path.
        plane_name: The name that the plane's certificate must carry.
        slot_size: Bytes of one firmware slot.
        attest_seconds: How often the device attests unasked.
        app_seconds: How long the application may take to say that it is well.
        trial_seconds: How long a new image may take to reach its plane before it is given up.
    """

    name: str
    vendor: str
    hardware: str
    tenant: str
    plane_name: str
    slot_size: int
    attest_seconds: float = 60.0
    app_seconds: float = 15.0
    trial_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class DeviceConfig:
    """One device's folder, read."""

    folder: Path
    settings: DeviceSettings
    release_keys: tuple[TrustedKey, ...]

    @property
    def hardware_id(self) -> HardwareId:
        """The identifiers that an image for this device must carry."""
        return HardwareId.of(self.settings.vendor, self.settings.hardware)

    @classmethod
    def load(cls, folder: Path) -> DeviceConfig:
        """Read a device's folder.

        Raises:
            StateMissing: Not a device, or something in it cannot be read.
        """
        try:
            settings = msgspec.toml.decode((folder / "device.toml").read_bytes(), type=DeviceSettings)
        except OSError as error:
            raise StateMissing("no device in this folder", path=str(folder)) from error
        except msgspec.DecodeError as error:
            raise StateMissing(f"device.toml: {error}", path=str(folder)) from error
        keys = tuple(_release_key(path) for path in sorted((folder / "trust/release-keys").glob("*.pem")))
        if not keys:
            raise StateMissing("no release key is trusted", path=str(folder))
        return cls(folder, settings, keys)

    def trust_pem(self) -> bytes:
        """Return the anchor for the plane's certificate."""
        return _read(self.folder / "trust/root.pem")

    def idevid_pem(self) -> bytes:
        """Return the IDevID and its CA."""
        return _read(self.folder / "idevid.pem")

    @property
    def ldevid_path(self) -> Path:
        """Where the operational certificate is kept."""
        return self.folder / "ldevid.pem"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StateMissing("the device lacks a file", path=str(path)) from error


def _release_key(path: Path) -> TrustedKey:
    try:
        key = load_pem_public_key(_read(path))
    except ValueError as error:
        raise StateMissing("not a public key", path=str(path)) from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise StateMissing("not a P-256 public key", path=str(path))
    return TrustedKey(x509profile.spki(key))


def load_chain(pem: bytes) -> list[x509.Certificate]:
    """Read certificates from PEM, leaf first.

    Raises:
        StateMissing: There is none.
    """
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise StateMissing("a certificate file holds no certificate") from error
