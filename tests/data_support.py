"""Small files in the layouts people have."""

import io
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from ganbench.data.tfrecord import masked_crc


def noise(height, width, seed=0, channels=3):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def coordinates(width=178, height=218):
    """Red is the column, green the row: a crop says where it was taken."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y, (x + y) % 256], -1).astype(np.uint8)


def picture_bytes(pixels, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def write_png(path: Path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_zip(path: Path, members: dict[str, bytes]):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def write_tar(path: Path, members: dict[str, bytes], mode="w"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as file:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return path


def write_idx(path: Path, array: np.ndarray):
    import gzip
    data = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I",
                                                               *array.shape) + array.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def write_mnist(folder: Path, n_train=30, n_test=10, ending="-ubyte.gz"):
    for part, n, seed in (("train", n_train, 0), ("t10k", n_test, 1)):
        write_idx(folder / f"{part}-images-idx3{ending}", noise(28 * n, 28, seed, 1).reshape(n, 28, 28))
        write_idx(folder / f"{part}-labels-idx1{ending}", np.arange(n) % 10)


def write_celeba(folder: Path, n=6, inside="img_align_celeba", kind="jpg"):
    """The images, and the three tables as they are published."""
    for i in range(1, n + 1):
        path = folder / inside / f"{i:06d}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(218, 178, i)).save(path)
    write_tables(folder, n)


def write_tables(folder: Path, n=6):
    names = [f"{i:06d}.jpg" for i in range(1, n + 1)]
    marks = [[1 if (i + k) % 2 else -1 for k in range(3)] for i in range(n)]
    (folder / "list_attr_celeba.txt").write_text(f"{n}\nBald Smiling Young\n" + "".join(
        f"{name} {' '.join(f'{m:2d}' for m in row)}\n" for name, row in zip(names, marks)))
    parts = [0 if i < n - 3 else 1 if i < n - 2 else 2 for i in range(n)]
    (folder / "list_eval_partition.txt").write_text("".join(f"{name} {p}\n" for name, p in zip(names, parts)))


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def example(features: dict[str, bytes | list[int]]) -> bytes:
    """A tf.train.Example, with packed integers."""
    entries = b""
    for name, value in features.items():
        inner = field(1, field(1, value)) if isinstance(value, bytes) else field(3,
                                                                                 field(1, b"".join(map(varint, value))))
        entries += field(1, field(1, name.encode()) + field(2, inner))
    return field(1, entries)


def write_tfrecords(path: Path, messages: list[bytes]):
    with open(path, "wb") as file:
        for message in messages:
            head = struct.pack("<Q", len(message))
            file.write(head + struct.pack("<I", masked_crc(head)) + message + struct.pack("<I", masked_crc(message)))
