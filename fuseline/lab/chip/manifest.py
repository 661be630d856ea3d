"""The manifest of a chip factory: what goes into every chip of a product, read and checked before any fuse.

`manifest.toml` names files relative to its own folder. Its keys are described in docs/chip.md.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections import Counter as Tally
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from fuseline.device.silicon.fuse_map import COUNTER_WORDS, KEY_SLOT_COUNT, KeyType
from fuseline.device.silicon.memory_map import LOADER_SLOT_SIZE
from fuseline.errors import (
    ChipManifestDuplicate,
    ChipManifestFile,
    ChipManifestMalformed,
    ChipManifestNoKey,
    ChipManifestTestKey,
    FuselineError,
)
from fuseline.formats import x509profile
from fuseline.formats.mcuboot import parse_image

FORMAT: Final = 1
TEST_MARK: Final = b"FUSELINE TEST KEY"
"""Text before the PEM block (RFC 7468 2 lets it stand there) that makes a key refused for PROD."""

_COUNTER_MAX: Final = COUNTER_WORDS * 32 - 1  # ROM-CNT-4: the last fuse retires the chip
_DOMAIN_MAX: Final = 200  # octets; the chip's own label stands before it (RFC 1034 3.1: 253 in all)


class _Strict(msgspec.Struct, forbid_unknown_fields=True):
    """A table of the manifest; a key that nobody knows is a spelling mistake."""


class _Product(_Strict):
    id: int
    hardware_revision: int
    domain: str


class _FactoryCa(_Strict):
    certificate: str
    key: str


class _Loader(_Strict):
    image: str
    counter: int


class _Debug(_Strict):
    authority: str


class _Key(_Strict):
    slot: int
    type: Literal["test", "dev", "prod"]
    file: str


class _Document(_Strict):
    format: int
    product: _Product
    factory_ca: _FactoryCa
    loader: _Loader
    key: list[_Key]
    debug: _Debug | None = None
    development: bool = False


@dataclass(frozen=True, slots=True)
class LoaderKey:
    """A key that may sign loaders.

    Attributes:
        slot: Key slot in the fuses.
        type: What it may sign for.
        spki: Its SubjectPublicKeyInfo, DER.
    """

    slot: int
    type: KeyType
    spki: bytes

    @property
    def digest(self) -> bytes:
        """What goes into the fuses: the SHA-256 of the SubjectPublicKeyInfo."""
        return hashlib.sha256(self.spki).digest()


@dataclass(frozen=True, slots=True)
class ChipManifest:
    """A manifest that was checked whole.

    Attributes:
        development: Its keys were made by `fuseline chip factory` and are worthless.
        product_id: 32 bits.
        hardware_revision: 32 bits.
        domain: Devices are named below it.
        keys: Loader keys by slot, at least one of type PROD.
        debug_authority: SubjectPublicKeyInfo of who may unlock debug; None for nobody, for ever.
        loader: The signed loader.
        loader_counter: Security counter below which no loader starts.
        ca: The factory CA.
        ca_key: Its key.
    """

    development: bool
    product_id: int
    hardware_revision: int
    domain: str
    keys: tuple[LoaderKey, ...]
    debug_authority: bytes | None
    loader: bytes
    loader_counter: int
    ca: x509.Certificate
    ca_key: ec.EllipticCurvePrivateKey

    def device_name(self, chip_id: bytes) -> str:
        """Return the dNSName of a chip: the first 64 bits of its id, below the product's domain."""
        return f"chip-{chip_id[:8].hex()}.{self.domain}"


def read_manifest(path: Path) -> ChipManifest:
    """Read a manifest and everything it names, and check all of it for PROD.

    Raises:
        ChipManifestMalformed: Not TOML of this format, or a value that does not fit.
        ChipManifestFile: A file is unreadable or of another kind.
        ChipManifestTestKey: A test key.
        ChipManifestDuplicate: A key or a slot twice.
        ChipManifestNoKey: No PROD key.
    """
    document = _document(path)
    folder = path.parent
    keys = tuple(_loader_key(folder, entry) for entry in sorted(document.key, key=lambda entry: entry.slot))
    _check_keys(document.key, keys)
    ca, ca_key = _factory_ca(folder, document.factory_ca)
    return ChipManifest(
        development=document.development,
        product_id=_word("product.id", document.product.id),
        hardware_revision=_word("product.hardware_revision", document.product.hardware_revision),
        domain=_domain(document.product.domain),
        keys=keys,
        debug_authority=read_public_key(folder / document.debug.authority)[0] if document.debug else None,
        loader=_image(folder / document.loader.image),
        loader_counter=_bounded("loader.counter", document.loader.counter, _COUNTER_MAX),
        ca=ca,
        ca_key=ca_key,
    )


