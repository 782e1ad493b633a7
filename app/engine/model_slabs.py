"""The slab of each network, and the newest network of each model's name."""

from __future__ import annotations

import logging
import sys
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
from models.forecaster import ALIAS_SEPARATOR, KIND_SEPARATOR, Forecaster

log = logging.getLogger("carryover")

# Limit of a slab's address space: rows with a covariance matrix could need more than there is.
SLAB_BYTES = 2**36


class ModelSlabs:
    """The slabs, one for each network and kind of learning.

    Parameters
    ----------
    forecasters : the models, one for each name; the default is the one of the settings, or the only one
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
        self.shortest_frame = sys.maxsize  # observations of a step, of the network that takes the fewest
        for forecaster in forecasters:
            self.adopt(forecaster)
        for forecaster in older:
            self.slabs[forecaster.fingerprint] = self._slab(forecaster)
        only = next(iter(self.current)) if len(self.current) == 1 else None
        self.default_model = settings.default_model or only
        if self.default_model is not None:
            self.slab_for_model(self.default_model)

    @property
    def history_bytes(self) -> int:
        """Bytes of memory of what the resident sessions observed last."""
        return 0 if self.history_pool is None else self.history_pool.nbytes

    def slab_for_model(self, model: str | None) -> Slab:
        """The slab that new sessions of this model go to.

        Parameters
        ----------
        model : None for the default

        Raises
        ------
        UnknownModel
        Unprocessable : no model is named, and there is no default
        """
        name = model if model is not None else self.default_model
        slab = None if name is None else self.current.get(name)
        if slab is not None:
            return slab
        known = sorted(self.current)
        there_are = f"there are: {', '.join(known)}"
        if name is None:
            sentence = f"name the `model` of a new session: the server has no default model; {there_are}"
            raise Unprocessable(sentence, field="model", models=known)
        raise UnknownModel(f"there is no model {name!r}; {there_are}", models=known)

    def adopt(self, forecaster: Forecaster) -> bool:
        """Give new sessions this network; existing sessions keep theirs until they are reset.

        Returns whether it differs from the network that new sessions got before.
        """
        artifact = forecaster.artifact
        before = self.current.get(artifact.name)
        if before is not None and before.forecaster.artifact.fingerprint == artifact.fingerprint:
            return False
        slab = self.slabs.get(forecaster.fingerprint)
        if slab is not None and slab.forecaster.artifact.name != artifact.name:
            forecaster = forecaster.as_alias()
            slab = self.slabs.get(forecaster.fingerprint)
        if slab is None:
            slab = self.slabs[forecaster.fingerprint] = self._slab(forecaster)
        self.current[artifact.name] = slab
        return slab is not before

    def exchange(self, forecaster: Forecaster) -> bool:
        """`adopt` while sessions are served, and log what changed."""
        name, fingerprint = forecaster.artifact.name, forecaster.artifact.fingerprint[:12]
        before = self.current.get(name)
        changed = self.adopt(forecaster)
        if before is None:
            log.info("model %s is loaded: fingerprint %s", name, fingerprint)
        elif changed:
            older = before.forecaster.artifact.fingerprint[:12]
            log.info("model %s is reloaded: fingerprint %s in place of %s", name, fingerprint, older)
        return changed

    def retire(self, model: str) -> None:
        """Give no new session a network of this name; existing sessions keep theirs.

        Raises
        ------
        UnknownModel
        """
        self.slab_for_model(model)
        del self.current[model]
        log.info("model %s is unloaded: no new session gets it", model)

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
        """The slabs of the same artifact and name, one for each kind of learning, including this one."""
        artifact = slab.forecaster.artifact
        return self._slabs_of(artifact.fingerprint, artifact.name)

    def _slabs_of(self, artifact: str, name: str) -> list[Slab]:
        """The slabs of an artifact, by its fingerprint, under this name."""
        artifacts = ((slab, slab.forecaster.artifact) for slab in self.slabs.values())
        return [slab for slab, found in artifacts if (found.fingerprint, found.name) == (artifact, name)]

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

    def slab_for_fingerprint(self, fingerprint: str, model: str) -> Slab:
        """The slab of the model that a state belongs to.

        Parameters
        ----------
        model : its name where the state was written, for the error

        Raises
        ------
        OtherModel
        """
        slab = self.find_slab(fingerprint)
        if slab is None:
            raise OtherModel(
                f"the state belongs to model {model[:100]!r} of fingerprint {fingerprint[:12]}, which is not "
                "loaded",
                fingerprint=fingerprint,
            )
        return slab

    def find_slab(self, fingerprint: str) -> Slab | None:
        """The slab that a carry of this fingerprint belongs to; None if its artifact is not loaded."""
        if fingerprint in self.slabs:
            return self.slabs[fingerprint]
        slab, kind = self._base_slab(fingerprint)
        if slab is None:
            return None
        try:
            return self._of_kind(slab, kind or slab.forecaster.artifact.learning.kind)
        except BadArtifact:
            return None

    def model_of(self, fingerprint: str) -> str:
        """The name of the model that a carry of this fingerprint belongs to, as lists show it."""
        slab, _ = self._base_slab(fingerprint)
        return slab.forecaster.artifact.name if slab is not None else f"not loaded: {fingerprint[:12]}"

    def _base_slab(self, fingerprint: str) -> tuple[Slab | None, str]:
        """A slab of the artifact that a carry belongs to, of the carry's model if it is loaded; the kind of
        learning, "" for the artifact's own."""
        base, _, name = fingerprint.partition(ALIAS_SEPARATOR)
        artifact, _, kind = base.partition(KIND_SEPARATOR)
        of_name = self._slabs_of(artifact, name) if name else []
        return of_name[0] if of_name else self.slabs.get(artifact), kind

    def _slab(self, forecaster: Forecaster) -> Slab:
        self.take_doubles |= forecaster.input_type == np.float64
        self.shortest_frame = min(self.shortest_frame, forecaster.frame)
        fitting = max(2 * self.settings.batch_sessions, SLAB_BYTES // max(1, forecaster.carry_nbytes))
        capacity = min(self.settings.resident_sessions, fitting)
        return Slab(forecaster, capacity, self.settings.recent_chunks, self.history_pool)
