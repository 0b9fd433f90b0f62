"""Which attributes each operator declares, for everything below `ops` that handles any operator.

`planish.ops` fills the table when operator classes register themselves; the text form elides and
restores defaults with it and the verifier checks that no attribute is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

REQUIRED: Any = object()  # no default, the importer reports its absence

DECLARED: dict[str, Mapping[str, Any]] = {}  # operator name to {attribute: default}
