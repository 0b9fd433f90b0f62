"""What the generators given to ``convert`` and ``build`` may yield."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from planish.errors import InputError
from planish.frontends.tensorflow.library import tensorflow

InputFunction = Callable[[], Iterable[Any]]


def call_with(function: Any, given: Any) -> Any:
    """Call a signature with an array, a list or tuple of arrays, or a dict by input name.

    Raises
    ------
    InputError
        When something given is no array, or the names or the number of arrays are wrong.
    """
    tf = tensorflow()
    try:
        if isinstance(given, Mapping):
            return function(**{name: _tensor(function, name, v) for name, v in given.items()})
        if isinstance(given, list | tuple):
            return function(*map(tf.convert_to_tensor, given))
        return function(tf.convert_to_tensor(given))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the signature cannot be called with what input_fn yields: {error}",
            where=f"inputs {', '.join(input_names(function))}",
            fix="yield an array, a tuple with one array for each input, or a dict by input name",
        ) from error


def input_names(function: Any) -> list[str]:
    """Return the names of a signature's inputs."""
    return list(function.structured_input_signature[1])


def _tensor(function: Any, name: str, value: Any) -> Any:
    """Return `value` as a tensor, of the declared type where it is no array of its own type."""
    tf = tensorflow()
    spec = function.structured_input_signature[1].get(name)
    is_plain = isinstance(value, int | float | bool | list | tuple)
    return tf.convert_to_tensor(value, dtype=spec.dtype if spec is not None and is_plain else None)
