"""The element's process as the TLS client: an application on a Unix socket, a stdlib server beyond."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import select
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fuseline.device.element import relay as relay_module
from fuseline.device.element.relay import Relay
from fuseline.errors import CertificateMalformed, FuselineError, TlsKeyMismatch, TlsRelayFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SERVER_NAME = "plane.example"
NOW = dt.datetime.now(dt.UTC)
PEM = serialization.Encoding.PEM
LARGE = os.urandom(2**16) * 80  # 5 MiB


class Certified(NamedTuple):
    """A key and its certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def issue(name: str, issuer: Certified | None = None) -> Certified:
    """Issue a leaf, or without an issuer a CA of its own."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - dt.timedelta(hours=1))
        .not_valid_after(NOW + dt.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(issuer.key if issuer else key, hashes.SHA256())
    )
    return Certified(key, certificate)


class Outcome:
    """What a thread ended with."""

    def __init__(self) -> None:
        self.error: FuselineError | None = None
        self.cpu = 0.0


class Bench:
    """One server behind one relay; `serve` says what the server does with a connection."""

    def __init__(self, folder: Path) -> None:
        self.root = issue("Root CA")
        self.device = issue("device-1.example", self.root)
        self.relay = Relay(self.device.key)
        self.trust = self.root.pem
        self.server_name = SERVER_NAME
        self.peers: list[bytes | None] = []
        self.server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server = issue(SERVER_NAME, self.root)
        (folder / "server.pem").write_bytes(server.pem + server.key_pem)
        self.server_context.load_cert_chain(folder / "server.pem")
        self.server_context.load_verify_locations(cadata=self.root.pem.decode())
        self.server_context.verify_mode = ssl.CERT_REQUIRED

    @contextmanager
    def connected(self, serve: Callable[[ssl.SSLSocket], None]) -> Iterator[tuple[socket.socket, Outcome]]:
        """Start one server connection and one splice; yields the application's socket."""
        outcome = Outcome()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = threading.Thread(target=self._accept, args=(listener, serve))
            server.start()
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            port: int = listener.getsockname()[1]
            splice = threading.Thread(target=self._splice, args=(theirs, port, outcome))
            splice.start()
            with ours:
                ours.settimeout(20)
                yield ours, outcome
            splice.join(20)
            assert not splice.is_alive()
            server.join(20)
            assert not server.is_alive()

    def _accept(self, listener: socket.socket, serve: Callable[[ssl.SSLSocket], None]) -> None:
        connection, _ = listener.accept()
        connection.settimeout(20)
        try:
            with self.server_context.wrap_socket(connection, server_side=True) as tls:
                self.peers.append(tls.getpeercert(binary_form=True))
                serve(tls)
        except OSError:
            connection.close()

    def _splice(self, conn: socket.socket, port: int, outcome: Outcome) -> None:
        started = time.thread_time()
        with conn:
            try:
                self.relay.splice(
                    conn,
                    host="127.0.0.1",
                    port=port,
                    server_name=self.server_name,
                    chain_pem=self.device.pem,
                    trust_pem=self.trust,
                )
            except FuselineError as error:
                outcome.error = error
        outcome.cpu = time.thread_time() - started

    @property
    def device_der(self) -> bytes:
        return self.device.certificate.public_bytes(serialization.Encoding.DER)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def read_all(sock: socket.socket) -> bytes:
    data = bytearray()
    while piece := sock.recv(2**16):
        data += piece
    return bytes(data)


def echo(tls: ssl.SSLSocket) -> None:
    while piece := tls.recv(2**16):
        tls.sendall(piece)
    tls.unwrap()


def test_application_in_plaintext_reaches_the_server_as_the_device(bench: Bench) -> None:
    with bench.connected(echo) as (app, outcome):
        app.sendall(b"hello")
        assert app.recv(100) == b"hello"
        app.sendall(b"again")
        assert app.recv(100) == b"again"
    assert outcome.error is None
    assert bench.peers == [bench.device_der]


def test_large_transfer_both_ways_at_once_arrives_whole(bench: Bench) -> None:
    with bench.connected(echo) as (app, outcome):

        def send() -> None:
            app.sendall(LARGE)
            app.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        received = read_all(app)
        sender.join()
    assert outcome.error is None
    assert hashlib.sha256(received).digest() == hashlib.sha256(LARGE).digest()


def test_application_that_finished_sending_still_gets_a_large_answer(bench: Bench) -> None:
    def answer_at_the_end(tls: ssl.SSLSocket) -> None:
        asked = read_all(tls)
        # By now close_notify has come, and a relay that stopped reading would lose all of this.
        time.sleep(0.2)
        tls.sendall(hashlib.sha256(asked).digest() + LARGE)
        tls.unwrap()

    with bench.connected(answer_at_the_end) as (app, outcome):
        app.sendall(LARGE)
        app.shutdown(socket.SHUT_WR)
        received = read_all(app)
    assert outcome.error is None
    assert received == hashlib.sha256(LARGE).digest() + LARGE


