"""What services read at their start is read once in this process: the tests start thousands of them."""

from __future__ import annotations

from copy import copy
from functools import cache
from pathlib import Path

import pytest

from app import main
from app.model_library import ModelLibrary
from models.forecaster import Forecaster

# The threads of libraries are limited by the first service, for the whole process.
ONCE = ("threadpool_limits", "load_assets", "installed_version")


def install(patch: pytest.MonkeyPatch, zoo_folder: Path) -> None:
    """Keep the artifacts of the zoo, the files of the dashboard, and the version."""
    load_folder = ModelLibrary._load_folder
    loaded: dict[tuple[object, ...], Forecaster] = {}

    def load_once(library: ModelLibrary, folder: Path) -> Forecaster:
        if folder.parent != zoo_folder:
            return load_folder(library, folder)
        settings = library.settings
        key = (folder, library._execution, settings.replay_observations, settings.carry_bytes)
        if key not in loaded:
            loaded[key] = load_folder(library, folder)
        return copy(loaded[key])  # its network and its artifact do not change

    patch.setattr(ModelLibrary, "_load_folder", load_once)
    for name in ONCE:
        patch.setattr(main, name, cache(getattr(main, name)))
