"""How fast a GPU trains and scores: one table, in a few minutes on one card, and as CSV rows.

    python benchmarks/speed/gpu.py --csv results/speed/gpu.csv
    python benchmarks/speed/gpu.py --peer ~/src/pytorch_GAN_zoo --only pggan     theirs beside ours, in the same run
    python benchmarks/speed/gpu.py --check                                       the card's numbers against the CPU's
    python benchmarks/speed/gpu.py --tiny --device cpu                           a rehearsal: does it run?

Whole training steps of every family at its usual sides, recorded and eager, in every precision; then Inception, SWD,
Fréchet, KID and PRDC, torch-fidelity's Inception beside ours, and what a whole `ganbench run` makes of a bare step.
--peer takes a checkout of pytorch_GAN_zoo, of rosinality's style-based-gan-pytorch or of pytorch/examples as it comes.
"""

import argparse
import ast
import csv
import gc
import importlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ganbench import environment, plugins
from ganbench.bench.speed import Bench
from ganbench.errors import UserError
from ganbench.family import Clock, Family, ImageSpec, configure, find_family
from ganbench.metrics.functional import (
    frechet_distance,
    kernel_inception_distance,
    prdc,
    sliced_wasserstein_distance,
)
from ganbench.metrics.maths.arrays import allow_tf32
from ganbench.training.engine import TrainingEngine
from ganbench.training.recorded import Steps

COLUMNS = ["what", "side", "batch", "precision", "how", "per_second", "milliseconds", "memory_mb", "device",
           "torch", "note"]
GROWING = {"pggan": (4, 32, 128), "stylegan": (8, 32, 128)}  # measured where each side is stable; all others at SIDE
SIDE, BATCH = 64, 16
LARGEST = 128  # images a step of the other families, whose schedules have up to thousands
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", nargs="+", help="families by name, `metrics`, `peer`, `run`; default: everything")
    parser.add_argument("--precision", nargs="+", default=["tf32", "bf16"])
    parser.add_argument("--seconds", type=float, default=0.5, help="of one measurement")
    parser.add_argument("--peer", type=Path, action="append", default=[],
                        help="a checkout to be timed beside; repeatable")
    parser.add_argument("--check", action="store_true", help="compare with the CPU instead of timing")
    parser.add_argument("--tiny", action="store_true", help="small presets and counts: a rehearsal")
    parser.add_argument("--minutes", type=float, default=5.5,
                        help="nothing is begun after that, and `run` is ended; what is left is named")
    parser.add_argument("--csv", type=Path, help="append rows here as well")
    options = parser.parse_args()
    check_names(parser, options)
    options.until = time.monotonic() + 60 * options.minutes
    options.device = torch.device(options.device)
    rows = checks(options) if options.check else timings(options)
    print("  ".join(f"{name:>12}" for name in COLUMNS[:8]) + "  note")
    for row in rows:
        machine = {"device": environment.hardware(options.device), "torch": torch.__version__}
        row = dict.fromkeys(COLUMNS, "") | row | machine
        print("  ".join(f"{row[name]!s:>12}" for name in COLUMNS[:8]) + f"  {row['note']}", flush=True)
        if options.csv:
            add(options.csv, row)


