"""Generators from elsewhere as sets of images: TorchScript, ONNX, or any Python callable `module:callable`.

Networks take latents z ~ N(0, 1), float32 (B,d) or (B,d,1,1), and give images, uint8 or float, in [-1,1] unless a range
is named. A callable takes (n, seed) and gives n images of either kind; tensors or arrays, (n,C,S,S).
"""

import hashlib
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganbench.errors import Diverged, UserError, is_out_of_memory
from ganbench.metrics.images.sets import GeneratedSet
from ganbench.metrics.networks.compat import MODES, Compat
from ganbench.random import Random, derived_seed
from ganbench.records import DEFAULT_N

LATENT_NAMES = ("latent_dim", "z_dim", "nz", "latents", "latent_size")


@dataclass(frozen=True)
class Output:
    """How a generator's numbers become bytes.

    compat: whose rounding. value_range: black and white as floats; None = (-1, 1), unless the numbers say otherwise.
    """

    compat: Compat = MODES["ganbench"]
    value_range: tuple[float, float] | None = None

    def as_bytes(self, images: Any, n: int, description: str, *, warnings: list[str] | None = None) -> Tensor:
        """Checked images, uint8 (n,C,S,S) on the CPU. warnings: given with the first of a set; takes what is doubtful.

        Raises UserError for other shapes, and for floats that are out of range, or in a range that is not clear.
        """
        images = torch.from_numpy(images) if isinstance(images, np.ndarray) else images
        if not isinstance(images, Tensor) or images.ndim != 4 or len(images) != n or images.shape[1] not in (1, 3) \
                or images.shape[2] != images.shape[3]:
            shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise UserError(f"{description} gave {shape} where {n} images (n,1 or 3,S,S) were asked for")
        images = images.detach().cpu()
        # bytes are taken as they are
        if images.dtype == torch.uint8:
            if self.value_range is not None:
                raise UserError(f"{description} gives bytes: leave out the range, which is for floats")
            return images
        # floats: in the range that was named, or in [-1,1] if nothing speaks against it
        low, high = self.value_range or (-1.0, 1.0)
        least, most, slack = float(images.min()), float(images.max()), (high - low) / 4
        seen = f"{description} gives {str(images.dtype).removeprefix('torch.')} numbers in [{least:g}, {most:g}]"
        if not images.is_floating_point() or most > high + slack or least < low - slack:
            raise UserError(f"{seen}: give floats in [{low:g},{high:g}], or uint8, or say with --range BLACK,WHITE "
                            "(in Python value_range) what they are")
        # images of [-1,1] have some black in 64 of them; those of [0,1] may dip a little below 0
        if warnings is not None and self.value_range is None and (least >= 0 or (least > -0.25 and most > 0.5)):
            raise UserError(f"{seen}, as if black were 0: say with --range 0,1 (in Python value_range=(0, 1)) that it "
                            "is, or with --range=-1,1 that it is -1")
        if warnings is not None and most - least < (high - low) / 2:
            warnings.append(f"{seen}, less than half of [{low:g},{high:g}]: the images are pale, unless --range "
                            "BLACK,WHITE (in Python value_range) says otherwise")
        return self.compat.quantise((images.float() - low) * (2 / (high - low)) - 1 if self.value_range else images)


AS_USUAL = Output()


def from_callable(spec: str, n: int | None, seed: int, output: Output = AS_USUAL) -> GeneratedSet:
    """`module:callable`, found as Python finds modules, or in the present folder."""
    module_name, _, attribute = spec.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        target: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(f"cannot import '{module_name}' of '{spec}' ({error}): run from its folder, "
                        "or install it") from None
    except Exception as error:  # a user's own module
        raise _failure(f"'{module_name}' cannot be imported", error) from error
    # the callable in the module, also as an attribute of an attribute
    for part in attribute.split("."):
        if not hasattr(target, part):  # a user's own module: the name was typed, and may be wrong
            raise UserError(f"'{module_name}' has nothing called '{attribute}': write MODULE:CALLABLE")
        target = getattr(target, part)  # found by the name that the user gave
    if not callable(target):
        raise UserError(f"'{spec}' is not callable: it has to be a function of (n, seed) that gives n images")

    def make(size: int, number: int) -> Any:
        try:
            return target(size, number)
        except (UserError, Diverged):
            raise
        except Exception as error:  # a user's own function
            if is_out_of_memory(error):
                raise
            raise _failure(f"'{spec}' failed when it was called with (n, seed)", error) from error

    return from_function(make, n, seed, spec, output)


def _failure(what: str, error: Exception) -> UserError:
    """What went wrong in a user's own code, and where, in one line."""
    at = traceback.extract_tb(error.__traceback__)[-1]
    return UserError(f"{what}: {type(error).__name__}: {' '.join(str(error).split())[:200]} "
                     f"({at.filename}:{at.lineno})")


