"""DINOv2, CLIP and SwAV: the networks against other people's, and how pictures reach them, pixel by pixel.

The published weights are large; networks of the same kind with few and random weights take the same way.
"""

import math
import warnings

import numpy as np
import pytest
import torch
import torchvision
import torchvision.transforms as T
from feature_support import cifar
from PIL import Image

from ganbench.errors import UserError
from ganbench.metrics.functional import frechet_distance
from ganbench.metrics.metric import find_metric
from ganbench.metrics.networks import features
from ganbench.metrics.networks import weight_files as weights
from ganbench.metrics.networks.features import open_network
from ganbench.metrics.networks.vit import VisionTransformer, names_of_clip, resampled
from ganbench.runs.eval_request import EvalRequest
from ganbench.runs.scoring import run_request

WIDTH, DEPTH, HEADS, PATCH = 128, 2, 2, 14


def pictures(n, height, width, seed=0):
    """Smooth and rough at once, so that every resampling shows."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, 3, math.ceil(height / 4), math.ceil(width / 4)))
    images = np.kron(coarse, np.ones((1, 1, 4, 4)))[:, :, :height, :width] + rng.normal(0, 20, (n, 3, height, width))
    return torch.from_numpy(images.clip(0, 255).astype(np.uint8))


def dinov2_state(grid=16, gated=False):
    random = torch.Generator().manual_seed(0)

    def draw(*shape, scale=0.1, mean=0.0):
        return mean + scale * torch.randn(*shape, generator=random)
    state = {"cls_token": draw(1, 1, WIDTH), "pos_embed": draw(1, grid**2 + 1, WIDTH), "mask_token": draw(1, WIDTH),
             "patch_embed.proj.weight": draw(WIDTH, 3, PATCH, PATCH), "patch_embed.proj.bias": draw(WIDTH),
             "norm.weight": draw(WIDTH, mean=1.0), "norm.bias": draw(WIDTH)}
    for i in range(DEPTH):
        shapes = {"attn.qkv": (3 * WIDTH, WIDTH), "attn.proj": (WIDTH, WIDTH)}
        shapes |= {"mlp.w12": (4 * WIDTH, WIDTH), "mlp.w3": (WIDTH, 2 * WIDTH)} if gated else \
            {"mlp.fc1": (4 * WIDTH, WIDTH), "mlp.fc2": (WIDTH, 4 * WIDTH)}
        for name, shape in shapes.items():
            state |= {f"blocks.{i}.{name}.weight": draw(*shape), f"blocks.{i}.{name}.bias": draw(shape[0])}
        for name in ("norm1", "norm2"):
            state |= {f"blocks.{i}.{name}.weight": draw(WIDTH, mean=1.0), f"blocks.{i}.{name}.bias": draw(WIDTH)}
        state |= {f"blocks.{i}.ls{part}.gamma": draw(WIDTH, mean=0.5) for part in (1, 2)}
    return state


def clip_network(gelu=False):
    """torch-fidelity's picture half of CLIP, with random weights: another implementation."""
    from torch_fidelity.feature_extractor_clip import CLIPVisual
    torch.manual_seed(0)
    network = CLIPVisual(embed_dim=24, image_resolution=48, vision_layers=DEPTH, vision_width=WIDTH,
                         vision_patch_size=16).eval()
    for block in network.visual.transformer.resblocks:
        torch.nn.init.normal_(block.attn.in_proj_bias, std=0.2)
        if gelu:
            block.mlp.gelu = torch.nn.GELU()
    return network


# --- networks ---------------------------------------------------------------------------------------------------------

