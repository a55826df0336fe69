"""How families, metrics and data sources are found.

An entry point in one of the groups below names a *package*; every public module in it is one plugin, called by its
file name, and imported only when it is used. ganbench's own zoo comes in through the same door.
"""

import ast
import hashlib
import importlib
import importlib.util
import inspect
import io
import pkgutil
import sys
import tokenize
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from ganbench.errors import Diverged, Stopped, UserError, is_out_of_memory, nearest

T = TypeVar("T")
GROUPS = {"family": "ganbench.families", "metric": "ganbench.metrics", "dataset": "ganbench.datasets"}


def canonical(name: str) -> str:
    """Both `wgan-gp` and `wgan_gp` name the file wgan_gp.py. The path of a file of one's own stays as it is."""
    name = name.strip()
    return name if name.endswith(".py") else name.lower().replace("-", "_")


def plugin_label(name: str) -> str:
    """What a plugin is called in settings and in rows: its name, or that of its file.

    Examples:
        >>> plugin_label("precision-recall"), plugin_label("/home/me/My-Metric.py")
        ('precision_recall', 'my_metric')
    """
    return canonical(Path(name).stem if name.endswith(".py") else name)


@cache
def names(kind: str) -> dict[str, str]:
    """Map each plugin's name to its module's dotted path, without importing any of them."""
    found: dict[str, str] = {}
    entries = sorted(entry_points(group=GROUPS[kind]), key=lambda e: (e.dist is None or e.dist.name != "ganbench"))
    if not entries:  # a checkout that was never installed: our own would be here
        raise UserError(f"ganbench is not installed for {sys.executable}, so its {kind} plugins cannot be found: "
                        f"run `python -m pip install -e {Path(__file__).parent.parent}`")
    for entry in entries:
        try:
            spec = importlib.util.find_spec(entry.value)
        except ModuleNotFoundError:  # not even its parent package is there
            spec = None
        if spec is None or not spec.submodule_search_locations:
            raise UserError(f"entry point '{entry.name}' in group {GROUPS[kind]} names '{entry.value}', "
                            "which is not an importable package: fix it in that project's pyproject.toml")
        for module in pkgutil.iter_modules(spec.submodule_search_locations):
            if module.ispkg or module.name.startswith("_"):
                continue
            path = f"{entry.value}.{module.name}"
            if found.setdefault(module.name, path) != path:
                raise UserError(f"two packages provide the {kind} '{module.name}': {found[module.name]} and {path}; "
                                "rename one of the files")
    return dict(sorted(found.items()))


def load_plugin(kind: str, name: str, base: type[T]) -> type[T]:
    """Import the plugin `name` and return its class: the one subclass of `base` written in that module.

    `name` may also be the path of a single Python file. Raises UserError for an unknown name, with the nearest one.
    """
    if name.endswith(".py"):
        return load_file(name, base)
    known = names(kind)
    if canonical(name) not in known:
        raise UserError(f"unknown {kind} '{name}'.{nearest(canonical(name), known)} "
                        f"Known: {', '.join(known)} (see `ganbench list`)")
    return _only_subclass(importlib.import_module(known[canonical(name)]), base)


def load_file(path: str, *bases: type[T]) -> type[T]:
    """The one class in a Python file that is of one of these kinds. Raises UserError where there is not just one."""
    return _only_subclass(_module_from_file(Path(path)), *bases)


def _module_from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    name = f"ganbench_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # so that dataclasses and pydantic can resolve the module's own names
    try:
        spec.loader.exec_module(module)
    except UserError:
        raise
    except Exception as error:  # whatever the file's own code does wrong is for its author to correct
        sys.modules.pop(name, None)
        reason = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())
        raise UserError(f"{_where(error, path)}: {type(error).__name__}: {reason}: "
                        "this file cannot be imported, correct it") from error
    return module


@contextmanager
def plugin_faults(find: Callable[[], type]) -> Iterator[None]:
    """Inside, what a plugin from outside ganbench does wrong becomes a UserError that tells its author where.

    find: gives the plugin's class, asked for only after an error. Those that memory ran out stay as they are.
    """
    try:
        yield
    except (UserError, Diverged, Stopped):
        raise
    except Exception as error:
        plugin = find()
        if plugin.__module__.startswith("ganbench.") or is_out_of_memory(error):
            raise
        where = _where(error, Path(inspect.getfile(plugin)))
        if isinstance(error, NotImplementedError) and not str(error):
            missing = traceback.extract_tb(error.__traceback__)[-1].name
            raise UserError(f"{where}: {plugin.__name__} has no {missing}(): write it (CONTRIBUTING.md has an "
                            "example)") from error
        raise UserError(f"{where}: {type(error).__name__}: {' '.join(str(error).split())}: correct it") from error


