"""TLS with a key that never leaves the element: an OpenSSL 3 provider written in Python.

A stdlib `ssl.SSLContext` takes private keys from files only. This module gives OpenSSL a key that has a
public half and, in the place of the private one, a callable that asks the element for a signature. The
provider lives in a library context of its own, so nothing else in the process sees it. It has no way to
export a key: OpenSSL therefore cannot move the public half elsewhere and sign without the element.

provider(7ossl), provider-keymgmt(7ossl) and provider-signature(7ossl) describe the functions; their numbers
are in openssl/core_dispatch.h.

Limits: the thread that does the handshake waits for the element, so asyncio code with a slow element should
do its handshakes in an executor. A Ctrl-C that arrives while the signer runs ends that handshake instead of
the program. The element is asked for the digest of its key's own group only, as TLS 1.3 does: a TLS 1.2
server that accepts no other finds no common scheme.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import itertools
import ssl
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from fuseline.device.element import _openssl
from fuseline.errors import CertificateMalformed, TlsKeyMismatch

Signer = Callable[[bytes], bytes]
"""Digest (SHA-256: 32 bytes, SHA-384: 48) to DER ECDSA-Sig-Value (RFC 3279 2.2.3).

Called from the thread that does the handshake, so from several threads at once if handshakes are.
"""

# openssl/core_dispatch.h: operations, and the functions of a provider, a key manager and a signature.
OSSL_OP_KEYMGMT = 10
OSSL_OP_SIGNATURE = 12
OSSL_FUNC_PROVIDER_QUERY_OPERATION = 1027
OSSL_FUNC_KEYMGMT_NEW = 1
OSSL_FUNC_KEYMGMT_FREE = 10
OSSL_FUNC_KEYMGMT_GET_PARAMS = 11
OSSL_FUNC_KEYMGMT_GETTABLE_PARAMS = 12
OSSL_FUNC_KEYMGMT_QUERY_OPERATION_NAME = 20
OSSL_FUNC_KEYMGMT_HAS = 21
OSSL_FUNC_KEYMGMT_MATCH = 23
OSSL_FUNC_KEYMGMT_IMPORT = 40
OSSL_FUNC_KEYMGMT_IMPORT_TYPES = 41
OSSL_FUNC_SIGNATURE_NEWCTX = 1
OSSL_FUNC_SIGNATURE_DIGEST_SIGN_INIT = 8
OSSL_FUNC_SIGNATURE_DIGEST_SIGN = 11
OSSL_FUNC_SIGNATURE_FREECTX = 16
# openssl/core_dispatch.h: parts of a key. EVP_PKEY_KEYPAIR (openssl/evp.h) is all of them.
OSSL_KEYMGMT_SELECT_PRIVATE_KEY = 0x01
OSSL_KEYMGMT_SELECT_PUBLIC_KEY = 0x02
OSSL_KEYMGMT_SELECT_ALL_PARAMETERS = 0x04 | 0x80
EVP_PKEY_KEYPAIR = (
    OSSL_KEYMGMT_SELECT_PRIVATE_KEY | OSSL_KEYMGMT_SELECT_PUBLIC_KEY | OSSL_KEYMGMT_SELECT_ALL_PARAMETERS
)
# openssl/core_names.h
OSSL_PKEY_PARAM_BITS = b"bits"
OSSL_PKEY_PARAM_SECURITY_BITS = b"security-bits"
OSSL_PKEY_PARAM_MAX_SIZE = b"max-size"
OSSL_PKEY_PARAM_GROUP_NAME = b"group"
OSSL_PKEY_PARAM_PUB_KEY = b"pub"

# Our own: the provider's name, and the parameter that tells `import` which signer a new key has.
_PROVIDER = b"fuseline"
_PARAM_SIGNER = b"fuseline-signer"
_PROPERTIES = b"provider=fuseline"

# Names under which OpenSSL knows the two groups (providers/implementations/include/prov/names.h and the
# NIST aliases of crypto/ec), and the digest that TLS 1.3 binds to each (RFC 8446 4.2.3).
_GROUPS: dict[bytes, ec.EllipticCurve] = {
    b"prime256v1": ec.SECP256R1(),
    b"P-256": ec.SECP256R1(),
    b"secp384r1": ec.SECP384R1(),
    b"P-384": ec.SECP384R1(),
}
_GROUP_DIGEST: dict[str, hashes.HashAlgorithm] = {"secp256r1": hashes.SHA256(), "secp384r1": hashes.SHA384()}
_GROUP_NAME = {"secp256r1": b"prime256v1", "secp384r1": b"secp384r1"}
_DIGEST_NAMES = {b"SHA256": "sha256", b"SHA2-256": "sha256", b"SHA384": "sha384", b"SHA2-384": "sha384"}

# Signed once at attach. A TLS 1.3 signature is over 64 spaces and a context string (RFC 8446 4.4.3), so
# this one is of no use to anybody else.
_CHALLENGE = b"fuseline: the element holds the key of this certificate"


class _Key:
    """A key as OpenSSL builds it: `new`, then `import`. Without a signer it is a public key."""

    __slots__ = ("public", "sign")

    def __init__(self) -> None:
        self.public: ec.EllipticCurvePublicKey | None = None
        self.sign: Signer | None = None


# What OpenSSL holds as `void *keydata` and `void *ctx` are numbers into these; OpenSSL's free removes them.
# A signature operation is the key that it is done with.
_handles = itertools.count(1)
_keys: dict[int, _Key] = {}
_signatures: dict[int, _Key] = {}
# Signers on their way through EVP_PKEY_fromdata.
_arriving: dict[bytes, Signer] = {}


# --- key manager: provider-keymgmt(7ossl) ----------------------------------------------------------

_IMPORT_TYPES = _openssl.description(
    (OSSL_PKEY_PARAM_GROUP_NAME, _openssl.OSSL_PARAM_UTF8_STRING),
    (OSSL_PKEY_PARAM_PUB_KEY, _openssl.OSSL_PARAM_OCTET_STRING),
    (_PARAM_SIGNER, _openssl.OSSL_PARAM_OCTET_STRING),
)
_GETTABLE = _openssl.description(
    (OSSL_PKEY_PARAM_BITS, _openssl.OSSL_PARAM_INTEGER),
    (OSSL_PKEY_PARAM_SECURITY_BITS, _openssl.OSSL_PARAM_INTEGER),
    (OSSL_PKEY_PARAM_MAX_SIZE, _openssl.OSSL_PARAM_INTEGER),
    (OSSL_PKEY_PARAM_GROUP_NAME, _openssl.OSSL_PARAM_UTF8_STRING),
)
_SIGNATURE_NAME = ctypes.create_string_buffer(b"ECDSA")
_openssl.immortal(_SIGNATURE_NAME)


@_openssl.callback(ctypes.c_void_p, ctypes.c_void_p)
def _keymgmt_new(_provider: int | None) -> int:
    handle = next(_handles)
    _keys[handle] = _Key()
    return handle


@_openssl.callback(None, ctypes.c_void_p)
def _keymgmt_free(handle: int) -> int:
    del _keys[handle]
    return 0


@_openssl.callback(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
def _keymgmt_has(handle: int, selection: int) -> int:
    key = _keys[handle]
    if selection & OSSL_KEYMGMT_SELECT_PRIVATE_KEY and key.sign is None:
        return 0
    return int(key.public is not None)


@_openssl.callback(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)
def _keymgmt_match(one: int, other: int, _selection: int) -> int:
    public = _keys[one].public
    return int(public is not None and public == _keys[other].public)


@_openssl.callback(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
def _keymgmt_import(handle: int, _selection: int, array: int | None) -> int:
    """Take our own key from `use_element_key`, or a certificate's public key that OpenSSL compares."""
    key = _keys[handle]
    group = _openssl.parameter_bytes(array, OSSL_PKEY_PARAM_GROUP_NAME)
    point = _openssl.parameter_bytes(array, OSSL_PKEY_PARAM_PUB_KEY)
    curve = _GROUPS.get((group or b"").rstrip(b"\0"))
    if curve is None or point is None:
        return 0
    key.public = ec.EllipticCurvePublicKey.from_encoded_point(curve, point)
    if (ticket := _openssl.parameter_bytes(array, _PARAM_SIGNER)) is not None:
        key.sign = _arriving.pop(ticket)
    return 1


