"""bf16 is sound for every family: the losses are those of float32, at the first steps and, slowly, over 200."""

import math
import statistics

import pytest
import torch
from model_support import Reals
from test_no_waits import CASES, engine_of, quickest
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ganbench import plugins
from ganbench.models.nn import logistic_mixture, losses
from ganbench.models.nn.layers import MinibatchDiscrimination

FAMILIES = sorted(plugins.names("family"))
# Shares of a minibatch, which jump when one sample passes a border
COUNTS = {"accuracy_real", "accuracy_fake", "accuracy_classes", "order", "clipped", "hinge_active", "active_units"}


# What bfloat16's eight bits do not do for: in losses, means and sums of many small terms; anywhere, exponentials and
# logarithms, for which their arguments' last digits count.
REDUCTIONS = {"sum", "mean", "var", "var_mean", "std", "std_mean", "norm", "linalg_vector_norm", "cumsum", "prod"}
EXPONENTIALS = {"exp", "expm1", "log", "log1p", "logsumexp", "_softmax", "_log_softmax", "softplus",
                "log_sigmoid_forward", "binary_cross_entropy_with_logits", "nll_loss_forward", "nll_loss2d_forward"}
# further settings with other losses
LOSSES = [("vae", "smoke", {"likelihood": "bernoulli"}), ("vae", "smoke", {"net": "infogan"}),
          ("vae", "smoke", {"net": "mlp"}), ("ebgan", "smoke", {"energy": "mse_mean"}),
          ("began", "smoke", {"eta": 2}), ("dcgan", "smoke", {"loss": "minimax"}),
          ("wgan_gp", "resnet32_labels", {"dim": 4, "batch": 4, "generator_batch": 4, "n_critic": 1}),
          ("sngan", "smoke", {"loss": "logistic"})]


