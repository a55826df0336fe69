"""Inner products of rows in the features' own precision, by the fastest exact road there is."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional

LARGE = 2**20  # multiplications from which a conversion to oneDNN's layout pays


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
    before = torch.get_float32_matmul_precision()
    if before == "highest":
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
