"""The command line: takes in the commands of each room and turns errors into one line and an exit code.

torch is imported inside the commands, so that --help is instant.
"""

import importlib
import shlex
import signal
import sys
from typing import Annotated, Any, NoReturn

import typer

from ganbench.commands import note
from ganbench.errors import EXIT_INTERRUPTED, EXIT_USER_ERROR, UserError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich",
                  context_settings={"help_option_names": ["-h", "--help"]},
                  help="Train, evaluate and compare GAN families: which is better, on your data, and by how much?")

# Rooms that bring commands of their own; each has a function register(app).
ROOMS = ("ganbench.commands.run", "ganbench.commands.list", "ganbench.commands.doctor", "ganbench.commands.eval",
         "ganbench.commands.weights", "ganbench.commands.data", "ganbench.commands.bench", "ganbench.commands.report",
         "ganbench.commands.sample", "ganbench.commands.show", "ganbench.commands.clean")


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version
        print(f"ganbench {version('ganbench')}")
        raise typer.Exit


@app.callback()
def _own_options(version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True,
                                                  help="Print the version")] = False) -> None:
    """Options of ganbench itself, before the command."""


def _how_to_go_on() -> str:
    session = sys.modules.get("ganbench.training.session")
    if session is not None and session.current is not None:
        return f"; `{shlex.join(['ganbench', 'resume', str(session.current)])}` goes on from the last checkpoint"
    return "; call it again, and it goes on" if sys.argv[1:2] == ["bench"] else ""


def main() -> NoReturn:
    """Entry point of the `ganbench` command: one line and exit code 2 for what the caller can put right."""
    code, interrupted = 0, False

    def interrupt(number: int, frame: Any) -> NoReturn:
        nonlocal interrupted  # typer turns the exception into an exit code, and not the same in every version
        interrupted = True
        signal.default_int_handler(number, frame)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where somebody has it ignored (nohup)
        signal.signal(signal.SIGINT, interrupt)
    try:
        for room in ROOMS:
            importlib.import_module(room).register(app)
        app()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except UserError as error:
        note(str(error))
        code = EXIT_USER_ERROR
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    if interrupted and code:
        note(f"stopped{_how_to_go_on()}")
        code = EXIT_INTERRUPTED
    if distributed := sys.modules.get("ganbench.distributed"):  # loaded only by what may have joined a group
        distributed.exit_process(code)
    sys.exit(code)
