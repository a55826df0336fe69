"""`ganbench watch`: a live page of the runs on this machine. Parse, call, print."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add this file's commands to the command line."""
    app.command()(watch)


def watch(
    runs: Annotated[list[Path] | None, typer.Argument(help="Folders with the runs' folders; default: runs/",
                                                      show_default=False)] = None,
    results: Annotated[list[Path] | None, typer.Option(help="Results CSV or folder for the comparison; repeatable. "
                                                            "Default: results/", show_default=False)] = None,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1", min=0, max=65535)] = 8765,
    show: Annotated[bool, typer.Option("--open", help="Also open it in the browser")] = False,
) -> None:
    """A live page of running and finished runs: progress, time left, curves, newest samples. Ctrl-C ends it."""
    from ganbench.report.folders import check_roots
    from ganbench.report.live import LivePage
    check_roots(runs or ())
    folders = runs or [Path("runs")]
    with LivePage(folders, results or [Path("results")], port) as server:
        print(f"{server.address} shows the runs in {', '.join(map(str, folders))}; Ctrl-C ends it", flush=True)
        if show:
            import webbrowser
            webbrowser.open(server.address)
        server.serve_forever()
