"""The suites that come with ganbench, by name: `ganbench bench quick` finds quick.toml."""

import tomllib
from pathlib import Path

from ganbench.errors import UserError, nearest


def suites_folder() -> Path:
    """Where they are: inside the installed package, or the folder benchmarks/ of a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "suites"
    return installed if installed.is_dir() else package.parent / "benchmarks"


def shipped_suites() -> dict[str, Path]:
    """Name -> file of each suite that comes with ganbench, in alphabetical order."""
    return {path.stem: path for path in sorted(suites_folder().glob("*.toml"))}


def find_suite(suite: str | Path) -> Path:
    """The file of a suite: a path as it is, or the name of a suite that comes with ganbench.

    Raises UserError for a name (no ending, no folder) that none of them has.

    Examples:
        >>> find_suite("quick").name
        'quick.toml'
        >>> find_suite("mine/suite.toml").as_posix()
        'mine/suite.toml'
    """
    path = Path(suite)
    if path.is_file() or path.suffix == ".toml" or path.name != str(suite):
        return path
    known = shipped_suites()
    if path.name not in known:
        raise UserError(f"no suite '{suite}'.{nearest(path.name, known)} Name a .toml file, or one that comes with "
                        f"ganbench: {', '.join(known)}")
    return known[path.name]


def summaries() -> list[tuple[str, str, str]]:
    """Name, title and description of each suite that comes with ganbench."""
    read = {name: tomllib.loads(path.read_text(encoding="utf-8")) for name, path in shipped_suites().items()}
    return [(name, suite["title"], suite.get("about", "")) for name, suite in read.items()]
