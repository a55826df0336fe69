"""Reference statistics: kept by content, taken in from other projects' files, refused where they are of other features.
"""

import pickle

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from ganbench.commands import stats as stats_commands
from ganbench.errors import UserError
from ganbench.metrics import evaluate as evaluation
from ganbench.metrics.functional import frechet_distance, frechet_distance_from_statistics
from ganbench.metrics.images.opening import open_images
from ganbench.metrics.images.reference_statistics import kept, open_reference, read_statistics
from ganbench.metrics.networks.features import FeatureNetwork, open_network
from ganbench.runs.eval_request import EvalRequest
from ganbench.runs.scoring import run_request


@pytest.fixture(autouse=True)
def place(monkeypatch, tmp_path):
    monkeypatch.setenv("GANBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.save("reals.npy", rng.integers(0, 256, (40, 3, 16, 16), dtype=np.uint8))
    np.save("fakes.npy", rng.integers(60, 256, (30, 3, 16, 16), dtype=np.uint8))
    return tmp_path


app = typer.Typer()
stats_commands.register(app)


def call(*words):
    found = CliRunner().invoke(app, [str(word) for word in words])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == 0, found.output
    return found.output


def score(real, *names, **options):
    asked = EvalRequest(names=list(names or ["fid"]), real=str(real), fake="fakes.npy", floor=False, device="cpu",
                        strict=True, use_cache=False, **options)
    return run_request(asked)


def numbers(d, seed=0):
    rows = np.random.default_rng(seed).normal(size=(3 * d, d))
    return rows.mean(0), np.cov(rows, rowvar=False)


def test_statistics_of_images_stand_for_them():
    output = call("stats", "save", "reals.npy", "--device", "cpu", "--network", "random-vgg16", "--name", "noise")
    whole, saved = (score(real, network="random-vgg16") for real in ("reals.npy", "stats:noise"))
    assert saved.rows[0]["value"] == pytest.approx(whole.rows[0]["value"], rel=1e-9)
    assert saved.rows[0]["n_real"] == 40 and saved.rows[0]["protocol"] == whole.rows[0]["protocol"]
    assert not any("does not say" in warning for warning in saved.warnings)
    # by content: the same numbers are kept once, and found by the beginning of their hash
    (reference,) = kept()
    assert reference.content[:16] in output and reference.n == 40 and reference.source == "reals.npy"
    assert saved.rows[0]["data_hash"] == reference.content
    call("stats", "save", "reals.npy", "--device", "cpu", "--network", "random-vgg16", "--name", "noise")
    assert len(kept()) == 1
    assert score(f"stats:{reference.content[:8]}", network="random-vgg16").rows[0]["value"] == saved.rows[0]["value"]
    assert "noise" in call("stats", "list") and "1 statistics in" in call("stats", "list")
    # the expected numbers, by another road
    network = open_network("random-vgg16")
    features = [network(torch.from_numpy(np.load(name)))["512"] for name in ("reals.npy", "fakes.npy")]
    assert saved.rows[0]["value"] == pytest.approx(frechet_distance(*features), rel=1e-6)


def test_a_file_to_hand_on(place):
    call("stats", "save", "reals.npy", "--device", "cpu", "--network", "random-vgg16", "--to", "noise.safetensors")
    assert kept() == []
    found = score("noise.safetensors", network="random-vgg16")
    assert found.rows[0]["value"] == pytest.approx(score("reals.npy", network="random-vgg16").rows[0]["value"])
    with pytest.raises(UserError, match=r"--to noise.npz: statistics are written as .safetensors"):
        call("stats", "save", "reals.npy", "--to", "noise.npz")


def test_statistics_of_other_features_are_refused():
    call("stats", "save", "reals.npy", "--device", "cpu", "--network", "random-vgg16", "--name", "noise")
    with pytest.raises(UserError, match=r"of resize=tf1-bilinear-64, and this .* looks at resize=torch-bilinear-64"):
        score("stats:noise", network="random-vgg16", compat="pytorch-fid")
    with pytest.raises(UserError, match=r"ddof=1, and this metric looks at ddof=0"):
        score("stats:noise", network="random-vgg16", compat="stylegan3")
    np.savez("cifar10.npz", mu=numbers(512)[0], sigma=numbers(512)[1])
    call("stats", "save", "cifar10.npz", "--as", "clean-fid", "--n", "50000")
    (found,) = [reference for reference in kept() if reference.name == "cifar10"]
    assert (found.n, found.protocol) == (50000, "network=inception-v3-compat;resize=pil-bicubic-299;layer=2048;ddof=1")
    with pytest.raises(UserError, match=r"stats:cifar10 is of network=inception-v3-compat, and this metric looks at "
                                        r"network=random-vgg16"):
        score("stats:cifar10", network="random-vgg16")


def test_other_projects_files(place):
    mean, covariance = numbers(6)
    np.savez("theirs.npz", mu=mean, sigma=covariance)
    torch.save({"mu": mean, "sigma": covariance}, "theirs.pt")
    for kind, resize in (("pytorch-fid", "torch-bilinear"), ("clean-fid", "pil-bicubic"), ("edm", "tf1-bilinear"),
                         ("torch-fidelity", "tf1-bilinear")):
        file = place / ("theirs.pt" if kind == "torch-fidelity" else "theirs.npz")
        found = read_statistics(file, kind)
        assert found.protocol == f"network=inception-v3-compat;resize={resize}-299;layer=2048;ddof=1"
        np.testing.assert_array_equal(found.mean, mean)
    assert "dinov2-vit-l-14;resize=torch-bicubic-antialias-224;layer=dinov2" in \
        read_statistics(place / "theirs.npz", "edm2-dinov2").protocol
    # without a kind nothing is known of the features, and that is said
    assert "does not say how its features were made" in open_images("theirs.npz").warnings[0]
    with pytest.raises(UserError, match="name the project with --as"):
        call("stats", "save", "theirs.npz")
    with pytest.raises(UserError, match=r"--as cleanfid: .*Did you mean 'clean-fid'"):
        call("stats", "save", "theirs.npz", "--as", "cleanfid")
    with pytest.raises(UserError, match=r"reals.npy is no file of statistics"):
        call("stats", "save", "reals.npy", "--as", "edm")


class Code:
    def __reduce__(self):
        return print, ("executed",)


def test_pickles_are_not_opened(capsys):
    with open("edm.pkl", "wb") as file:
        pickle.dump({"fid": {"mu": Code(), "sigma": np.eye(2)}}, file)
    with pytest.raises(UserError, match=r"edm.pkl is a pickle, which may run code, .*numpy.savez"):
        call("stats", "save", "edm.pkl", "--as", "edm")
    with pytest.raises(UserError, match=r"edm.pkl is a pickle, which may run code, .*numpy.savez"):
        score("edm.pkl", network="random-vgg16")
    assert "executed" not in capsys.readouterr().out


def test_guided_diffusions_file_serves_fid_and_sfid(place, monkeypatch):
    """One file, two pairs: mu_s and sigma_s are for sFID, in TensorFlow's order of pixels and channels."""
    (mu, sigma), (mu_s, sigma_s) = numbers(8), numbers(5, seed=1)
    np.savez("reference.npz", mu=mu, sigma=sigma, mu_s=mu_s, sigma_s=sigma_s)
    found = open_images("reference.npz")
    assert found.warnings == [] and found.protocol.startswith("network=inception-v3-compat;resize=tf1-bilinear-299")
    call("stats", "save", "reference.npz", "--name", "adm")
    kept_ones = open_reference("stats:adm")
    rows = {layer: np.random.default_rng(2).normal(size=(30, d)) for layer, d in (("2048", 8), ("spatial", 5))}
    network = FeatureNetwork("inception-v3-compat", ["2048", "spatial"],
                             lambda images: {k: torch.from_numpy(v[:len(images)]) for k, v in rows.items()},
                             weights_hash="0" * 8, device=torch.device("cpu"), dtype="float64",
                             resize="tf1-bilinear-299")
    monkeypatch.setattr(evaluation, "open_network", lambda *args, **kwargs: network)
    fakes = open_images("fakes.npy")
    for reals in (found, kept_ones):
        results = evaluation.evaluate(["fid", "sfid"], fakes=fakes, reals=reals, side=16, channels=3)
        values = {result.metric: result.score.value for result in results}
        for metric, layer, mean, covariance in (("fid", "2048", mu, sigma), ("sfid", "spatial", mu_s, sigma_s)):
            own = rows[layer].mean(0), np.cov(rows[layer], rowvar=False)
            expected = frechet_distance_from_statistics(*own, mean, covariance)
            assert values[metric] == pytest.approx(expected, rel=1e-9)
    with pytest.raises(UserError, match=r"kid needs real images, and stats:adm holds statistics only"):
        evaluation.evaluate(["kid"], fakes=fakes, reals=kept_ones, side=16, channels=3)


def test_names_that_are_not_kept_and_damaged_files(place):
    with pytest.raises(UserError, match=r"stats:none: no statistics are kept under that name. Kept: none; make some"):
        score("stats:none", network="random-vgg16")
    call("stats", "save", "reals.npy", "--device", "cpu", "--network", "random-vgg16", "--name", "noise")
    call("stats", "save", "fakes.npy", "--network", "random-vgg16", "--name", "noise")
    with pytest.raises(UserError, match=r"names 2 statistics: write one of stats:[0-9a-f]{8}, stats:"):
        score("stats:noise", network="random-vgg16")
    with pytest.raises(UserError, match=r"Did you mean 'noise'"):
        score("stats:noises", network="random-vgg16")
    path = kept()[0].path
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match="its numbers are not those that were saved"):
        open_reference(f"stats:{kept()[0].content[:8]}")


def test_guided_diffusions_inception_score_takes_splits_of_5000_in_order():
    from ganbench.metrics.maths.split_scores import split_scores
    from ganbench.metrics.metric import find_metric
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(12_000, 4)))
    metric = find_metric("inception_score")(compat="guided-diffusion")
    metric.update_features(logits)
    p, scores = logits.softmax(1).numpy(), []
    for start in (0, 5000, 10_000):
        part = p[start:start + 5000]
        scores.append(np.exp((part * (np.log(part) - np.log(part.mean(0)))).sum(1).mean()))
    assert split_scores(logits, 10, 5000) == pytest.approx(scores, rel=1e-12)
    assert metric.compute()["mean"] == pytest.approx(np.mean(scores), rel=1e-12)
    assert "splits=5000-each;shuffle=no" in metric.protocol()
