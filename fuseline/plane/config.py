"""The plane's folder: its settings, its keys, and where things lie.

::

    plane/
      plane.toml              settings of the fleet
      root.pem                trust anchor (its key is offline)
      factory-ca.pem          issues IDevIDs
      operational-ca.pem,.key issues LDevIDs
      server.pem,.key         TLS server
      release-keys/*.pem      public halves of the keys that may author releases
      verifier.key            signs attestation results
      nonce.secret            mints nonces
      operator.token          opens the operator port
      fuseline.db, artifacts/ what was learnt and published
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from fuseline.errors import StateMissing, StatePermissions
from fuseline.formats import x509profile


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an operator may set in ``plane.toml``.

    Attributes:
        fleet: Name of the fleet; the `tenant` of the hawkBit path.
        domain: DNS domain below which device names lie.
        development: Made by `fuseline factory init` on this machine: worthless keys, said loudly.
        ldevid_seconds: Lifetime of an operational certificate.
        poll_seconds: How long devices sleep between polls.
        nonce_seconds: How long a challenge may stay unanswered.
    """

    fleet: str
    domain: str
    development: bool
    ldevid_seconds: int = 86_400
    poll_seconds: int = 300
    nonce_seconds: int = 60


@dataclass(frozen=True, slots=True)
class PlaneKeys:
    """The keys and anchors the plane works with."""

    root: x509.Certificate
    factory_ca: x509.Certificate
    operational_ca: x509.Certificate
    operational_ca_key: ec.EllipticCurvePrivateKey
    release_keys: tuple[bytes, ...]
    verifier_key: ec.EllipticCurvePrivateKey
    nonce_secret: bytes


@dataclass(frozen=True, slots=True)
class PlaneConfig:
    """One plane's folder, read."""

    folder: Path
    settings: Settings

    @property
    def database(self) -> Path:
        """The embedded database."""
        return self.folder / "fuseline.db"

    @property
    def artifacts(self) -> Path:
        """The content-addressed artifact store."""
        return self.folder / "artifacts"

    @property
    def operator_token(self) -> str:
        """The operator's token."""
        return read_secret(self.folder / "operator.token").decode().strip()

    @classmethod
    def load(cls, folder: Path) -> PlaneConfig:
        """Read the settings.

        Raises:
            StateMissing: No plane in this folder, or its settings cannot be read.
        """
        path = folder / "plane.toml"
        try:
            settings = msgspec.toml.decode(path.read_bytes(), type=Settings)
        except OSError as error:
            raise StateMissing("no plane in this folder", path=str(folder)) from error
        except msgspec.DecodeError as error:
            raise StateMissing(f"plane.toml: {error}", path=str(path)) from error
        return cls(folder, settings)

    def load_keys(self) -> PlaneKeys:
        """Read keys and anchors.

        Raises:
            StateMissing: One is not there or not what it should be.
            StatePermissions: A secret is readable by others.
        """
        release_keys = sorted((self.folder / "release-keys").glob("*.pem"))
        if not release_keys:
            raise StateMissing("no release key is trusted", path=str(self.folder / "release-keys"))
        return PlaneKeys(
            root=self._certificate("root.pem"),
            factory_ca=self._certificate("factory-ca.pem"),
            operational_ca=self._certificate("operational-ca.pem"),
            operational_ca_key=read_private_key(self.folder / "operational-ca.key"),
            release_keys=tuple(_public_key(path) for path in release_keys),
            verifier_key=read_private_key(self.folder / "verifier.key"),
            nonce_secret=read_secret(self.folder / "nonce.secret"),
        )

    def _certificate(self, name: str) -> x509.Certificate:
        try:
            return x509.load_pem_x509_certificate((self.folder / name).read_bytes())
        except (OSError, ValueError) as error:
            raise StateMissing(f"{name} is missing or not a certificate", path=str(self.folder)) from error


def read_secret(path: Path) -> bytes:
    """Read a secret file.

    Raises:
        StateMissing: It is not there.
        StatePermissions: Others may read it; what was readable counts as leaked.
    """
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise StatePermissions("a secret is readable by others", path=str(path))
        return path.read_bytes()
    except OSError as error:
        raise StateMissing("a secret is missing", path=str(path)) from error


def read_private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read a P-256 private key from a PEM file that only its owner can read.

    Raises:
        StateMissing: Not there, or not such a key.
        StatePermissions: Others may read it.
    """
    try:
        key = load_pem_private_key(read_secret(path), password=None)
    except (ValueError, TypeError) as error:
        raise StateMissing("not a private key", path=str(path)) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise StateMissing("not a P-256 private key", path=str(path))
    return key


def _public_key(path: Path) -> bytes:
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StateMissing("not a public key", path=str(path)) from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise StateMissing("not a P-256 public key", path=str(path))
    return x509profile.spki(key)
