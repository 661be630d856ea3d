"""The interpreter's own OpenSSL 3, by ctypes: structures, prototypes, and the `SSL_CTX` of an `SSLContext`.

`dlsym` on the `_ssl` extension module searches exactly the libssl and libcrypto that the module is linked
with, so what is called here is what `ssl` uses. Where OpenSSL is linked into Python statically, its symbols
are hidden and `load` says so.
"""

from __future__ import annotations

import _ssl
import ctypes
import functools
import logging
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, ParamSpec, TypeAlias

from fuseline.errors import TlsUnsupported

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

_Args = ParamSpec("_Args")
_log = logging.getLogger(__name__)

CType: TypeAlias = type[ctypes.c_void_p | ctypes.c_char_p | ctypes.c_int | ctypes.c_long | ctypes.c_ulong]

# OpenSSL_version_num() of 3.0.0 (openssl/opensslv.h): 0xMNN00PP0. Providers came with 3.0.
OPENSSL_3_0_0 = 0x30000000
# OpenSSL_version(OPENSSL_VERSION) (openssl/crypto.h): the text that `ssl.OPENSSL_VERSION` repeats.
OPENSSL_VERSION = 0
# openssl/core.h: types of an OSSL_PARAM, and OSSL_PARAM_UNMODIFIED of openssl/params.h.
OSSL_PARAM_INTEGER = 1
OSSL_PARAM_UTF8_STRING = 4
OSSL_PARAM_OCTET_STRING = 5
OSSL_PARAM_UNMODIFIED = ctypes.c_size_t(-1).value
# SSL_VERIFY_NONE, SSL_VERIFY_PEER, and SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT (openssl/ssl.h), as
# Modules/_ssl.c sets them.
_VERIFY_MODES = {ssl.CERT_NONE: 0, ssl.CERT_OPTIONAL: 1, ssl.CERT_REQUIRED: 3}


class OsslParam(ctypes.Structure):
    """`OSSL_PARAM` (openssl/core.h); an array of them ends with a null key."""

    _fields_ = (
        ("key", ctypes.c_char_p),
        ("data_type", ctypes.c_uint),
        ("data", ctypes.c_void_p),
        ("data_size", ctypes.c_size_t),
        ("return_size", ctypes.c_size_t),
    )


class OsslDispatch(ctypes.Structure):
    """`OSSL_DISPATCH` (openssl/core.h); an array of them ends with function id 0."""

    _fields_ = (("function_id", ctypes.c_int), ("function", ctypes.c_void_p))


class OsslAlgorithm(ctypes.Structure):
    """`OSSL_ALGORITHM` (openssl/core.h); an array of them ends with null names."""

    _fields_ = (
        ("algorithm_names", ctypes.c_char_p),
        ("property_definition", ctypes.c_char_p),
        ("implementation", ctypes.c_void_p),
        ("algorithm_description", ctypes.c_char_p),
    )


class _Prototype(NamedTuple):
    result: CType | None
    arguments: tuple[CType | type[ctypes.c_size_t], ...]


_P = ctypes.c_void_p
_S = ctypes.c_char_p
_I = ctypes.c_int

# As declared in openssl/{crypto,err,evp,params,provider,ssl,stack,x509}.h of OpenSSL 3.0. `uint64_t` and
# `size_t` are `unsigned long` on the 64-bit Linux that this runs on.
_PROTOTYPES = {
    "OpenSSL_version_num": _Prototype(ctypes.c_ulong, ()),
    "OpenSSL_version": _Prototype(_S, (_I,)),
    "ERR_clear_error": _Prototype(None, ()),
    "ERR_get_error": _Prototype(ctypes.c_ulong, ()),
    "ERR_error_string_n": _Prototype(None, (ctypes.c_ulong, _S, ctypes.c_size_t)),
    "EVP_PKEY_CTX_new_from_name": _Prototype(_P, (_P, _S, _S)),
    "EVP_PKEY_CTX_free": _Prototype(None, (_P,)),
    "EVP_PKEY_fromdata_init": _Prototype(_I, (_P,)),
    "EVP_PKEY_fromdata": _Prototype(_I, (_P, _P, _I, _P)),
    "EVP_PKEY_free": _Prototype(None, (_P,)),
    "OPENSSL_sk_new_null": _Prototype(_P, ()),
    "OPENSSL_sk_push": _Prototype(_I, (_P, _P)),
    "OPENSSL_sk_free": _Prototype(None, (_P,)),
    "OSSL_LIB_CTX_new": _Prototype(_P, ()),
    "OSSL_PARAM_locate": _Prototype(_P, (_P, _S)),
    "OSSL_PARAM_set_int": _Prototype(_I, (_P, _I)),
    "OSSL_PARAM_set_utf8_string": _Prototype(_I, (_P, _S)),
    "OSSL_PROVIDER_add_builtin": _Prototype(_I, (_P, _S, _P)),
    "OSSL_PROVIDER_load": _Prototype(_P, (_P, _S)),
    "SSL_CTX_get_options": _Prototype(ctypes.c_ulong, (_P,)),
    "SSL_CTX_get_verify_mode": _Prototype(_I, (_P,)),
    "SSL_CTX_use_cert_and_key": _Prototype(_I, (_P, _P, _P, _P, _I)),
    "X509_free": _Prototype(None, (_P,)),
    "d2i_X509": _Prototype(_P, (_P, _P, ctypes.c_long)),
}


