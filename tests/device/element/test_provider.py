"""A stdlib TLS context with a key that only signs, against a stdlib server that demands a certificate."""

from __future__ import annotations

import ctypes
import datetime as dt
import gc
import os
import socket
import ssl
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

import pytest
from cryptography import x509
from cryptography.hazmat.bindings import _rust
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.x509.oid import NameOID

from fuseline.device.element import _openssl, provider
from fuseline.errors import CertificateMalformed, ElementUnavailable, TlsKeyMismatch, TlsUnsupported

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

SERVER_NAME = "plane.example"
NOW = dt.datetime.now(dt.UTC)
P256, P384 = ec.SECP256R1(), ec.SECP384R1()


class Certified(NamedTuple):
    """A key and its certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM) + self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def certify(
    public: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
    name: str,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    ca: bool,
) -> x509.Certificate:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - dt.timedelta(hours=1))
        .not_valid_after(NOW + dt.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


def issue(name: str, issuer: Certified | None = None, curve: ec.EllipticCurve = P256) -> Certified:
    """Issue a leaf, or without an issuer a CA of its own."""
    key = ec.generate_private_key(curve)
    if issuer is None:
        return Certified(key, certify(key.public_key(), name, name, key, ca=True))
    above = issuer.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    return Certified(key, certify(key.public_key(), name, str(above), issuer.key, ca=name.endswith("CA")))


class SoftwareElement:
    """Signs like an element, and counts."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self.key = key
        self.digests: list[bytes] = []

    def sign(self, digest: bytes) -> bytes:
        self.digests.append(digest)
        algorithm = {32: hashes.SHA256(), 48: hashes.SHA384()}[len(digest)]
        return self.key.sign(digest, ec.ECDSA(Prehashed(algorithm)))


