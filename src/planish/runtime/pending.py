"""Inferences under way: what `Engine.run_async` returns."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future
from typing import Any, Protocol


class Ticket(Protocol):
    """An executor's inference under way."""

    def done(self) -> bool:
        """Return whether it is done."""

    def wait(self) -> None:
        """Wait until it is done and its results are where they belong; raise what it raised."""


class FutureTicket:
    """An inference that a thread runs."""

    def __init__(self, future: Future[None]) -> None:
        self._future = future

    def done(self) -> bool:
        """Return whether it is done."""
        return self._future.done()

    def wait(self) -> None:
        """Wait for the thread."""
        self._future.result()


class Pending:
    """An inference under way; `result` waits for it, and so does ``await``.

    Parameters
    ----------
    ticket : Ticket
    finish : callable
        Makes the results once the inference is done. It is called once.
    arrays : dict
        Output name to array, for those that lie on a device.
    """

    def __init__(
        self, ticket: Ticket, finish: Callable[[], dict[str, Any]], arrays: Mapping[str, Any]
    ) -> None:
        self._work: tuple[Ticket, Callable[[], dict[str, Any]]] | None = (ticket, finish)
        self._arrays = arrays
        self._lock = threading.Lock()
        self._results: dict[str, Any] = {}

    @property
    def arrays(self) -> Mapping[str, Any]:
        """Outputs on the device, to be used now: whoever reads them waits on the device.

        Other libraries that take them through DLPack or the CUDA array interface do.
        """
        return self._arrays

    def done(self) -> bool:
        """Return whether `result` would not wait."""
        work = self._work
        return work is None or work[0].done()

    def result(self) -> dict[str, Any]:
        """Wait until the inference is done; return output name to array."""
        with self._lock:
            if self._work is not None:
                ticket, finish = self._work
                ticket.wait()
                self._results = finish()
                self._work = None
            return self._results

    def __await__(self) -> Generator[Any, None, dict[str, Any]]:
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(None, self.result).__await__()
