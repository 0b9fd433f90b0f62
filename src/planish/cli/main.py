"""The `planish` command. One file a verb; a verb file defines `register(app)` and is discovered."""

from __future__ import annotations

import importlib
import pkgutil
import sys

import typer
from rich.console import Console

import planish.cli
from planish.errors import PlanishError

EXIT_DIFFERENT = 1  # `compare` found a difference beyond the tolerance
EXIT_USER_ERROR = 2  # bad arguments, a bad model, a bad engine
EXIT_INTERRUPTED = 130

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
        Console(stderr=True, soft_wrap=True).print(
            f"[bold red]error:[/] {type(error).__name__}:", str(error), markup=True, highlight=False
        )
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted")
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