class Narrow(TorchDispatchMode):
    """Notes which of those get bfloat16 in a forward computation."""

    def __init__(self):
        super().__init__()
        self.found, self.depth, self.hooks = set(), 0, []

    def __enter__(self):
        self.hooks = [nn.modules.module.register_module_forward_pre_hook(lambda *_: self.deeper(1)),
                      nn.modules.module.register_module_forward_hook(lambda *_: self.deeper(-1))]
        return super().__enter__()

    def __exit__(self, *error):
        for hook in self.hooks:
            hook.remove()
        return super().__exit__(*error)

    def deeper(self, change):
        self.depth += change

    def __torch_dispatch__(self, function, types, arguments=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::").removesuffix("_")
        watched = EXPONENTIALS if self.depth else EXPONENTIALS | REDUCTIONS
        first = arguments[0] if arguments else None
        if (name in watched and isinstance(first, torch.Tensor) and first.dtype is torch.bfloat16
                and torch._C._current_graph_task_id() == -1):  # not in a backward pass
            self.found.add(name)
        return function(*arguments, **(kwargs or {}))


@pytest.mark.parametrize("name, preset, settings", CASES + LOSSES, ids=str)
def test_no_loss_is_computed_in_bfloat16(name, preset, settings):
    engine = engine_of(name, preset, settings, "bf16")
    reals, narrow = Reals(engine), Narrow()
    engine.enter(engine.family.stage(engine.clock))
    with narrow, engine.autocast():
        scalars = engine.family.step(reals, engine)
    assert not narrow.found
    narrow_logs = {key for key, value in scalars.items() if getattr(value, "dtype", None) is torch.bfloat16}
    assert not narrow_logs


def test_that_watch_sees_bfloat16():
    narrow, x = Narrow(), torch.ones(3, dtype=torch.bfloat16)
    with narrow:
        x.mean(), x.float().exp(), nn.AvgPool1d(1)(x[None]), nn.Softmax(0)(x)
    assert narrow.found == {"mean", "_softmax"}


def test_losses_under_autocast_are_those_of_float32():
    """Of inputs that bfloat16 holds exactly, so that all of a difference would be the loss's own."""
    torch.manual_seed(0)
    code = (torch.randn(16, 256) + 0.05).bfloat16()
    layer = MinibatchDiscrimination(64, 4, 5)
    layer.T.data.normal_(0, 0.12)
    features = torch.randn(16, 64).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        pulling, closeness = losses.pulling_away(code), layer(features)[:, 64:]
    # by the papers' formulas, in float64
    unit = code.double() / code.double().norm(dim=1, keepdim=True)
    cosines = (unit @ unit.T).square()
    assert float(pulling) == pytest.approx(float(cosines.sum() - 16) / (16 * 15), rel=1e-4)
    m = (features.double() @ layer.T.detach().double()).unflatten(1, (4, 5))
    expected = torch.exp(-(m[:, None] - m[None]).abs().sum(3)).sum(1) - 1
    torch.testing.assert_close(closeness.double(), expected, rtol=1e-4, atol=1e-6)


def test_the_vaes_divergence_under_autocast_is_that_of_float32():
    """Log variances near 0 are where exp(v) - 1 - v has no digit left in bfloat16."""
    engine = engine_of("vae", "smoke", {}, "bf16")
    vae = engine.family
    variance = torch.tensor([0.05, 0.01, -0.01, 0.0]).repeat(2, vae.config.latent // 4).bfloat16()
    vae.encoder = nn.Module()
    vae.encoder.forward = lambda pixels: torch.cat([torch.zeros_like(variance), variance], 1)
    with engine.autocast():
        _, kl, _ = vae.bound_by_image(torch.zeros(2, 1, 32, 32), torch.zeros(2, vae.config.latent),
                                      torch.zeros(2, 1, 32, 32))
    v = variance[0].double()
    assert kl.tolist() == pytest.approx([float((v.exp() - 1 - v).sum() / 2)] * 2, rel=1e-4)


def test_the_mixtures_parameters_are_finer_than_bfloat16():
    """Near 1, bfloat16's numbers are half a grey level apart: a mean must be able to lie between them."""
    engine = engine_of("pixelcnnpp", "smoke", {}, "bf16")
    with engine.autocast():
        parameters = engine.family.generator(torch.rand(2, 1, 32, 32))
    _, means, _, _ = logistic_mixture.split(parameters, 1)
    assert means.dtype is torch.float32 and float((means - means.bfloat16()).abs().max()) > 0


def curves(name, precision, steps):
    """The logged scalars of a run on noise: name -> values."""
    engine = engine_of(name, quickest(name), {}, precision)
    reals = Reals(engine)
    torch.manual_seed(1)
    found = {}
    for _ in range(steps):
        engine.enter(engine.family.stage(engine.clock))
        engine.average()
        with engine.autocast():
            scalars = engine.family.step(reals, engine)
        engine.clock.steps += 1
        for key, value in scalars.items():
            found.setdefault(key, []).append(float(value))
    assert engine.read_skipped() == {}
    return {key: values for key, values in found.items() if key not in COUNTS and all(map(math.isfinite, values))}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_first_steps_in_bf16_are_those_of_float32(name):
    engines = {precision: engine_of(name, quickest(name), {}, precision) for precision in ("bf16", "fp32")}
    reals = {precision: Reals(engine) for precision, engine in engines.items()}
    for step in range(3):
        # each step from equal weights: Adam's first update is the sign of a gradient, and where that is next to nothing
        # the two go opposite ways (2% of StyleGAN's weights), after which equal arithmetic gives other losses too
        engines["fp32"].family.load_state_dict(engines["bf16"].family.state_dict())
        found = {}
        for precision, engine in engines.items():
            torch.manual_seed(step)
            engine.enter(engine.family.stage(engine.clock))
            engine.average()
            with engine.autocast():
                found[precision] = engine.family.step(reals[precision], engine)
            engine.clock.steps += 1
            assert engine.read_skipped() == {}
        assert found["bf16"].keys() == found["fp32"].keys()
        for key in found["bf16"].keys() - COUNTS:
            ours, theirs = (float(found[precision][key]) for precision in ("bf16", "fp32"))
            # as far as bfloat16's 8 bits let it; noise inside networks is drawn in their precision, and so is another
            assert ours == pytest.approx(theirs, rel=0.1, abs=0.06, nan_ok=True), (step, key)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_loss_curves_in_bf16_are_those_of_float32(name):
    ours, theirs = curves(name, "bf16", 200), curves(name, "fp32", 200)
    for key in (key for key in ours if key.endswith("loss") or key in ("nll", "bits_per_dim", "m_global")):
        for part in (slice(0, 50), slice(50, 200)):
            a, b = ours[key][part], theirs[key][part]
            spread = statistics.pstdev(b)
            assert statistics.fmean(a) == pytest.approx(statistics.fmean(b), rel=0.15, abs=spread + 0.05), (key, part)
