"""The command line: takes in the commands of each room and turns errors into one line and an exit code.

torch is imported inside the commands, so that --help is instant.
"""

import contextlib
import errno
import importlib
import io
import itertools
import os
import shlex
import sys
import sysconfig
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Annotated, NoReturn, TextIO

import typer

from ganbench.commands import note
from ganbench.errors import (
    EXIT_DEFECT,
    EXIT_DIVERGED,
    EXIT_USER_ERROR,
    Diverged,
    Stopped,
    UserError,
    is_out_of_memory,
)
from ganbench.training import preemption

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich",
                  context_settings={"help_option_names": ["-h", "--help"]},
                  help="Train, evaluate and compare GAN families: which is better, on your data, and by how much?",
                  epilog="Pages of families and metrics: ganbench show NAME. Guides: docs/ in the source, which a "
                         "wheel does not hold; `make docs` builds the site.")

# Rooms that bring commands of their own; each has a function register(app).
ROOMS = ("ganbench.commands.run", "ganbench.commands.list", "ganbench.commands.doctor", "ganbench.commands.eval",
         "ganbench.commands.weights", "ganbench.commands.stats", "ganbench.commands.data", "ganbench.commands.bench",
         "ganbench.commands.report", "ganbench.commands.sample", "ganbench.commands.show", "ganbench.commands.clean",
         "ganbench.commands.watch_runs")


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version
        print(f"ganbench {version('ganbench')}")
        raise typer.Exit


@app.callback()
def _own_options(version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True,
                                                  help="Print the version")] = False) -> None:
    """Options of ganbench itself, before the command."""


# --- how a command ends ---------------------------------------------------------------------------------------------

def main() -> NoReturn:
    """Entry point of the `ganbench` command.

    Whatever goes wrong is one line on stderr and an exit code: 2 for what the caller can put right, 3 for a training
    that diverged, 1 for a defect of ours (its traceback goes to a file), 130, 143 or 129 for a signal.
    """
    _usable_streams()
    if os.environ.get("WORLD_SIZE", "1") != "1":  # torch's own account of a lost connection, a page of C++ addresses
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    warnings.showwarning = _show_warning
    preemption.install()
    code, line = _call()
    # typer turns a KeyboardInterrupt into an exit code, and not the same in every version
    if preemption.received is not None and code:
        code, line = preemption.exit_code(), line or "stopped"
        line += _how_to_go_on()
    distributed = sys.modules.get("ganbench.distributed")  # loaded only by what may have joined a group
    if code and distributed and not distributed.failing(code):
        line = ""  # another process failed first, and has printed why
    try:
        if line:
            note(line)
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError as error:  # nobody reads what we print, or the disk behind it is full
        code = _unprinted(error, explained=bool(line)) or code
    if distributed:
        distributed.exit_process(code)
    sys.exit(code)


def _call() -> tuple[int, str]:
    """Run the command. Returns its exit code, and the line that says what went wrong, "" for nothing."""
    try:
        _check_none_empty(sys.argv)
        for room in ROOMS:
            importlib.import_module(room).register(app)
        app()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0, ""
    except UserError as error:
        return EXIT_USER_ERROR, str(error)
    except Diverged as error:
        return EXIT_DIVERGED, f"diverged: {error}"
    except Stopped as error:
        return preemption.exit_code(), str(error)
    except KeyboardInterrupt:
        return preemption.exit_code(), "stopped"
    except UnicodeError as error:
        return EXIT_USER_ERROR, f"text that cannot be read or written as it is: {_one_line(error)}"
    except BrokenPipeError as error:
        return _unprinted(error), ""
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            return _defect(error)
        return EXIT_USER_ERROR, f"out of memory ({_one_line(error)[:200]}): take fewer or smaller images at once"
    except OSError as error:
        where = "output: " if error.errno == errno.ENOSPC else ""
        if error.filename:
            where = f"{error.filename}: "
        return EXIT_USER_ERROR, f"{where}{error.strerror or _one_line(error)}"
    except Exception as error:
        return _defect(error)
    return 0, ""


