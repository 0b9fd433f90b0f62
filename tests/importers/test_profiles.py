from __future__ import annotations

import pytest

from planish.config import Profile
from planish.errors import ConfigError
from planish.importers.profiles import apply_profiles
from planish.ir.graph import Graph
from planish.ops.infer import graph_from_text

TEXT = """\
graph g(%x: f32[N,S,8], %m: f32[N,S]) {
  @axes: i64[1] = [2]
  %1 = Unsqueeze(%m, @axes)
  %2 = Mul(%x, %1)
  return %2
}
"""


def graph() -> Graph:
    return graph_from_text(TEXT)


def profile(*shapes: tuple[int, ...]) -> Profile:
    return Profile(*shapes)


def test_ranges_come_from_profiles_and_the_batch_default() -> None:
    made = graph()
    apply_profiles(made, {"x": profile((1, 16, 8), (2, 128, 8), (4, 512, 8))})
    assert made.ranges == {"N": (1, 2, 4), "S": (16, 128, 512)}
    made = graph_from_text(TEXT.replace("S", "64"))
    apply_profiles(made, {})
    assert made.ranges == {"N": (1, 1, 32)}


def test_single_extents_become_numbers() -> None:
    made = graph()
    apply_profiles(made, {"m": profile((1, 64), (2, 64), (4, 64))})
    assert made.ranges == {"N": (1, 2, 4)}
    assert str(made.outputs[0]).endswith("[N,64,8]")


def test_missing_ranges_show_a_profile_to_pass() -> None:
    with pytest.raises(ConfigError) as error:
        apply_profiles(graph(), {})
    assert "S are symbolic" in str(error.value)
    assert 'profiles={"x": Profile((1, 1, 8), (1, 128, 8), (32, 512, 8))}' in str(error.value)


@pytest.mark.parametrize(
    ("profiles", "message"),
    [
        ({"z": profile((1,), (1,), (1,))}, "unknown input.*z(.|\n)*x, m"),
        ({"m": profile((1,), (1,), (1,))}, "rank 1, the input 2"),
        ({"x": profile((1, 1, 8), (1, 1, 8), (1, 1, 9))}, "fixes to 8"),
        (
            {
                "x": profile((1, 1, 8), (1, 1, 8), (9, 9, 8)),
                "m": profile((1, 1), (1, 1), (4, 9)),
            },
            "two ranges for the extent N",
        ),
    ],
)
def test_profiles_that_do_not_fit_are_refused(profiles: dict[str, Profile], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        apply_profiles(graph(), profiles)
