"""Recording the steps of a plan into one CUDA graph, on the streams that the plan gives them."""

from __future__ import annotations

from collections.abc import Sequence

from planish.plan.plan import Step
from planish.runtime.cuda.driver import Event, Graph, Stream


class Recording:
    """A graph being recorded. Streams other than the first join when a step needs them."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = steps
        self._awaited = {earlier for step in steps for earlier in step.after}
        self._done: dict[int, Event] = {}
        self._streams = {0: Stream()}
        self._streams[0].capture()
        self._begin = self._mark(self._streams[0])

    def stream_of(self, index: int) -> Stream:
        """Return the stream of a step, waiting there for the steps that it comes after."""
        step = self._steps[index]
        if step.stream not in self._streams:
            self._streams[step.stream] = Stream()
            self._begin.hold(self._streams[step.stream].handle)
        stream = self._streams[step.stream]
        for earlier in step.after:
            if earlier in self._done:
                self._done[earlier].hold(stream.handle)
        return stream

    def finish(self, index: int) -> None:
        """Note that a step is on its stream."""
        if index in self._awaited:
            self._done[index] = self._mark(self._streams[self._steps[index].stream])

    def graph(self) -> Graph:
        """Let the first stream wait for the others, end, and return the graph."""
        first = self._streams[0]
        for number, stream in self._streams.items():
            if number:
                self._mark(stream).hold(first.handle)
        return first.captured()

    @staticmethod
    def _mark(stream: Stream) -> Event:
        event = Event(timing=False)
        event.record(stream)
        return event
