"""Exception classes of Planish. Each message says what is wrong, where, and how to fix it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class PlanishError(Exception):
    """Base class of every error that Planish raises on purpose.

    Parameters
    ----------
    what : str
        What is wrong, with expected and got.
    where : str, optional
        The file, node or argument concerned, in the user's own names.
    fix : str, optional
        What the user can do about it; a class may have advice for when nothing better is known.
    """

    default_fix: ClassVar[str | None] = None

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        fix = fix or self.default_fix
        self.what, self.where, self.fix = what, where, fix
        lines = [what]
        if where is not None:
            lines.append(f"  where: {where}")
        if fix is not None:
            lines.append(f"  fix:   {fix}")
        super().__init__("\n".join(lines))


class ModelError(PlanishError):
    """The model file or proto is missing, damaged, or not a valid model."""

    default_fix = "copy or export the model again; for ONNX, onnx.checker.check_model says more"


class UnsupportedTypeError(ModelError):
    """The model is valid but holds values (sequences, complex numbers) that Planish lacks."""

    unsupported = True


class UnsupportedOperatorError(PlanishError):
    """The model holds nodes that Planish does not know; all of them are listed at once."""

    unsupported = True

    def __init__(self, nodes: Sequence[str], *, where: str | None = None) -> None:
        self.nodes = tuple(nodes)
        listing = "\n".join(f"    {node}" for node in self.nodes)
        super().__init__(
            f"{len(self.nodes)} unsupported node(s):\n{listing}",
            where=where,
            fix="rewrite these nodes with supported operators, or export the model another way (an "
            "ONNX model with another opset); `planish doctor --operators` lists what is supported",
        )


class ShapeError(PlanishError):
    """Shapes or types of a node's operands do not fit its operator."""

    default_fix = "check the shapes of this node's operands in the model, and the profiles"


class GraphError(PlanishError):
    """A graph breaks one of its invariants (see ir/graph.py)."""


class ConfigError(PlanishError):
    """A build option has a value that cannot be honoured."""


class PassError(PlanishError):
    """A pass failed; the message names it and the passes that ran before it."""


class TacticError(PlanishError):
    """No tactic can implement a region under the options given."""


class CompileError(PlanishError):
    """The C compiler is missing or refused generated code."""


class PlanError(PlanishError):
    """A plan breaks one of its invariants (overlapping buffers, unwritten reads, alignment)."""


class EngineFileError(PlanishError):
    """An engine file is missing, damaged, hostile, or of another format version."""

    default_fix = "check the path, or build the engine again from its model"


class CompatibilityError(EngineFileError):
    """An engine file is sound but was built for another machine or library version."""


class DeviceError(PlanishError):
    """A GPU refused a call: out of memory, a failed launch, a lost device."""


class InputError(PlanishError):
    """An array given to an engine has the wrong name, shape or dtype."""


class BuildCancelled(PlanishError):  # noqa: N818 (not a failure: the user asked for it)
    """The build was cancelled by the user before an engine existed."""


class BuildStopped(PlanishError):  # noqa: N818 (not a failure: the user asked for it)
    """The build ended after the stage that PLANISH_STOP_AFTER names; there is no engine."""
