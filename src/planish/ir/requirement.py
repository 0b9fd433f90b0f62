"""What must hold between extents for a model to be valid: known for certain only at run time.

Inference takes for granted that symbolic extents fit where numbers would have to: that the N rows
of one operand are the M rows of another. Kernels rely on it, so the runtime checks it for every set
of input shapes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from planish.ir.shape import Dim, Shape, evaluate, product, substitute, symbols_of

RELATIONS = ("==", "<=")


@dataclass(frozen=True)
class Requirement:
    """`left` `relation` `right`.

    Attributes
    ----------
    where : str
        The user's node that needs it.
    in_branch : bool
        Whether only a branch needs it, which may not be taken: it is checked, but says nothing
        about the model as a whole.
    """

    left: Dim
    relation: str
    right: Dim
    where: str = ""
    in_branch: bool = False

    @property
    def is_certain(self) -> bool:
        """Whether it holds whatever the symbols are."""
        difference = self.left - self.right
        if not isinstance(difference, int):
            return False
        return difference == 0 if self.relation == "==" else difference <= 0

    @property
    def symbols(self) -> frozenset[str]:
        """The symbols on both sides."""
        return symbols_of(self.left) | symbols_of(self.right)

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Whether it holds for these values of the symbols."""
        left, right = evaluate(self.left, sizes), evaluate(self.right, sizes)
        return left == right if self.relation == "==" else left <= right

    def substituted(self, bindings: Mapping[str, Dim]) -> Requirement:
        """Return it with symbols replaced."""
        left, right = substitute(self.left, bindings), substitute(self.right, bindings)
        return replace(self, left=left, right=right)

    def __str__(self) -> str:
        return f"{self.left} {self.relation} {self.right}"


def equal(a: Dim, b: Dim) -> list[Requirement]:
    """Require two extents to be equal."""
    return [Requirement(a, "==", b)]


def equal_shapes(a: Shape, b: Shape) -> list[Requirement]:
    """Require the extents of two shapes to be equal, one by one."""
    return [Requirement(x, "==", y) for x, y in zip(a, b, strict=False)]


def equal_counts(a: Shape, b: Shape) -> list[Requirement]:
    """Require two shapes to have equally many elements."""
    return [Requirement(product(a), "==", product(b))]


def at_most(a: Dim, b: Dim) -> list[Requirement]:
    """Require `a` to be at most `b`."""
    return [Requirement(a, "<=", b)]


def broadcasts(shapes: Iterable[Shape], result: Sequence[Dim]) -> list[Requirement]:
    """Require every extent that is not 1 to be that of `result` on its axis."""
    found = []
    for shape in shapes:
        pairs = zip(reversed(shape), reversed(result), strict=False)
        found += [Requirement(dim, "==", whole) for dim, whole in pairs if dim != 1]
    return found
