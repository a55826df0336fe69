"""Augmentation for any family: values of the published pipelines, every pass of the critic, adaptation, resumption."""

import math

import pytest
import torch
from model_support import Reals, WatchedEngine, build, flat, same
from test_no_waits import no_waits, unwatched_optimizers  # noqa: F401 - a fixture
from torch.autograd import gradcheck, gradgradcheck

from ganbench import plugins
from ganbench.bench.suite import plan
from ganbench.data import Stream, open_dataset
from ganbench.data.stream import chosen_images
from ganbench.errors import UserError
from ganbench.family import Batch, find_family
from ganbench.random import Random
from ganbench.runs.checkpoint import list_checkpoints, load_checkpoint
from ganbench.training import ada, diffaugment, recorded, session
from ganbench.training.ada import ADA
from ganbench.training.augment import make_augmentation, parse_augmentation
from ganbench.training.augmentation import Augmentation
from ganbench.training.diffaugment import DiffAugment
from ganbench.training.document import resolve
from ganbench.training.recorded import Steps
from ganbench.training.run_options import RunOptions
from ganbench.training.scheduled import Scheduled

CPU = torch.device("cpu")
# As stylegan2-ada-pytorch (commit d4b2afe) gives them for its "bgc" with every draw at one percentile: channels, side,
# percentile, every third row and second column, the first twelve.
PUBLISHED = [
    (3, 8, 0.3, [0.0421, 0.2721, -0.6026, -0.0326, -0.3299, 0.2509, -0.1603, 0.2675, 0.5823, -0.7305, 0.1436, -0.1034]),
    (3, 8, 0.62, [-1.0442, -0.2033, 0.5412, -0.5259, -0.199, -0.7746, 1.0211, -0.4263, 0.3674, -1.1563, 1.1079,
                  -0.237]),
    (3, 8, 0.9, [1.4778, -0.9247, 0.1761, -1.9207, 3.008, -2.7891, 0.5057, -0.6772, 1.7113, -3.5944, 2.1963, -0.7718]),
    (1, 16, 0.3, [0.3577, 0.7411, 0.8073, 0.6377, 0.2675, -0.1846, -0.6127, -0.3247, -0.6995, -0.2634, 0.1977, 0.5842]),
    (1, 16, 0.62, [1.0224, 1.0153, 1.0165, 0.8799, -0.077, -0.9702, -1.1144, -1.1033, 0.062, 0.1746, 0.9855, 0.8099]),
    (1, 16, 0.9, [-1.6099, -1.5638, -1.5804, -0.9849, 0.061, 0.911, 1.0685, 0.5613, -0.1908, -1.1827, -1.6038,
                  -1.2489])]


def smallest(name):
    presets = find_family(name).presets
    return next((p for start in ("smoke", "laptop") for p in presets if p.startswith(start)), None)


ALL = sorted(plugins.names("family"))
TRAINED = [name for name in ALL if find_family(name).adversarial and not find_family(name).autoencoder_critic]


@pytest.mark.parametrize("channels, side, percentile, expected", PUBLISHED)
def test_ada_gives_the_published_codes_images(channels, side, percentile, expected):
    images = torch.sin(torch.arange(channels * side**2) * 0.37).view(1, channels, side, side)
    u = torch.full((1, 8), percentile)
    u[:, 5] = 0.5  # the code leaves the second rotation out where it fixes percentiles
    z = torch.erfinv(torch.full((1, 7), 2 * percentile - 1))
    out = ada.changed(images, u, torch.ones(1, 13, dtype=torch.bool), z)
    assert out[0, :, ::3, ::2].flatten()[:12].tolist() == pytest.approx(expected, abs=1e-4)


def test_without_any_transformation_ada_changes_nothing():
    pipeline, images = ADA({}), torch.rand(4, 3, 16, 16) * 2 - 1
    assert torch.allclose(pipeline(images, Random(0)), images, atol=1e-5)
    pipeline.p.fill_(0.5)
    assert not torch.allclose(pipeline(images, Random(0)), images, atol=0.1)