@functools.cache
def library() -> ctypes.CDLL:
    """Return the OpenSSL that `ssl` uses, with its prototypes set.

    Raises:
        TlsUnsupported: It is hidden, older than 3.0, or this is not CPython on a 64-bit machine.
    """
    if sys.implementation.name != "cpython" or ctypes.sizeof(ctypes.c_void_p) != 8:
        raise TlsUnsupported("not CPython on a 64-bit machine", python=sys.implementation.name)
    extension: str | None = getattr(_ssl, "__file__", None)
    if extension is None:
        raise TlsUnsupported("ssl is built into this Python, with a hidden OpenSSL", python=sys.executable)
    return load(Path(extension))


def load(extension: Path) -> ctypes.CDLL:
    """Return the OpenSSL that an extension module is linked with, if it is the one that `ssl` uses.

    Args:
        extension: The shared object of the module.

    Raises:
        TlsUnsupported: A symbol is hidden, or the OpenSSL is older than 3.0 or another than that of `ssl`.
    """
    loaded = ctypes.CDLL(str(extension))
    try:
        for name, prototype in _PROTOTYPES.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = prototype
    except AttributeError as error:
        raise TlsUnsupported(f"OpenSSL's symbols are hidden: {error}", module=str(extension)) from error
    require_version(loaded.OpenSSL_version_num(), loaded.OpenSSL_version(OPENSSL_VERSION).decode())
    return loaded


def require_version(number: int, text: str) -> None:
    """Refuse an OpenSSL without providers, and one that is not the one of `ssl`.

    Args:
        number: `OpenSSL_version_num()`.
        text: `OpenSSL_version(OPENSSL_VERSION)`.

    Raises:
        TlsUnsupported: It is one or the other.
    """
    if number < OPENSSL_3_0_0:
        raise TlsUnsupported("this OpenSSL is older than 3.0 and has no providers", openssl=text)
    if text != ssl.OPENSSL_VERSION:
        raise TlsUnsupported("ssl uses another OpenSSL", openssl=text, ssl=ssl.OPENSSL_VERSION)


def context_pointer(context: ssl.SSLContext) -> int:
    """Return the `SSL_CTX *` of a context.

    `PySSLContext` (Modules/_ssl.c) is `{PyObject_HEAD; SSL_CTX *ctx; ...}`: the pointer follows the head.
    Two settings known from the public API are read back through it before anyone relies on it.

    Raises:
        TlsUnsupported: This Python lays its contexts out in another way.
    """
    pointer: int | None = ctypes.c_void_p.from_address(id(context) + object.__basicsize__).value
    openssl = library()
    if (
        pointer is None
        or openssl.SSL_CTX_get_options(pointer) != ctypes.c_ulong(context.options).value
        or openssl.SSL_CTX_get_verify_mode(pointer) != _VERIFY_MODES[context.verify_mode]
    ):
        raise TlsUnsupported("this Python lays SSLContext out in an unknown way", python=sys.version)
    return pointer


def errors() -> str:
    """Empty the thread's error queue and return it as text."""
    openssl = library()
    texts: list[str] = []
    while code := openssl.ERR_get_error():
        # ERR_error_string_n (openssl/err.h): 256 bytes hold any message.
        buffer = ctypes.create_string_buffer(256)
        openssl.ERR_error_string_n(code, buffer, len(buffer))
        texts.append(buffer.value.decode(errors="replace"))
    return "; ".join(texts)


