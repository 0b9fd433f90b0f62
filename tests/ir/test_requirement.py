"""Requirements between extents: when they are certain, when they hold, and how they are made."""

from __future__ import annotations

import pytest

from planish.ir.requirement import Requirement, at_most, broadcasts, equal, equal_counts
from planish.ir.shape import floordiv, symbol

N, M = symbol("N"), symbol("M")


@pytest.mark.parametrize(
    ("requirement", "certain"),
    [
        (Requirement(N, "==", N), True),
        (Requirement(N + 1, "==", N), False),
        (Requirement(N, "<=", N + 1), True),
        (Requirement(N, "==", M), False),
        (Requirement(2, "<=", N), False),
        (Requirement(4 * N, "==", 2 * N + 2 * N), True),
    ],
    ids=str,
)
def test_certain_requirements(requirement: Requirement, certain: bool) -> None:
    assert requirement.is_certain is certain


def test_requirements_hold_for_numbers() -> None:
    even = Requirement(N, "==", 2 * floordiv(N, 2))
    assert even.holds({"N": 6})
    assert not even.holds({"N": 7})
    assert Requirement(3, "<=", N).holds({"N": 3})
    assert not Requirement(3, "<=", N).holds({"N": 2})
    assert even.symbols == {"N"}


def test_substitution_keeps_the_node() -> None:
    requirement = Requirement(N, "==", M, "add").substituted({"M": 4})
    assert (requirement.left, requirement.right, requirement.where) == (N, 4, "add")


def test_helpers_leave_out_what_broadcasts() -> None:
    assert broadcasts([(1, 4), (M, 4)], (N, 4)) == [
        Requirement(4, "==", 4),
        Requirement(4, "==", 4),
        Requirement(M, "==", N),
    ]
    assert equal(N, M) == [Requirement(N, "==", M)]
    assert at_most(2, N) == [Requirement(2, "<=", N)]
    assert equal_counts((N, 6), (2, M)) == [Requirement(6 * N, "==", 2 * M)]
