"""`ganbench doctor`: what this machine can do, and what is missing, each with the command that installs it."""

import importlib.util
import shutil
from pathlib import Path

import typer

from ganbench.environment import git_state, processor, usable_cores, versions

EXTRAS = {"tensorboard": "tensorboard", "ray": "ray", "slurm": "submitit", "onnx": "onnxruntime",
          "hf": "datasets", "lmdb": "lmdb", "video": "imageio_ffmpeg"}


def register(app: typer.Typer) -> None:
    """Add this file's commands to the command line."""
    app.command()(doctor)


def doctor() -> None:
    """What this machine can do: versions, devices, space, data sets, optional parts."""
    raise typer.Exit(examine())


def examine() -> int:
    """Print the findings. Returns the exit code: 0, or 1 if training cannot work here."""
    import torch
    print("versions    " + ", ".join(f"{k} {v}" for k, v in versions().items()))
    commit, dirty = git_state()
    changes = " with uncommitted changes" if dirty else ""
    print(f"code        {commit[:12] + changes if commit else 'installed, not a checkout'}")
    print(f"processor   {processor()}, {usable_cores()} cores usable, torch uses {torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            print(f"gpu {index}       {torch.cuda.get_device_name(index)}, {free / 1e9:.1f} of {total / 1e9:.1f} GB "
                  f"free, bf16 {'yes' if torch.cuda.is_bf16_supported() else 'no'}")
    else:
        print("gpu         none that torch can see: everything runs on the CPU, take small sides and presets")
    from ganbench.data import cache_dir
    cache = cache_dir()
    print(f"cache       {cache}, {_free(cache):.1f} GB free (set GANBENCH_CACHE to move it)")
    print(f"here        {Path.cwd()}, {_free(Path.cwd()):.1f} GB free")
    for extra, module in EXTRAS.items():
        if importlib.util.find_spec(module) is None:
            print(f"optional    {module} is not installed: pip install 'ganbench[{extra}]'")
    return 0 if _trains() else 1


def _free(path: Path) -> float:
    """GB free where a path is, or will be; 0 where that may not be looked at."""
    for place in (path, *path.absolute().parents):
        try:
            return shutil.disk_usage(place).free / 1e9
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            break
    return 0.0


def _trains() -> bool:
    """One tiny gradient on each device: the least that training needs."""
    import torch
    fine = True
    for name in ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]:
        try:
            weight = torch.ones(8, 1, 3, 3, device=name, requires_grad=True)
            torch.nn.functional.conv2d(torch.ones(1, 1, 8, 8, device=name), weight).sum().backward()
            correct = weight.grad is not None and bool((weight.grad == 36).all())
            print(f"check       a convolution and its gradient on {name}: {'right' if correct else 'WRONG'}")
        except RuntimeError as error:
            print(f"check       {name} cannot compute: {str(error).splitlines()[0]}")
            correct = False
        fine = fine and correct
    return fine
