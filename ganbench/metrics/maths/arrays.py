"""Arrays of features: checked once, at the door, and multiplied by the fastest exact road there is."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ganbench.errors import UserError

PART = 64  # rows converted to float64 at a time: they stay in the processor's cache
LARGE = 2**20  # multiplications from which a conversion to oneDNN's layout pays


def as_numbers(values: Any, what: str) -> Tensor:
    """Numbers of any shape as a tensor without gradients. Raises UserError for what are no real numbers."""
    if isinstance(values, Tensor):
        if values.is_complex() or values.is_sparse:
            raise UserError(f"{what}: expected an array of real numbers, and got a tensor of {values.dtype}")
        return values.detach()
    try:
        array = np.ascontiguousarray(values) if np.ndim(values) else np.asarray(values)
    except ValueError:  # rows of unequal length
        array = np.empty(0, dtype=object)
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        kind = f"{type(values).__name__} of {array.dtype}" if isinstance(values, np.ndarray) else type(values).__name__
        raise UserError(f"{what}: expected an array of real numbers, and got a {kind}")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.float64)  # torch computes little with these
    return torch.from_numpy(array)


def as_bytes(images: Any, what: str) -> Tensor:
    """Images as a tensor (N,C,H,W) of bytes. Raises UserError for any other numbers or shape."""
    images = as_numbers(images, what)
    if images.dtype != torch.uint8:
        raise UserError(f"{what} are {str(images.dtype).removeprefix('torch.')}, not uint8: "
                        "round them as ganbench.to_uint8 does (reals are bytes, so fakes must be)")
    if images.ndim != 4:
        raise UserError(f"{what} have shape {tuple(images.shape)}: expected (N,C,H,W)")
    return images


def as_count(value: Any, what: str, least: int) -> int:
    """A whole number of at least `least`. Raises UserError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise UserError(f"{what} = {value!r}: expected a whole number from {least}")
    return int(value)


def as_matrix(values: Any, what: str, least: int = 1) -> Tensor:
    """Values as a tensor (N,d) of float32 or float64.

    Raises UserError for no numbers, fewer than `least` rows, another number of axes, or values that are not finite.
    """
    tensor = as_numbers(values, what)
    if tensor.ndim == 1:
        raise UserError(f"{what}: expected one row a sample, (N,d), and got the shape {tuple(tensor.shape)}: if each "
                        "sample is one number, write x[:, None]")
    if tensor.ndim != 2 or tensor.shape[1] == 0:
        raise UserError(f"{what}: expected one row a sample, (N,d), and got the shape {tuple(tensor.shape)}")
    if len(tensor) < least:
        raise UserError(f"{what}: {len(tensor)} samples are too few, at least {least} are needed")
    if tensor.dtype not in (torch.float32, torch.float64):
        tensor = tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor.double()
    check_finite(tensor, what)
    return tensor


def check_finite(tensor: Tensor, what: str) -> None:
    """Raise UserError where values are not finite: what is computed of them may look like a number."""
    # a sum is finite only if its terms are; the exact test is made only where the cheap one objects (or overflows)
    if not torch.isfinite(tensor.sum()) and not torch.isfinite(tensor).all():
        raise UserError(f"{what}: some values are not finite; look at the images or the network they come from")


def as_pair(x: Any, y: Any, least: int = 1) -> tuple[Tensor, Tensor]:
    """Two sets of features with the same number of columns, on the device of the first."""
    first, second = as_matrix(x, "the first set", least), as_matrix(y, "the second set", least)
    if first.shape[1] != second.shape[1]:
        raise UserError(f"the two sets have different features: {first.shape[1]} and {second.shape[1]} columns")
    return first, second.to(first.device)


def common_mean(x: Tensor, y: Tensor) -> Tensor:
    """The float64 mean (d,) of both sets: the origin at which distances lose the fewest digits."""
    # part by part: of a large tensor PyTorch would first make a float64 copy
    parts = [part.sum(0, dtype=torch.float64) for points in (x, y) for part in points.split(PART)]
    return torch.stack(parts).sum(0) / (len(x) + len(y))


def products(a: Tensor, b: Tensor) -> Tensor:
    """a b^T for rows a (N,d) and b (M,d) of one dtype, on one device; (N,M), never in TF32 or bfloat16.

    Large float32 products on a CPU go through oneDNN. It chooses its kernels by what the processor can do, the BLAS
    libraries by who made it: on an AVX-512 processor that they do not know, oneDNN takes half their time.
    """
    with exact_matmul():
        if (a.device.type == "cpu" and a.dtype == torch.float32 and torch.backends.mkldnn.is_available()
                and len(a) * len(b) * a.shape[1] >= LARGE):
            return functional.linear(a.to_mkldnn(), b).to_dense()
        return a @ b.T


@contextmanager
def exact_matmul() -> Iterator[None]:
    """Full float32 products, whatever the caller has allowed elsewhere."""
    before = _matmul_precision()
    if before == "highest":
        yield
        return
    _set_matmul_precision("highest")
    try:
        yield
    finally:
        _set_matmul_precision(before)


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Inside, a GPU takes float32 products and convolutions in TF32 (10 bits of fraction) if, and only if,
    `allowed`.
    """
    matmul, conv = _matmul_precision(), torch.backends.cudnn.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]
    allow_tf32(allowed)
    try:
        yield
    finally:
        _set_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = conv


def allow_tf32(allowed: bool) -> None:
    """Whether a GPU may take float32 products and convolutions in TF32 from here on; processors stay exact."""
    _set_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


# PyTorch has two interfaces to this and refuses to answer where they, or two of its backends, say different things.
# So all backends are set alike first, and the answer of the GPU's counts.

def _matmul_precision() -> str:
    """highest, high (TF32 on a GPU) or medium (bfloat16)."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return "high" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "highest"


def _set_matmul_precision(name: str) -> None:
    torch.set_float32_matmul_precision("medium" if name == "medium" else "highest")
    if name == "high":
        torch.backends.cuda.matmul.allow_tf32 = True