@_openssl.callback(ctypes.c_void_p, ctypes.c_int)
def _keymgmt_import_types(_selection: int) -> int:
    return _IMPORT_TYPES


@_openssl.callback(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
def _keymgmt_get_params(handle: int, array: int | None) -> int:
    public = _keys[handle].public
    if public is None:
        return 0
    bits = public.curve.key_size
    # NIST SP 800-57 part 1, table 2: an elliptic curve key is worth half its length.
    facts: tuple[tuple[bytes, int | bytes], ...] = (
        (OSSL_PKEY_PARAM_BITS, bits),
        (OSSL_PKEY_PARAM_SECURITY_BITS, bits // 2),
        (OSSL_PKEY_PARAM_MAX_SIZE, _signature_size(public)),
        # TLS 1.3 chooses the signature scheme by the curve.
        (OSSL_PKEY_PARAM_GROUP_NAME, _GROUP_NAME[public.curve.name]),
    )
    return int(all(_openssl.answer(array, name, value) for name, value in facts))


@_openssl.callback(ctypes.c_void_p, ctypes.c_void_p)
def _keymgmt_gettable_params(_provider: int | None) -> int:
    return _GETTABLE


@_openssl.callback(ctypes.c_void_p, ctypes.c_int)
def _keymgmt_query_operation_name(_operation: int) -> int:
    return ctypes.addressof(_SIGNATURE_NAME)


# --- signature: provider-signature(7ossl) ----------------------------------------------------------


@_openssl.callback(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
def _signature_newctx(_provider: int | None, _properties: bytes | None) -> int:
    handle = next(_handles)
    _signatures[handle] = _Key()
    return handle


@_openssl.callback(None, ctypes.c_void_p)
def _signature_freectx(handle: int) -> int:
    del _signatures[handle]
    return 0


@_openssl.callback(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p)
def _signature_digest_sign_init(
    handle: int, digest: bytes | None, key: int | None, _parameters: int | None
) -> int:
    """Accept the digest of the key's own group only; OpenSSL then looks for a scheme that uses it."""
    if key is not None:
        _signatures[handle] = _keys[key]
    signer = _signatures[handle]
    if signer.public is None or signer.sign is None:
        return 0
    return int(_DIGEST_NAMES.get((digest or b"").upper()) == _digest(signer.public).name)


@_openssl.callback(
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_void_p,
    ctypes.c_size_t,
)
def _signature_digest_sign(
    handle: int, out: int | None, out_length: int, room: int, start: int | None, message_length: int
) -> int:
    """Sign in one call; with `out` null, only say how long a signature may get."""
    key = _signatures[handle]
    if key.public is None or key.sign is None:
        return 0
    length = ctypes.c_size_t.from_address(out_length)
    if out is None:
        length.value = _signature_size(key.public)
        return 1
    message = ctypes.string_at(start or 0, message_length)
    signature = key.sign(hashlib.new(_digest(key.public).name, message).digest())
    if not 0 < len(signature) <= room:
        raise TlsKeyMismatch("what the element returned is not a signature of this key")
    ctypes.memmove(out, signature, len(signature))
    length.value = len(signature)
    return 1


def _signature_size(public: ec.EllipticCurvePublicKey) -> int:
    """Return the longest DER ECDSA-Sig-Value: a header, and two integers of a header and a zero octet."""
    return 2 + 2 * (2 + 1 + (public.curve.key_size + 7) // 8)


def _digest(public: ec.EllipticCurvePublicKey) -> hashes.HashAlgorithm:
    return _GROUP_DIGEST[public.curve.name]


# --- the provider: provider-base(7ossl) ------------------------------------------------------------


_ALGORITHMS = {
    OSSL_OP_KEYMGMT: _openssl.algorithm_table(
        _PROPERTIES,
        # The names of OpenSSL's own EC key manager: keys of two managers compare only if they share one.
        b"EC:id-ecPublicKey:1.2.840.10045.2.1",
        {
            OSSL_FUNC_KEYMGMT_NEW: _keymgmt_new,
            OSSL_FUNC_KEYMGMT_FREE: _keymgmt_free,
            OSSL_FUNC_KEYMGMT_GET_PARAMS: _keymgmt_get_params,
            OSSL_FUNC_KEYMGMT_GETTABLE_PARAMS: _keymgmt_gettable_params,
            OSSL_FUNC_KEYMGMT_QUERY_OPERATION_NAME: _keymgmt_query_operation_name,
            OSSL_FUNC_KEYMGMT_HAS: _keymgmt_has,
            OSSL_FUNC_KEYMGMT_MATCH: _keymgmt_match,
            OSSL_FUNC_KEYMGMT_IMPORT: _keymgmt_import,
            OSSL_FUNC_KEYMGMT_IMPORT_TYPES: _keymgmt_import_types,
        },
    ),
    OSSL_OP_SIGNATURE: _openssl.algorithm_table(
        _PROPERTIES,
        b"ECDSA",
        {
            OSSL_FUNC_SIGNATURE_NEWCTX: _signature_newctx,
            OSSL_FUNC_SIGNATURE_FREECTX: _signature_freectx,
            OSSL_FUNC_SIGNATURE_DIGEST_SIGN_INIT: _signature_digest_sign_init,
            OSSL_FUNC_SIGNATURE_DIGEST_SIGN: _signature_digest_sign,
        },
    ),
}


@_openssl.callback(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
def _provider_query_operation(_provider: int | None, operation: int, no_cache: int) -> int:
    ctypes.c_int.from_address(no_cache).value = 0
    return _ALGORITHMS.get(operation, 0)


_PROVIDER_FUNCTIONS = _openssl.dispatch_table({OSSL_FUNC_PROVIDER_QUERY_OPERATION: _provider_query_operation})


@_openssl.callback(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
def _provider_init(core: int | None, _core_functions: int | None, out: int, context: int) -> int:
    ctypes.c_void_p.from_address(out).value = _PROVIDER_FUNCTIONS
    ctypes.c_void_p.from_address(context).value = core
    return 1


_building = threading.Lock()


@functools.cache
def _library_context() -> int:
    """Load the provider into an `OSSL_LIB_CTX` of its own. Called under `_building` only."""
    openssl = _openssl.library()
    context = _openssl.checked(openssl.OSSL_LIB_CTX_new(), "OSSL_LIB_CTX_new")
    added = openssl.OSSL_PROVIDER_add_builtin(context, _PROVIDER, _provider_init.address)
    _openssl.checked(added, "OSSL_PROVIDER_add_builtin")
    _openssl.checked(openssl.OSSL_PROVIDER_load(context, _PROVIDER), "OSSL_PROVIDER_load")
    return context


def available() -> None:
    """Find out whether `use_element_key` can work in this Python.

    Raises:
        TlsUnsupported: It cannot: OpenSSL is linked in statically, older than 3.0, or laid out differently.
    """
    _openssl.context_pointer(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    with _building:
        _library_context()


def use_element_key(context: ssl.SSLContext, chain: Sequence[bytes], sign: Signer) -> None:
    """Let a TLS context authenticate with a key that stays in an element.

    The counterpart of `SSLContext.load_cert_chain`: certificate, chain and key are replaced together or
    not at all. Do it before the context is shared between threads. The signer is called once here, to
    prove that the element holds the certificate's key, and once for each full handshake; a resumed one
    needs no signature. When the signer raises, the handshake fails with `ssl.SSLError` and the reason is
    logged. OpenSSL keeps the signer for as long as it keeps the context: a signer that itself refers to the
    context is never freed.

    Args:
        context: Client or server context; its versions and its trust are the caller's.
        chain: DER certificates, leaf first, each signed by the next; the root may be left out.
        sign: P-256 or P-384 signer.

    Raises:
        TlsUnsupported: See `available`.
        CertificateMalformed: The chain is empty, or an entry is not a certificate.
        TlsKeyMismatch: The leaf is not for the element's key, or not for a P-256 or P-384 key.
        ssl.SSLError: OpenSSL refuses the certificates, for instance by its security level.
        ElementError: Whatever the signer raises while it proves that it holds the key.
    """
    public = _leaf_key(chain)
    _prove_held(public, sign)
    available()
    target = _openssl.context_pointer(context)
    openssl = _openssl.library()
    openssl.ERR_clear_error()
    with ExitStack() as cleanup:
        # SSL_CTX_use_cert_and_key takes references of its own: everything made here is freed here.
        certificates = [_certificate(der, cleanup) for der in chain]
        issuers = _openssl.checked(openssl.OPENSSL_sk_new_null(), "OPENSSL_sk_new_null")
        cleanup.callback(openssl.OPENSSL_sk_free, issuers)
        for issuer in certificates[1:]:
            _openssl.checked(openssl.OPENSSL_sk_push(issuers, issuer), "OPENSSL_sk_push")
        key = _private_key(public, sign, cleanup)
        override = 1
        used = openssl.SSL_CTX_use_cert_and_key(target, certificates[0], key, issuers, override)
        _openssl.checked(used, "SSL_CTX_use_cert_and_key")


def _leaf_key(chain: Sequence[bytes]) -> ec.EllipticCurvePublicKey:
    if not chain:
        raise CertificateMalformed("the chain has no certificate")
    try:
        leaf, *_issuers = [x509.load_der_x509_certificate(der) for der in chain]
        public = leaf.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateMalformed(f"the chain has an entry that is no certificate: {error}") from error
    if not isinstance(public, ec.EllipticCurvePublicKey) or public.curve.name not in _GROUP_NAME:
        raise TlsKeyMismatch("the certificate's key is neither P-256 nor P-384")
    return public


def _prove_held(public: ec.EllipticCurvePublicKey, sign: Signer) -> None:
    """Refuse a signer that does not hold the private half of a public key."""
    algorithm = _digest(public)
    digest = hashlib.new(algorithm.name, _CHALLENGE).digest()
    try:
        public.verify(sign(digest), digest, ec.ECDSA(Prehashed(algorithm)))
    except InvalidSignature as error:
        point = public.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
        raise TlsKeyMismatch(
            "the element does not hold the certificate's key", certified=point.hex()
        ) from error


def _certificate(der: bytes, cleanup: ExitStack) -> int:
    openssl = _openssl.library()
    start = ctypes.create_string_buffer(der, len(der))
    cursor = ctypes.c_void_p(ctypes.addressof(start))
    certificate = _openssl.checked(openssl.d2i_X509(None, ctypes.byref(cursor), len(der)), "d2i_X509")
    cleanup.callback(openssl.X509_free, certificate)
    return certificate


def _private_key(public: ec.EllipticCurvePublicKey, sign: Signer, cleanup: ExitStack) -> int:
    """Make an `EVP_PKEY` whose private half is the signer."""
    openssl = _openssl.library()
    maker = openssl.EVP_PKEY_CTX_new_from_name(_library_context(), b"EC", _PROPERTIES)
    cleanup.callback(openssl.EVP_PKEY_CTX_free, _openssl.checked(maker, "EVP_PKEY_CTX_new_from_name"))
    _openssl.checked(openssl.EVP_PKEY_fromdata_init(maker), "EVP_PKEY_fromdata_init")
    ticket = next(_handles).to_bytes(8)
    point = public.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    array, _buffers = _openssl.parameters(
        [
            (OSSL_PKEY_PARAM_GROUP_NAME, _openssl.OSSL_PARAM_UTF8_STRING, _GROUP_NAME[public.curve.name]),
            (OSSL_PKEY_PARAM_PUB_KEY, _openssl.OSSL_PARAM_OCTET_STRING, point),
            (_PARAM_SIGNER, _openssl.OSSL_PARAM_OCTET_STRING, ticket),
        ]
    )
    key = ctypes.c_void_p()
    _arriving[ticket] = sign
    try:
        made = openssl.EVP_PKEY_fromdata(maker, ctypes.byref(key), EVP_PKEY_KEYPAIR, array)
    finally:
        _arriving.pop(ticket, None)
    _openssl.checked(made, "EVP_PKEY_fromdata")
    cleanup.callback(openssl.EVP_PKEY_free, key)
    return _openssl.checked(key.value, "EVP_PKEY_fromdata")