def _document(path: Path) -> _Document:
    try:
        values: dict[str, Any] = tomllib.loads(_read(path).decode())
        document = msgspec.convert(values, _Document)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise ChipManifestMalformed(
            f"the manifest does not have its format: {error}", file=str(path)
        ) from error
    if document.format != FORMAT:
        raise ChipManifestMalformed("the manifest is of another format", format=document.format, known=FORMAT)
    return document


def _check_keys(entries: list[_Key], keys: tuple[LoaderKey, ...]) -> None:
    for entry in entries:
        _bounded(f"slot of {entry.file}", entry.slot, KEY_SLOT_COUNT - 1)
        if entry.type == "test":
            raise ChipManifestTestKey(
                "a key of type test is for no PROD chip", file=entry.file, slot=entry.slot
            )
    for what, values in (("slot", [key.slot for key in keys]), ("key", [key.digest.hex() for key in keys])):
        value, times = Tally(values).most_common(1)[0] if values else (None, 0)
        if times > 1:
            files = [
                entry.file
                for entry, key in zip(_by_slot(entries), keys, strict=True)
                if value in (key.slot, key.digest.hex())
            ]
            raise ChipManifestDuplicate(f"the same {what} twice", files=files, **{what: value})
    if not any(key.type is KeyType.PROD for key in keys):
        raise ChipManifestNoKey("no key of type prod", keys=len(keys))


def _by_slot(entries: list[_Key]) -> list[_Key]:
    return sorted(entries, key=lambda entry: entry.slot)


def _loader_key(folder: Path, entry: _Key) -> LoaderKey:
    spki, marked = read_public_key(folder / entry.file)
    if marked:
        raise ChipManifestTestKey(
            "the key's file says that it is a test key", file=entry.file, slot=entry.slot
        )
    return LoaderKey(entry.slot, KeyType[entry.type.upper()], spki)


def read_public_key(path: Path) -> tuple[bytes, bool]:
    """Read a key that signs loaders or unlocks debug: P-256 or Ed25519, PEM, public or private.

    Returns:
        SubjectPublicKeyInfo as DER, and whether the file is marked as a test key.

    Raises:
        ChipManifestFile: Unreadable, or another kind of key.
    """
    content = _read(path)
    try:
        key = (
            load_pem_private_key(content, None).public_key()
            if b"PRIVATE KEY" in content
            else load_pem_public_key(content)
        )
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ChipManifestFile("not a PEM key without a passphrase", file=str(path)) from error
    p256 = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
    if not p256 and not isinstance(key, ed25519.Ed25519PublicKey):
        raise ChipManifestFile("neither a P-256 nor an Ed25519 key", file=str(path))
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), TEST_MARK in content


def _factory_ca(folder: Path, entry: _FactoryCa) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        certificate = x509.load_pem_x509_certificate(_read(folder / entry.certificate))
        authority = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        x509profile.subject_key_id(certificate)
    except (ValueError, x509.ExtensionNotFound) as error:
        raise ChipManifestFile("not the PEM certificate of a CA", file=entry.certificate) from error
    if not authority.ca or (authority.path_length is not None and authority.path_length < 2):
        raise ChipManifestFile("not a CA with two CAs allowed below it", file=entry.certificate)
    try:
        key = load_pem_private_key(_read(folder / entry.key), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ChipManifestFile("not a PEM private key without a passphrase", file=entry.key) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ChipManifestFile("not the key of the factory CA's certificate", file=entry.key)
    return certificate, key


def _image(path: Path) -> bytes:
    content = _read(path)
    if len(content) > LOADER_SLOT_SIZE:
        raise ChipManifestFile("the loader does not fit its slot", file=str(path), size=len(content))
    try:
        parse_image(content)
    except FuselineError as error:
        raise ChipManifestFile(f"the loader is no MCUboot image: {error.message}", file=str(path)) from error
    return content


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ChipManifestFile(f"cannot be read: {error.strerror}", file=str(path)) from error


def _word(name: str, value: int) -> int:
    return _bounded(name, value, 0xFFFF_FFFF)


def _bounded(name: str, value: int, highest: int) -> int:
    if not 0 <= value <= highest:
        raise ChipManifestMalformed("a value is out of its range", key=name, value=value, highest=highest)
    return value


def _domain(domain: str) -> str:
    if len(domain) > _DOMAIN_MAX or not x509profile.is_device_name(f"chip.{domain}"):
        raise ChipManifestMalformed("product.domain is no DNS name", key="product.domain", value=domain[:80])
    return domain
