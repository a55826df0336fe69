"""Reading TFRecord files without TensorFlow: records, and the tf.train.Example messages in them."""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c

from ganbench.errors import UserError


def positions(path: Path) -> list[tuple[int, int]]:
    """Offset and length of each record. Raises UserError where the file is cut short or is none."""
    size, offset = path.stat().st_size, 0
    found: list[tuple[int, int]] = []
    with open(path, "rb") as file:
        while offset < size:
            file.seek(offset)
            head = file.read(12)
            length = struct.unpack("<Q", head[:8])[0] if len(head) == 12 else size
            if len(head) < 12 or struct.unpack("<I", head[8:])[0] != masked_crc(head[:8]):
                raise UserError(f"{path} is damaged or no TFRecord file (byte {offset:,}): get it again")
            if offset + length + 16 > size:
                raise UserError(f"{path} is cut short in record {len(found)}: get it again")
            found.append((offset + 12, length))
            offset += length + 16
    return found


def read_at(path: Path, offset: int, length: int) -> bytes:
    """A record's payload. Raises ValueError where its checksum is another one."""
    with open(path, "rb") as file:
        found = os.pread(file.fileno(), length + 4, offset)
    payload, check = found[:length], found[length:]
    if len(check) < 4 or struct.unpack("<I", check)[0] != masked_crc(payload):
        raise ValueError("its checksum is not that of its bytes")
    return payload


def parse_example(message: bytes) -> dict[str, Any]:
    """The features of a tf.train.Example: name -> list of bytes or of ints. Raises ValueError if it is not one."""
    features: dict[str, Any] = {}
    for number, inner in _fields(message):
        for _, entry in _fields(inner) if number == 1 else ():
            parts = dict(_fields(entry))
            name = parts.get(1)
            if not isinstance(name, bytes):  # a number here would be taken for a length
                raise ValueError("a feature without a name")
            features[name.decode()] = _values(parts.get(2, b""))
    return features


def _values(message: bytes) -> list[Any]:
    for number, inner in _fields(message):
        if number == 1:
            return [value for _, value in _fields(inner)]
        if number == 3:
            return [i for _, value in _fields(inner) for i in ([value] if isinstance(value, int) else _varints(value))]
    return []


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        if tag & 7 == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value
        elif tag & 7 == 2:
            length, at = _varint(message, at)
            if at + length > len(message):
                raise ValueError("a field reaches beyond the message")
            yield tag >> 3, message[at:at + length]
            at += length
        elif tag & 7 in (1, 5):
            at += 8 if tag & 7 == 1 else 4
        else:
            raise ValueError(f"wire type {tag & 7}")


def _varints(message: bytes) -> list[int]:
    found, at = [], 0
    while at < len(message):
        value, at = _varint(message, at)
        found.append(value)
    return found


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        if at >= len(message) or shift > 63:
            raise ValueError("a number does not end")
        value |= (message[at] & 127) << shift
        at += 1
        if message[at - 1] < 128:
            return value, at
        shift += 7


def masked_crc(data: bytes) -> int:
    """CRC-32C, rotated and shifted as TFRecord does."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
