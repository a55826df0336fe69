"""Inner products of rows against float64."""

import numpy as np
import pytest
import torch

from ganbench.metrics.maths.arrays import LARGE, allow_tf32, exact_matmul, products, tf32


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "m", "d"), [(1, 3, 2), (300, 200, 64), (257, 129, 333)])
def test_products(n, m, d, kind):
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(n, d, generator=rng, dtype=kind), torch.randn(m, d, generator=rng, dtype=kind)
    found = products(a, b)
    expected = a.double().numpy() @ b.double().numpy().T
    bound = 4 * d**0.5 * torch.finfo(kind).eps * float(a.norm(dim=1).max() * b.norm(dim=1).max())
    assert found.dtype == kind
    assert (n * m * d >= LARGE) == (n > 1)  # both roads are taken
    np.testing.assert_allclose(found, expected, rtol=0, atol=bound)


def test_no_shortened_factors_whatever_is_allowed_elsewhere():
    rng = torch.Generator().manual_seed(1)
    a, b = torch.randn(300, 128, generator=rng), torch.randn(200, 128, generator=rng)
    usual = products(a, b)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")  # bfloat16, where the processor has it
    try:
        assert torch.equal(products(a, b), usual)
        with exact_matmul():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_what_others_set_before_and_between_is_read_without_complaint():
    # PyTorch refuses to read a mixture of its two interfaces; a run on a GPU sets one for training, one for scoring
    before = torch.get_float32_matmul_precision()
    try:
        for name, legacy in [("high", False), ("high", True), ("highest", True), ("medium", False)]:
            torch.set_float32_matmul_precision(name)
            torch.backends.cuda.matmul.allow_tf32 = legacy
            for allowed in (True, False):
                allow_tf32(not allowed)
                with tf32(allowed), exact_matmul():
                    assert torch.get_float32_matmul_precision() == "highest"
                after = torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision
                assert [kind == "tf32" for kind in after] == [not allowed] * 2
    finally:
        torch.set_float32_matmul_precision(before)
        torch.backends.cudnn.allow_tf32 = True
