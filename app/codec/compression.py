"""Bodies with a `Content-Encoding`."""

from __future__ import annotations

import zlib

from app.codec.problems import body_too_large_error
from app.errors import Malformed, UnsupportedType

WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # tells zlib which header to expect


def decompress(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """A body without its encoding.

    Parameters
    ----------
    encoding : the header `Content-Encoding`; empty for none
    max_bytes : of the result; no more is ever decompressed

    Raises
    ------
    UnsupportedType : neither gzip nor deflate
    Malformed : the body cannot be decompressed
    TooLarge : more than `max_bytes`
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in WINDOW_BITS:
        raise UnsupportedType(
            f"content encoding {encoding[:40]!r} is not supported; use gzip, deflate or none"
        )
    stream = zlib.decompressobj(WINDOW_BITS[encoding])
    try:
        plain = stream.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise Malformed(f"the body is not {encoding}: {error}") from None
    if len(plain) > max_bytes:
        raise body_too_large_error(max_bytes)
    if not stream.eof:
        raise Malformed(f"the body is not {encoding}: it ends too early")
    return plain
