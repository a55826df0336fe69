"""LPIPS-VGG16 against the two public implementations, given the same weights."""

import pytest
import torch

from ganbench.errors import UserError
from ganbench.metrics.networks.lpips import LPIPS, WIDTHS


def random_state(seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights with the published shapes: He-scaled convolutions, non-negative heads."""
    network, generator = LPIPS(), torch.Generator().manual_seed(seed)
    state = {}
    for key, value in network.vgg.state_dict().items():
        fan_in = value[0].numel() if value.dim() == 4 else 1
        scale = (2 / fan_in) ** 0.5 if value.dim() == 4 else 0.1
        state[key] = torch.randn(value.shape, generator=generator) * scale
    for index, width in enumerate(WIDTHS):
        state[f"lin{index}.weight"] = torch.rand(1, width, 1, 1, generator=generator)
    return state


@pytest.fixture(scope="module")
def state():
    return random_state()


@pytest.fixture(scope="module")
def pictures():
    generator = torch.Generator().manual_seed(1)
    a = torch.randint(256, (2, 3, 48, 32), generator=generator, dtype=torch.uint8)
    return a, torch.randint(256, (2, 3, 48, 32), generator=generator, dtype=torch.uint8)


def floats(pictures):
    return [p.float() / 127.5 - 1 for p in pictures]


def test_equals_the_lpips_package(state, pictures):
    lpips = pytest.importorskip("lpips")
    theirs = lpips.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False)
    slices = [theirs.net.slice1, theirs.net.slice2, theirs.net.slice3, theirs.net.slice4, theirs.net.slice5]
    for slice_ in slices:
        for name, layer in slice_.named_children():
            if hasattr(layer, "weight"):
                layer.weight.data.copy_(state[f"features.{name}.weight"])
                layer.bias.data.copy_(state[f"features.{name}.bias"])
    for index in range(5):
        theirs.lins[index].model[-1].weight.data.copy_(state[f"lin{index}.weight"])
    a, b = floats(pictures)
    with torch.no_grad():
        expected = theirs.eval()(a, b).flatten()
    assert (expected > 0.01).all()
    torch.testing.assert_close(LPIPS.from_state(state)(a, b), expected, rtol=1e-5, atol=1e-5)


def test_equals_torch_fidelity(state, pictures, monkeypatch):
    import torch_fidelity.sample_similarity_lpips as reference
    import torchvision

    trunk = torchvision.models.vgg16(weights=None)
    trunk.features.load_state_dict({k.removeprefix("features."): v for k, v in state.items() if "features" in k})
    heads = {k.replace(".weight", ".model.1.weight"): v for k, v in state.items() if k.startswith("lin")}
    monkeypatch.setattr(reference, "torchvision_load_pretrained_vgg16", lambda: trunk)
    monkeypatch.setattr(reference, "load_state_dict_from_url", lambda *a, **k: heads)
    theirs = reference.SampleSimilarityLPIPS("lpips-vgg16")
    a, b = pictures
    expected = theirs(a, b).flatten()
    torch.testing.assert_close(LPIPS.from_state(state)(*floats(pictures)), expected, rtol=1e-5, atol=1e-5)


def test_is_a_distance_with_gradient(state, pictures):
    network, (a, b) = LPIPS.from_state(state), floats(pictures)
    assert (network(a, a) == 0).all()
    torch.testing.assert_close(network(a, b), network(b, a))
    a.requires_grad_(True)
    network(a, b).sum().backward()
    assert a.grad is not None and a.grad.abs().sum() > 0
    assert all(p.grad is None for p in network.parameters())


def test_grey_is_three_equal_channels(state, pictures):
    a, b = (p[:, :1] for p in floats(pictures))
    network = LPIPS.from_state(state)
    torch.testing.assert_close(network(a, b), network(a.expand(-1, 3, -1, -1), b.expand(-1, 3, -1, -1)))


def test_bad_input(state):
    with pytest.raises(UserError, match="at least 16"):
        LPIPS.from_state(state)(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))
    broken = {k: v for k, v in state.items() if k != "lin3.weight"}
    with pytest.raises(UserError, match="not LPIPS-VGG16"):
        LPIPS.from_state(broken)
    with pytest.raises(UserError, match="not LPIPS-VGG16"):
        LPIPS.from_state({**state, "features.0.weight": torch.zeros(1)})


@pytest.mark.slow
def test_the_published_weights_are_those_of_the_lpips_package_and_give_its_distances():
    from pathlib import Path

    from ganbench.metrics.networks import lpips as own
    from ganbench.metrics.networks import weight_files as weights

    package = pytest.importorskip("lpips")
    if weights.present("lpips-vgg16") is None:
        pytest.skip("put the cache with lpips-vgg16 into GANBENCH_TEST_CACHE to run this")
    state = weights.load_weights("lpips-vgg16")
    heads = torch.load(Path(package.__file__).parent / "weights/v0.1/vgg.pth", map_location="cpu", weights_only=True)
    for index in range(5):
        assert torch.equal(state[f"lin{index}.weight"], heads[f"lin{index}.model.1.weight"])
    # Blocks of 16 equal pixels: pictures that VGG16 sees something in.
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(256, (2, 3, 8, 8), generator=generator).repeat_interleave(16, 2).repeat_interleave(16, 3)
    a, b = (blocks.float() / 127.5 - 1).split(1)
    theirs = package.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False)
    theirs.load_state_dict(heads, strict=False)
    for slice_ in (theirs.net.slice1, theirs.net.slice2, theirs.net.slice3, theirs.net.slice4, theirs.net.slice5):
        for name, layer in slice_.named_children():
            if hasattr(layer, "weight"):
                layer.weight.data.copy_(state[f"features.{name}.weight"])
                layer.bias.data.copy_(state[f"features.{name}.bias"])
    with torch.no_grad():
        torch.testing.assert_close(own.load_lpips()(a, b), theirs.eval()(a, b).flatten(), rtol=1e-5, atol=1e-5)