def from_function(make: Callable[[int, int], Any], n: int | None, seed: int, description: str,
                  output: Output = AS_USUAL) -> GeneratedSet:
    """A function (n, seed) -> n images, as the module's docstring has them."""
    return _from_batches(lambda size, number: make(size, derived_seed(seed, "callable", number)), n, description,
                         output)


def from_torchscript(path: Path, n: int | None, seed: int, device: torch.device, latent: int | None,
                     output: Output = AS_USUAL) -> GeneratedSet:
    """A network of latents in TorchScript. latent: how many it takes, where it has no attribute that says so."""
    try:
        network = torch.jit.load(str(path), map_location=device).eval()
    except Exception as error:  # a damaged file raises more than RuntimeError
        raise UserError(f"cannot read {path} as TorchScript ({(str(error).splitlines() or ['damaged'])[0]})") from None
    # the number of latents, where the network has an attribute that says it: there is no other place to ask
    known = None
    for name in LATENT_NAMES:
        if known is None and hasattr(network, name):  # a user's own network, which has no base class of ours
            known = int(getattr(network, name))  # its attribute has one of several usual names
    size = latent or known
    shape = None if size is None else (size,)

    def run(z: Tensor) -> Tensor:
        with torch.no_grad():
            return network(z.to(device))

    return _from_latents(run, shape, n, seed, path, output)


def from_onnx(path: Path, n: int | None, seed: int, latent: int | None, output: Output = AS_USUAL) -> GeneratedSet:
    """A network of latents in ONNX, on the CPU. latent: how many it takes, where the file leaves that open."""
    try:
        import onnxruntime
    except ImportError:
        raise UserError(f"to score {path}, ONNX Runtime is needed: pip install 'ganbench[onnx]'") from None
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:
        raise UserError(f"cannot read {path} as ONNX ({str(error).splitlines()[0]})") from None
    entry = session.get_inputs()[0]
    fixed = tuple(entry.shape[1:]) if all(isinstance(length, int) for length in entry.shape[1:]) else None
    shape = fixed if latent is None else (latent,)
    return _from_latents(lambda z: session.run(None, {entry.name: z.numpy()})[0], shape, n, seed, path, output)


def _from_latents(run: Callable[[Tensor], Any], shape: tuple[int, ...] | None, n: int | None, seed: int, path: Path,
                  output: Output) -> GeneratedSet:
    """A network's images. They follow from its file, the seed and the number of latents, so these are the content hash.

    shape: of one latent; None: not known, which is an error.
    """
    if shape is None:
        raise UserError(f"{path} does not say how many latents it takes: name the number with --latent")

    def make(size: int, number: int) -> Any:  # a stream a batch is fine, since `_from_batches` fixes their size
        try:
            return run(Random(derived_seed(seed, "sample", number)).normal(size, *shape))
        except Exception as error:  # a network of other latents, or of a damaged file, raises anything
            reason = " ".join(str(error).split())[-120:]
            raise UserError(f"{path} gives no images for latents of {'x'.join(map(str, (size, *shape)))} ({reason}): "
                            "--latent names their number") from error

    content = hashlib.sha256(path.read_bytes())
    content.update(repr((n or DEFAULT_N, seed, shape, output.compat.rounding, output.value_range)).encode())
    return _from_batches(make, n, str(path), output, content.hexdigest())


def _from_batches(make: Callable[[int, int], Any], n: int | None, description: str, output: Output,
                  content_hash: str | None = None) -> GeneratedSet:
    """make(size, number of the batch) -> images. Batches are made with a fixed size, whatever size is asked for later.
    """
    n, chunk = n or DEFAULT_N, 64
    # the first batch tells the shape; it is handed out again at the beginning of each pass
    warnings: list[str] = []
    first = output.as_bytes(make(min(chunk, n), 0), min(chunk, n), description, warnings=warnings)

    def made() -> Iterator[Tensor]:
        yield first
        for number, start in enumerate(range(len(first), n, chunk), start=1):
            size = min(chunk, n - start)
            images = output.as_bytes(make(size, number), size, description)
            if images.shape[1:] != first.shape[1:]:
                raise UserError(f"{description} gives images of shapes {tuple(first.shape[1:])} and "
                                f"{tuple(images.shape[1:])}")
            yield images

    images = GeneratedSet(lambda size: rebatched(made(), size), n=n, side=first.shape[-1], channels=first.shape[1],
                          description=description, content_hash=content_hash, rounding=output.compat.rounding)
    images.warnings += warnings
    return images


def rebatched(batches: Iterator[Tensor], size: int) -> Iterator[Tensor]:
    """The same images in batches of another size."""
    waiting: list[Tensor] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += len(batch)
        # as many whole batches as there are images for
        while count >= size:
            joined = torch.cat(waiting)
            yield joined[:size]
            waiting, count = [joined[size:]], count - size
    if count:
        yield torch.cat(waiting)