class Server:
    """Accepts one connection after the other, notes who came, and echoes one message."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context
        self.peers: list[bytes | None] = []
        self.reused: list[bool | None] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address: tuple[str, int] = self._listener.getsockname()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.settimeout(10)
            try:
                with self.context.wrap_socket(connection, server_side=True) as tls:
                    self.peers.append(tls.getpeercert(binary_form=True))
                    self.reused.append(tls.session_reused)
                    tls.sendall(tls.recv(100))
            except OSError:
                continue


@pytest.fixture(scope="module")
def root() -> Certified:
    return issue("Root CA")


@pytest.fixture(scope="module")
def device(root: Certified) -> Certified:
    return issue("device-1.example", root)


@pytest.fixture
def server(root: Certified, tmp_path: Path) -> Iterator[Server]:
    with Server(server_context(root, tmp_path)) as running:
        yield running


def server_context(root: Certified, folder: Path) -> ssl.SSLContext:
    path = folder / "server.pem"
    path.write_bytes(issue(SERVER_NAME, root).pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    context.load_verify_locations(cadata=root.der)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(root: Certified) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=root.der)
    return context


def element_context(root: Certified, device: Certified) -> ssl.SSLContext:
    context = client_context(root)
    provider.use_element_key(context, [device.der], SoftwareElement(device.key).sign)
    return context


def talk(
    context: ssl.SSLContext, server: Server, session: ssl.SSLSession | None = None
) -> tuple[ssl.SSLSession | None, str | None]:
    """Do one round trip; returns the session and the protocol version."""
    with (
        socket.create_connection(server.address, timeout=10) as tcp,
        context.wrap_socket(tcp, server_hostname=SERVER_NAME, session=session) as tls,
    ):
        tls.sendall(b"hello")
        # In TLS 1.3 the server's verdict on the client's certificate comes with the first read.
        assert tls.recv(100) == b"hello"
        return tls.session, tls.version()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2])
@pytest.mark.parametrize(("curve", "digest_size"), [(P256, 32), (P384, 48)])
def test_server_sees_the_certificate_of_a_key_that_only_signs(
    root: Certified, server: Server, version: ssl.TLSVersion, curve: ec.EllipticCurve, digest_size: int
) -> None:
    issuing = issue("Issuing CA", root)
    device = issue("device-1.example", issuing, curve)
    element = SoftwareElement(device.key)
    context = client_context(root)
    context.minimum_version = context.maximum_version = version
    provider.use_element_key(context, [device.der, issuing.der], element.sign)

    _, spoken = talk(context, server)

    assert spoken == version.name.replace("_", ".")
    assert server.peers == [device.der]
    # One proof at attach, one handshake.
    assert [len(digest) for digest in element.digests] == [digest_size] * 2


def test_resumed_session_needs_no_signature(root: Certified, device: Certified, server: Server) -> None:
    element = SoftwareElement(device.key)
    context = client_context(root)
    provider.use_element_key(context, [device.der], element.sign)

    session, _ = talk(context, server)
    signatures = len(element.digests)
    talk(context, server, session)

    assert server.reused == [False, True]
    assert len(element.digests) == signatures
    assert server.peers == [device.der] * 2


def test_element_key_serves_as_a_server_key_too(root: Certified, device: Certified) -> None:
    identity = issue(SERVER_NAME, root)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    provider.use_element_key(context, [identity.der], SoftwareElement(identity.key).sign)
    with Server(context) as running:
        talk(client_context(root), running)
    assert running.peers == [None]


def test_tls12_server_that_prefers_other_digests_is_offered_the_elements_own(
    root: Certified, device: Certified, server: Server
) -> None:
    openssl = _openssl.library()
    openssl.SSL_CTX_ctrl.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_char_p]
    ssl_ctrl_set_client_sigalgs_list = 102  # openssl/ssl.h
    preference = b"ECDSA+SHA512:ECDSA+SHA384:ECDSA+SHA256"
    pointer = _openssl.context_pointer(server.context)
    assert openssl.SSL_CTX_ctrl(pointer, ssl_ctrl_set_client_sigalgs_list, 0, preference) == 1
    server.context.maximum_version = ssl.TLSVersion.TLSv1_2
    element = SoftwareElement(device.key)
    context = client_context(root)
    provider.use_element_key(context, [device.der], element.sign)

    talk(context, server)

    assert [len(digest) for digest in element.digests] == [32, 32]


def test_wrong_key_is_refused_at_attach_and_leaves_the_context_as_it_was(
    root: Certified, device: Certified, server: Server
) -> None:
    context = element_context(root, device)
    other = issue("device-2.example", root)

    with pytest.raises(TlsKeyMismatch):
        provider.use_element_key(context, [other.der], SoftwareElement(device.key).sign)

    talk(context, server)
    assert server.peers == [device.der]


def test_wrong_key_that_slipped_through_attach_is_refused_by_the_server(
    root: Certified, device: Certified, server: Server
) -> None:
    """The control for the proof at attach: what it prevents is a device that fails in the field."""
    signers = [SoftwareElement(device.key), SoftwareElement(ec.generate_private_key(P256))]
    context = client_context(root)
    provider.use_element_key(context, [device.der], lambda digest: signers.pop(0).sign(digest))

    with pytest.raises(ssl.SSLError):
        talk(context, server)

    assert server.peers == []


def test_renewed_certificate_replaces_the_old_one_and_frees_its_key(
    root: Certified, device: Certified, server: Server
) -> None:
    gc.collect()
    context = element_context(root, device)
    before = len(provider._keys)
    renewed = issue("device-1.example", root)

    provider.use_element_key(context, [renewed.der], SoftwareElement(renewed.key).sign)

    talk(context, server)
    assert server.peers == [renewed.der]
    assert len(provider._keys) == before


def out_of_reach(_digest: bytes) -> bytes:
    raise ElementUnavailable("the element does not answer")


@pytest.mark.parametrize(
    "broken",
    [
        out_of_reach,
        lambda _digest: b"",
        lambda _digest: bytes(73),
        lambda _digest: None,
        lambda _digest: sys.exit(3),
    ],
    ids=["raises", "nothing", "too long", "no bytes", "exits"],
)
def test_signer_that_fails_costs_one_handshake_and_not_the_process(
    root: Certified,
    device: Certified,
    server: Server,
    broken: Callable[[bytes], bytes],
    caplog: pytest.LogCaptureFixture,
) -> None:
    element = SoftwareElement(device.key)
    steps: list[Callable[[bytes], bytes]] = [element.sign, broken, element.sign]

    def sign(digest: bytes) -> bytes:
        return steps.pop(0)(digest)

    context = client_context(root)
    provider.use_element_key(context, [device.der], sign)

    with pytest.raises(ssl.SSLError):
        talk(context, server)
    assert "the element's key could not be used" in caplog.text
    assert server.peers == []

    talk(context, server)
    assert server.peers == [device.der]


def test_signer_that_fails_at_attach_says_so_itself(root: Certified, device: Certified) -> None:
    with pytest.raises(ElementUnavailable):
        provider.use_element_key(client_context(root), [device.der], out_of_reach)


def test_many_contexts_in_many_threads_leave_nothing_behind(
    root: Certified, device: Certified, server: Server
) -> None:
    def connect(number: int) -> None:
        context = element_context(root, device)
        if number % 2:
            talk(context, server)

    gc.collect()
    before = len(provider._keys), len(provider._signatures)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(connect, range(200)))
    gc.collect()

    assert (len(provider._keys), len(provider._signatures)) == before
    assert provider._arriving == {}
    assert server.peers == [device.der] * 100


def test_callbacks_are_made_once(root: Certified, device: Certified) -> None:
    function_pointer = ctypes.CFUNCTYPE(None).__mro__[1]

    def callbacks() -> int:
        return sum(isinstance(thing, function_pointer) for thing in gc.get_objects())

    element_context(root, device)
    before = callbacks()
    contexts = [element_context(root, device) for _ in range(20)]
    assert len(contexts) == 20
    assert callbacks() == before > 0


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the server is a thread of the parent only
def test_forked_child_connects_with_the_context_of_its_parent(
    root: Certified, device: Certified, server: Server
) -> None:
    context = element_context(root, device)
    talk(context, server)

    child = os.fork()
    if child == 0:
        try:
            talk(context, server)
        finally:
            os._exit(0 if sys.exception() is None else 1)  # the child must not run pytest's exit

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    talk(context, server)
    assert server.peers == [device.der] * 3


def test_provider_stays_out_of_the_default_library_context(root: Certified, device: Certified) -> None:
    element_context(root, device)
    openssl = _openssl.library()
    openssl.OSSL_PROVIDER_available.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    assert openssl.OSSL_PROVIDER_available(None, b"default") == 1
    assert openssl.OSSL_PROVIDER_available(None, provider._PROVIDER) == 0


def test_openssl_that_its_module_hides_is_unsupported() -> None:
    hidden = _rust.__file__  # carries a statically linked OpenSSL
    assert hidden is not None
    with pytest.raises(TlsUnsupported, match="hidden"):
        _openssl.load(Path(hidden))
    provider.available()


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0x1010117F, "OpenSSL 1.1.1w  11 Sep 2023"),
        (0x20000000, "LibreSSL 3.8"),
        (0x30000000, "OpenSSL 3.0.0"),
    ],
)
def test_openssl_without_providers_or_of_somebody_else_is_unsupported(number: int, text: str) -> None:
    assert text != ssl.OPENSSL_VERSION
    with pytest.raises(TlsUnsupported):
        _openssl.require_version(number, text)


def test_chain_that_is_none_is_refused(root: Certified, device: Certified) -> None:
    sign = SoftwareElement(device.key).sign
    for chain in ([], [b""], [device.der[:-1]], [device.der, b"\x30\x00"]):
        with pytest.raises(CertificateMalformed):
            provider.use_element_key(client_context(root), chain, sign)


def test_certificate_of_a_key_that_no_element_has_is_refused(root: Certified) -> None:
    foreign = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    certificate = certify(foreign, "device-1.example", "Root CA", root.key, ca=False)
    p521 = issue("device-1.example", root, ec.SECP521R1())
    for der in (certificate.public_bytes(serialization.Encoding.DER), p521.der):
        with pytest.raises(TlsKeyMismatch):
            provider.use_element_key(client_context(root), [der], out_of_reach)


SCRIPT = """
import pathlib, socket, ssl, sys
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from fuseline.device.element import provider

