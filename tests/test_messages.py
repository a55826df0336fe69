"""Messages name only flags that exist, of the command that says them, and never advise to delete."""

import ast
import importlib
import re
from pathlib import Path

import typer

from ganbench import cli

HOME = Path(cli.__file__).parent
# Which commands say what stands in a file of a shared room; a file of commands/ speaks for its own.
SPEAKERS = {
    "training/": ["run", "resume"],
    "training/document.py": ["run"], "training/run_options.py": ["run"],  # resume asks for what was recorded
    "runs/checkpoint.py": ["resume", "sample", "eval"],
    "runs/run_folder.py": ["resume", "sample", "eval"],
    "runs/scoring.py": ["eval"], "runs/refusals.py": ["eval"],
    "runs/evaluation.py": ["eval"], "runs/eval_request.py": ["eval"],
    "runs/options.py": ["run"],
    "records.py": ["run", "resume", "eval", "bench", "report"],
    "bench/": ["bench"],
    "metrics/": ["eval"],
    "metrics/networks/weight": ["weights get", "eval"],
    "report/": ["report"], "report/reproduce.py": ["run"], "report/live.py": ["watch"],
    "family/": ["run"], "sides.py": ["run", "eval", "data prepare"],
    "training/augment.py": ["run"], "training/init_from.py": ["run"],
    "runs/nearest.py": ["eval"], "runs/posthoc.py": ["eval"],
    "environment.py": ["run", "resume", "eval", "sample"],
    "distributed/": ["run", "resume", "eval"],
    "pictures/": ["sample"],
    "data/": ["run", "eval", "data prepare"],
}
# Bare flags that are right for all but some of those who might say them, and why.
EXCEPTIONS = {
    ("runs/run_folder.py", "--out"): "only a run that is begun has no folder yet",
    ("runs/checkpoint.py", "--which"): "only sample and eval ask for the best one",
    ("data/decoding.py", "--workers"): "a long preparation is one of `data prepare`",
    ("data/page.py", "--html"): "`data info` writes the page",
    ("data/sources/folder.py", "--dataset"): "the data set of run", ("data/sources/npz.py", "--dataset"): "likewise",
    ("data/sources/folder.py", "--run"): "eval's; the line says so",
    ("training/log.py", "--tensorboard"): "a run that is resumed was begun with it",
    ("training/engine.py", "--precision"): "precision is chosen where a run begins",
    ("family/__init__.py", "--ema"): "eval's, of averages that a run has kept",
    ("runs/posthoc.py", "--set"): "run's; the line says so",
    ("commands/stats.py", "--real"): "eval's, where what is kept is used",
    ("metrics/images/reference_statistics.py", "--as"): "stats save's, where such a file is read first",
}
OTHERS = {"--nproc-per-node", "--ignore-zeros", "--images", "--thumbs", "--help", "--version", "--no-deps", "--quiet",
          "--dest", "--no-build-isolation", "--disable-pip-version-check", "--error-unmatch", "--porcelain",
          "--untracked-files"}
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")


def commands():
    """Every command with its flags: {"run": {"--kimg", ...}, "data prepare": ...}."""
    app = typer.Typer()
    for room in cli.ROOMS:
        importlib.import_module(room).register(app)
    found = {}

    def collect(group, prefix):
        for name, command in group.commands.items():
            if hasattr(command, "commands"):  # a group of commands
                collect(command, f"{prefix}{name} ")
            else:
                found[prefix + name] = {flag for p in command.params for flag in (*p.opts, *p.secondary_opts)}

    collect(typer.main.get_command(app), "")
    return found


def messages():
    """(file, line, text) of every text in the code that is no docstring, an f-string's values as {}."""
    for path in sorted(HOME.rglob("*.py")):
        if "models" in path.relative_to(HOME).parts:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        described = [node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)]
        docs = {id(node.body[0].value) for node in described if node.body and isinstance(node.body[0], ast.Expr)}
        inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                text = "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs | inside:
                text = node.value
            else:
                continue
            yield str(path.relative_to(HOME)), node.lineno, text


def speakers(file, known):
    if file.startswith("commands/"):
        own = file.removeprefix("commands/").removesuffix(".py")
        return [name for name in known if name.split()[0] == own] or list(known)
    fitting = [rooms for rooms in SPEAKERS if file.startswith(rooms)]
    return SPEAKERS[max(fitting, key=len)] if fitting else list(known)


def test_every_flag_that_a_message_names_is_one_of_the_command_that_says_it():
    known = commands()
    every = set().union(*known.values())
    wrong, counted = [], 0
    for file, line, text in messages():
        if " " not in text.strip() or not FLAG.search(text) or "var(--" in text:
            continue  # an argument, or a style, not a sentence
        named = {}
        # `ganbench COMMAND ... --flag`: of that command
        for match in re.finditer(r"ganbench (\w+)( \w+)?([^`;]*)", text):
            command = next((c for c in (f"{match[1]}{match[2] or ''}", match[1]) if c in known), None)
            for flag in FLAG.findall(match[0]):
                named[flag] = [command] if command else list(known)
        for flag in set(FLAG.findall(text)) - OTHERS:
            counted += 1
            if (file, flag) in EXCEPTIONS and flag in every:
                continue
            those = named.get(flag) or speakers(file, known)
            some = file.startswith(("commands/", "metrics/", "data/"))
            has = [flag in known[command] for command in those]
            if not (any(has) if some else all(has)):
                wrong.append(f"{file}:{line}: {flag} is not an option of {', '.join(those)}")
    assert not wrong, "\n".join(wrong)
    assert counted > 60


def test_no_message_advises_to_delete_a_run_or_a_checkpoint():
    """Whatever is wrong with it, it may be all that somebody has."""
    advice = re.compile(r"\b(remove|delete|erase)\b(?! (the line|it from))", re.IGNORECASE)
    rooms = ("runs/", "training/", "records.py", "cli.py", "distributed/")
    found = [f"{file}:{line}: {text}" for file, line, text in messages()
             if file.startswith(rooms) and " " in text and advice.search(text)]
    assert not found, "\n".join(found)
