"""What makes a graph a model of text: its next input is a token that is drawn from one of its outputs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.artifact.folder import MAX_JSON_BYTES, read_bounded
from models.errors import BadArtifact
from models.generation.vocabulary import TextOutput, Vocabulary, check_pieces
from models.nets.signature import Port, Signature

TOKEN_TYPES = ("int64", "int32", "uint8")


@dataclass(frozen=True)
class GraphText:
    """How a graph writes text.

    Attributes
    ----------
    logits
        The output that a token is drawn from: a number for each piece.
    vocabulary
        The text that each token stands for.
    """

    logits: str
    vocabulary: tuple[str, ...]

    def check(self, signature: Signature) -> None:
        """Refuse a graph that does not take a token and answer logits of the next.

        Raises
        ------
        BadArtifact
        """
        check_pieces(self.vocabulary)
        pieces = len(self.vocabulary)
        if len(signature.inputs) != 1:
            names = ", ".join(port.name for port in signature.inputs)
            raise BadArtifact(f"a model of text has one input, the token; this graph has {names[:200]}")
        (token,) = signature.inputs
        if token.size != 1 or token.dtype not in TOKEN_TYPES:
            raise BadArtifact(
                f"a token is one whole number; the input {token.name!r} is {token.dtype} {list(token.shape)}"
            )
        if token.range is None or token.range[0] > 0 or token.range[1] < pieces - 1:
            held = "any number" if token.range is None else f"{token.range[0]:g} to {token.range[1]:g}"
            raise BadArtifact(
                f"the input {token.name!r} takes {held}; the vocabulary has the tokens 0 to {pieces - 1}"
            )
        size = self._port(signature).size
        if size != pieces:
            raise BadArtifact(
                f"the output {self.logits!r} has {size} numbers, the vocabulary has {pieces} pieces"
            )

    def output(self, signature: Signature) -> TextOutput:
        """Where the logits are among the numbers of a prediction."""
        before = signature.outputs[: signature.outputs.index(self._port(signature))]
        start = sum(port.size for port in before)
        return TextOutput(signature.inputs[0].name, self.logits, start, Vocabulary(self.vocabulary))

    def _port(self, signature: Signature) -> Port:
        for port in signature.outputs:
            if port.name == self.logits:
                return port
        raise BadArtifact(f"there is no output {self.logits[:80]!r} to draw a token from")


def describe_text(text: GraphText, signature: Signature) -> dict[str, Any]:
    """The fields of model.json."""
    return {
        "feedback": {signature.inputs[0].name: {"sample": text.logits}},
        "vocabulary": list(text.vocabulary),
    }


def parse_text(feedback: Any, vocabulary: Any, signature: Signature) -> GraphText:
    """Read the fields of model.json.

    Raises
    ------
    BadArtifact
    """
    if not isinstance(vocabulary, list):
        raise BadArtifact("vocabulary is not a list")
    check_pieces(vocabulary)
    token = signature.inputs[0].name
    drawn = feedback.get(token) if isinstance(feedback, dict) and len(feedback) == 1 else None
    if not isinstance(drawn, dict) or set(drawn) != {"sample"} or not isinstance(drawn["sample"], str):
        shown = json.dumps({token: {"sample": "an output"}})[:200]
        raise BadArtifact(f"feedback of a model with a vocabulary must be as {shown}")
    return GraphText(drawn["sample"], tuple(vocabulary))


def read_vocabulary(path: Path) -> tuple[str, ...]:
    """Read a file with the pieces: a JSON list in the order of their tokens, or an object of tokens by piece.

    Raises
    ------
    BadArtifact
    """
    try:
        document = json.loads(read_bounded(path, MAX_JSON_BYTES).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise BadArtifact(f"{path} is not JSON: {error}") from error
    try:
        pieces = _in_order(document) if isinstance(document, dict) else document
        if not isinstance(pieces, list):
            raise BadArtifact("is neither a list of pieces nor an object of tokens by piece")
        check_pieces(pieces)
    except BadArtifact as error:
        raise BadArtifact(f"{path}: {error}") from error
    return tuple(pieces)


def _in_order(tokens: Mapping[str, object]) -> list[str]:
    by_token = {token: piece for piece, token in tokens.items() if type(token) is int}
    if sorted(by_token) != list(range(len(tokens))):
        raise BadArtifact(f"the tokens of {len(tokens)} pieces must be 0 to {len(tokens) - 1}, each once")
    return [by_token[token] for token in range(len(tokens))]
