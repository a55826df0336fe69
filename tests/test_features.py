"""Feature networks: the folded Inception against the plain one, real float64, one's own networks, real weights."""

import sys

import numpy as np
import pytest
import torch
from feature_support import cifar, real_weights, torch_fidelity_file
from torch import nn

from ganbench.errors import UserError
from ganbench.metrics.metric import find_metric
from ganbench.metrics.networks import inception
from ganbench.metrics.networks import weight_files as weights
from ganbench.metrics.networks.features import FeatureNetwork, open_network
from ganbench.metrics.networks.resize import resize


def pictures(n=2, side=40, seed=0, channels=3):
    return torch.randint(0, 256, (n, channels, side, side), dtype=torch.uint8,
                         generator=torch.Generator().manual_seed(seed))


THEIRS = [layer for layer in inception.LAYERS if layer != "spatial"]  # torch-fidelity's


def invented_state(seed=0):
    """Weights of Inception's shape with everything non-trivial, so that activations neither die nor explode."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Empty(FeatureExtractorInceptionV3):  # the network without loading any file
        def load_state_dict(self, *args, **kwargs):
            return None

    loading = torch.load
    torch.load = lambda *args, **kwargs: {}
    try:
        torch.manual_seed(seed)
        network = Empty("inception-v3-compat", THEIRS, feature_extractor_weights_path="none")
    finally:
        torch.load = loading
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.8, 1.25)
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_(0, 0.2)
    return network, {k: v.clone() for k, v in nn.Module.state_dict(network).items()}


@pytest.fixture(scope="module")
def plain():
    return invented_state()


def test_folded_inception_equals_torch_fidelitys(plain):
    """Every layer: what is folded, joined and reordered changes rounding only."""
    theirs, state = plain
    images = pictures()
    with torch.no_grad():
        # the spatial layer is not among theirs: the convolution that TensorFlow's graph calls mixed_6/conv, 7 channels
        maps = []
        handle = theirs.Mixed_6d.branch1x1.register_forward_hook(lambda module, given, made: maps.append(made))
        expected = dict(zip(THEIRS, theirs(images)))
        handle.remove()
    assert inception.graph_names()["mixed_6_conv"] == "Mixed_6d.branch1x1"
    expected["spatial"] = maps[0][:, :7].permute(0, 2, 3, 1).reshape(len(images), -1)
    assert expected["spatial"].shape[1] == 2023
    network = inception.Inception(state, inception.LAYERS)
    ours = network((resize(images, 299, "tf1-bilinear") - 128) / 128)
    for layer in inception.LAYERS:
        scale = expected[layer].abs().max()
        assert ours[layer].shape == expected[layer].shape
        assert float((ours[layer] - expected[layer]).abs().max() / scale) < 2e-5, layer


def test_float64_is_real(plain):
    _, state = plain
    images = (resize(pictures(1), 299, "tf1-bilinear", torch.float64) - 128) / 128
    double = inception.Inception(state, ["192"], torch.float64)(images)["192"]
    single = inception.Inception(state, ["192"])(images)["192"]
    assert double.dtype == torch.float64
    assert 0 < float((double - single).abs().max() / double.abs().max()) < 1e-5


def test_lacking_tensors_are_named(plain):
    state = {k: v for k, v in plain[1].items() if k != "Conv2d_2a_3x3.bn.running_var"}
    with pytest.raises(UserError, match=r"lack 'Conv2d_2a_3x3.bn.running_var'"):
        inception.Inception(state, ["64"])
    bare = {k: v for k, v in plain[1].items() if not k.startswith("fc.")}
    with pytest.raises(UserError, match="no classifier"):
        inception.Inception(bare, ["logits"])


def test_names_in_the_graph():
    names = inception.graph_names()
    assert len(names) == len(set(names.values())) == 94
    assert names["conv_4"] == "Conv2d_4a_3x3"
    assert names["mixed_tower_1_conv_2"] == "Mixed_5b.branch3x3dbl_3"
    assert names["mixed_8_tower_1_conv_3"] == "Mixed_7a.branch7x7x3_4"
    assert names["mixed_10_tower_1_mixed_conv_1"] == "Mixed_7c.branch3x3dbl_3b"


def test_without_weights_one_line_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("GANBENCH_CACHE", str(tmp_path))
    with pytest.raises(UserError) as caught:
        find_metric("fid")().update(pictures())
    line = str(caught.value)
    assert "\n" not in line
    for part in ("weights-inception-2015-12-05-6726825d.pth", "6726825d", "ganbench weights get inception-v3-compat`",
                 "--file PATH"):
        assert part in line


def test_random_vgg16():
    network = open_network("random-vgg16")
    images = pictures(5)
    features = network(images)["512"]
    assert features.shape == (5, 512)
    assert float(features.std()) > 1e-3
    again = open_network("random-vgg16")
    torch.testing.assert_close(again(images)["512"], features)
    torch.testing.assert_close(again(images[3:])["512"], features[3:], rtol=1e-4, atol=1e-5)
    double = open_network("random-vgg16", dtype="float64")(images)["512"]
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), features, rtol=1e-3, atol=1e-4)
    grey = pictures(2, channels=1)
    torch.testing.assert_close(network(grey), network(grey.repeat(1, 3, 1, 1)))
    assert network.protocol == "network=random-vgg16;weights=seed0;resize=tf1-bilinear-64;dtype=float32"


def test_random_vgg16_is_golden():
    """The same numbers on every machine, or scores with them could not be compared."""
    features = open_network("random-vgg16", dtype="float64")(pictures(1, seed=3))["512"][0]
    assert float(features.mean()) == pytest.approx(GOLDEN_MEAN, rel=1e-6)
    assert features[:3].tolist() == pytest.approx(GOLDEN_FIRST, rel=1e-6)


GOLDEN_MEAN = 0.3343726781703621
GOLDEN_FIRST = [0.5101582266321001, 0.5620611076480472, 0.1073308362993351]


def test_own_callable(tmp_path, monkeypatch):
    (tmp_path / "my_features_module.py").write_text(
        "def means(images):\n    return images.float().mean((2, 3))\n\ndef wrong(images):\n    return images\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_features_module", raising=False)
    images = pictures(4)
    fid = find_metric("fid")("my_features_module:means")
    fid.update(images, real=True)
    fid.update(images.flip(0) // 2)
    x = images.double().mean((2, 3)).numpy()
    y = (images // 2).double().mean((2, 3)).numpy()
    from ganbench.metrics.functional import frechet_distance
    assert fid.compute() == pytest.approx(frechet_distance(x, y), rel=1e-5)
    assert "network=my_features_module:means" in fid.protocol()
    with pytest.raises(UserError, match="must return floats"):
        open_network("my_features_module:wrong")(images)
    with pytest.raises(UserError, match="no callable 'absent'"):
        open_network("my_features_module:absent")
    with pytest.raises(UserError, match="cannot import"):
        open_network("no_such_module_at_all:x")


def test_own_torchscript(tmp_path):
    class Means(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.float().mean(dim=[2, 3])

    torch.jit.save(torch.jit.script(Means()), str(tmp_path / "means.pt"))
    network = open_network(str(tmp_path / "means.pt"))
    images = pictures(70)
    torch.testing.assert_close(network(images)["features"], images.float().mean((2, 3)))
    (tmp_path / "broken.pt").write_bytes(b"nothing")
    with pytest.raises(UserError, match="no TorchScript"):
        open_network(str(tmp_path / "broken.pt"))
    with pytest.raises(UserError, match="no such file"):
        open_network(str(tmp_path / "absent.pt"))


def test_refusals():
    with pytest.raises(UserError, match="Did you mean 'inception-v3-compat'"):
        open_network("inception-v3")
    with pytest.raises(UserError, match="no layer '1024'"):
        open_network("inception-v3-compat", ["1024"])
    with pytest.raises(UserError, match="float16"):
        open_network("random-vgg16", dtype="float16")
    with pytest.raises(UserError, match="uint8"):
        open_network("random-vgg16")(torch.zeros(1, 3, 8, 8))
    with pytest.raises(UserError, match=r"dinov2_vitb14_pretrain.pth"):
        open_network("dinov2-vit-b-14")


def test_classifier_is_asked_for():
    bare = FeatureNetwork("bare", ["logits"], lambda x: {}, weights_hash="0", device=torch.device("cpu"),
                          dtype="float32")
    with pytest.raises(UserError, match="inception_score needs a classifier, and bare"):
        find_metric("inception_score")(bare)


# --- with the real weights: slow --------------------------------------------------------------------------------------

@pytest.mark.slow
def test_torchmetrics_documented_example(monkeypatch, tmp_path):
    where = torch_fidelity_file(real_weights(monkeypatch), tmp_path)
    from torchmetrics.image.fid import FrechetInceptionDistance
    torch.manual_seed(42)
    FrechetInceptionDistance(feature=64, feature_extractor_weights_path=str(where))  # draws from the same stream
    first = torch.randint(0, 200, (100, 3, 299, 299), dtype=torch.uint8)
    second = torch.randint(100, 255, (100, 3, 299, 299), dtype=torch.uint8)
    fid = find_metric("fid")(layer="64")
    fid.update(first, real=True)
    fid.update(second, real=False)
    assert round(fid.compute(), 4) == 12.6388


@pytest.mark.slow
def test_error_against_float64_is_no_more_than_twice_torch_fidelitys(monkeypatch, tmp_path):
    where = torch_fidelity_file(real_weights(monkeypatch), tmp_path)
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    layers = ["64", "192", "768", "2048"]
    images = cifar("test", 16)
    theirs = FeatureExtractorInceptionV3("inception-v3-compat", layers, feature_extractor_weights_path=str(where))
    with torch.no_grad():
        found = dict(zip(layers, theirs(images)))
    exact = open_network("inception-v3-compat", layers, dtype="float64")(images)
    ours = open_network("inception-v3-compat", layers)(images)
    for layer in layers:
        error, their_error = ((v[layer] - exact[layer]).double().square().mean().sqrt() for v in (ours, found))
        assert error <= 2 * their_error, layer


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_real_pictures_score_as_torch_fidelity_scores_them(monkeypatch, tmp_path):
    """500 CIFAR-10 pictures against 500 negatives, as PNG folders, through torch-fidelity's own calculate_metrics.

    Negatives, because between two halves of one data set KID is near 0, and torch-fidelity's float32 sums leave 3e-8.
    """
    where = torch_fidelity_file(real_weights(monkeypatch), tmp_path)
    from PIL import Image
    from torch_fidelity import calculate_metrics
    sets = {"fake": 255 - cifar("test", 500), "real": cifar("train", 500)}
    for name, images in sets.items():
        (tmp_path / name).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / name / f"{i:04}.png")
    theirs = calculate_metrics(input1=str(tmp_path / "fake"), input2=str(tmp_path / "real"), cuda=False, fid=True,
                               kid=True, prc=True, kid_subset_size=400, feature_extractor="inception-v3-compat",
                               feature_extractor_weights_path=str(where), cache=False, verbose=False, save_cpu_ram=True)
    network = open_network("inception-v3-compat", ["2048"])
    features = {name: network(images)["2048"] for name, images in sets.items()}

    def ours(name, **options):
        metric = find_metric(name)(**options)
        for side, values in features.items():
            metric.update_features(values, real=side == "real")
        return metric.compute()

    assert ours("fid") == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    kid = ours("kid", subset_size=400)
    print(theirs, kid)
    assert kid["mean"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4)
    assert kid["std"] == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-3)
    neighbours = ours("precision_recall")
    assert neighbours["precision"] == pytest.approx(theirs["precision"], rel=1e-4)
    assert neighbours["recall"] == pytest.approx(theirs["recall"], rel=1e-4)


def test_every_known_layer_has_its_own_width(plain):
    _, state = plain
    found = inception.Inception(state, ["64", "768", "logits_unbiased"])(torch.zeros(1, 3, 299, 299))
    assert {k: v.shape[1] for k, v in found.items()} == {"64": 64, "768": 768, "logits_unbiased": 1008}
    assert np.isfinite(found["768"].numpy()).all()
    assert weights.weights_hash(state) == weights.weights_hash({k: v for k, v in state.items() if "fc." not in k})
