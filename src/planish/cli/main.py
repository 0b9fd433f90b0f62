"""The `planish` command. One file a verb; a verb file defines `register(app)` and is discovered."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Annotated

import typer

import planish.cli

app = typer.Typer(
    name="planish",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 outputs differ or something essential is missing, "
    "2 wrong arguments, model or engine, 130 interrupted.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"planish {planish.__version__}")
        raise typer.Exit


@app.callback()
def planish_command(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Turn a trained model into a fast inference engine, and run it."""


for _info in sorted(pkgutil.iter_modules(planish.cli.__path__), key=lambda info: info.name):
    if _info.name != "main":
        _module = importlib.import_module(f"planish.cli.{_info.name}")
        if hasattr(_module, "register"):
            _module.register(app)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
