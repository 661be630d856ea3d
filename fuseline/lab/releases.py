"""Making the development fleet's releases: real MCUboot images, signed with MCUboot's own imgtool."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from fuseline.errors import ToolMissing

_PAYLOAD = Path(__file__).parent / "payload"
# The zip format's first representable moment: the same source gives the same bytes.
_EPOCH = (1980, 1, 1, 0, 0, 0)
_HEADER_SIZE = 0x200  # bytes; what MCUboot ports for larger flash pages use


@dataclass(frozen=True, slots=True)
class ReleaseSpec:
    """What a release states of itself."""

    version: str
    security_counter: int
    vendor: str
    hardware: str
    slot_size: int


def build_payload(version: str, *, main: str | None = None) -> bytes:
    """Build the application as a zip application (PEP 441), byte for byte the same each time.

    Args:
        version: What it says of itself.
        main: Another `__main__.py` than the fleet's own.
    """
    source = main if main is not None else (_PAYLOAD / "__main__.py").read_text()
    members = {"__main__.py": source, "release.py": f"VERSION = {version!r}\n"}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in sorted(members.items()):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), text, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def imgtool() -> Path:
    """Return MCUboot's imgtool.

    Raises:
        ToolMissing: It is not installed.
    """
    beside = Path(sys.executable).with_name("imgtool")
    found = beside if beside.exists() else shutil.which("imgtool")
    if not found:
        raise ToolMissing("imgtool is not installed", package="imgtool")
    return Path(found)


def sign_release(payload: bytes, spec: ReleaseSpec, key: Path) -> bytes:
    """Sign a payload into a MCUboot image.

    Args:
        payload: The application.
        spec: What the image states, all of it under the signature.
        key: The release key, a PEM file; it stays where it is.

    Raises:
        ToolMissing: imgtool is not installed, or refuses.
    """
    with tempfile.TemporaryDirectory(prefix="fuseline-release-") as folder:
        source, target = Path(folder) / "payload.pyz", Path(folder) / "image.bin"
        source.write_bytes(payload)
        command = [imgtool(), "sign", "--key", key, "--version", spec.version]
        command += ["--security-counter", str(spec.security_counter)]
        command += ["--vid", spec.vendor, "--cid", spec.hardware]
        command += ["--header-size", hex(_HEADER_SIZE), "--pad-header", "--align", "8"]
        command += ["--slot-size", str(spec.slot_size), source, target]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ToolMissing("imgtool refused to sign", output=done.stderr[-400:])
        return target.read_bytes()
