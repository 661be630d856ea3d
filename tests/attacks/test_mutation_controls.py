"""Mutation controls: each check taken out of the source, and the attack that it stops must win.

A test that shows "nothing got through" proves nothing if nothing would have got through anyway. Here the
module under attack is compiled from its own source with one check removed. If the attack fails then too,
the check was not what stopped it, and this suite is wrong somewhere.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from fuseline.errors import EvidenceSignature, FuselineError
from fuseline.formats import cbor, cose, ear, manifest, psa, x509profile
from fuseline.plane.ota import states
from fuseline.plane.registry import identity
from fuseline.plane.verifier import appraisal, nonces

NOW = dt.datetime.now(dt.UTC)
KEY, OTHER_KEY = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
NONCE = bytes(range(32))
HARDWARE = bytes(32)
FIRMWARE = psa.SoftwareComponent("FW", b"\x01" * 32, b"\x02" * 32, "1.0.0")
EXTRA = psa.SoftwareComponent("ROOTKIT", b"\x03" * 32, b"\x02" * 32, "1.0.0")
NAME = "sn-1.devfleet.fuseline.test"


@contextmanager
def mutant(module: types.ModuleType, check: str, instead: str) -> Iterator[Any]:
    """Return the module compiled with one check replaced; the check must stand there exactly once."""
    source = inspect.getsource(module)
    assert source.count(check) == 1, f"{check!r} stands {source.count(check)} times in {module.__name__}"
    changed = types.ModuleType(f"{module.__name__}_mutant")
    changed.__file__ = module.__file__
    sys.modules[changed.__name__] = changed  # dataclasses look their module up
    try:
        exec(compile(source.replace(check, instead), f"<mutant of {module.__name__}>", "exec"), vars(changed))
        yield changed
    finally:
        del sys.modules[changed.__name__]


def _token(key: ec.EllipticCurvePrivateKey = KEY, *components: psa.SoftwareComponent, **claims: Any) -> bytes:
    values: dict[str, Any] = {
        "nonce": NONCE,
        "instance_id": psa.instance_id_of(KEY.public_key()),
        "implementation_id": HARDWARE,
        "client_id": -1,
        "lifecycle": psa.LIFECYCLE_SECURED,
        "boot_seed": bytes(32),
        "components": components or (FIRMWARE,),
    }
    return cose.sign1(psa.encode_claims(psa.PsaToken(**(values | claims))), cose.signer_for(key))


def _appraise(module: Any, token: bytes, *, floor: int = 0) -> ear.Tier:
    """Verify and appraise; references are those of one release with security counter 1."""
    anchor = module.TrustAnchor(KEY.public_key(), HARDWARE)
    evidence = module.verify_evidence(token, nonce=NONCE, anchor=anchor)
    reference = module.ReferenceSet(1, "1.0.0", 1, frozenset({module.component_key(FIRMWARE)}))
    status: ear.Tier = module.appraise(evidence, [reference], floor=floor).status
    return status


def _affirms(token: bytes, *, floor: int = 0) -> Callable[[Any], bool]:
    return lambda module: _appraise(module, token, floor=floor) is ear.Tier.AFFIRMING


def _accepts(attack: Callable[[Any], object]) -> Callable[[Any], bool]:
    def won(module: Any) -> bool:
        attack(module)
        return True

    return won


# --- certificates ------------------------------------------------------------------------------------


def _leaf(
    *names: x509.GeneralName,
    key: Any = KEY,
    ca: bool = False,
    usage: Any = ExtendedKeyUsageOID.CLIENT_AUTH,
) -> bytes:
    issuer = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - dt.timedelta(days=1))
        .not_valid_after(NOW + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names or [x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier(b"1" * 20, None, None), critical=False)
    )
    return builder.sign(issuer, hashes.SHA256()).public_bytes(Encoding.DER)


def _request(name: str = NAME, *, ca: bool = False, tampered: bool = False) -> x509.CertificateSigningRequest:
    builder = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    )
    if ca:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    der = bytearray(builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.DER))
    der[-1] ^= int(tampered)
    return x509.load_der_x509_csr(bytes(der))


def _parses(der: bytes) -> Callable[[Any], bool]:
    return _accepts(lambda module: module.parse_device_certificate(der))


def _asks(request: x509.CertificateSigningRequest) -> Callable[[Any], bool]:
    return _accepts(lambda module: module.verify_request(request, name=NAME))


URI = x509.UniformResourceIdentifier("urn:dev:ops:other-sn1")
OTHER_INSTANCE = psa.instance_id_of(OTHER_KEY.public_key())
SECRET = b"s" * 32
NONCE_OF_OTHER = nonces.mint(SECRET, "other", expires=2000, random=bytes(8))


class _Registry:
    """A registry that knows one device, in whatever standing a test gives it."""

    def __init__(self, revoked_at: float | None = None) -> None:
        self._standing = (revoked_at, "lost")

    def one(self, _statement: Any, **parameters: Any) -> Any:
        if "id" in parameters:
            return self._standing
        digest = hashlib.sha256(x509profile.spki(KEY.public_key())).digest()
        return (1, NAME, "v", "h", HARDWARE, b"", _SERIAL, digest)


def _ca(name: str, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    return x509profile.issue_ca(
        name, key.public_key(), issuer=None, issuer_key=key, not_before=NOW - dt.timedelta(days=2),
        not_after=NOW + dt.timedelta(days=2),
    )  # fmt: skip


def _device(issuer: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    return x509profile.issue_device_certificate(
        name=NAME, key=KEY.public_key(), issuer=issuer, issuer_key=key, serial=7,
        not_before=NOW - dt.timedelta(hours=2), not_after=NOW + dt.timedelta(hours=2),
    )  # fmt: skip


FACTORY_KEY = ec.generate_private_key(ec.SECP256R1())
FACTORY, OPERATIONAL = _ca("factory", FACTORY_KEY), _ca("operational", OTHER_KEY)
_DEVICE, _SERIAL = _device(FACTORY, FACTORY_KEY), x509profile.serial_text(7)
# Names the factory CA as its issuer, and another key signed it.
_FORGED = _device(FACTORY, OTHER_KEY)


def _identifies(
    certificate: x509.Certificate, *, later: float = 0, revoked_at: float | None = None
) -> Callable[[Any], bool]:
    der = certificate.public_bytes(Encoding.DER)

    def attack(module: Any) -> object:
        identifier = module.Identifier(_Registry(revoked_at), factory_ca=FACTORY, operational_ca=OPERATIONAL)
        return identifier.identify(der, NOW.timestamp() + later)

    return _accepts(attack)


MANIFEST = b'{"name": "sn-1"}\n'
MANIFEST_SIGNATURE = manifest.sign(MANIFEST, cose.signer_for(KEY))
FORGED_DIGEST = hashlib.sha256(MANIFEST.replace(b"1", b"6")).digest()


def _unprotected(item: dict[int, bytes]) -> bytes:
    parts = list(cbor.decode(_token()).value)
    parts[1] = item
    return cbor.encode(cbor2.CBORTag(18, parts))


# (what the check is called, module, the check as it stands, what stands instead, the attack)
CONTROLS: list[tuple[str, types.ModuleType, str, str, Callable[[Any], bool]]] = [
    (
        "evidence signature",
        cose,
        "    except InvalidSignature as error:\n        raise refused(",
        (
            "    except InvalidSignature as error:\n        return VerifiedSign1(payload)\n"
            "        raise refused("
        ),
        _accepts(lambda m: m.verify_sign1(_token(OTHER_KEY), KEY.public_key(), refused=EvidenceSignature)),
    ),
    (
        "nothing outside the signature",
        cose,
        "    if unprotected:",
        "    if False:",
        _accepts(
            lambda m: m.verify_sign1(_unprotected({4: b"k"}), KEY.public_key(), refused=EvidenceSignature)
        ),
    ),
    (
        "replayed evidence",
        appraisal,
        "if token.nonce != nonce:",
        "if False:",
        _affirms(_token(nonce=bytes(32))),
    ),
    (
        "relayed evidence",
        appraisal,
        "if token.instance_id != psa.instance_id_of(anchor.key):",
        "if False:",
        _affirms(_token(instance_id=OTHER_INSTANCE)),
    ),
    (
        "other hardware",
        appraisal,
        "if token.implementation_id != anchor.implementation_id:",
        "if False:",
        _affirms(_token(implementation_id=b"\x09" * 32)),
    ),
    (
        "life cycle",
        appraisal,
        "if token.lifecycle not in _SECURED:",
        "if False:",
        _affirms(_token(lifecycle=0x2000)),
    ),
    (
        "unknown component",
        appraisal,
        "if len(measured) == len(reference.components) and reference.components == set(measured)",
        "if reference.components <= set(measured)",
        _affirms(_token(KEY, FIRMWARE, EXTRA)),
    ),
    (
        "component measured twice",
        appraisal,
        "if len(measured) == len(reference.components) and reference.components == set(measured)",
        "if reference.components == set(measured)",
        _affirms(_token(KEY, FIRMWARE, FIRMWARE)),
    ),
    (
        "version and signer",
        appraisal,
        "        component.version,\n        component.signer_id,\n",
        "",
        _affirms(_token(KEY, replace(FIRMWARE, signer_id=b"\x07" * 32))),
    ),
    (
        "rollback",
        appraisal,
        "if matched.security_counter < floor:",
        "if False:",
        _affirms(_token(), floor=2),
    ),
    (
        "another device's nonce",
        nonces,
        "if len(nonce) != LENGTH or not hmac.compare_digest(tag, _tag(secret, device, head)):",
        "if len(nonce) != LENGTH:",
        _accepts(lambda m: m.check(SECRET, "me", NONCE_OF_OTHER, 1000)),
    ),
    (
        "stale nonce",
        nonces,
        "    if now > expires:",
        "    if False:",
        _accepts(lambda m: m.check(SECRET, "other", NONCE_OF_OTHER, 3000)),
    ),
    (
        "name of another type",
        x509profile,
        "if len(names) != 1 or not isinstance(names[0], x509.DNSName):",
        "if not (names := [n for n in names if isinstance(n, x509.DNSName)]):",
        _parses(_leaf(x509.DNSName(NAME), URI)),
    ),
    (
        "device certificate that is a CA",
        x509profile,
        "if extensions.get_extension_for_class(x509.BasicConstraints).value.ca:",
        "if False:",
        _parses(_leaf(ca=True)),
    ),
    (
        "certificate for servers",
        x509profile,
        "if ExtendedKeyUsageOID.CLIENT_AUTH not in usage:",
        "if False:",
        _parses(_leaf(usage=ExtendedKeyUsageOID.SERVER_AUTH)),
    ),
    (
        "proof of possession",
        x509profile,
        "    if not signed:",
        "    if False:",
        _asks(_request(tampered=True)),
    ),
    (
        "request for another name",
        x509profile,
        "    if asked != name:",
        "    if False:",
        _asks(_request("sn-2.devfleet.fuseline.test")),
    ),
    (
        "request to become a CA",
        x509profile,
        "if isinstance(extension.value, x509.BasicConstraints) and extension.value.ca:",
        "if False:",
        _asks(_request(ca=True)),
    ),
    (
        "certificate that only names our CA",
        identity,
        "x509.load_der_x509_certificate(der).verify_directly_issued_by(issuer)",
        "pass",
        _identifies(_FORGED),
    ),
    (
        "expired certificate",
        identity,
        "if not certificate.not_before <= now <= certificate.not_after:",
        "if False:",
        _identifies(_DEVICE, later=86_400),
    ),
    (
        "revoked device",
        identity,
        "if standing[0] is not None:",
        "if False:",
        _identifies(_DEVICE, revoked_at=1.0),
    ),
    (
        "edited manifest",
        manifest,
        'statement.get("sha256") != sha256',
        "False",
        _accepts(lambda m: m.verify(FORGED_DIGEST, MANIFEST_SIGNATURE, KEY.public_key())),
    ),
    (
        "a client's own success",
        states,
        "(state, I.CLAIMED_SUCCESS): S.UNPROVEN",
        "(state, I.CLAIMED_SUCCESS): S.ATTESTED",
        lambda m: m.next_state(m.S.RUNNING, m.I.CLAIMED_SUCCESS) == "attested",
    ),
]


@pytest.mark.parametrize(
    ("module", "check", "instead", "attack"),
    [pytest.param(*control[1:], id=control[0]) for control in CONTROLS],
)
def test_the_attack_fails_and_wins_once_its_check_is_gone(
    module: types.ModuleType, check: str, instead: str, attack: Callable[[Any], bool]
) -> None:
    try:
        stopped = not attack(module)
    except FuselineError:
        stopped = True
    assert stopped, "the attack wins against the code as it is"
    with mutant(module, check, instead) as weakened:
        assert attack(weakened), "the check was not what stopped the attack"


def test_a_mutant_without_a_mutation_behaves_like_the_original() -> None:
    with mutant(appraisal, "if token.nonce != nonce:", "if token.nonce != nonce:") as same:
        assert _appraise(same, _token()) is ear.Tier.AFFIRMING
        with pytest.raises(FuselineError):
            _appraise(same, _token(nonce=bytes(32)))