def test_server_that_says_goodbye_first_is_answered(bench: Bench) -> None:
    goodbyes: list[bool] = []

    def leave(tls: ssl.SSLSocket) -> None:
        tls.sendall(LARGE)
        tls.unwrap()
        goodbyes.append(True)

    with bench.connected(leave) as (app, outcome):
        assert read_all(app) == LARGE
    assert outcome.error is None
    assert goodbyes == [True]


def test_slow_application_does_not_make_the_relay_hoard(bench: Bench) -> None:
    stalled = threading.Event()

    def flood(tls: ssl.SSLSocket) -> None:
        tls.settimeout(1)
        try:
            for _ in range(20):
                tls.sendall(LARGE)
        except TimeoutError:
            stalled.set()

    with bench.connected(flood) as (app, _):
        assert stalled.wait(20)
        app.settimeout(1)
        assert app.recv(1) == LARGE[:1]


def test_application_that_leaves_early_has_its_last_words_delivered(bench: Bench) -> None:
    heard: list[bytes] = []

    def listen(tls: ssl.SSLSocket) -> None:
        tls.sendall(b"unread")
        time.sleep(0.2)
        heard.append(read_all(tls))

    with bench.connected(listen) as (app, outcome):
        app.sendall(b"last words")
    assert outcome.error is None
    assert heard == [b"last words"]


def test_application_that_vanishes_ends_an_endless_answer(bench: Bench) -> None:
    ended: list[bool] = []

    def endless(tls: ssl.SSLSocket) -> None:
        try:
            while True:
                tls.sendall(LARGE)
        except OSError:
            ended.append(True)

    with bench.connected(endless) as (app, outcome):
        assert app.recv(10) == LARGE[:10]
    assert outcome.error is None
    assert ended == [True]


def test_application_that_hangs_up_on_a_silent_server_ends_the_connection(bench: Bench) -> None:
    ended: list[bool] = []

    def say_nothing(tls: ssl.SSLSocket) -> None:
        assert read_all(tls) == b"question"
        tcp_end, _, _ = select.select([tls], [], [], 10)
        ended.append(bool(tcp_end))

    with bench.connected(say_nothing) as (app, outcome):
        app.sendall(b"question")
        app.shutdown(socket.SHUT_WR)
        time.sleep(0.2)
    assert outcome.error is None
    assert ended == [True]


def test_application_that_leaves_before_a_slow_server_is_heard_without_a_busy_loop(bench: Bench) -> None:
    heard: list[int] = []

    def read_late(tls: ssl.SSLSocket) -> None:
        time.sleep(1)
        heard.append(len(read_all(tls)))

    with bench.connected(read_late) as (app, outcome):
        # Until the server's and the relay's buffers are full, and then what the Unix socket takes.
        sent = 0
        while select.select([], [app], [], 0.3)[1]:
            sent += app.send(LARGE, socket.MSG_DONTWAIT)
    assert outcome.error is None
    assert heard == [sent]
    assert outcome.cpu < 0.4


def test_quiet_connections_use_no_processor(bench: Bench) -> None:
    def wait_then_answer(tls: ssl.SSLSocket) -> None:
        tls.recv(10)
        time.sleep(0.5)
        assert read_all(tls) == b""
        time.sleep(0.5)
        tls.sendall(b"at last")
        tls.unwrap()

    with bench.connected(wait_then_answer) as (app, outcome):
        app.sendall(b"hello")
        time.sleep(0.5)
        app.shutdown(socket.SHUT_WR)
        assert read_all(app) == b"at last"
    assert outcome.error is None
    # A busy loop takes the whole second; dial and handshake take some milliseconds.
    assert outcome.cpu < 0.2


def test_answer_cut_off_without_close_notify_is_an_error_after_what_came(bench: Bench) -> None:
    def cut(tls: ssl.SSLSocket) -> None:
        tls.sendall(LARGE)
        tls.shutdown(socket.SHUT_WR)  # of TCP, without a word of TLS
        read_all(tls)

    with bench.connected(cut) as (app, outcome):
        assert read_all(app) == LARGE
    assert isinstance(outcome.error, TlsRelayFailed)
    assert outcome.error.evidence["stage"] == "transfer"
    assert "EOF" in outcome.error.message