def slow_dinov2(state, pictures, gated):
    """DINOv2 by definition, in float64, a token and a head at a time."""
    p = {key: tensor.double().numpy() for key, tensor in state.items()}

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * p[f"{name}.weight"] + p[f"{name}.bias"]

    def linear(x, name):
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    answers = []
    for picture in pictures.double().numpy():
        patches = [np.tensordot(p["patch_embed.proj.weight"], picture[:, y:y + PATCH, x:x + PATCH], 3)
                   for y in range(0, 224, PATCH) for x in range(0, 224, PATCH)]
        x = np.stack([p["cls_token"][0, 0], *(np.array(patches) + p["patch_embed.proj.bias"])]) + p["pos_embed"][0]
        for i in range(DEPTH):
            queries, keys, values = linear(norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv").reshape(
                len(x), 3, HEADS, 64).transpose(1, 2, 0, 3)
            weight = np.exp(np.einsum("hid,hjd->hij", queries, keys) / 8)
            mixed = np.einsum("hij,hjd->ihd", weight / weight.sum(-1, keepdims=True), values).reshape(len(x), -1)
            x = x + p[f"blocks.{i}.ls1.gamma"] * linear(mixed, f"blocks.{i}.attn.proj")
            hidden = norm(x, f"blocks.{i}.norm2")
            if gated:
                gate, rest = np.split(linear(hidden, f"blocks.{i}.mlp.w12"), 2, -1)
                hidden = linear(gate / (1 + np.exp(-gate)) * rest, f"blocks.{i}.mlp.w3")
            else:
                hidden = linear(hidden, f"blocks.{i}.mlp.fc1")
                hidden = linear(hidden * (1 + np.vectorize(math.erf)(hidden / 2**0.5)) / 2, f"blocks.{i}.mlp.fc2")
            x = x + p[f"blocks.{i}.ls2.gamma"] * hidden
        answers.append(norm(x[0], "norm"))
    return torch.from_numpy(np.stack(answers))


