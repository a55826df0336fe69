"""The net around every command: one line for whatever goes wrong, an exit code, and streams that always work."""

import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from ganbench import cli
from ganbench.errors import Diverged, Stopped, UserError
from ganbench.training import preemption


def ended(monkeypatch, capsys, command):
    """Exit code and stderr of a command that is a function."""
    monkeypatch.setattr(sys, "argv", ["ganbench"])
    monkeypatch.setattr(cli, "ROOMS", ())
    monkeypatch.setattr(cli, "app", typer.Typer(pretty_exceptions_enable=False))
    monkeypatch.setattr(preemption, "install", lambda: None)
    cli.app.command()(command)
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code, capsys.readouterr().err


CPU_FULL = ("[enforce fail at alloc_cpu.cpp:128] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
            "allocate 1152921504606846976 bytes. Error code 12 (Cannot allocate memory)")


@pytest.mark.parametrize("error, code, says", [
    (UserError("no such thing: name another"), 2, "no such thing: name another"),
    (Diverged("the generator produced values that are not finite"), 3, "diverged: the generator produced"),
    (OSError(errno.ENOSPC, "No space left on device"), 2, "output: No space left on device"),
    (PermissionError(errno.EACCES, "Permission denied", "/closed/x"), 2, "/closed/x: Permission denied"),
    (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), 2, "text that cannot be read"),
    (MemoryError(), 2, "out of memory"),
    (RuntimeError(CPU_FULL), 2, "out of memory"),
    (KeyboardInterrupt(), 143, "stopped"),
    (Stopped("stopped at 1.00 kimg"), 143, "stopped at 1.00 kimg"),
])
def test_what_goes_wrong_is_one_line(monkeypatch, capsys, error, code, says):
    monkeypatch.setattr(preemption, "received", signal.SIGTERM if code == 143 else None)

    def command():
        raise error

    found, said = ended(monkeypatch, capsys, command)
    assert found == code and said.startswith("ganbench: ") and says in said and len(said.splitlines()) == 1, said


@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("two\nlines"), AttributeError("no isatty")])
def test_a_defect_is_one_line_that_names_the_file_with_its_traceback(monkeypatch, capsys, tmp_path, error):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def command():  # as if a line of ours had raised it: one of another file would be its author's
        exec(compile("raise error", cli.__file__, "exec"), {"error": error})

    code, said = ended(monkeypatch, capsys, command)
    assert code == 1 and len(said.splitlines()) == 1 and "defect of ganbench" in said
    text = Path(re.search(r"report it with (\S+)", said)[1]).read_text()
    assert "Traceback" in text and type(error).__name__ in text and "in command" in text


def test_our_warnings_are_one_line(monkeypatch, capsys):
    import warnings

    def command():
        warnings.warn_explicit("two\nlines", UserWarning, cli.__file__, 1)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        code, said = ended(monkeypatch, capsys, command)
    assert code == 0 and said == "ganbench: warning: two lines\n"


@pytest.mark.parametrize("shell, variables, code", [
    ("{} --help > /dev/full", {}, 1), ("{} --help >&-", {}, 0), ("{} --help 2>&-", {}, 0),
    ("{} --help <&- >&- 2>&-", {}, 0),
    ("{} --help", {"COLUMNS": "0"}, 0), ("{} --help", {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}, 0),
    ("{} --help | head -c 10", {}, 0), ("{} weights get 2>&-", {}, 2),
])
def test_closed_full_and_narrow_streams(shell, variables, code, tmp_path):
    # --help needs no torch: what is tested is the same for all commands
    done = subprocess.run(["bash", "-c", shell.format(f"{sys.executable} -m ganbench")], capture_output=True,
                          cwd=tmp_path, env=os.environ | variables)
    said = done.stderr.decode()
    assert "Traceback" not in said and "Exception ignored" not in said
    assert done.returncode in (code, 2 if "full" in shell else code), said
    if "COLUMNS" in variables or "PYTHONUTF8" in variables:
        assert len(done.stdout) > 1000
    if "full" in shell:
        assert "No space left on device" in said and len(said.splitlines()) == 1
