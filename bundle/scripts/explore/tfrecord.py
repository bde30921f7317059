"""TFRecord files of ``tf.train.Example``, without TensorFlow. Standard library only.

A file is a sequence of records: 8 bytes of length, 4 of its checksum, the data, 4 of its checksum, all little-endian. The checksums
are CRC-32C, masked. An Example is a protocol buffer: a map from names to lists of bytes, of float32 or of int64.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..files import written_whole

_POLYNOMIAL = 0x82F63B78  # Castagnoli, bits reversed
_MASK = 0xA282EAD8
_BYTES, _LENGTH_DELIMITED = 1, 2
_FLOATS, _INTS = 2, 3  # field numbers in Feature, where _BYTES is the first


def _table() -> tuple[int, ...]:
    found = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        found.append(value)
    return tuple(found)


_TABLE = _table()


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of bytes."""
    crc, table = 0xFFFFFFFF, _TABLE
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def masked_crc(data: bytes) -> int:
    """The checksum as TFRecord stores it: rotated by 15 bits, plus a constant."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


def record(data: bytes) -> bytes:
    """A record of a TFRecord file."""
    length = struct.pack("<Q", len(data))
    return b"".join((length, struct.pack("<I", masked_crc(length)), data, struct.pack("<I", masked_crc(data))))


def varint(value: int) -> bytes:
    """A whole number from 0 to 2^64 - 1, seven bits a byte, the lowest first."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def _field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | _LENGTH_DELIMITED) + varint(len(data)) + data


def _feature(value: Any) -> bytes:
    """A Feature of bytes, a text (UTF-8), or a list of whole numbers or of floats."""
    if isinstance(value, (bytes, str)):
        return _field(_BYTES, _field(1, value.encode() if isinstance(value, str) else value))
    values = list(value)
    if all(isinstance(one, int) for one in values):
        return _field(_INTS, _field(1, b"".join(varint(one & (1 << 64) - 1) for one in values)))
    return _field(_FLOATS, _field(1, struct.pack(f"<{len(values)}f", *values)))


def example(features: Mapping[str, Any]) -> bytes:
    """A ``tf.train.Example`` of features by name: bytes, text, or lists of ``int`` or of ``float``."""
    entries = [_field(1, name.encode()) + _field(2, _feature(value)) for name, value in sorted(features.items())]
    return _field(1, b"".join(_field(1, entry) for entry in entries))


def write_tfrecord(examples: Iterable[Mapping[str, Any]], file: str | Path) -> None:
    """Write a file of one Example each, whole or not at all."""
    with written_whole(file) as temporary, open(temporary, "wb") as stream:
        for features in examples:
            stream.write(record(example(features)))