def _check_none_empty(given: list[str]) -> None:
    """Raise UserError for an empty argument, which a shell makes of a variable that is not set.

    As a path it would be the current folder. Where '' is said to mean none, it may be given.
    """
    meaning_none = ("--metric", "--results") if given[1:2] in (["run"], ["eval"]) else ()
    for before, argument in itertools.pairwise(given):
        name, equals, value = argument.partition("=")
        if not argument and before not in meaning_none:
            raise UserError(f"the argument after {Path(before).name} is empty: give it a value, or leave it out")
        if name.startswith("--") and equals and not value and name not in meaning_none:
            raise UserError(f"{argument} is empty: give it a value, or leave it out")


def _defect(error: Exception) -> tuple[int, str]:
    """What nobody foresaw: another process that has gone, a fault of code from elsewhere, or a defect of ours; the
    traceback is kept in a file.
    """
    distributed = sys.modules.get("ganbench.distributed")
    if distributed and (gone := distributed.lost_contact(error)):
        return EXIT_DEFECT, gone + _how_to_go_on()
    text = "".join(traceback.format_exception(error))
    summary = f"{type(error).__name__}: {_one_line(error)[:300]}"
    code, verdict = EXIT_DEFECT, "this is a defect of ganbench; please report it"
    if place := _outside(error):
        code, summary, verdict = EXIT_USER_ERROR, f"{place}: {summary}", "correct it; its traceback is"
    run = _current_run()
    for folder in (run, Path(tempfile.gettempdir())):
        if folder is not None and folder.is_dir():
            path = folder / f"traceback-{os.getpid()}.txt"
            try:
                path.write_text(f"{shlex.join(sys.argv)}\n\n{text}", encoding="utf-8", errors="backslashreplace")
                return code, f"{summary}: {verdict} {'in' if place else 'with'} {path}"
            except OSError:
                continue
    return code, f"{text}\n{summary}: {verdict}{' above' if place else ''}"


def _outside(error: Exception) -> str:
    """ "own.py:12" where, of the lines that are no library's, the deepest is in a file that is not ours; else ""."""
    # models/ of a checkout lies beside ganbench/
    ours = [Path(__file__).parent, *map(Path, getattr(sys.modules.get("ganbench.models"), "__path__", ()))]
    libraries = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if any(file.is_relative_to(folder) for folder in ours):
            return ""
        if file.is_file() and not any(file.is_relative_to(folder) for folder in libraries):
            return f"{file}:{frame.lineno}"
    return ""


def _current_run() -> Path | None:
    """The folder of the run that this process is training."""
    session = sys.modules.get("ganbench.training.session")
    return session.current if session is not None else None


def _how_to_go_on() -> str:
    if run := _current_run():
        return f"; `{shlex.join(['ganbench', 'resume', str(run)])}` goes on from the last checkpoint"
    return "; call it again, and it goes on" if sys.argv[1:2] == ["bench"] else ""


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _usable_streams() -> None:
    """Output that always works: closed streams lead nowhere, and no character or width of a terminal is an error."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:  # a file must not be opened in a closed stream's place
        pass
    os.close(descriptor)
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            unicode = stream.encoding.lower().startswith("utf")
            stream.reconfigure(errors="backslashreplace" if unicode else "replace")
    if not os.environ.get("COLUMNS", "80").isdigit() or int(os.environ.get("COLUMNS", "80")) < 1:
        del os.environ["COLUMNS"]  # a width of 0 would print nothing


def _unprinted(error: OSError, *, explained: bool = False) -> int:
    """The exit code when output could not be written. What is still to be written must not fail again at the end."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    if not explained and not isinstance(error, BrokenPipeError):  # somebody who has stopped reading (head) knows that
        with contextlib.suppress(OSError):
            note(f"output: {error.strerror}")
    return EXIT_DEFECT


def _show_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int,
                  file: TextIO | None = None, line: str | None = None) -> None:
    """Ours are for the user, and one line; those of libraries keep their form."""
    if category is UserWarning and Path(filename).is_relative_to(Path(__file__).parent):
        note(f"warning: {_one_line(message) if isinstance(message, Warning) else message}")
    else:
        print(warnings.formatwarning(message, category, filename, lineno, line), end="", file=file or sys.stderr)
