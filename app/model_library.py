"""The artifacts on disk that a server serves: loaded at start, and when a model is reloaded.

A session keeps its network until it is reset. With a store on disk, a session can exist longer than the
artifact, which a newer one may have replaced. Beside such a store there is therefore an archive with a copy
of every network that was served. A folder of the archive may be deleted when no session needs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from app.config import Settings
from app.errors import BadModel, ConfigError, UnknownModel
from models.artifact.files import load_any, save
from models.artifact.folder import artifact_folders, read_description
from models.errors import BadArtifact
from models.forecaster import Forecaster
from models.net import Execution

log = logging.getLogger("carryover")

FIGURE = "figure.png"  # beside the artifact; training writes it
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_FIGURE_BYTES = 5_000_000


class ModelLibrary:
    """Loads models and archives them.

    Parameters
    ----------
    settings : folders of the models, and the device that the networks run on
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        # Of those who reload at once, one after the other: otherwise the last to finish its read might have
        # begun it first, and bring an older network back.
        self.turn = asyncio.Lock()
        self.folders: dict[str, Path] = {}  # by model, as of the last load
        self._execution = Execution(settings.device, settings.run_seconds)
        store = settings.store_path
        self._archive = None if store is None else store.with_name(f"{store.name}.models")

    def load(self) -> list[Forecaster]:
        """All artifacts, in the order of their folders, and in each by name. Reads the disk.

        Raises
        ------
        ConfigError : an artifact cannot be loaded, two have the same name, or the default is missing
        """
        loaded: dict[str, Forecaster] = {}
        folders: dict[str, Path] = {}
        for folder in _folders(self.settings.models):
            forecaster = self._load_folder(folder)
            name = forecaster.artifact.name
            if name in loaded:
                raise ConfigError(f"two models have the name {name!r}; the second is {folder}")
            loaded[name], folders[name] = forecaster, folder
        if not loaded:
            raise ConfigError(
                f"there is no model in {', '.join(map(str, self.settings.models))}; set CARRYOVER_MODELS"
            )
        default = self.settings.default_model
        if default is not None and default not in loaded:
            raise ConfigError(
                f"the default model {default!r} is not loaded; the models are {', '.join(sorted(loaded))}"
            )
        self.folders = folders
        return self._with_aliases(list(loaded.values()))

    def default_name(self, loaded: Sequence[Forecaster]) -> str | None:
        """The model of sessions that name none: the setting, the first that `models` names, or the only one.

        A folder of artifacts names none of them: which is the first would depend on what is trained next.
        """
        if self.settings.default_model is not None:
            return self.settings.default_model
        if (self.settings.models[0] / "model.json").exists() or len(loaded) == 1:
            return loaded[0].artifact.name
        return None

    def load_archived(self, current: Sequence[Forecaster]) -> list[Forecaster]:
        """Archived networks that are not among `current`. A network that cannot be loaded is skipped."""
        if self._archive is None or not self._archive.is_dir():
            return []
        known = {forecaster.artifact.fingerprint for forecaster in current}
        found = []
        for folder in sorted(self._archive.iterdir()):
            if folder.name in known or folder.name.startswith("."):  # see `artifact_folders`
                continue
            try:
                found.append(self._load_folder(folder))
            except ConfigError as error:
                log.warning("%s; its sessions need a reset or their model", error)
        return found

    def archive(self, forecasters: Sequence[Forecaster]) -> None:
        """Copy these networks to the archive, if the store is on disk, before a session can depend on them.

        Raises
        ------
        ConfigError : the archive cannot be written
        """
        if self._archive is None:
            return
        for artifact in (forecaster.artifact for forecaster in forecasters):
            try:
                # As the store's file, for its owner alone.
                self._archive.mkdir(mode=0o700, parents=True, exist_ok=True)
                if not (self._archive / artifact.fingerprint).exists():
                    save(artifact, self._archive / artifact.fingerprint)
            except OSError as error:
                raise ConfigError(f"{self._archive} cannot be written: {error.strerror}") from error
            except BadArtifact as error:  # it says which folder cannot be written
                raise ConfigError(str(error)) from error

    def reload(self, name: str) -> Forecaster:
        """The artifact of this name as it is on disk now. Reads the disk.

        Raises
        ------
        UnknownModel : no artifact has this name
        BadModel : an artifact cannot be loaded
        """
        try:
            found = {forecaster.artifact.name: forecaster for forecaster in self.load()}
        except ConfigError as error:
            raise BadModel(f"{error.detail}; the model in memory stays in use") from error
        if name not in found:
            raise UnknownModel(f"no artifact on disk has the name {name!r}", models=sorted(found))
        self.archive([found[name]])
        return found[name]

    def has_figure(self, name: str) -> bool:
        """Whether the folder of a model that is loaded has a picture of its training."""
        folder = self.folders.get(name)
        if folder is None:
            return False
        try:
            found = (folder / FIGURE).lstat()
        except OSError:
            return False
        return stat.S_ISREG(found.st_mode) and found.st_size <= MAX_FIGURE_BYTES

    def figure(self, name: str) -> bytes | None:
        """The picture (PNG) of a loaded model's training, if its folder has one. Reads the disk."""
        folder = self.folders.get(name)
        return None if folder is None else _read_png(folder / FIGURE)

    def written_at(self, name: str) -> int:
        """When the artifact of a loaded model was written, in seconds since 1970; 0 if its folder is gone."""
        folder = self.folders.get(name)
        if folder is None:
            return 0
        try:
            return int((folder / "model.json").stat().st_mtime)
        except OSError:
            return 0

    def _with_aliases(self, loaded: list[Forecaster]) -> list[Forecaster]:
        """The same, with all models but one of each network marked as aliases of that one.

        Records in the store that name no model belong to the one that was archived.
        """
        owners: dict[str, str] = {}
        for forecaster in loaded:
            name, fingerprint = forecaster.artifact.name, forecaster.artifact.fingerprint
            if fingerprint not in owners or name == self._archived_name(fingerprint):
                owners[fingerprint] = name
        return [
            forecaster
            if owners[forecaster.artifact.fingerprint] == forecaster.artifact.name
            else forecaster.as_alias()
            for forecaster in loaded
        ]

    def _archived_name(self, fingerprint: str) -> str | None:
        """The name under which a network is in the archive."""
        if self._archive is None or not (self._archive / fingerprint).exists():
            return None
        with contextlib.suppress(BadArtifact):
            return str(read_description(self._archive / fingerprint / "model.json")["name"])
        return None

    def _load_folder(self, folder: Path) -> Forecaster:
        try:
            forecaster = Forecaster(load_any(folder), self._execution, self.settings.replay_observations)
        except BadArtifact as error:
            raise ConfigError(f"model {folder} cannot be loaded: {error}") from error
        limit = self.settings.carry_bytes
        if forecaster.carry_nbytes > limit:
            raise ConfigError(
                f"model {folder} cannot be loaded: the carry of a session has {forecaster.carry_nbytes} "
                f"bytes, at most {limit} are allowed; set CARRYOVER_CARRY_BYTES"
            )
        return forecaster


def _folders(paths: Sequence[Path]) -> list[Path]:
    """The artifacts at these paths, or in them."""
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            raise ConfigError(f"there is no folder {path}")
        found += artifact_folders(path)
    return found


def _read_png(path: Path) -> bytes | None:
    """The bytes of a PNG file; None for anything else.

    A link may lead out of the folder, and a pipe may block.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(MAX_FIGURE_BYTES + 1)
    finally:
        os.close(descriptor)
    return content if content.startswith(PNG_SIGNATURE) and len(content) <= MAX_FIGURE_BYTES else None
