"""CBOR (RFC 8949), decoded strictly.

`cbor2` accepts by default what an attacker likes: duplicate keys, indefinite lengths, bytes after
the item, and tags that build regular expressions, e-mails or cyclic lists. Everything that comes from
outside goes through `decode`.
"""

from __future__ import annotations

import io
from typing import Any, Never

import cbor2

from fuseline.errors import CborMalformed

# RFC 9052 structures around RFC 9783 claims nest five deep; submodules will want a few more.
MAX_DEPTH = 16

# Every tag that cbor2 turns into a rich object. Tags of COSE and EAT stay `CBORTag` and are read by
# their own format.
_SEMANTIC_TAGS = (0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000)


def _refuse_tag(*_: object) -> Never:
    raise ValueError("semantic tags are not decoded")


_REFUSE = dict.fromkeys(_SEMANTIC_TAGS, _refuse_tag)


def decode(raw: bytes) -> Any:
    """Decode exactly one data item.

    Args:
        raw: The whole input; bytes after the item are refused.

    Returns:
        `int`, `float`, `str`, `bytes`, `bool`, `None`, list, dict or `cbor2.CBORTag` (arrays and maps
        inside map keys become tuples and frozen dicts).

    Raises:
        CborMalformed: Truncated, trailing, indefinite, duplicate key, too deep, or a semantic tag.
    """
    stream = io.BytesIO(raw)
    decoder = cbor2.CBORDecoder(
        stream,
        max_depth=MAX_DEPTH,
        allow_indefinite=False,
        allow_duplicate_keys=False,
        semantic_decoders=_REFUSE,
    )
    try:
        value = decoder.decode()
    except (
        cbor2.CBORDecodeError,
        RecursionError,
        TypeError,
        ValueError,
        OverflowError,
        MemoryError,
    ) as error:
        raise CborMalformed(f"not strict CBOR: {error}", length=len(raw)) from error
    if stream.tell() != len(raw):
        raise CborMalformed("bytes follow the CBOR item", length=len(raw), item=stream.tell())
    return value


def encode(value: Any) -> bytes:
    """Encode with deterministic map order and shortest lengths (RFC 8949 4.2.1)."""
    return cbor2.dumps(value, canonical=True)
