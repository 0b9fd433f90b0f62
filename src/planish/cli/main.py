"""The `planish` command. One file a verb; a verb file defines `register(app)` and is discovered."""

from __future__ import annotations

import importlib
import pkgutil
import sys

import typer
from rich.console import Console

import planish.cli
from planish.cli.common import EXIT_INTERRUPTED, EXIT_USER_ERROR
from planish.errors import PlanishError

app = typer.Typer(
    name="planish",
    help="Turn a trained model into a fast inference engine, and run it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

for _module in pkgutil.iter_modules(planish.cli.__path__):
    if _module.name not in ("main", "common"):
        importlib.import_module(f"planish.cli.{_module.name}").register(app)


def main() -> None:
    """Run the command line; a PlanishError is printed without a traceback and exits with 2."""
    try:
        app()
    except PlanishError as error:
        console = Console(stderr=True, soft_wrap=True, highlight=False)
        console.print("[bold red]error:[/]", end=" ")
        console.print(f"{type(error).__name__}: {error}", markup=False)
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted")
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