def check_names(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End with one line where `--only` names what cannot be measured: before the first minute is spent."""
    if "peer" in (options.only or []) and not options.peer:
        parser.error("--only peer: name a checkout to be timed with --peer PATH")
    for name in set(options.only or []) - {"metrics", "peer", "run"}:
        try:
            find_family(name)
        except UserError as error:
            parser.error(f"--only {name}: {error}")


def add(path: Path, row: Row) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if not file.tell():
            writer.writeheader()
        writer.writerow(row)


# --- timings --------------------------------------------------------------------------------------------------------

def timings(options: argparse.Namespace) -> Iterator[Row]:
    """Rows as they are measured; what cannot be measured is a row that says why."""
    # what there are targets for comes first, in case the time does not suffice for all
    first = ["peer", *GROWING, "dcgan", "metrics", "run"]
    wanted = options.only or [*first, *(name for name in sorted(plugins.names("family")) if name not in first)]
    for name in wanted:
        if time.monotonic() > options.until:
            yield {"what": name, "note": f"left out: {options.minutes:g} minutes were over"}
        elif name == "peer":
            for path in options.peer:
                yield from peer_rows(path, options)
        elif name == "metrics":
            yield from metric_rows(options)
        elif name == "run":
            yield {"what": "ganbench run dcgan", "side": 32, "how": "the loop"} | attempt(lambda: run_row(options))
        else:
            yield from family_rows(name, options)


def family_rows(name: str, options: argparse.Namespace) -> Iterator[Row]:
    cls = find_family(name)
    preset = next((p for p in ("smoke", "laptop") if p in cls.presets), None) if options.tiny else None
    for side in (32,) if options.tiny else GROWING.get(name, (SIDE,)):
        for precision in options.precision:
            for record in (True, False) if options.device.type == "cuda" else (False,):
                how = "recorded" if record else "eager"
                row = {"what": name, "side": side, "precision": precision, "how": how}
                yield row | attempt(lambda: family_row(name, preset, side, precision, record, options))  # noqa: B023


def family_row(name: str, preset: str | None, side: int, precision: str, record: bool,
               options: argparse.Namespace) -> Row:
    """One family's whole training step, at the end of its schedule or where a growing one is stable at this side."""
    cls = find_family(name)
    config, chosen, _ = configure(cls, preset)
    full = max(side, 128) if name in GROWING and not options.tiny else side
    kimg = chosen.kimg or cls.kimg
    bench = Bench(cls, config, ImageSpec(full, 3, 10), device=options.device, precision=precision, total_kimg=kimg,
                  record=record)
    images = round(1000 * kimg)
    if full != side or (name in GROWING and not options.tiny):
        images = next((i for i in range(0, images, 100_000)
                       if bench.stage_at(i).side == side and not bench.stage_at(i).fade), images)
    batch = min(LARGEST, bench.stage_at(images).batch)
    batch = BATCH if name in GROWING and not options.tiny else batch
    speed = bench.measure(images, batch=batch, at_least=options.seconds)
    return {"side": speed.side, "batch": speed.batch, "per_second": f"{speed.images_per_second:.1f}",
            "milliseconds": f"{1000 * speed.seconds_per_step:.2f}",
            "memory_mb": f"{(speed.state_bytes + speed.activation_bytes) / 1e6:.0f}"}


def metric_rows(options: argparse.Namespace) -> Iterator[Row]:
    """Inception in images a second, distances in milliseconds a call, on tensors that lie on the device."""
    n, d = (64, 16) if options.tiny else (8192, 2048)
    device = options.device
    random = torch.Generator().manual_seed(0)
    x, y = (torch.rand(n, d, generator=random).to(device) for _ in range(2))
    pictures = [torch.randint(0, 256, (min(n, 4096), 3, 32 if options.tiny else 128, 32 if options.tiny else 128),
                              dtype=torch.uint8, generator=random).to(device) for _ in range(2)]
    subset = min(1000, n // 2)
    cases: dict[str, Callable[[], Any]] = {
        "swd": lambda: sliced_wasserstein_distance(*pictures, seed=0), "frechet": lambda: frechet_distance(x, y),
        "kid": lambda: kernel_inception_distance(x, y, subsets=10, subset_size=subset), "prdc": lambda: prdc(x, y)}
    for name, case in cases.items():
        yield {"what": name, "batch": n} | attempt(lambda: timed(case, 1, options))  # noqa: B023
    for precision in ("float32", "tf32", "bf16"):
        for what, measure in (("torch-fidelity", fidelity_row), ("inception", inception_row)):
            row = {"what": what, "side": 32, "precision": precision}
            yield row | attempt(lambda: measure(precision, options))  # noqa: B023


def inception_row(precision: str, options: argparse.Namespace) -> Row:
    """Features of 32x32 images, resizing included. Where the weights are not, random ones take as long."""
    from ganbench.metrics.networks import weight_files
    from ganbench.metrics.networks.features import open_network
    batch, note = 8 if options.tiny else 256, ""
    if weight_files.present("inception-v3-compat") is None:
        from torchvision.models import inception_v3  # the same convolutions by the same names
        with torch.no_grad():
            state = inception_v3(weights=None, aux_logits=False, init_weights=False).eval().state_dict()
        state = {key: value for key, value in state.items() if not key.startswith("fc.")}
        weight_files.load_weights, note = (lambda name: state), "random weights"
        weight_files.require = lambda name: weight_files.find_weights(name).files[0]
    images = torch.randint(0, 256, (batch, 3, 32, 32), dtype=torch.uint8, device=options.device)
    network = open_network("inception-v3-compat", ["2048"], device=options.device, dtype=precision)
    return {"batch": batch, "note": note} | timed(lambda: network(images), batch, options)


def fidelity_row(precision: str, options: argparse.Namespace) -> Row:
    """torch-fidelity's Inception, on random weights: its own code in float32 and with TF32, under autocast in bf16."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Untrained(FeatureExtractorInceptionV3):
        """The same network, without weights to read."""

        def load_state_dict(self, *arguments: Any, **kwargs: Any) -> Any:
            return None

    batch = 8 if options.tiny else 256
    with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        torch.save({}, file.name)
        network = Untrained("inception-v3-compat", ["2048"], file.name).to(options.device)
    images = torch.randint(0, 256, (batch, 3, 32, 32), dtype=torch.uint8, device=options.device)
    allow_tf32(precision == "tf32")
    with torch.no_grad(), torch.autocast(options.device.type, torch.bfloat16, enabled=precision == "bf16"):
        return {"batch": batch, "note": "random weights"} | timed(lambda: network(images), batch, options)


def run_row(options: argparse.Namespace) -> Row:
    """`ganbench run` with its data, log and checkpoints, from the second line of its log to the last, beside the bare
    step at the same batch."""
    kimg = 5 if options.tiny else 100
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "ganbench", "run", "dcgan", "--preset", "laptop", "--dataset", "digits",
                   "--side", "32", "--kimg", str(kimg), "--metric", "", "--results", "", "--out", f"{folder}/run",
                   "--device", str(options.device)]
        left = max(1.0, options.until - time.monotonic())
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=left)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"ended: {options.minutes:g} minutes were over") from None
        if done.returncode:
            raise RuntimeError(done.stderr[-150:])
        lines = [json.loads(line) for line in Path(folder, "run", "metrics.jsonl").read_text().splitlines()]
    begun, ended = lines[1], lines[-1]
    speed = (ended["images"] - begun["images"]) / (ended["seconds"] - begun["seconds"])
    cls = find_family("dcgan")
    config, _, _ = configure(cls, "laptop")
    bench = Bench(cls, config, ImageSpec(32, 1, 10), device=options.device, total_kimg=kimg, precision="auto")
    bare = bench.measure(0, at_least=options.seconds)
    return {"batch": bare.batch, "precision": bench.engine.precision, "per_second": f"{speed:.1f}",
            "milliseconds": f"{1000 * bare.images_per_step / speed:.2f}",
            "note": f"{speed / bare.images_per_second:.3f} of the bare step ({bare.images_per_second:.1f})"}


def timed(function: Callable[[], Any], images: int, options: argparse.Namespace) -> Row:
    """Calls until the time is up, after three that do not count."""
    sync = torch.cuda.synchronize if options.device.type == "cuda" else lambda: None
    if options.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(1 if options.tiny else 3):
        function()
    sync()
    calls, begun = 0, time.perf_counter()
    while calls == 0 or time.perf_counter() - begun < options.seconds:
        function()
        calls += 1
        if calls % 20 == 0:  # or the host runs far ahead of the card
            sync()
    sync()
    seconds = (time.perf_counter() - begun) / calls
    memory = torch.cuda.max_memory_allocated() / 1e6 if options.device.type == "cuda" else 0
    return {"per_second": f"{images / seconds:.1f}", "milliseconds": f"{1000 * seconds:.2f}",
            "memory_mb": f"{memory:.0f}"}


def attempt(measure: Callable[[], Row]) -> Row:
    """The measurement, or one line of why there is none."""
    try:
        return measure()
    except Exception as error:  # also others' code, and the other rows are wanted all the same
        return {"note": f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"}
    finally:
        gc.collect()  # networks, graphs and optimizers refer to each other
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


# --- others' code, as it comes --------------------------------------------------------------------------------------

def peer_rows(path: Path, options: argparse.Namespace) -> Iterator[Row]:
    """A checkout's training step at the sides of ours. PyTorch's own precision: TF32 in convolutions."""
    path, batch = path.expanduser(), BATCH
    if (path / "models" / "progressive_gan.py").is_file():
        name, make, sides = "pytorch_GAN_zoo", gan_zoo_step, GROWING["pggan"]
    elif (path / "model.py").is_file() and "StyledGenerator" in (path / "model.py").read_text(encoding="utf-8"):
        name, make, sides = "rosinality", rosinality_step, GROWING["stylegan"]
    elif (path / "dcgan" / "main.py").is_file():
        name, sides, batch = "pytorch/examples", (SIDE,), LARGEST

        def make(side: int, device: torch.device) -> Callable[[], Any]:
            return examples_step(path / "dcgan" / "main.py", device)
    else:
        yield {"what": str(path), "note": "neither pytorch_GAN_zoo, style-based-gan-pytorch nor pytorch/examples"}
        return
    sys.path.insert(0, str(path))
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = True, False
    for side in sides[:1] if options.tiny else sides:
        row = {"what": name, "side": side, "batch": batch, "precision": "as it comes", "how": "eager"}
        yield row | attempt(lambda: timed(make(side, options.device), batch, options))  # noqa: B023
    sys.path.remove(str(path))


def gan_zoo_step(side: int, device: torch.device) -> Callable[[], Any]:
    """pytorch_GAN_zoo's PGGAN with the paper's networks and losses."""
    module = importlib.import_module("models.progressive_gan")

    class Floats(module.ProgressiveGAN):
        """With its own optimizers; Adam wants both betas as floats today, and they are [0, 0.99] there."""

        def getOptimizerD(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.netD.parameters(), betas=(0.0, 0.99), lr=self.config.learningRate)

        def getOptimizerG(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.netG.parameters(), betas=(0.0, 0.99), lr=self.config.learningRate)

    model = Floats(dimLatentVector=512, depthScale0=512, miniBatchStdDev=True, lossMode="WGANGP",
                   lambdaGP=10.0, epsilonD=0.001, useGPU=device.type == "cuda", dimOutput=3)
    maps = {8: 512, 16: 512, 32: 512, 64: 256, 128: 128, 256: 64, 512: 32, 1024: 16}
    for level in range(3, side.bit_length()):
        model.addScale(maps[2 ** level])
    images = torch.rand(BATCH, 3, side, side, device=device) * 2 - 1
    return lambda: model.optimizeParameters(images)


def rosinality_step(side: int, device: torch.device) -> Callable[[], Any]:
    """rosinality's StyleGAN: the body of its training loop, with R1 at every step and style mixing."""
    module, k = importlib.import_module("model"), side.bit_length() - 3
    generator, critic = module.StyledGenerator(512).to(device), module.Discriminator(from_rgb_activate=True).to(device)
    running = module.StyledGenerator(512).to(device).requires_grad_(False)
    rates = [{"params": list(generator.generator.parameters())},
             {"params": list(generator.style.parameters()), "lr": 1e-5}]
    of_generator = torch.optim.Adam(rates, lr=1e-3, betas=(0.0, 0.99))
    of_critic = torch.optim.Adam(critic.parameters(), lr=1e-3, betas=(0.0, 0.99))
    stored = torch.rand(BATCH, 3, side, side, device=device) * 2 - 1
    softplus = torch.nn.functional.softplus

    def step() -> None:
        # the critic
        generator.requires_grad_(False)
        critic.requires_grad_(True).zero_grad()
        real = stored.clone().requires_grad_(True)
        scores = critic(real, step=k, alpha=1)
        softplus(-scores).mean().backward(retain_graph=True)
        gradient = torch.autograd.grad(scores.sum(), real, create_graph=True)[0]
        (5 * gradient.flatten(1).norm(2, dim=1).square().mean()).backward()
        z = torch.randn(2, 2, BATCH, 512, device=device)
        softplus(critic(generator(list(z[0]), step=k, alpha=1), step=k, alpha=1)).mean().backward()
        of_critic.step()
        # the generator, and its average
        generator.requires_grad_(True).zero_grad()
        critic.requires_grad_(False)
        softplus(-critic(generator(list(z[1]), step=k, alpha=1), step=k, alpha=1)).mean().backward()
        of_generator.step()
        for mine, new in zip(running.parameters(), generator.parameters()):
            mine.data.mul_(0.999).add_(new.data, alpha=0.001)

    return step


def examples_step(script: Path, device: torch.device) -> Callable[[], Any]:
    """pytorch/examples' DCGAN: its two networks and their initialization out of the script, and its loop's body, with
    the three values that it reads at every step."""
    parts = [node for node in ast.parse(script.read_text(encoding="utf-8")).body
             if isinstance(node, (ast.ClassDef, ast.FunctionDef))]
    names: dict[str, Any] = {"torch": torch, "nn": torch.nn, "nz": 100, "ngf": 64, "ndf": 64, "nc": 3}
    exec(compile(ast.Module(parts, []), str(script), "exec"), names)
    generator, critic = (names[name](1).to(device) for name in ("Generator", "Discriminator"))
    for network in (generator, critic):
        network.apply(names["weights_init"])
    of_generator, of_critic = (torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999))
                               for network in (generator, critic))
    loss = torch.nn.BCELoss()
    stored = torch.rand(LARGEST, 3, SIDE, SIDE).mul(2).sub(1)
    ones, zeros = torch.ones(LARGEST, device=device), torch.zeros(LARGEST, device=device)

    def step() -> None:
        # the critic: real, then fake
        critic.zero_grad()
        on_real = critic(stored.to(device))
        loss(on_real, ones).backward()
        on_real.mean().item()
        fake = generator(torch.randn(LARGEST, 100, 1, 1, device=device))
        on_fake = critic(fake.detach())
        loss(on_fake, zeros).backward()
        on_fake.mean().item()
        of_critic.step()
        # the generator
        generator.zero_grad()
        again = critic(fake)
        loss(again, ones).backward()
        again.mean().item()
        of_generator.step()

    return step


