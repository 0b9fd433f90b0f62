"""CUDA tactics: one file each; `discover` finds them, so adding a kernel is adding a file."""

from __future__ import annotations

import sys

from planish.tactics.discovery import tactics_in
from planish.tactics.tactic import Tactic


def discover() -> list[Tactic]:
    """Return one instance of every concrete tactic in this folder, ordered by rank and name."""
    return tactics_in(sys.modules[__name__])
