"""Audio in the body of a request: WAV files, and linear PCM of 16 bits (RFC 2586).

Several channels become one by their mean. A body is one chunk of samples between -1 and 1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message

import numpy as np

from app.codec.frames import S16_ONE
from app.errors import Malformed, Unprocessable, UnsupportedType
from models.arrays import AnyArray, Floats

WAV = ("audio/wav", "audio/x-wav", "audio/wave", "audio/vnd.wave")
L16 = "audio/l16"
MAX_CHANNELS = 8
PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE  # formats of a WAV file
UNKNOWN_SIZE = (0, 0xFFFF_FFFF)  # of the data, as programs write that do not know it yet
FMT = struct.Struct("<HHIIHH")


@dataclass(frozen=True, slots=True)
class Audio:
    """Samples of one channel.

    samples : [n], -1 to 1
    rate : samples a second
    """

    samples: Floats
    rate: int


def decode(body: bytes, content_type: str) -> Audio:
    """The samples of a body.

    Raises
    ------
    UnsupportedType : it is neither WAV nor L16
    Malformed : it is damaged, or of an encoding that is not linear
    Unprocessable : it has no samples, one that is not finite, or too many channels
    """
    media_type = Message()
    media_type["content-type"] = content_type
    kind = media_type.get_content_type()
    if kind in WAV:
        audio = decode_wav(body)
    elif kind == L16:
        audio = _decode_l16(body, media_type)
    else:
        raise UnsupportedType(
            f"the body is {content_type[:80] or 'of no type'}, not audio/wav or audio/l16;rate=16000"
        )
    if not len(audio.samples):
        raise Unprocessable("the chunk is empty: it needs at least one sample")
    finite = np.isfinite(audio.samples)
    if not finite.all():
        row = int(finite.argmin())
        raise Unprocessable(f"sample {row} is not a finite number", row=row)
    return audio


def decode_wav(body: bytes) -> Audio:
    """The samples of a WAV file: PCM of 8, 16, 24 or 32 bits, or floats of 32 or 64 bits.

    Raises
    ------
    Malformed, Unprocessable
    """
    if len(body) < 12 or body[:4] != b"RIFF" or body[8:12] != b"WAVE":
        raise Malformed("the body is not a WAV file: it does not begin with RIFF and WAVE")
    described = None
    for name, start, size in _chunks(body):
        if name == b"fmt ":
            if size < FMT.size or start + size > len(body):
                raise Malformed("the WAV file ends within its format")
            described = body[start : start + size]
        elif name == b"data":
            if described is None:
                raise Malformed("the WAV file has samples before their format")
            if size in UNKNOWN_SIZE:
                size = len(body) - start
            if start + size > len(body):
                raise Malformed(f"the WAV file ends within its samples: {size} bytes of them were announced")
            return _wav_samples(described, body[start : start + size])
    raise Malformed("the WAV file has no samples")


def _chunks(body: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and size of each chunk of a RIFF file."""
    at = 12
    while at + 8 <= len(body):
        name, size = struct.unpack_from("<4sI", body, at)
        yield name, at + 8, size
        at += 8 + size + size % 2


def _wav_samples(described: bytes, data: bytes) -> Audio:
    encoding, channels, rate, _, _, bits = FMT.unpack_from(described)
    if encoding == EXTENSIBLE and len(described) >= 26:
        (encoding,) = struct.unpack_from("<H", described, 24)  # its subformat begins with the encoding
    width = bits // 8
    if bits % 8 or (encoding, width) not in ((PCM, 1), (PCM, 2), (PCM, 3), (PCM, 4), (FLOAT, 4), (FLOAT, 8)):
        raise Malformed(f"the WAV file has encoding {encoding} of {bits} bits: use PCM or floats")
    whole = len(data) - len(data) % (width * max(channels, 1))
    if encoding == FLOAT:
        numbers: AnyArray = np.frombuffer(data[:whole], f"<f{width}").astype(np.float32)
    elif width == 1:
        numbers = (np.frombuffer(data[:whole], np.uint8).astype(np.float32) - 128) / 128
    elif width == 3:
        padded = np.zeros((whole // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(data[:whole], np.uint8).reshape(-1, 3)
        numbers = padded.view("<i4")[:, 0] / np.float32(2**31)
    else:
        numbers = np.frombuffer(data[:whole], f"<i{width}") / np.float32(2 ** (bits - 1))
    return _one_channel(numbers, channels, rate)


def _decode_l16(body: bytes, media_type: Message) -> Audio:
    rate, channels = _parameter(media_type, "rate", None), _parameter(media_type, "channels", 1)
    order = str(media_type.get_param("endianness", "big-endian"))
    if order not in ("big-endian", "little-endian"):
        raise Malformed("endianness is big-endian or little-endian")
    if len(body) % (2 * max(channels, 1)):
        raise Malformed(f"{len(body)} bytes are not a whole number of samples of 16 bits")
    numbers = np.frombuffer(body, ">i2" if order == "big-endian" else "<i2")
    return _one_channel(numbers.astype(np.float32) / np.float32(S16_ONE), channels, rate)


def _parameter(media_type: Message, name: str, default: int | None) -> int:
    text = str(media_type.get_param(name, "" if default is None else str(default)))
    if not text.isdecimal() or not text.isascii():
        raise Malformed(f"audio/l16 needs {name}, a whole number, as in audio/l16;rate=16000", field=name)
    if len(text) > 9:
        raise Unprocessable(f"{name} has at most 9 digits, not {len(text)}", field=name)
    return int(text)


def _one_channel(numbers: AnyArray, channels: int, rate: int) -> Audio:
    if not 1 <= channels <= MAX_CHANNELS:
        raise Unprocessable(f"audio has 1 to {MAX_CHANNELS} channels, not {channels}", field="channels")
    samples = numbers.astype(np.float32, copy=False)
    if channels > 1:
        samples = samples.reshape(-1, channels).mean(axis=1, dtype=np.float32)
    return Audio(samples, rate)