def test_each_gate_opens_with_its_probability():
    shares = ada.gates(Random(0).uniform(40_000, ada.GATES), torch.tensor(0.36)).float().mean(0)
    expected = torch.full((ada.GATES,), 0.36)
    expected[[4, 6]] = 1 - math.sqrt(0.64)  # either of the two rotations with 0.36
    assert torch.allclose(shares, expected, atol=0.01)


# As R3GAN's code (commit of January 2025) gives them, likewise, for what it trains with: the above and cutout, whose
# square is about the percentile; then how many values it puts out.
@pytest.mark.parametrize("channels, side, percentile, gone, expected", [
    (3, 8, 0.3, 48, [0.0, 0.0, -0.6026, -0.0326, 0.0, 0.0, -0.1603, 0.2675, 0.5823, -0.7305, 0.1436, -0.1034]),
    (3, 8, 0.62, 48, [-1.0442, -0.2033, 0.5412, -0.5259, -0.199, -0.7746, 0.0, 0.0, 0.3674, -1.1563, 0.0, 0.0]),
    (1, 16, 0.3, 64, [0.3577, 0.7411, 0.8073, 0.6377, 0.2675, -0.1846, -0.6127, -0.3247, -0.6995, 0.0, 0.0, 0.0])])
def test_the_scheduled_pipeline_gives_the_published_codes_images(channels, side, percentile, gone, expected):
    images = torch.sin(torch.arange(channels * side**2) * 0.37).view(1, channels, side, side)
    draws = torch.full((1, 8 + ada.GATES + 3), percentile)
    draws[:, 5], draws[:, 8:-2] = 0.5, 0.0  # all gates are open

    class Percentile(Random):
        def uniform(self, *shape, low=0.0):
            return draws

        def normal(self, *shape):
            return torch.erfinv(torch.full(shape, 2 * percentile - 1))

    pipeline = Scheduled({})
    pipeline.p.fill_(1.0)
    out = pipeline(images, Percentile(0))
    assert out[0, :, ::3, ::2].flatten()[:12].tolist() == pytest.approx(expected, abs=1e-4)
    assert int((out == 0).sum()) == gone


def test_the_schedule_of_p_is_the_published_codes():
    """Its values after so many of 20 million images, the colours' share, and a cutout's."""
    pipeline, engine = Scheduled({}), WatchedEngine(build("r3gan", "smoke", batch=512))
    for before, p in ((0, 8.893698e-10), (5_000_000 - 512, 0.08054563517), (10_000_000 - 512, 0.275),
                      (20_000_000 - 512, 0.55), (30_000_000, 0.55)):
        pipeline.shown.fill_(before)
        pipeline.observe(engine.family, Batch(torch.zeros(1), None), engine)
        assert float(pipeline.p) == pytest.approx(p, rel=1e-5)
    shares = ada.gates(Random(0).uniform(40_000, ada.GATES), torch.tensor(0.36), 0.5).float().mean(0)
    assert torch.allclose(shares[8:], torch.full((5,), 0.18), atol=0.01) and abs(float(shares[7]) - 0.36) < 0.01
    pipeline.p.fill_(0.25)
    out = pipeline(torch.ones(4000, 1, 8, 8), Random(0))
    assert float((out == 0).any(3).any(2).float().mean()) == pytest.approx(0.25, abs=0.04)


