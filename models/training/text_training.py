"""Truncated back-propagation through time over text: the carry passes from piece to piece, detached.

epoch:  the training part as equal contiguous streams, cut from a random offset on
        carry = 0;  for each piece:  logits, carry = network(piece, carry)
                                     cross-entropy of the characters that follow -> optimizer step
                                     carry = detach_carry(carry)
round:  at most so many characters, after which the validation part is measured; an epoch has one or more
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.errors import BadRecipe
from models.nets.recurrent import Carry, detach_carry
from models.training.rounds import RoundTraining
from models.training.text import Text
from models.training.text_network import build_text_artifact, cross_entropy, initial_network
from models.training.text_recipe import TextRecipe

ROUND = 200_000  # characters from one measurement of the validation part to the next
PIECES = 128  # of a stream, at least, where there is more than one stream


@dataclass(frozen=True)
class Round:
    """The result of a round.

    Attributes
    ----------
    epochs : passes over the training part so far
    loss, validation : mean cross-entropy, in nats a character, while training and over the validation part
    seconds : since the training began
    best : whether the validation error is the lowest so far
    """

    number: int
    epochs: float
    loss: float
    validation: float
    learning_rate: float
    seconds: float
    best: bool

    @property
    def perplexity(self) -> float:
        """Of the validation part."""
        return math.exp(min(self.validation, 700))


class TextTraining(RoundTraining[Round]):
    """A training on text.

    Parameters
    ----------
    text, recipe
        What to learn, and how.
    device
        "cpu" or "cuda".
    clock
        Seconds, for the limit in minutes.

    Raises
    ------
    BadRecipe
        The network or its pieces do not fit the text.
    BadArtifact
        The artifact of this training would be refused.
    """

    recipe: TextRecipe
    result_type = Round

    def __init__(
        self,
        text: Text,
        recipe: TextRecipe,
        device: str = "cpu",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.text, self.clock = text, clock
        # A short text has fewer streams: an epoch of a few steps of the optimizer would teach little.
        self.streams = max(1, min(recipe.streams, text.train // (PIECES * recipe.piece)))
        if text.train // self.streams <= 2 * recipe.piece:
            raise BadRecipe(f"piece {recipe.piece} is too long for {text.train:,} characters of training")
        network = initial_network(text, recipe)
        # Everything that the artifact refuses is refused now: afterwards it would cost the whole training.
        build_text_artifact(network, text)
        super().__init__(network, recipe, device)
        self.tokens = torch.from_numpy(text.tokens)
        self.steps = 0
        self._carry: Carry | None = None
        self._ahead: Iterator[tuple[Tensor, Tensor]] = iter(())
        self._epoch = 0
        self._done = 0  # pieces of this epoch
        self._start: float | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of a pass over the training part."""
        longest = (self.text.train - 1) // self.streams
        return math.ceil(longest / self.recipe.piece)

    @property
    def steps_per_round(self) -> int:
        """Optimizer steps of a round."""
        return min(self.steps_per_epoch, max(1, ROUND // (self.streams * self.recipe.piece)))

    @property
    def seconds(self) -> float:
        """Since the training began."""
        return 0.0 if self._start is None else self.clock() - self._start

    @property
    def progress(self) -> float:
        """The share of the training that is done, of its epochs or of its time: from 0 to 1."""
        done = self.steps / (self.recipe.epochs * self.steps_per_epoch)
        if self.recipe.minutes is not None:
            done = max(done, self.seconds / max(60 * self.recipe.minutes, 1e-9))
        return min(done, 1.0)

    @property
    def finished(self) -> bool:
        """Whether the training has reached its end, or no longer improves."""
        if self.progress >= 1 and self.history:
            return True
        best = max((each.epochs for each in self.history if each.best), default=0.0)
        since_best = self.history[-1].epochs - best if self.history else 0.0
        return 0 < self.recipe.patience <= since_best

    def run_round(self) -> Round:
        """Train on the next characters, then measure the validation part.

        Raises
        ------
        TrainingDiverged
            The loss is NaN or infinite: the present weights are useless, those of `best_network` are not.
        """
        if self._start is None:
            self._start = self.clock()
        number = len(self.history) + 1
        rate, losses = self.recipe.learning_rate, []
        self.network.train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1_000_003 * (self.recipe.seed + 1) + number)  # of the dropout
            for _ in range(self.steps_per_round):
                rate = self.recipe.learning_rate_at(self.progress)
                losses.append(self._step(rate))
                if self.progress >= 1:
                    break
        self._check_weights()
        validation = cross_entropy(self.network, self.tokens, self.text.validation_rows, self.device)
        if not math.isfinite(validation):
            raise self._divergence(f"the validation error is {validation}")
        best = self._keep_if_best(validation)
        epochs = self.steps / self.steps_per_epoch
        loss = sum(losses) / len(losses)
        result = Round(number, epochs, loss, validation, rate, self.seconds, best)
        self.history.append(result)
        return result

    @property
    def data_digest(self) -> str:
        """SHA-256 (hex) over the text and its parts."""
        text = self.text
        digest = hashlib.sha256(repr((text.pieces, text.train, text.validation)).encode())
        digest.update(text.tokens.astype("<i8").tobytes())
        return digest.hexdigest()

    def state(self) -> dict[str, Any]:
        return super().state() | {
            "carry": self._carry,
            "epoch": self._epoch,
            "done": self._done,
            "steps": self.steps,
            "seconds": self.seconds,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Return to `state`, which was taken under the same recipe and text; its time counts, too."""
        super().restore(state)
        carry, self.steps = state["carry"], state["steps"]
        self._carry = None if carry is None else tuple(part.to(self.device) for part in carry)
        self._epoch, self._done = state["epoch"], state["done"]
        self._ahead = islice(self._pieces(self._epoch), self._done, None) if self._epoch else iter(())
        self._start = self.clock() - state["seconds"]

    def _step(self, rate: float) -> float:
        """One piece of each stream; the loss."""
        self._set_learning_rate(rate)
        pieces, following = self._next_pieces()
        with torch.autocast(self.device, torch.bfloat16, enabled=self.recipe.bfloat16):
            logits, carry = self.network(pieces.to(self.device)[..., None], self._carry)
        following = following.to(self.device).flatten()
        loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), following)
        value = self._finite(loss)
        self._descend(loss)
        self._carry = tuple(part.float() for part in detach_carry(carry))
        self.steps += 1
        return value

    def _next_pieces(self) -> tuple[Tensor, Tensor]:
        """A piece of each stream, and what follows each character: [streams, steps]."""
        pieces = next(self._ahead, None)
        if pieces is None:
            self._epoch += 1
            self._carry = None  # the streams begin elsewhere
            self._ahead, self._done = self._pieces(self._epoch), 0
            pieces = next(self._ahead)
        self._done += 1
        return pieces

    def _pieces(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        rng = np.random.default_rng([self.recipe.seed, epoch])
        # Pieces are not cut at the same characters in every epoch.
        offset = int(rng.integers(self.recipe.piece))
        length = (self.text.train - 1 - offset) // self.streams
        used = self.tokens[offset : offset + self.streams * length + 1]
        pieces, following = used[:-1].view(self.streams, length), used[1:].view(self.streams, length)
        for start in range(0, length, self.recipe.piece):
            rows = slice(start, start + self.recipe.piece)
            yield pieces[:, rows], following[:, rows]