def _where(error: Exception, path: Path) -> str:
    """file:line of what went wrong in a file: where the syntax breaks, else the file's own deepest line."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
             if Path(frame.filename).resolve() == path.resolve()]
    return f"{path}:{lines[-1]}" if lines else str(path)


def _only_subclass(module: ModuleType, *bases: type[T]) -> type[T]:
    own = [c for c in vars(module).values() if inspect.isclass(c) and issubclass(c, bases)
           and c.__module__ == module.__name__ and not c.__name__.startswith("_")]
    # A module may hold a helper class that its main class extends; what nobody extends is the plugin.
    leaves = [c for c in own if not any(c is not d and issubclass(d, c) for d in own)]
    if len(leaves) != 1:
        kinds = " or ".join(base.__name__.removesuffix("Base") for base in bases)
        raise UserError(f"{module.__file__}: expected one public subclass of {kinds}, found {len(leaves)}")
    return leaves[0]


# --- which code a plugin is ----------------------------------------------------------------------------------------

CODE = "code-"  # begins a hash of code without its comments; older hashes are of the whole text


def source_hash(module: str) -> str:
    """Hash of an imported plugin's file and of what it imports from beside it (models/nn, a user's own helpers).

    Of the code alone: comments, docstrings and blank lines are not in it. Nor are the rest of ganbench and installed
    libraries: rows name their commit and versions.

    Args:
        module: the dotted name of the plugin's module, which has been imported.
    Returns:
        "code-" and 16 hexadecimal digits.
    """
    return CODE + _digest({path: without_comments(text) for path, text in _sources(module).items()})


def same_source(recorded: str, module: str) -> bool:
    """Whether a recorded `source_hash`, also one of an earlier version, is that of the plugin as it is now."""
    now = source_hash(module) if recorded.startswith(CODE) else _digest(_sources(module))
    return recorded == now


def without_comments(text: str) -> str:
    """A Python file without comments, docstrings and blank lines."""
    lines = text.splitlines()
    # docstrings first: what is left of their lines keeps its place
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first = node.body[0] if node.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            for number in range(first.lineno - 1, first.end_lineno or first.lineno):
                # a docstring on the line of its `def` leaves the `def`
                lines[number] = lines[number].encode()[:first.col_offset].decode() if number == first.lineno - 1 else ""
    # then comments, found by Python's own reader: a # in a string is none
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _sources(module: str) -> dict[Path, str]:
    """The text of an imported plugin's file, and of each that it imports from beside it."""
    plugin = sys.modules[module]
    found: dict[Path, str] = {}
    _collect(plugin, found, root=Path(str(plugin.__file__)).resolve().parent, own=module.rpartition(".")[0])
    return found


def _digest(texts: dict[Path, str]) -> str:
    digest = hashlib.sha256()
    for path in sorted(texts):
        digest.update(f"{path.name}\n{texts[path]}\n".encode())
    return digest.hexdigest()[:16]


def _collect(module: ModuleType, found: dict[Path, str], *, root: Path, own: str) -> None:
    """Add the text of a module and of everything it imports from `root`. own: the plugin's package, "" for a file."""
    path = Path(str(module.__file__)).resolve()
    if path in found:
        return
    found[path] = path.read_text(encoding="utf-8")
    for name in _imported(found[path], module.__package__ or ""):
        other = sys.modules.get(name)
        if name.split(".")[0] == "ganbench" and not (own and name.startswith(f"{own}.")):
            continue
        if other is not None and getattr(other, "__file__", None) and _beside(Path(str(other.__file__)), root):
            _collect(other, found, root=root, own=own)


def _beside(path: Path, root: Path) -> bool:
    path = path.resolve()
    return path.is_relative_to(root) and "site-packages" not in path.relative_to(root).parts


def _imported(text: str, package: str) -> Iterator[str]:
    """Every dotted name that an import statement may have made a module of."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[:len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
