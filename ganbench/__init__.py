"""ganbench: train, evaluate and compare GAN families.

    ganbench.evaluate("fakes/", "reals/", metrics=["fid", "kid", "swd"])     scores with intervals
    ganbench.features("pictures/", network="inception-v3-compat")             what a feature network sees
    ganbench.create("dcgan", side=32)                                         networks of a family
    ganbench.load_run("runs/...")                                             a finished run, ready to sample
    ganbench.load_results("results/")                                         a tidy pandas DataFrame
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ganbench.family import create
    from ganbench.records import load_results
    from ganbench.runs.evaluation import evaluate, features
    from ganbench.runs.run_folder import load_run

__version__ = "0.1.0"
__all__ = ["create", "evaluate", "features", "load_results", "load_run"]
_HOME = {"create": "ganbench.family", "evaluate": "ganbench.runs.evaluation", "features": "ganbench.runs.evaluation",
         "load_results": "ganbench.records", "load_run": "ganbench.runs.run_folder"}

# In a checkout the zoo is the folder models/ beside this package, and the link to it is missing where the checkout came
# from an archive or lies on Windows. Python started there finds this package first, so it must find the zoo beside it.
_BESIDE = Path(__file__).parent.parent
if not Path(__file__).with_name("models").is_dir() and (_BESIDE / "models" / "__init__.py").is_file():
    __path__.append(str(_BESIDE))


def __getattr__(name: str) -> Any:
    # Imported late: `ganbench --help` must not wait for torch.
    if name in _HOME:
        from importlib import import_module
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'ganbench' has no attribute {name!r}")
