"""Which code a cell was made by: a hash of its family's source."""

import ast
import hashlib
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

from ganbench import family as families


@cache
def source_hash(family: str) -> str:
    """Hash of a family's file and of what it imports from beside it (models/nn, another family, a user's own helpers).

    The rest of ganbench and installed libraries are not in it: rows name their commit and versions.
    """
    module = sys.modules[families.find_family(family).__module__]
    found: dict[Path, str] = {}
    _collect(module, found, root=Path(str(module.__file__)).resolve().parent, own=module.__name__.rpartition(".")[0])
    digest = hashlib.sha256()
    for path in sorted(found):
        digest.update(f"{path.name}\n{found[path]}\n".encode())
    return digest.hexdigest()[:16]


def _collect(module: ModuleType, found: dict[Path, str], *, root: Path, own: str) -> None:
    """Add the text of a module and of everything it imports from `root`. own: the family's package, "" for a single file."""
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
