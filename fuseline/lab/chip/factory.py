"""The development factory of chips: every key that a chip needs, made on this machine.

Every key in it is worthless, because it was made where everything else runs. The folder says so, its manifest
says so. What it makes has the shape of the real thing:

::

    DIR/
      DEVELOPMENT                  the warning
      manifest.toml                names what goes into a chip
      factory-ca.pem, .key         issues the chips' identities
      loader-0.key, loader-1.key   sign loaders for PROD; the second is the spare
      loader-test.key              signs loaders for TEST, and is refused for PROD
      debug-authority.key          unlocks debug, chip by chip
      *.pub.pem                    their public halves
      loader.bin                   the package's probe, signed as a loader
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from fuseline.device.silicon.memory_map import LOADER_RAM, LOADER_SLOT_SIZE
from fuseline.device.silicon.rom import probe_image
from fuseline.errors import ChipFileUnreadable, StateMissing, ToolMissing
from fuseline.formats import x509profile
from fuseline.formats.usage import USAGE_TLV, UsageConstraints, build_usage
from fuseline.lab.chip.manifest import FORMAT, TEST_MARK
from fuseline.lab.releases import imgtool

DOMAIN: Final = "chips.fuseline.test"  # RFC 6761 6.2: .test never resolves
PRODUCT_ID: Final = 0x4655_5345  # "FUSE"
HARDWARE_REVISION: Final = 1
LOADER_COUNTER: Final = 1
_HEADER_SIZE: Final = 0x200  # bytes; what MCUboot ports for larger flash pages use
_CA_LIFETIME: Final = dt.timedelta(days=7300)  # chips are provisioned for longer than most fleets live
_BACKDATE: Final = dt.timedelta(hours=1)

_NOTICE: Final = """DEVELOPMENT FACTORY

Fuseline made this folder on this machine: a factory CA, loader keys, a debug authority.
They lie beside each other, which no real factory allows. Never put a product's fuses under them.
"""

_MANIFEST: Final = f"""# A DEVELOPMENT factory: its keys were made on this machine. See docs/chip.md
format = {FORMAT}
development = true

[product]
id = {PRODUCT_ID:#010x}
hardware_revision = {HARDWARE_REVISION}
domain = "{DOMAIN}"

[factory_ca]
certificate = "factory-ca.pem"
key = "factory-ca.key"

[loader]
image = "loader.bin"
counter = {LOADER_COUNTER}

[debug]
authority = "debug-authority.pub.pem"

[[key]]
slot = 0
type = "prod"
file = "loader-0.pub.pem"

[[key]]
slot = 1
type = "prod"
file = "loader-1.pub.pem"
"""


@dataclass(frozen=True, slots=True)
class ChipFactory:
    """A development factory's folder."""

    folder: Path

    @property
    def manifest(self) -> Path:
        """What `fuseline chip provision` takes."""
        return self.folder / "manifest.toml"

    @property
    def loader(self) -> Path:
        """The signed probe."""
        return self.folder / "loader.bin"

    def key(self, name: str) -> Path:
        """A private key, by its name without suffix."""
        return self.folder / f"{name}.key"


@dataclass(frozen=True, slots=True)
class LoaderSpec:
    """What a loader image states of itself.

    Attributes:
        version: As MCUboot has it.
        security_counter: Against the fuses' counter.
        usage: Which devices it is for; None for all whose key slots it is signed for.
    """

    version: str = "1.0.0"
    security_counter: int = LOADER_COUNTER
    usage: UsageConstraints | None = None


def make_factory(folder: Path) -> ChipFactory:
    """Make a development factory in a folder that is new or empty.

    It is made beside the folder and moved there whole.

    Raises:
        StateMissing: The folder has something in it, or cannot be made.
        ToolMissing: imgtool is not installed.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StateMissing("the folder is not empty", path=str(folder))
    making = folder.with_name(f"{folder.name}.making")
    shutil.rmtree(making, ignore_errors=True)
    try:
        making.mkdir(parents=True, mode=0o700)
    except OSError as error:
        raise StateMissing(f"the folder cannot be made: {error.strerror}", path=str(folder)) from error
    _fill(ChipFactory(making))
    if folder.exists():
        folder.rmdir()
    making.rename(folder)
    return ChipFactory(folder)


def _fill(factory: ChipFactory) -> None:
    ca_key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    ca = x509profile.issue_ca(
        "Fuseline development chip factory CA",
        ca_key.public_key(),
        issuer=None,
        issuer_key=ca_key,
        not_before=now - _BACKDATE,
        not_after=now + _CA_LIFETIME,
        permitted_dns=DOMAIN,
        path_length=2,
    )
    _write(factory.folder / "factory-ca.pem", ca.public_bytes(Encoding.PEM))
    _write_key(factory.key("factory-ca"), ca_key)
    for name in ("loader-0", "loader-1", "debug-authority"):
        _key_pair(factory, name)
    _key_pair(factory, "loader-test", TEST_MARK + b": for life cycle TEST, worthless in PROD\n")
    loader = sign_loader(probe_image(), factory.key("loader-0"), LoaderSpec())
    _write(factory.loader, loader)
    _write(factory.manifest, _MANIFEST.encode())
    _write(factory.folder / "DEVELOPMENT", _NOTICE.encode())


def _key_pair(factory: ChipFactory, name: str, mark: bytes = b"") -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    _write_key(factory.key(name), key, mark)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    _write(factory.folder / f"{name}.pub.pem", mark + public)


def sign_loader(body: bytes, key: Path, spec: LoaderSpec) -> bytes:
    """Sign machine code into a loader image that the boot ROM takes.

    Args:
        body: The code, from its vector table on, linked to run behind the header at `LOADER_RAM`.
        key: A loader key, PEM; it stays where it is.
        spec: What the image states, all of it under the signature.

    Raises:
        ChipFileUnreadable: There is no such key.
        ToolMissing: imgtool is not installed, or refuses.
    """
    if not key.is_file():
        raise ChipFileUnreadable("there is no such key", file=str(key))
    with tempfile.TemporaryDirectory(prefix="fuseline-loader-") as name:
        folder = Path(name)
        source, target, usage = folder / "loader.raw", folder / "loader.bin", folder / "usage"
        source.write_bytes(body)
        command = [imgtool(), "sign", "--key", key, "--public-key-format", "full", "--version", spec.version]
        command += ["--security-counter", str(spec.security_counter), "--load-addr", hex(LOADER_RAM)]
        command += ["--header-size", hex(_HEADER_SIZE), "--pad-header", "--align", "4"]
        command += ["--slot-size", str(LOADER_SLOT_SIZE)]
        if spec.usage is not None:
            usage.write_bytes(build_usage(spec.usage))
            command += ["--custom-tlv-file", f"{USAGE_TLV:#06x}", usage]
        done = subprocess.run(
            [str(part) for part in [*command, source, target]], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise ToolMissing("imgtool refused to sign", output=done.stderr[-400:])
        return target.read_bytes()


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey, mark: bytes = b"") -> None:
    _write(path, mark + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