# --- the card's numbers against the CPU's ---------------------------------------------------------------------------

class Images:
    """The same random images and labels on any device."""

    def __init__(self, engine: TrainingEngine):
        self.engine = engine

    def next(self, side: int, batch: int) -> Any:
        from ganbench.family import Batch
        random = self.engine.random("check")
        images = random.uniform(batch, self.engine.family.images.channels, side, side, low=-1.0)
        return Batch(images, random.integers(batch, high=10))


class DrawsOfTheCPU(TorchFunctionMode):
    """What networks draw for themselves (noise, dropout) comes from the CPU's generator, whatever the device."""

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in (torch.randn, torch.rand) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return function(*arguments, **kwargs).to(device)
        if function is torch.nn.functional.dropout:
            return self.dropped(*arguments, **kwargs)
        return function(*arguments, **kwargs)

    def dropped(self, x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
        return x * (torch.rand(x.shape) >= p).to(x.device) / (1 - p) if training and p else x


def checks(options: argparse.Namespace) -> Iterator[Row]:
    """Per family the largest relative difference of any scalar over 20 steps, and of the weights after the first; per
    metric that of its value.

    Training amplifies rounding. So the CPU trains once more with weights that are moved by a part in a million: what
    differs by more than a part in a thousand, and by more than ten times as much as that moves it, is marked.
    """
    if not options.only or "metrics" in options.only:
        yield from metric_checks(options)
    for name in options.only or sorted(plugins.names("family")):
        if name != "metrics":
            late = {"note": f"left out: {options.minutes:g} minutes were over"}
            found = late if time.monotonic() > options.until else attempt(lambda: family_check(name, options))  # noqa: B023
            yield {"what": name, "how": "check"} | found


def family_check(name: str, options: argparse.Namespace) -> Row:
    cls, steps = find_family(name), 2 if options.tiny else 20
    preset = next((p for start in ("smoke", "laptop") for p in cls.presets if p.startswith(start)), None)
    (theirs, weights), (ours, others), (moved, elsewhere) = (
        trained(cls, preset, device, steps, shift)
        for device, shift in ((torch.device("cpu"), 0.0), (options.device, 0.0), (torch.device("cpu"), 1e-6)))
    worst, where = largest(ours, theirs)
    usual, _ = largest(moved, theirs)
    step, shifted = (float((found - weights).norm() / weights.norm()) for found in (others, elsewhere))
    mark = "DIFFERS " if worst > max(1e-3, 10 * usual) or step > max(1e-3, 10 * shifted) else ""
    return {"note": f"{mark}{worst:.1e} ({where}; moved weights: {usual:.1e}), weights after a step {step:.1e} "
                    f"({shifted:.1e})"}


def trained(cls: type[Family], preset: str | None, device: torch.device, steps: int,
            shift: float) -> tuple[list[dict[str, float]], torch.Tensor]:
    """The scalars of a family's first steps, begun with weights moved by that share, and its weights after the first.

    Eager, for what networks draw has to come from the CPU: that a recorded step is an eager one is tests/gpu's affair.
    """
    torch.manual_seed(0)
    config, _, _ = configure(cls, preset)
    family = cls(config, ImageSpec(32, 1, 10))
    with torch.no_grad():
        for weight in family.parameters():
            weight *= 1 + shift * torch.randn(weight.shape)
    torch.manual_seed(1)
    family.to(device)
    engine = TrainingEngine(family, Clock(dataset_size=1000, total_images=100_000), device=device, seed=0)
    taker, scalars, first = Steps(engine, Images(engine), record=False), [], torch.empty(0)
    for number in range(steps):
        stage = replace(family.stage(engine.clock))
        engine.enter(stage)
        engine.average()
        with DrawsOfTheCPU():
            scalars.append({key: float(value) for key, value in taker.take(stage).items()})
        engine.clock.steps += 1
        engine.clock.images += stage.batch
        if number == 0:
            first = torch.cat([weight.detach().flatten().cpu() for weight in family.parameters()])
    return scalars, first


def largest(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> tuple[float, str]:
    """The largest relative difference of any scalar, and which it is."""
    return max((difference(b[key], a[key]), f"{key} at step {number}")
               for number, (a, b) in enumerate(zip(theirs, ours)) for key in a)


def metric_checks(options: argparse.Namespace) -> Iterator[Row]:
    n, d = (64, 16) if options.tiny else (2048, 256)
    random = torch.Generator().manual_seed(0)
    x, y = torch.rand(n, d, generator=random), torch.rand(n, d, generator=random) + 0.1
    a, b = (torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=random) for _ in range(2))
    cases: dict[str, Callable[[torch.device], dict[str, float]]] = {
        "swd": lambda to: {str(k): v for k, v in sliced_wasserstein_distance(a.to(to), b.to(to), seed=0).items()},
        "frechet": lambda to: {"": frechet_distance(x.to(to), y.to(to))},
        "kid": lambda to: kernel_inception_distance(x.to(to), y.to(to), subsets=5, subset_size=n // 2),
        "prdc": lambda to: prdc(x.to(to), y.to(to))}

    def compared(case: Callable[[torch.device], dict[str, float]]) -> Row:
        ours, theirs = case(options.device), case(torch.device("cpu"))
        worst = max(difference(ours[key], theirs[key]) for key in theirs)
        return {"note": f"{'DIFFERS ' if worst > 1e-6 else ''}{worst:.1e}"}

    for name, case in cases.items():
        yield {"what": name, "how": "check"} | attempt(lambda: compared(case))  # noqa: B023


def difference(ours: float, theirs: float) -> float:
    """Relative, with 0.01 for what is near 0; 0 where both are equal, infinite ones included."""
    return 0.0 if ours == theirs or (ours != ours and theirs != theirs) else abs(ours - theirs) / (abs(theirs) + 0.01)


if __name__ == "__main__":
    main()