def checked(result: int | None, function: str) -> int:
    """Return a call's result, if OpenSSL says that the call worked.

    Raises:
        ssl.SSLError: The result is null, zero or negative.
    """
    if result is None or result <= 0:
        raise ssl.SSLError(f"{function}: {errors() or 'no reason given'}")
    return result


def parameters(items: Sequence[tuple[bytes, int, bytes]]) -> tuple[ctypes.Array[OsslParam], list[object]]:
    """Build a terminated `OSSL_PARAM` array.

    Args:
        items: Key, data type and value. Empty values make a description (of what may be asked or given).

    Returns:
        The array, and the buffers that must live as long as it.
    """
    array = (OsslParam * (len(items) + 1))()
    buffers: list[object] = []
    for slot, (key, data_type, value) in zip(array, items, strict=False):
        slot.key, slot.data_type, slot.return_size = key, data_type, OSSL_PARAM_UNMODIFIED
        if value:
            buffer = ctypes.create_string_buffer(value, len(value))
            slot.data, slot.data_size = ctypes.addressof(buffer), len(value)
            buffers.append(buffer)
    return array, buffers


def parameter_bytes(array: int | None, key: bytes) -> bytes | None:
    """Return the value of a string parameter in an array that OpenSSL passed, or None."""
    address: int | None = library().OSSL_PARAM_locate(array, key)
    if address is None:
        return None
    parameter = OsslParam.from_address(address)
    return ctypes.string_at(parameter.data, parameter.data_size)


def answer(array: int | None, key: bytes, value: int | bytes) -> bool:
    """Set a parameter of a request; True too where OpenSSL did not ask for this one."""
    openssl = library()
    address: int | None = openssl.OSSL_PARAM_locate(array, key)
    if address is None:
        return True
    if isinstance(value, int):
        return bool(openssl.OSSL_PARAM_set_int(address, value))
    return bool(openssl.OSSL_PARAM_set_utf8_string(address, value))


# --- functions that OpenSSL calls -----------------------------------------------------------------


class _Barrier:
    """Keeps exceptions out of C, where they would be undefined; the call then returns 0, "failed"."""

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is not None:
            _log.warning("the element's key could not be used: %s", error, exc_info=error)
        return True


def immortal(thing: object) -> None:
    """Keep an object until the process ends.

    A context may be freed after this module at interpreter shutdown, and its key then calls back.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


class Callback(NamedTuple):
    """A C function pointer."""

    address: int


def callback(
    result: type[ctypes.c_int | ctypes.c_void_p] | None,
    *arguments: type[ctypes.c_int | ctypes.c_void_p | ctypes.c_char_p | ctypes.c_size_t],
) -> Callable[[Callable[_Args, int]], Callback]:
    """Turn a function into a C function that returns 0 where the Python one raises."""

    def wrap(function: Callable[_Args, int]) -> Callback:
        def guarded(*args: _Args.args, **kwargs: _Args.kwargs) -> int:
            with barrier:
                return function(*args, **kwargs)
            return 0

        barrier = _Barrier()
        thunk = ctypes.CFUNCTYPE(result, *arguments)(guarded)
        immortal(thunk)
        return Callback(ctypes.cast(thunk, ctypes.c_void_p).value or 0)

    return wrap


def description(*items: tuple[bytes, int]) -> int:
    """Describe parameters for as long as the process lives, and return the array's address."""
    array, _ = parameters([(key, data_type, b"") for key, data_type in items])
    immortal(array)
    return ctypes.addressof(array)


def algorithm_table(properties: bytes, names: bytes, functions: dict[int, Callback]) -> int:
    """Make a one-entry `OSSL_ALGORITHM` array for as long as the process lives; return its address."""
    dispatch = dispatch_table(functions)
    array = (OsslAlgorithm * 2)()
    array[0].algorithm_names, array[0].property_definition = names, properties
    array[0].implementation = dispatch
    immortal(array)
    return ctypes.addressof(array)


def dispatch_table(functions: dict[int, Callback]) -> int:
    """Make an `OSSL_DISPATCH` array for as long as the process lives; return its address."""
    array = (OsslDispatch * (len(functions) + 1))()
    for slot, (function_id, function) in zip(array, functions.items(), strict=False):
        slot.function_id, slot.function = function_id, function.address
    immortal(array)
    return ctypes.addressof(array)
