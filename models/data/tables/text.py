"""Bytes of a table -> text: decompressed, without a byte order mark, in an encoding that fits."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterable, Iterator
from itertools import chain

import pyarrow as pa

from models.errors import BadData

COMPRESSIONS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}  # by the first bytes
MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32",  # before UTF-16, whose mark begins the same
    codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16",
}  # fmt: skip
BINARY = {
    b"PK\x03\x04": "an Excel workbook or a zip archive: save it as CSV",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook: save it as CSV",
    b"\x89HDF": "HDF5: save it as CSV or Parquet",
    b"%PDF": "PDF",
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
}
BLOCK_BYTES = 2**20
FIRST_BYTES = 4  # that say what follows


def read_text(
    blocks: Iterable[bytes], encoding: str, source: str, *, compressed: bool = True
) -> Iterator[str]:
    """Text, as it comes in.

    Parameters
    ----------
    blocks
        Of bytes, none is empty.
    compressed
        Whether they may be compressed with gzip or zstd.
    source
        As messages name it.

    Raises
    ------
    BadData
        Damaged compression, an unknown encoding, or bytes that are not of this encoding: the message says
        which one it may be.
    """
    try:
        decoder = codecs.getincrementaldecoder(encoding)()
    except LookupError:
        raise BadData(f"unknown encoding {encoding!r}; examples are utf-16 and windows-1252") from None
    position, first = 0, True
    blocks = _decompressed(iter(blocks), source) if compressed else blocks
    for block in chain(blocks, [b""]):
        if first:
            _check_first(block, encoding, source)
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeError as error:
            raise _wrong_encoding(error, block, position, encoding, source) from error
        position += len(block)
        if text:
            yield text.removeprefix("\ufeff") if first else text
        first = False


def read_blocks(file: io.BufferedReader | io.BytesIO) -> Iterator[bytes]:
    """What is there to read, without waiting for a whole block."""
    while block := file.read1(BLOCK_BYTES):
        yield block


def _decompressed(blocks: Iterator[bytes], source: str) -> Iterator[bytes]:
    first = b""
    while len(first) < FIRST_BYTES and b"\n" not in first and (block := next(blocks, b"")):
        first += block
    blocks = chain([first] if first else [], blocks)
    compression = next((name for magic, name in COMPRESSIONS.items() if first.startswith(magic)), None)
    if compression is None:
        yield from blocks
        return
    try:
        with pa.CompressedInputStream(pa.PythonFile(_Blocks(blocks), "r"), compression) as file:
            while block := file.read(BLOCK_BYTES):
                yield block
    except OSError as error:
        raise BadData(f"{source} is damaged: {error}") from error


class _Blocks(io.RawIOBase):
    """Blocks as a file."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self.blocks = blocks
        self.rest = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        self.rest = self.rest or next(self.blocks, b"")
        part, self.rest = self.rest[:size], self.rest[size:]
        return part


def _check_first(block: bytes, encoding: str, source: str) -> None:
    for magic, description in BINARY.items():
        if block.startswith(magic):
            raise BadData(f"{source} is not text; it looks like {description}")
    if codecs.lookup(encoding).name == "utf-8":
        for mark, name in MARKS.items():
            if block.startswith(mark):
                raise BadData(f"{source} is not UTF-8; it looks like {name}: --encoding {name.lower()}")


def _wrong_encoding(error: UnicodeError, block: bytes, position: int, encoding: str, source: str) -> BadData:
    start = getattr(error, "start", 0)
    where = f"{source} is not {encoding.upper()}"
    byte = f" (byte {position + start})"
    if codecs.lookup(encoding).name == "utf-8":
        if block[1:200:2].count(0) > 50 or block[:200:2].count(0) > 50:
            return BadData(f"{where}{byte}; it looks like UTF-16: --encoding utf-16")
        try:
            block.decode("cp1252")
        except UnicodeDecodeError:
            return BadData(f"{where}{byte}, and not Windows-1252: name its --encoding")
        return BadData(f"{where}{byte}; it looks like Windows-1252: --encoding windows-1252")
    return BadData(f"{where}{byte}: name another --encoding")
