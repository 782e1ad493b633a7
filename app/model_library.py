"""The artifacts on disk that a server serves: loaded at start, and again when told to.

A session keeps its network until it is reset, and with a durable store it may outlive the artifact, which
a newer one has replaced on disk. So beside such a store lies an archive, a copy of every network that was
served: a folder may be deleted from it once no session needs it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from app.config import Settings
from app.errors import BadModel, ConfigError, UnknownModel
from models.artifact.files import load, save
from models.errors import BadArtifact
from models.forecaster import Forecaster

log = logging.getLogger("carryover")


class Library:
    """Where the models come from.

    Parameters
    ----------
    settings : which folders, and the device that the networks run on
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        store = settings.store_path
        self._archive = None if store is None else store.with_name(f"{store.name}.models")

    def load(self) -> list[Forecaster]:
        """Every artifact there is: in the order of the folders, then of their names. Reads the disk.

        So the first, the default of a server that names none, is not another once one is trained into a
        later folder.

        Raises
        ------
        ConfigError : one cannot be loaded, two have one name, the default is none of them
        """
        loaded: dict[str, Forecaster] = {}
        for folder in _folders(self.settings.models):
            forecaster = self._loaded(folder)
            name = forecaster.artifact.name
            if name in loaded:
                raise ConfigError(f"two models are named {name!r}; the second is {folder}")
            loaded[name] = forecaster
        if not loaded:
            raise ConfigError(f"there is no model in {', '.join(map(str, self.settings.models))}")
        default = self.settings.default_model
        if default is not None and default not in loaded:
            raise ConfigError(f"the default model {default!r} is none of {', '.join(sorted(loaded))}")
        return list(loaded.values())

    def older(self, current: Sequence[Forecaster]) -> list[Forecaster]:
        """The archived networks that are none of these. One that cannot be loaded is passed over."""
        if self._archive is None or not self._archive.is_dir():
            return []
        known = {forecaster.artifact.fingerprint for forecaster in current}
        found = []
        for folder in sorted(path for path in self._archive.iterdir() if path.name not in known):
            try:
                found.append(self._loaded(folder))
            except ConfigError as error:
                log.warning("%s; its sessions wait for a reset or for their model", error)
        return found

    def keep(self, forecasters: Sequence[Forecaster]) -> None:
        """Archive these networks, where the store is durable, before a session can depend on them.

        Raises
        ------
        ConfigError : the archive cannot be written
        """
        if self._archive is None:
            return
        for artifact in (forecaster.artifact for forecaster in forecasters):
            try:
                if not (self._archive / artifact.fingerprint).exists():
                    save(artifact, self._archive / artifact.fingerprint)
            except OSError as error:
                raise ConfigError(f"{self._archive} cannot be written: {error.strerror}") from error

    def reload(self, name: str) -> Forecaster:
        """The artifact of this name as it is on disk now. Reads the disk.

        Raises
        ------
        UnknownModel : none has that name any more
        BadModel : it cannot be loaded
        """
        try:
            found = {one.artifact.name: one for one in self.load()}
        except ConfigError as error:
            raise BadModel(f"{error.detail}; the model that was loaded goes on") from error
        if name not in found:
            raise UnknownModel(f"no artifact on disk is named {name!r}", models=sorted(found))
        self.keep([found[name]])
        return found[name]

    def _loaded(self, folder: Path) -> Forecaster:
        try:
            return Forecaster(load(folder), self.settings.device, self.settings.replay_observations)
        except BadArtifact as error:
            raise ConfigError(f"model {folder} cannot be loaded: {error}") from error


def _folders(paths: Sequence[Path]) -> list[Path]:
    """The artifacts at these paths, or in them."""
    found: list[Path] = []
    for path in paths:
        if (path / "model.json").exists():
            found.append(path)
        elif path.is_dir():
            found += sorted(child.parent for child in path.glob("*/model.json"))
        else:
            raise ConfigError(f"there is no folder {path}")
    return found
