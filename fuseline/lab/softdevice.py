"""A device that does what it is told: keys in plain memory, any evidence, any words.

It has a real place in the fleet (a manifest that the factory key signed), so the plane meets it as it meets
every device. Tests and rehearsals play the liar, the replayer and the impostor with it.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import hashlib
import http.client
import json
import secrets
import socket
import ssl
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fuseline.formats import cose, ddi, est, manifest, psa, rats, x509profile
from fuseline.lab.factory import FLEET, HARDWARE, PLANE_NAME, VENDOR, DevelopmentFleet
from fuseline.lab.operator import OperatorClient
from fuseline.plane.config import read_private_key

_TIMEOUT = 10.0  # seconds
_BACKDATE = dt.timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of the plane, whatever its status."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def code(self) -> str | None:
        """The error code, if it is a problem document."""
        with contextlib.suppress(ValueError, TypeError):
            return str(json.loads(self.body).get("code"))
        return None

    def json(self) -> Any:
        """The body's JSON value."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Credential:
    """A certificate chain (PEM, leaf first) and its key."""

    chain_pem: bytes
    key: ec.EllipticCurvePrivateKey


class Channel:
    """One TLS connection to the device port, kept alive; sessions can be taken and resumed."""

    def __init__(self, context: ssl.SSLContext, url: str, session: ssl.SSLSession | None = None) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        raw = socket.create_connection((parts.hostname, parts.port or 443), timeout=_TIMEOUT)
        try:
            self.socket = context.wrap_socket(raw, server_hostname=PLANE_NAME, session=session)
        except BaseException:
            raw.close()
            raise
        self._http = http.client.HTTPConnection(parts.hostname, parts.port or 443, timeout=_TIMEOUT)
        self._http.sock = self.socket

    def request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Send one request and return the answer, errors included."""
        self._http.request(method, path, body=body or None, headers=dict(headers or {}))
        response = self._http.getresponse()
        content = response.read()
        return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, content)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()
        self.socket.close()


@dataclass(slots=True)
class SoftDevice:
    """A registered device whose every step is chosen by the caller.

    Attributes:
        name: Its dNSName.
        url: The device port.
        trust_pem: The root.
        implementation_id: Of its hardware class.
        attestation_key: Signs whatever token it is given.
        idevid: From the factory.
        ldevid: From the plane, once enrolled.
    """

    name: str
    url: str
    trust_pem: bytes
    implementation_id: bytes
    attestation_key: ec.EllipticCurvePrivateKey
    idevid: Credential
    ldevid: Credential | None = None
    boot_seed: bytes = field(default_factory=lambda: secrets.token_bytes(32))

    @classmethod
    def register(
        cls, fleet: DevelopmentFleet, operator: OperatorClient, url: str, *, name: str
    ) -> SoftDevice:
        """Make a device and have the factory put it on a manifest of its own."""
        factory_key = read_private_key(fleet.state / "factory/ca.key")
        factory = x509.load_pem_x509_certificate((fleet.state / "factory/ca.pem").read_bytes())
        key, attestation_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        implementation_id = hashlib.sha256(f"{VENDOR}/{HARDWARE}".encode()).digest()
        certificate = x509profile.issue_device_certificate(
            name=name,
            key=key.public_key(),
            issuer=factory,
            issuer_key=factory_key,
            serial=x509.random_serial_number(),
            not_before=dt.datetime.now(dt.UTC) - _BACKDATE,
            not_after=x509profile.NO_EXPIRY,
        )
        entry = manifest.ManifestEntry(
            name=name,
            idevid_serial=x509profile.serial_text(certificate.serial_number),
            idevid_key_sha256=hashlib.sha256(x509profile.spki(key.public_key())).hexdigest(),
            attestation_key=x509profile.spki(attestation_key.public_key()),
            implementation_id=implementation_id.hex(),
            vendor=VENDOR,
            hardware=HARDWARE,
        )
        body = manifest.encode_entries([entry])
        operator.import_manifest(body, manifest.sign(body, cose.signer_for(factory_key)))
        return cls(
            name=name,
            url=url,
            trust_pem=(fleet.plane / "root.pem").read_bytes(),
            implementation_id=implementation_id,
            attestation_key=attestation_key,
            idevid=Credential(certificate.public_bytes(Encoding.PEM), key),
        )

    # --- connections --------------------------------------------------------------------------------

    def context(self, credential: Credential | None) -> ssl.SSLContext:
        """Return a client context under a credential, or under none."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(cadata=self.trust_pem.decode())
        if credential is not None:
            pem = credential.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "credential.pem"
                path.touch(mode=0o600)
                path.write_bytes(pem + credential.chain_pem)
                context.load_cert_chain(path)
        return context

    @contextlib.contextmanager
    def channel(self, credential: Credential | None = None) -> Iterator[Channel]:
        """Open a connection under the LDevID, or under a given credential."""
        channel = Channel(self.context(credential or self.ldevid or self.idevid), self.url)
        try:
            yield channel
        finally:
            channel.close()

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Reply:
        """Send one request over a connection of its own."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        with self.channel() as channel:
            return channel.request(method, path, body, fields)

    # --- what devices do ----------------------------------------------------------------------------

    def enrol(self, key: ec.EllipticCurvePrivateKey | None = None) -> Reply:
        """Enrol with the IDevID; keeps the LDevID if there is one."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        body = est.encode_request(x509profile.build_request(self.name, key))
        with self.channel(self.idevid) as channel:
            path = est.PREFIX + est.SIMPLE_ENROLL
            reply = channel.request("POST", path, body, {"Content-Type": est.CSR_MEDIA_TYPE})
        if reply.status == 200:
            [leaf] = est.decode_certificates(reply.body)
            self.ldevid = Credential(leaf.public_bytes(Encoding.PEM), key)
        return reply

    def token(self, nonce: bytes, components: list[psa.SoftwareComponent], **changes: Any) -> bytes:
        """Sign a token with these components; `changes` replace claims by their attribute names."""
        claims: dict[str, Any] = {
            "nonce": nonce,
            "instance_id": psa.instance_id_of(self.attestation_key.public_key()),
            "implementation_id": self.implementation_id,
            "client_id": -1,
            "lifecycle": psa.LIFECYCLE_SECURED,
            "boot_seed": self.boot_seed,
            "components": tuple(components),
        }
        payload = psa.encode_claims(psa.PsaToken(**(claims | changes)))
        return cose.sign1(payload, cose.signer_for(self.attestation_key))

    def challenge(self) -> tuple[str, bytes]:
        """Open a session; returns its path and nonce."""
        reply = self.ask("POST", rats.NEW_SESSION)
        assert reply.status == 201, reply.body
        return reply.headers["location"], base64.b64decode(reply.json()["nonce"])

    def answer(self, path: str, token: bytes) -> Reply:
        """Answer a session with whatever bytes."""
        return self.ask("POST", path, token, Content_Type=psa.MEDIA_TYPE)

    def attest(self, *components: psa.SoftwareComponent, **changes: Any) -> Reply:
        """Attest to have measured these components."""
        path, nonce = self.challenge()
        return self.answer(path, self.token(nonce, list(components), **changes))

    @property
    def base(self) -> str:
        """The controller's path in DDI."""
        return f"/{FLEET}/controller/v1/{self.name}"

    def poll(self) -> dict[str, Any]:
        """Poll; returns the links."""
        return dict(self.ask("GET", self.base).json()["_links"])

    def say(self, action: int, execution: ddi.Execution, finished: ddi.Finished, *details: str) -> Reply:
        """Send feedback, true or not."""
        status = {"execution": execution, "result": {"finished": finished}, "details": list(details)}
        body = json.dumps({"id": str(action), "status": status}).encode()
        path = f"{self.base}/deploymentBase/{action}/feedback"
        return self.ask("POST", path, body, Content_Type="application/json")