def test_server_of_another_ca_is_refused(bench: Bench) -> None:
    bench.trust = issue("Root CA").pem
    with bench.connected(echo) as (app, outcome):
        app.sendall(b"secret")
        # Not the silence of a server that had nothing to say: what was sent is known to be undelivered.
        with pytest.raises(ConnectionResetError):
            app.recv(100)
    assert isinstance(outcome.error, TlsRelayFailed)
    assert outcome.error.evidence["stage"] == "handshake"
    # The server learned neither who called nor what was said.
    assert bench.peers == []


def test_server_of_another_name_is_refused(bench: Bench) -> None:
    bench.server_name = "registry.example"
    with bench.connected(echo) as (app, outcome):
        app.sendall(b"secret")
        # Not the silence of a server that had nothing to say: what was sent is known to be undelivered.
        with pytest.raises(ConnectionResetError):
            app.recv(100)
    assert isinstance(outcome.error, TlsRelayFailed)
    assert "registry.example" in outcome.error.message
    assert bench.peers == []


def test_server_without_tls13_is_refused(bench: Bench) -> None:
    bench.server_context.maximum_version = ssl.TLSVersion.TLSv1_2
    with bench.connected(echo) as (app, outcome):
        assert read_all(app) == b""
    assert isinstance(outcome.error, TlsRelayFailed)
    assert bench.peers == []


def test_device_that_the_server_refuses_learns_it(bench: Bench) -> None:
    stranger = issue("device-1.example", issue("Other CA"))
    bench.device, bench.relay = stranger, Relay(stranger.key)
    with bench.connected(echo) as (app, outcome):
        assert read_all(app) == b""
    assert isinstance(outcome.error, TlsRelayFailed)
    assert "unknown ca" in outcome.error.message.lower()
    assert bench.peers == []


def test_server_that_is_silent_is_given_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "DIAL_TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        failure = splice_error(bench, silent.getsockname()[1])
    assert isinstance(failure, TlsRelayFailed)
    assert failure.evidence["stage"] == "handshake"


def splice_error(
    bench: Bench, port: int, host: str = "127.0.0.1", chain: bytes | None = None
) -> FuselineError:
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(FuselineError) as caught:
        bench.relay.splice(
            theirs,
            host=host,
            port=port,
            server_name=SERVER_NAME,
            chain_pem=bench.device.pem if chain is None else chain,
            trust_pem=bench.trust,
        )
    return caught.value


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 1), ("127.0.0.1", 70000), ("a\0b", 1)])
def test_address_that_leads_nowhere_is_an_error_of_the_dial(bench: Bench, host: str, port: int) -> None:
    failure = splice_error(bench, port, host=host)
    assert isinstance(failure, TlsRelayFailed)
    assert failure.evidence["stage"] == "dial"


def test_certificate_of_another_key_is_refused_before_the_dial(bench: Bench) -> None:
    other = issue("device-2.example", bench.root)
    assert isinstance(splice_error(bench, 1, chain=other.pem), TlsKeyMismatch)
    assert isinstance(splice_error(bench, 1, chain=b"no certificate"), CertificateMalformed)


def test_contexts_are_kept_for_the_same_certificate_and_only_a_few(bench: Bench) -> None:
    first = bench.relay._context(bench.device.pem, bench.trust)
    assert bench.relay._context(bench.device.pem, bench.trust) is first
    for _ in range(10):
        bench.relay._context(bench.device.pem, issue("Root CA").pem)
    assert len(bench.relay._contexts) == relay_module.MAX_CONTEXTS


SCRIPT = """
import os, pathlib, sys
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from fuseline.device.element.relay import Relay

key_pem, chain, trust = (os.environb[name] for name in (b"KEY", b"CHAIN", b"TRUST"))
relay = Relay(load_pem_private_key(key_pem, None))
written = []
def watch(event, arguments):
    if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        written.append(arguments[0])
sys.addaudithook(watch)
relay._context(chain, trust)
# The one file object that was opened for writing wraps the memfd: a number, not a path.
assert [path for path in written if not isinstance(path, int)] == [], written
links = []
for descriptor in os.listdir("/proc/self/fd"):
    try:
        links.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    except FileNotFoundError:
        pass                       # the listing's own
assert not [link for link in links if "memfd" in link], links
"""


def test_key_is_never_in_a_file(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    places = dict.fromkeys(("HOME", "TMPDIR", "XDG_RUNTIME_DIR"), str(folder))
    secrets = {
        "KEY": bench.device.key_pem.decode(),
        "CHAIN": bench.device.pem.decode(),
        "TRUST": bench.trust.decode(),
    }
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-B", "-c", SCRIPT],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=folder,
        env=places | secrets | {"PYTHONPATH": str(Path(relay_module.__file__).parents[3])},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert list(folder.iterdir()) == []
