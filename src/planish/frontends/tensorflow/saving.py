"""Writes a converted model as a SavedModel, all of it or nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from planish.errors import ModelError
from planish.frontends.tensorflow import resources
from planish.frontends.tensorflow.library import internal, tensorflow


def save_model(
    root: Any,
    folder: str | os.PathLike[str],
    signatures: Mapping[str, Any],
    options: Any,
) -> None:
    """Write ``tf.saved_model.save``'s folder under a temporary name, then give it its own.

    Parameters
    ----------
    root : trackable
        Holds the engines' resources, and what the functions capture.
    folder : path
        May exist; what a SavedModel does not consist of stays where it is.
    signatures : dict of str to ConcreteFunction
    options : tf.saved_model.SaveOptions or None

    Raises
    ------
    ModelError
        When the folder cannot be written.
    """
    save = tensorflow().saved_model.save
    text = os.fspath(folder)
    if "://" in text:  # a remote file system: TensorFlow's own affair
        save(root, text, signatures=dict(signatures), options=options)
        return
    target = Path(text).resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise ModelError(
            f"the SavedModel cannot be written: {error.strerror}",
            where=text,
            fix="choose a folder that may be written",
        ) from error
    try:
        save(root, str(temporary), signatures=dict(signatures), options=options)
        temporary.chmod(0o755)
        _move(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move(source: Path, target: Path) -> None:
    """Give `source` the name `target`; into a folder with content move each entry."""
    if not target.exists() or not any(target.iterdir()):
        os.replace(source, target)
        return
    # what makes the folder a SavedModel comes last
    for entry in sorted(source.iterdir(), key=lambda path: path.name.startswith("saved_model")):
        old = target / entry.name
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old)
        os.replace(entry, old)


def engine_resource(name: str, filename: str, max_engines: int) -> Any:
    """Return the trackable object that reads an engine's file when the model is loaded.

    Parameters
    ----------
    name : str
        Resource name of the engine.
    filename : str
        The file; becomes an asset of the SavedModel.
    max_engines : int
        Capacity of the engine's cache.
    """
    base: Any = internal("python.trackable.resource").TrackableResource

    class EngineResource(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            asset = tensorflow().saved_model.Asset(filename)
            # TF-TRT's name of the edge, under which its own releases find the file
            self._filename = self._track_trackable(asset, "_serialized_trt_resource_filename")

        def _create_resource(self) -> Any:
            return resources.create_trt_resource_handle(resource_name=name)

        def _initialize(self) -> None:
            resources.initialize_trt_resource(
                self.resource_handle, self._filename.asset_path, max_engines
            )

        def _destroy_resource(self) -> None:
            resources.serialize_trt_resource(name, "", delete_resource=True)

    return EngineResource()
