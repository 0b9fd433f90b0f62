"""GPU architectures as targets: from a table, or from the device that is here."""

from __future__ import annotations

from planish.errors import CompatibilityError, ConfigError
from planish.runtime.cuda.driver import device
from planish.tactics.target import Target

# multiprocessors and bytes of L2 cache of each architecture's data centre model
ARCHITECTURES = {
    "sm_80": (108, 40 << 20),
    "sm_89": (142, 96 << 20),
    "sm_90": (132, 50 << 20),
    "sm_100": (148, 126 << 20),
}


def detect(name: str | None) -> Target:
    """Return the architecture of that name, or that of the GPU that is here, as a target.

    Raises
    ------
    ConfigError
        When the name is not known, or there is neither a name nor a GPU.
    """
    if name is None:
        return _present()
    if name not in ARCHITECTURES:
        raise ConfigError(
            f"the target {name!r} is not known",
            where="BuildConfig.target",
            fix=f"use one of {', '.join(ARCHITECTURES)}",
        )
    multiprocessors, l2 = ARCHITECTURES[name]
    return Target("cuda", frozenset({name}), l2=l2, multiprocessors=multiprocessors)


def architecture_of(target: Target) -> int:
    """Return the compute capability of a target without the point: 90 for sm_90."""
    return int(next(name[3:] for name in target.features if name.startswith("sm_")))


def _present() -> Target:
    try:
        gpu = device()
    except CompatibilityError as error:
        raise ConfigError(
            f"device='cuda' needs to know the GPU, and there is none here ({error})",
            where="BuildConfig.target",
            fix="name the architecture to build for, like target='sm_90'",
        ) from error
    name = f"sm_{gpu.arch}"
    # the table's cache size, where there is one: times measured here then serve builds for this
    # architecture on machines without a GPU
    l2 = ARCHITECTURES[name][1] if name in ARCHITECTURES else gpu.l2
    return Target("cuda", frozenset({name}), l2=l2, multiprocessors=gpu.multiprocessors)
