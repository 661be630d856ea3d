"""EST with clients that are not ours: curl for the transport, openssl for keys, requests and answers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fuseline.lab.factory import PLANE_NAME

if TYPE_CHECKING:
    from tests.conftest import RunningPlane

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(
        not (shutil.which("curl") and shutil.which("openssl")), reason="curl and openssl are not installed"
    ),
]


def _run(folder: Path, *command: str, data: bytes = b"") -> bytes:
    done = subprocess.run(command, cwd=folder, input=data, capture_output=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_curl_and_openssl_enrol_and_renew(plane: RunningPlane, tmp_path: Path) -> None:
    device = plane.soft_device(enrolled=False)
    (tmp_path / "idevid.pem").write_bytes(device.idevid.chain_pem)
    (tmp_path / "idevid.key").write_bytes(
        device.idevid.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    (tmp_path / "root.pem").write_bytes(device.trust_pem)
    port = device.url.rpartition(":")[2]
    base = f"https://{PLANE_NAME}:{port}/.well-known/est"

    def curl(identity: str, path: str, *extra: str) -> bytes:
        return _run(
            tmp_path, "curl", "--silent", "--show-error", "--fail-with-body", "--tlsv1.3",
            "--resolve", f"{PLANE_NAME}:{port}:127.0.0.1", "--cacert", "root.pem",
            "--cert", f"{identity}.pem", "--key", f"{identity}.key", *extra, f"{base}/{path}",
        )  # fmt: skip

    def certificates(answer: bytes) -> bytes:
        der = _run(tmp_path, "openssl", "base64", "-d", "-A", data=answer)
        return _run(tmp_path, "openssl", "pkcs7", "-inform", "DER", "-print_certs", data=der)

    (tmp_path / "chain.pem").write_bytes(certificates(curl("idevid", "cacerts")))
    _run(
        tmp_path, "openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-keyout", "ldevid.key", "-out", "ldevid.csr", "-outform", "DER", "-subj", "/CN=whatever",
        "-addext", f"subjectAltName=DNS:{device.name}",
    )  # fmt: skip
    request = _run(tmp_path, "openssl", "base64", "-in", "ldevid.csr")
    (tmp_path / "ldevid.b64").write_bytes(request)
    post = ("--data-binary", "@ldevid.b64", "--header", "Content-Type: application/pkcs10")
    (tmp_path / "ldevid.pem").write_bytes(certificates(curl("idevid", "simpleenroll", *post)))
    verified = _run(
        tmp_path, "openssl", "verify", "-x509_strict", "-purpose", "sslclient",
        "-CAfile", "root.pem", "-untrusted", "chain.pem", "ldevid.pem",
    )  # fmt: skip
    assert b"ldevid.pem: OK" in verified

    renewed = certificates(curl("ldevid", "simplereenroll", *post))
    assert renewed != (tmp_path / "ldevid.pem").read_bytes()
    stages = plane.operator.device(device.name)["stages"]
    assert [stage["evidence"].get("certificates") for stage in stages] == [None, 2]
