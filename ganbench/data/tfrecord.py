"""Reading TFRecord files without TensorFlow: records, and the tf.train.Example messages in them."""

import os
import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ganbench.errors import UserError

SHORT = 256  # bytes up to which a checksum is taken byte by byte


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
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """The checksum of Castagnoli. Python's zlib has another polynomial only.

    Long data is cut into lanes that NumPy works on side by side, two bytes a step; since the checksum is linear,
    neighbours are joined afterwards, the first of them shifted by the bytes of the second.
    """
    if len(data) < SHORT:
        crc = 0xFFFFFFFF
        for byte in data:
            crc = int(_TABLE[(crc ^ byte) & 255]) ^ (crc >> 8)
        return crc ^ 0xFFFFFFFF
    # zeros before the data change nothing
    lanes = 1 << min(14, len(data).bit_length() - 4)
    steps = -(-len(data) // (2 * lanes))
    padded = np.zeros(2 * lanes * steps, np.uint8)
    padded[-len(data):] = np.frombuffer(data, np.uint8)
    padded[-len(data):][:4] ^= 255  # as if the register began with ones
    state = np.zeros(lanes, np.uint32)
    for column in np.ascontiguousarray(padded.view("<u2").reshape(lanes, steps).T):
        state = _WORDS[(state ^ column) & 0xFFFF] ^ (state >> 16)
    for shift in _shifts(steps, lanes):
        state = _shifted(state[0::2], shift) ^ state[1::2]
    return int(state[0]) ^ 0xFFFFFFFF


def _shifted(state: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Registers after some zeros, by what these make of each of a register's four bytes."""
    bytes_ = state[:, None] >> np.array([0, 8, 16, 24], np.uint32) & 255
    return np.bitwise_xor.reduce(shift[np.arange(4), bytes_], axis=1)


@lru_cache(64)
def _shifts(steps: int, lanes: int) -> list[np.ndarray]:
    """For each joining of neighbours, (4,256): what as many zeros as a lane then has make of a register's bytes."""
    # of each bit, by going through a lane of zeros
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    for _ in range(steps):
        bits = _WORDS[bits & 0xFFFF] ^ (bits >> 16)
    found = []
    while lanes > 1:
        shift = np.zeros((4, 1), np.uint32)
        for bit in bits.reshape(4, 8).T:  # of each byte, from its bits
            shift = np.concatenate([shift, shift ^ bit[:, None]], axis=1)
        found.append(shift)
        bits, lanes = _shifted(bits, shift), lanes // 2  # the joined lanes are twice as long
    return found


def _table() -> np.ndarray:
    table: np.ndarray = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> np.uint32(1)) ^ (np.uint32(0x82F63B78) * (table & np.uint32(1)))
    return table


_TABLE = _table()
_WORDS = np.arange(1 << 16, dtype=np.uint32)  # what two bytes of zeros make of a register's lower half
for _ in range(2):
    _WORDS = _TABLE[_WORDS & 255] ^ (_WORDS >> 8)
