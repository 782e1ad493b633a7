"""The slab of each network, and the newest network of each model's name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from app.config import Settings
from app.engine.inputs import check_intervals
from app.errors import OtherModel, UnknownModel, Unprocessable
from app.session.history import HistoryPool
from app.session.slab import Slab
from models.arrays import Floats
from models.errors import BadArtifact
from models.forecaster import KIND_SEPARATOR, Forecaster

# Limit of a slab's address space: rows with a covariance matrix could need more than there is.
SLAB_BYTES = 2**36


class ModelSlabs:
    """The slabs, one for each network and kind of learning.

    Parameters
    ----------
    forecasters : the models, one for each name; the first is the default unless the settings name another
    older : networks for old sessions only; a new session never gets one

    Raises
    ------
    UnknownModel : the default model is not among them
    """

    def __init__(
        self, forecasters: Sequence[Forecaster], settings: Settings, older: Sequence[Forecaster] = ()
    ) -> None:
        self.settings = settings
        self.history_pool = (
            HistoryPool(settings.history_observations, settings.history_bytes)
            if settings.history_observations and settings.history_bytes
            else None
        )
        self.slabs: dict[str, Slab] = {}  # slabs by fingerprint
        self.current: dict[str, Slab] = {}  # slabs that new sessions go to, by model name
        self.take_doubles = False  # whether a network takes whole numbers that float32 cannot hold
        for forecaster in forecasters:
            self.adopt(forecaster)
        for forecaster in older:
            self.slabs[forecaster.fingerprint] = self._slab(forecaster)
        self.default_model = settings.default_model or next(iter(self.current))
        self.slab_for_model(self.default_model)

    @property
    def history_bytes(self) -> int:
        """Bytes of memory of what the resident sessions observed last."""
        return 0 if self.history_pool is None else self.history_pool.nbytes

    def slab_for_model(self, model: str | None) -> Slab:
        """The slab that new sessions of this model go to.

        Raises
        ------
        UnknownModel
        """
        name = model if model is not None else self.default_model
        try:
            return self.current[name]
        except KeyError:
            known = sorted(self.current)
            raise UnknownModel(
                f"there is no model {name!r}; there are: {', '.join(known)}", models=known
            ) from None

    def adopt(self, forecaster: Forecaster) -> bool:
        """Give new sessions this network; existing sessions keep theirs until they are reset.

        Returns whether it differs from the network that new sessions got before.
        """
        artifact = forecaster.artifact
        before = self.current.get(artifact.name)
        slab = self.slabs.get(forecaster.fingerprint)
        if slab is None:
            slab = self.slabs[forecaster.fingerprint] = self._slab(forecaster)
        self.current[artifact.name] = slab
        return slab is not before

    def retire(self, model: str) -> None:
        """Give no new session a network of this name; existing sessions keep theirs.

        Raises
        ------
        UnknownModel
        """
        self.slab_for_model(model)
        del self.current[model]

    def successor(self, slab: Slab) -> Slab:
        """The slab of the newest network of this name, for sessions that learn as those of `slab` do."""
        newest = self.current.get(slab.forecaster.artifact.name, slab)
        kind = slab.forecaster.learning.kind
        if newest.forecaster.artifact.fingerprint == slab.forecaster.artifact.fingerprint:
            return slab
        if slab.forecaster.artifact.learning.kind == kind:
            return newest  # the sessions did not choose how to learn, so they learn as the newest network
        try:
            return self._of_kind(newest, kind)
        except BadArtifact:  # the newest network cannot learn in this way
            return newest

    def slab_for_learning(
        self, model: str | None, learning: Mapping[str, Any], level: float | None
    ) -> tuple[Slab, Floats]:
        """The slab of a new session that chooses how it learns, and its carry, [carry_size].

        Parameters
        ----------
        learning : arguments of `Learning.with_options`
        level : level of the intervals that every answer has; None for none. With a level the session keeps
            intervals.

        Raises
        ------
        UnknownModel
        Unprocessable : the model cannot learn in this way, or keeps no intervals of that level
        """
        slab = self.slab_for_model(model)
        try:
            wanted = {"intervals": True} if level is not None else {}
            chosen = slab.forecaster.artifact.learning.with_options(**{**wanted, **learning})
            slab = self._of_kind(slab, chosen.kind)
        except BadArtifact as error:
            raise Unprocessable(str(error), field="learning") from None
        if level is not None:
            check_intervals(level, slab.forecaster)
        carry = slab.forecaster.initial_state(chosen)
        if level is not None:
            slab.forecaster.level(carry[None])[:] = level
        return slab, carry

    def _of_kind(self, slab: Slab, kind: str) -> Slab:
        """Return the slab of the same artifact for this kind of learning. It is made when first needed.

        Raises
        ------
        BadArtifact : the network cannot learn in this way
        """
        for sibling in self.sibling_slabs(slab):
            if sibling.forecaster.learning.kind == kind:
                return sibling
        forecaster = slab.forecaster.with_kind(kind)
        self.slabs[forecaster.fingerprint] = new_slab = self._slab(forecaster)
        return new_slab

    def sibling_slabs(self, slab: Slab) -> list[Slab]:
        """The slabs of the same artifact, one for each kind of learning, including this one."""
        artifact = slab.forecaster.artifact.fingerprint
        return [
            sibling for sibling in self.slabs.values() if sibling.forecaster.artifact.fingerprint == artifact
        ]

    def older_slabs(self, model: str) -> list[Slab]:
        """The slabs of networks that had this name before; sessions may still run on them."""
        return [
            slab
            for slab in list(self.slabs.values())  # a copy, because `successor` may add a slab
            if slab.forecaster.artifact.name == model and self.successor(slab) is not slab
        ]

    def outdated_slabs(self) -> list[Slab]:
        """The slabs of networks that a newer one of the same name has replaced."""
        return [slab for name in self.current for slab in self.older_slabs(name)]

    def slab_for_fingerprint(self, fingerprint: str) -> Slab:
        """The slab of the model that a state belongs to.

        Raises
        ------
        OtherModel
        """
        slab = self.find_slab(fingerprint)
        if slab is None:
            raise OtherModel(
                f"the state belongs to model {fingerprint[:12]}, which is not loaded", fingerprint=fingerprint
            )
        return slab

    def find_slab(self, fingerprint: str) -> Slab | None:
        """The slab that a carry of this fingerprint belongs to; None if its artifact is not loaded."""
        artifact, _, kind = fingerprint.partition(KIND_SEPARATOR)
        if fingerprint in self.slabs or artifact not in self.slabs:
            return self.slabs.get(fingerprint)
        try:
            return self._of_kind(self.slabs[artifact], kind)
        except BadArtifact:
            return None

    def model_of(self, fingerprint: str) -> str:
        """The name of the model that a carry of this fingerprint belongs to, as lists show it."""
        slab = self.slabs.get(fingerprint.partition(KIND_SEPARATOR)[0])
        return slab.forecaster.artifact.name if slab is not None else f"not loaded: {fingerprint[:12]}"

    def _slab(self, forecaster: Forecaster) -> Slab:
        self.take_doubles |= forecaster.input_type == np.float64
        fitting = max(2 * self.settings.batch_sessions, SLAB_BYTES // max(1, forecaster.carry_nbytes))
        capacity = min(self.settings.resident_sessions, fitting)
        return Slab(forecaster, capacity, self.settings.recent_chunks, self.history_pool)