folder, port = pathlib.Path(sys.argv[1]), int(sys.argv[2])
key = serialization.load_pem_private_key((folder / "key.pem").read_bytes(), None)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.load_verify_locations(cadata=(folder / "root.der").read_bytes())
def sign(digest):
    return key.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256())))
provider.use_element_key(context, [(folder / "leaf.der").read_bytes()], sign)
with socket.create_connection(("127.0.0.1", port)) as tcp:
    with context.wrap_socket(tcp, server_hostname="plane.example") as tls:
        tls.sendall(b"hello")
        assert tls.recv(5) == b"hello"
context.itself = [context]      # freed by the last collection
sys.context = context           # freed after all modules
"""


@pytest.mark.parametrize(
    "forever", ["", "import ctypes; ctypes.pythonapi.Py_IncRef(ctypes.py_object(context))"]
)
def test_interpreter_in_development_mode_exits_cleanly_with_contexts_alive(
    root: Certified, device: Certified, server: Server, tmp_path: Path, forever: str
) -> None:
    (tmp_path / "key.pem").write_bytes(device.pem)
    (tmp_path / "leaf.der").write_bytes(device.der)
    (tmp_path / "root.der").write_bytes(root.der)
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", SCRIPT + forever, str(tmp_path), str(server.address[1])],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert server.peers == [device.der]
