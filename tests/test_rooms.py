"""The house: which room may import which, and that no file name stands for two things.

Rooms are listed from the ground up. A module may import from its own room and from rooms below it, at the top of the
file or inside a function alike.
"""

import ast
from collections import Counter, defaultdict
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parents[1]

# The order of rooms, lowest first. Rooms on one line know nothing of each other.
ORDER = [
    ["ganbench.errors"],
    ["ganbench.files", "ganbench.platforms", "ganbench.sides", "ganbench.tex"],
    ["ganbench.random"],
    ["ganbench.environment", "ganbench.plugins", "ganbench.distributed"],
    ["ganbench.records"],
    ["ganbench.family"],
    ["ganbench.models.nn"],
    ["ganbench.models"],
    ["ganbench.data.sources", "ganbench.data"],
    ["ganbench.pictures"],
    ["ganbench.metrics.maths"],
    ["ganbench.metrics.networks"],
    ["ganbench.metrics.images"],
    ["ganbench.metrics"],
    ["ganbench.runs"],
    ["ganbench.report"],
    ["ganbench.training"],
    ["ganbench.bench"],
    ["ganbench.commands"],
    ["ganbench.cli"],
    ["ganbench", "ganbench.__main__"],
]
RANK = {room: rank for rank, line in enumerate(ORDER) for room in line}
ONE_ROOM = [{"ganbench.data", "ganbench.data.sources"}]  # sources are found by name through data/


def room_of(module: str) -> str:
    """The longest listed room that a module is in."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if (name := ".".join(parts[:length])) in RANK and (length > 1 or len(parts) == 1):
            return name
    raise AssertionError(f"{module} is in no room: give it a place in ORDER, or move it")


def modules() -> dict[str, Path]:
    """Every module of the bench and of the zoo, by its dotted name."""
    found = {}
    for folder, package in ((HOME / "ganbench", "ganbench"), (HOME / "models", "ganbench.models")):
        for path in sorted(folder.rglob("*.py")):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            # the zoo, seen through a link
            if not (folder.name == "ganbench" and path.is_relative_to(folder / "models")):
                found[name] = path
    return found


def imports(text: str, package: str, known: set[str]) -> set[str]:
    """The modules of ours that a file imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            # `from package import module` is an import of the module, `from module import name` one of its names
            found |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names}
    return {name for name in found if name.split(".")[0] == "ganbench"}


def arrows(sources: dict[str, str]) -> dict[str, set[str]]:
    return {name: imports(text, name, set(sources)) - {name} for name, text in sources.items()}


def upward(sources: dict[str, str]) -> list[str]:
    """Imports that run up, or sideways into another room of the same rank."""
    wrong = []
    for module, targets in arrows(sources).items():
        here = room_of(module)
        for target in sorted(targets):
            there = room_of(target)
            same_house = here == there or any({here, there} <= house for house in ONE_ROOM)
            if not same_house and RANK[there] >= RANK[here]:
                wrong.append(f"{module} imports {target}")
    return wrong


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    return {name: path.read_text(encoding="utf-8") for name, path in modules().items()}


def test_no_import_runs_upward(sources):
    assert upward(sources) == []


def test_a_planted_upward_import_is_found(sources):
    planted = sources | {"ganbench.metrics.evaluate": sources["ganbench.metrics.evaluate"]
                         + "\ndef late():\n    from ganbench.training import loop\n"}
    assert upward(planted) == ["ganbench.metrics.evaluate imports ganbench.training.loop"]
    zoo = sources | {"ganbench.data.store": "from ganbench.models import dcgan\n"}
    assert upward(zoo) == []  # below data, but ...
    assert zoo_imports(zoo) == ["ganbench.data.store"]


def zoo_imports(sources: dict[str, str]) -> list[str]:
    return [module for module, targets in arrows(sources).items() if not module.startswith("ganbench.models")
            and any(target.startswith("ganbench.models") for target in targets)]


def test_the_bench_imports_no_family(sources):
    assert zoo_imports(sources) == []


def test_rooms_form_no_circle(sources):
    """Between rooms this follows from the order; inside the top level's rooms it is looked at module by module."""
    graph = {m: {t for t in targets if t in sources} for m, targets in arrows(sources).items()}
    graph["ganbench"] = set()  # it hands names on when they are asked for
    state: dict[str, int] = defaultdict(int)

    def visit(module: str, path: list[str]) -> None:
        assert state[module] != 1, f"circle: {' -> '.join([*path[path.index(module):], module])}"
        if state[module] == 0:
            state[module] = 1
            for target in sorted(graph[module]):
                visit(target, [*path, module])
            state[module] = 2

    for module in sorted(graph):
        visit(module, [])


def test_no_file_name_stands_for_two_things():
    stems = Counter(path.stem for name, path in modules().items() if not name.startswith("ganbench.models"))
    moving = {"source"}
    assert {stem for stem, count in stems.items() if count > 1} - {"__init__"} - moving == set()


def test_the_top_level_holds_few_files_beside_the_rooms():
    files = [p.name for p in (HOME / "ganbench").iterdir() if p.is_file()]
    assert len(files) <= 12, files