@pytest.mark.parametrize("gated", [False, True])
def test_dinov2_equals_its_definition(gated):
    state, x = dinov2_state(gated=gated), torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    expected = slow_dinov2(state, x, gated)
    double = VisionTransformer(state, 224, eps=1e-6).double()(x.double())[0]
    torch.testing.assert_close(double, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(VisionTransformer(state, 224, eps=1e-6)(x)[0].double(), expected, rtol=1e-4, atol=1e-4)


def test_dinov2_equals_timms():
    timm = pytest.importorskip("timm")
    theirs = timm.models.vision_transformer.VisionTransformer(
        img_size=224, patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, init_values=1.0, num_classes=0,
        global_pool="token").eval()
    state, x = dinov2_state(), torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    theirs.load_state_dict({key: tensor for key, tensor in state.items() if key != "mask_token"})
    with torch.no_grad():
        torch.testing.assert_close(VisionTransformer(state, 224, eps=1e-6)(x)[0], theirs(x), rtol=1e-4, atol=1e-4)


def test_positions_are_resampled_as_dinov2_does():
    """Keys' cubic (a = -3/4) at (i + 1/2) / scale - 1/2, scale (16 + 0.1) / 37, edges repeated."""
    stored = torch.randn(1, 37 * 37 + 1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    grid, scale = stored[0, 1:].reshape(37, 37, 3).numpy(), 16.1 / 37

    def weight(t, a=-0.75):
        t = abs(t)
        if t <= 1:
            return (a + 2) * t**3 - (a + 3) * t**2 + 1
        return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0
    matrix = np.zeros((16, 37))
    for i in range(16):
        at = (i + 0.5) / scale - 0.5
        for j in range(math.floor(at) - 1, math.floor(at) + 3):
            matrix[i, min(max(j, 0), 36)] += weight(at - j)
    expected = np.einsum("iy,jx,yxc->ijc", matrix, matrix, grid).reshape(256, 3)
    found = resampled(stored, 16)
    torch.testing.assert_close(found[0, 1:], torch.from_numpy(expected), rtol=1e-9, atol=1e-9)
    assert torch.equal(found[:, 0], stored[:, 0]) and resampled(stored, 37) is stored


@pytest.mark.parametrize("gelu", [False, True])
def test_clip_equals_torch_fidelitys(gelu):
    theirs, x = clip_network(gelu), torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    ours = VisionTransformer(names_of_clip(theirs.state_dict()), 48, eps=1e-5, quick=not gelu)
    token, embedding = ours(x)
    with torch.no_grad():
        torch.testing.assert_close(embedding, theirs.visual(x), rtol=1e-4, atol=1e-4)
        theirs.visual.proj = None  # what is before the projection, as dgm-eval takes it
        torch.testing.assert_close(token, theirs.visual(x), rtol=1e-4, atol=1e-4)


def test_weights_that_do_not_fit_are_named():
    state = dinov2_state()
    with pytest.raises(UserError, match=r"lack 'patch_embed.proj.weight': they are no vision transformer"):
        VisionTransformer({"a": torch.zeros(1)}, 224, eps=1e-6)
    with pytest.raises(UserError, match=r"do not fit a vision transformer of width 128, depth 2.*register_tokens"):
        VisionTransformer(state | {"register_tokens": torch.zeros(1, 4, WIDTH)}, 224, eps=1e-6)
    with pytest.raises(UserError, match=r"no visual.class_embedding"):
        names_of_clip(state)


# --- how pictures reach them ------------------------------------------------------------------------------------------

IMAGENET, CLIP = T.Normalize(*features.IMAGENET), T.Normalize(*features.CLIP)
BICUBIC = T.InterpolationMode.BICUBIC


def edm2(picture):
    x = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float()
    x = torch.nn.functional.interpolate(x, size=(224, 224), mode="bicubic", antialias=True)[0] / 255
    return IMAGENET(x)


REFERENCES = [  # mode, the network's statistics, and what the mode's library does to a picture
    ("dgm-eval", features.IMAGENET, T.Compose([T.Resize((224, 224), BICUBIC), T.ToTensor(), IMAGENET])),
    ("dgm-eval", features.CLIP, T.Compose([T.Resize((224, 224), BICUBIC), T.ToTensor(), CLIP])),
    ("clean-fid", features.CLIP, T.Compose([T.Resize(224, BICUBIC), T.CenterCrop(224), T.ToTensor(), CLIP])),
    ("edm2", features.IMAGENET, edm2),
]


def source(shape):
    return cifar("test", 200) if shape == "cifar" else pictures(3, *shape)


@pytest.mark.parametrize("shape", [(32, 32), (300, 410), (224, 224), (250, 131), "cifar"])
@pytest.mark.parametrize(("mode", "statistics", "reference"), REFERENCES)
def test_pictures_are_prepared_as_the_library_does(mode, statistics, reference, shape):
    images = source(shape)
    rule = features.find_compat(mode).transformer_resize or "pil-bicubic-bytes"
    ours = features._normalised(lambda x: x, 224, rule, "float32", statistics)(images)
    expected = torch.stack([reference(Image.fromarray(image.permute(1, 2, 0).numpy())) for image in images])
    assert ours.shape == expected.shape and float((ours - expected).abs().max()) < 2e-5  # 1/1000 of a byte


def test_swav_opens_and_prepares_pictures_as_dgm_eval(monkeypatch, tmp_path):
    """The state dict of its file: `module.` before torchvision's names, a head and prototypes behind."""
    place(monkeypatch, tmp_path)
    torch.manual_seed(0)
    theirs = torchvision.models.resnet50().eval()
    state = {f"module.{key}": value for key, value in theirs.state_dict().items() if not key.startswith("fc.")}
    torch.save({**state, "module.prototypes.weight": torch.zeros(3, 128)},
               weights.weights_folder() / "swav_800ep_pretrain.pth.tar")
    theirs.fc = torch.nn.Identity()
    images = pictures(2, 32, 32)
    prepare = T.Compose([T.Resize(224), T.ToTensor(), IMAGENET])
    with torch.no_grad():
        expected = theirs(torch.stack([prepare(Image.fromarray(i.permute(1, 2, 0).numpy())) for i in images]))
    network = open_network("swav-resnet50")
    torch.testing.assert_close(network(images)["2048"], expected, rtol=1e-3, atol=1e-4)
    assert "resize=pil-bilinear-bytes-224" in network.protocol


# --- from a file of weights to the number -----------------------------------------------------------------------------

def place(monkeypatch, folder):
    monkeypatch.setenv("GANBENCH_CACHE", str(folder / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(folder / "hub"))
    weights.weights_folder().mkdir(parents=True)


@pytest.fixture
def dinov2(monkeypatch, tmp_path):
    """A small network where the large one's weights belong, positions for 518 pixels as in the published file."""
    place(monkeypatch, tmp_path)
    state = dinov2_state(grid=37)
    torch.save(state, weights.weights_folder() / "dinov2_vitl14_pretrain.pth")
    return state


@pytest.mark.parametrize(("compat", "resize"), [(None, "pil-bicubic-bytes"), ("dgm-eval", "pil-bicubic-bytes"),
                                                ("clean-fid", "pil-bicubic-crop"),
                                                ("edm2", "torch-bicubic-antialias"),
                                                ("torch-fidelity", "tf1-bilinear")])
def test_fd_dinov2_from_arrays_to_the_number(dinov2, compat, resize):
    reals, fakes = pictures(6, 32, 32), pictures(5, 32, 32, seed=1) // 2
    asked = EvalRequest(names=["fd_dinov2"], real=reals, fake=fakes, compat=compat, floor=False, device="cpu",
                        strict=True, use_cache=False)
    row = run_request(asked).rows[0]
    network = VisionTransformer(dinov2, 224, eps=1e-6)
    found = [network(features._normalised(lambda x: x, 224, resize, "float32", features.IMAGENET)(images))[0]
             for images in (fakes, reals)]
    assert row["value"] == pytest.approx(frechet_distance(*found), rel=1e-4)
    assert row["protocol"].startswith("fd_dinov2;network=dinov2-vit-l-14;weights=")
    assert f"resize={resize}-224;dtype=float32;layer=dinov2;ddof=1;" in row["protocol"]


def test_one_call_shows_each_network_its_own_pictures(dinov2):
    """Inception-like and transformer side by side: a mode's resize for the one does not reach the other."""
    network = open_network("dinov2-vit-l-14", compat="pytorch-fid")
    assert "resize=pil-bicubic-bytes-224" in network.protocol
    assert "resize=torch-bilinear-64" in open_network("random-vgg16", compat="pytorch-fid").protocol


def test_fd_clip_takes_the_published_kind_of_file(monkeypatch, tmp_path):
    """OpenAI's files are TorchScript in half precision; only a file of the published hash is read so."""
    place(monkeypatch, tmp_path)
    theirs = clip_network()
    where = tmp_path / "ViT-B-32.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(scripted(theirs), where)
    file = weights.File("clip-vit-b-32.pt", 1, weights.file_hash(where))
    monkeypatch.setitem(weights.ASSETS, "clip-vit-b-32", weights.Asset("clip-vit-b-32", "a small one", (file,)))
    weights.get("clip-vit-b-32", file=where)
    images, metric = pictures(4, 48, 48), find_metric("fd_clip")()
    metric.update(images, real=True)
    metric.update(images // 2)
    assert "network=clip-vit-b-32" in metric.protocol() and "resize=pil-bicubic-bytes-48" in metric.protocol()
    with torch.no_grad():
        prepared = [CLIP(part.float() / 255) for part in (images // 2, images)]
        expected = frechet_distance(*[theirs.visual(x) for x in prepared])
    assert metric.compute() == pytest.approx(expected, rel=1e-3)
    token = open_network("clip-vit-b-32", ["token"])(images)["token"]
    assert token.shape == (4, WIDTH)


def scripted(network):
    """The tensors of a network in a TorchScript archive, under their own names."""
    class Part(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    root = Part()
    for key, tensor in network.state_dict().items():
        *path, leaf = key.split(".")
        module = root
        for name in path:
            if name not in dict(module.named_children()):
                module.add_module(name, Part())
            module = dict(module.named_children())[name]
        module.register_buffer(leaf, tensor)
    return torch.jit.script(root)


def test_without_weights_one_line_says_what_to_do(monkeypatch, tmp_path):
    place(monkeypatch, tmp_path)
    for name, file in (("fd_dinov2", "dinov2_vitl14_pretrain.pth"), ("fd_clip", "clip-vit-b-32.pt")):
        with pytest.raises(UserError) as caught:
            find_metric(name)().update(pictures(2, 32, 32))
        line, network = str(caught.value), find_metric(name).features
        assert "\n" not in line and file in line and f"ganbench weights get {network}`" in line


def test_torch_hubs_own_copy_is_found(monkeypatch, tmp_path):
    place(monkeypatch, tmp_path)
    hub = tmp_path / "hub" / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    torch.save(dinov2_state(), hub / "dinov2_vits14_pretrain.pth")
    assert open_network("dinov2-vit-s-14")(pictures(2, 32, 32))["dinov2"].shape == (2, WIDTH)
    assert "has no published hash" in weights.check("dinov2-vit-s-14")