def slow_diffaugment(image, u):
    """Pixel by pixel, of one image (C,S,S), in the words of the paper's appendix."""
    channels, side, _ = image.shape
    x = image + (u[0] - 0.5)
    for i in range(side):
        for j in range(side):
            grey = x[:, i, j].mean()
            x[:, i, j] = (x[:, i, j] - grey) * 2 * u[1] + grey
    x = (x - x.mean()) * (u[2] + 0.5) + x.mean()
    most = side // 8
    down, right = (int(v * (2 * most + 1)) - most for v in (u[3], u[4]))
    size, out = side // 2, torch.zeros_like(x)
    top, left = (int(v * (side + 1)) - size // 2 for v in (u[5], u[6]))
    for i in range(side):
        for j in range(side):
            if 0 <= i + down < side and 0 <= j + right < side and not (top <= i < top + size
                                                                       and left <= j < left + size):
                out[:, i, j] = x[:, i + down, j + right]
    return out


@pytest.mark.parametrize("channels", [1, 3])
def test_diffaugment_pixel_by_pixel(channels):
    images, u = torch.randn(12, channels, 16, 16).double(), torch.rand(12, 7).double()
    u[0], u[1] = 0.0, 1 - 1e-9
    out = diffaugment.changed(images, u)
    for image, draws, changed in zip(images, u, out):
        torch.testing.assert_close(changed, slow_diffaugment(image.clone(), draws.tolist()))


def test_gradients_flow_through_to_the_second_order():
    x, on = torch.randn(2, 3, 8, 8).double().requires_grad_(), torch.ones(2, 13, dtype=torch.bool)
    u, z = torch.rand(2, 8).double(), torch.randn(2, 7).double()

    def cubed(images):
        return ada.changed(images, u, on, z).pow(3).mean((1, 2, 3))

    assert gradcheck(cubed, (x,), fast_mode=True) and gradgradcheck(cubed, (x,), fast_mode=True)

    def shown(images):
        return diffaugment.changed(images, u).pow(3).mean((1, 2, 3))

    assert gradcheck(shown, (x,), fast_mode=True) and gradgradcheck(shown, (x,), fast_mode=True)


class Blindfold(Augmentation):
    """Leaves nothing to be seen."""

    def forward(self, images, random):
        return images * 0


class Seeded(Reals):
    """Images by a seed, labels always the same."""

    def __next__(self):
        batch = super().__next__()
        return Batch(batch.images, batch.labels * 0)


@pytest.mark.parametrize("name", TRAINED)
def test_a_critic_sees_nothing_that_was_not_augmented(name):
    """With all that it is shown put out, what the reals were makes no difference to a step."""
    ends = []
    for seed in (1, 2):
        engine = WatchedEngine(build(name, smallest(name)))
        torch.manual_seed(0)
        engine.enter(engine.family.stage(engine.clock))
        Blindfold({}).step(engine.family, Seeded(engine, seed), engine)
        ends.append((flat(engine.family.critic), flat(engine.family.generator)))
    for one, other in zip(*ends):
        assert torch.equal(one, other) or (one.isnan().all() and other.isnan().all())
    assert engine.family.critic_entry not in vars(engine.family.critic), "taken away again"


@pytest.mark.parametrize("name, kind", [(name, kind) for name in TRAINED for kind in ("diffaugment", "ada")]
                         + [("r3gan", "scheduled,p=0.9")])
def test_no_step_reads_from_the_device(name, kind, unwatched_optimizers):  # noqa: F811
    engine = WatchedEngine(build(name, smallest(name)))
    engine.update = super(WatchedEngine, engine).update  # it reads losses
    try:
        augmentation = make_augmentation(kind, engine.family, CPU)
    except UserError:
        pytest.skip(f"{name} refuses {kind}")
    if kind != "diffaugment":
        augmentation.p.fill_(0.5)
    reals = Reals(engine)
    augmentation.step(engine.family, reals, engine)  # the first one makes matrices that are kept
    batches = iter([next(reals) for _ in range(12)])
    with no_waits():
        scalars = augmentation.step(engine.family, batches, engine)
    assert all(torch.isfinite(torch.as_tensor(value)) or key == "m_window" for key, value in scalars.items())
    assert set(scalars) <= {*engine.family.quantities, *augmentation.quantities}


def stepped(steps, engine, n):
    logs = []
    for _ in range(n):
        stage = engine.family.stage(engine.clock)
        engine.enter(stage)
        engine.average()
        logs.append({key: float(value) for key, value in steps.take(stage).items()})
        engine.clock.steps += 1
    return logs


class Images:
    def __init__(self):
        self.random, self.images = Random(1), 0

    def next(self, side, batch):
        self.images += batch
        return Batch(self.random.uniform(batch, 1, side, side, low=-1.0), torch.arange(batch) % 10)


@pytest.mark.parametrize("name, kind", [("stylegan2", "ada,kimg=0.1"), ("dcgan", "ada,kimg=0.1"),
                                        ("dcgan", "scheduled,kimg=0.1"), ("wgan_gp", "diffaugment"),
                                        ("pggan", "diffaugment")])
def test_a_rehearsed_step_equals_one_left_alone(name, kind, monkeypatch):
    monkeypatch.setattr(recorded, "WARM_UP", 0)
    ends = []
    for rehearse in (False, True):
        engine = WatchedEngine(build(name, smallest(name)))
        augmentation = make_augmentation(kind, engine.family, CPU)
        steps = Steps(engine, Images(), rehearse=rehearse, augmentation=augmentation)
        torch.manual_seed(5)
        ends.append((str(stepped(steps, engine, 6)), {**engine.state()[1], **augmentation.state_dict()}))
    assert any(record.taken > 1 for record in steps.records.values())
    assert ends[0][0] == ends[1][0] and same(ends[0][1], ends[1][1])


def test_p_follows_how_sure_the_critic_is():
    engine = WatchedEngine(build("dcgan", "smoke"))
    pipeline, batch = ADA({"target": 0.5, "kimg": 1.0}), next(Reals(engine))
    change = 4 * engine.stage.batch / 1000
    seen = []
    for sure in (100.0, -100.0):  # all reals taken for real, then for fake
        engine.family.critic_scores = lambda images, labels, score=sure: torch.full((len(images),), score)
        seen += [float(pipeline.observe(engine.family, batch, engine)["augment_p"]) for _ in range(8)]
    up = [0, 0, 0, change, change, change, change, 2 * change]
    down = [2 * change] * 3 + [change] * 4 + [0.0]
    assert seen == pytest.approx(up + down, abs=1e-6)
    assert float(pipeline.r) == -1.0


def test_in_bfloat16_the_augmentation_itself_is_not():
    engine = WatchedEngine(build("dcgan", "smoke"))
    engine.precision, seen = "bf16", []
    augmentation = DiffAugment({})
    plain = augmentation.forward
    augmentation.forward = lambda images, random: seen.append(images.dtype) or plain(images, random)
    with engine.autocast():
        logs = augmentation.step(engine.family, Reals(engine), engine)
    assert set(seen) == {torch.float32} and len(seen) >= 3
    assert all(math.isfinite(float(value)) for value in logs.values())


def test_what_cannot_be_augmented_is_refused_in_one_line():
    for name, kind, why in (("vae", "diffaugment", "no critic"), ("pixelcnn", "ada", "no critic"),
                            ("ebgan", "diffaugment", "gives images back"), ("wgan", "ada", "sign of its scores"),
                            ("r3gan", "ada", "sign of its scores")):
        with pytest.raises(UserError, match=why) as caught:
            make_augmentation(kind, build(name, smallest(name)), CPU)
        assert "\n" not in str(caught.value)
    for text, why in (("adda", "mean 'ada'"), ("ADA", "mean 'ada'"), ("ada,kims=3", "no setting 'kims'"),
                      ("ada,kimg=x", "is no number"), ("ada,kimg=0", "a positive number"), ("diffaugment,p=1", "none"),
                      ("ada,target=2", "above 0 and below 1"), ("ada,target=1", "above 0 and below 1"),
                      ("scheduled,p=1.5,kimg=0.016", "above 0 and at most 1"), ("scheduled,colour=3", "at most 1"),
                      ("ada,kimg=1,kimg=2", "kimg is given twice"), ("ada,target=nan", "a positive number")):
        with pytest.raises(UserError, match=f"--augment {text}: .*{why}") as caught:
            parse_augmentation(text)
        assert "\n" not in str(caught.value)
    assert parse_augmentation("scheduled,p=1,colour=1") == ("scheduled", {"p": 1.0, "colour": 1.0})


def test_two_augmentations_are_refused_and_one_said_twice_is_taken():
    options = RunOptions("dcgan", dataset="digits", preset="smoke", side=32, augment="ada", device="cpu", results=None,
                         overrides={"augment": "diffaugment"})
    with pytest.raises(UserError, match="--augment ada and --set augment=diffaugment") as caught:
        resolve(options)
    assert "\n" not in str(caught.value)
    options.overrides["augment"] = "ada"
    assert resolve(options).config.augment == "ada"


def test_a_run_that_cannot_be_augmented_leaves_no_folder(tmp_path):
    with pytest.raises(UserError, match="--augment ada cannot be used with wgan"):
        session.run(RunOptions("wgan", dataset="digits", preset="smoke", side=32, augment="ada", steps=2,
                               out=str(tmp_path / "run"), results=None, metrics=[], device="cpu", quiet=True))
    assert not (tmp_path / "run").exists()
    suite = tmp_path / "suite.toml"
    suite.write_text('title = "x"\nbudget = {steps = 2}\n[evaluation]\nmetrics = ["swd"]\nn = 100\n[[dataset]]\n'
                     'name = "digits"\n[[family]]\nname = "vae"\npreset = "smoke"\nset = {augment = "ada"}\n')
    with pytest.raises(UserError, match="line 8: vae on digits: --augment ada cannot be used with vae"):
        plan(suite)


def test_a_run_with_ada_on_a_tenth_goes_on_bit_by_bit(tmp_path):
    def options(place, steps, **more):
        return RunOptions("dcgan", dataset="digits", preset="smoke", side=32, augment="ada,kimg=0.2", steps=steps,
                          out=str(tmp_path / place), results=None, metrics=[], device="cpu", quiet=True,
                          overrides={"train_images": "100"}, **more)

    whole = session.run(options("whole", 10))
    session.run(options("parts", 5))
    parts = session.resume(tmp_path / "parts", steps=10, quiet=True)
    ends = [load_checkpoint(list_checkpoints(end.path / "checkpoints")[-1])[1] for end in (whole, parts)]
    assert same(*ends) and float(ends[0]["augment/seen"][0]) == 2.0
    assert "augment_p" in (whole.path / "metrics.jsonl").read_text(encoding="utf-8")


def test_a_choice_of_images():
    a, b = chosen_images(1000, 100), chosen_images(1000, 200)
    assert len(set(a)) == 100 and set(a) <= set(b) and max(b) < 1000 and (a[1:] > a[:-1]).all()
    assert chosen_images(5).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(UserError, match="at most 5"):
        chosen_images(5, 6)


def test_a_stream_draws_the_chosen_images_alone():
    store = open_dataset("digits", side=16)
    stream = Stream(store, 3, limit=20)
    chosen = {store.level(16)[i].tobytes() for i in stream.chosen}
    drawn = [stream.next(16, 10) for _ in range(4)]
    seen = [(image * 127.5 + 127.5).round().byte().numpy().tobytes() for batch in drawn for image in batch.images]
    assert set(seen) == chosen and all(seen.count(one) == 2 for one in chosen), "each once an epoch"
    assert stream.chosen.tolist() == chosen_images(store.n, 20).tolist()


def test_images_that_are_not_square_or_not_of_colours():
    """ADA's geometry of a wide image is that of its transpose; channels need not be colours."""
    torch.manual_seed(0)
    x, on, z = torch.randn(1, 2, 8, 16), torch.zeros(1, 13, dtype=torch.bool), torch.zeros(1, 7)
    on[:, 7] = True  # a shift by parts of a pixel
    z[:, 2:4] = torch.tensor([0.3, -0.2])
    out = ada.changed(x, torch.zeros(1, 8), on, z)
    other = ada.changed(x.transpose(2, 3), torch.zeros(1, 8), on, z[:, [0, 1, 3, 2, 4, 5, 6]]).transpose(2, 3)
    torch.testing.assert_close(out, other, rtol=1e-4, atol=1e-4)
    assert diffaugment.changed(x, torch.rand(1, 7)).shape == x.shape
