"""What a native network is made of, besides its sizes: the kind of its cells, its head and its embedding.

inputs -> embedding -> recurrent layers of `cell` -> head -> linear readout -> outputs
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from models.errors import BadArtifact

Cell = Literal["lstm", "gru", "rnn"]
Activation = Literal["relu", "tanh", "sigmoid", "silu", "gelu"]
HeadLayer = int | Literal["layer_norm"] | Activation
Shapes = dict[str, tuple[int, ...]]

CELLS: tuple[Cell, ...] = get_args(Cell)
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)
GATES: dict[Cell, int] = {"lstm": 4, "gru": 3, "rnn": 1}  # rows of weights for each hidden unit
STATES: dict[Cell, int] = {"lstm": 2, "gru": 1, "rnn": 1}  # numbers kept for each hidden unit
LAYER_NORM_EPSILON = 1e-5  # torch's default
MAX_HEAD = 32
MAX_WIDTH = 16384
MAX_VOCABULARY = 2**24  # a float32 holds every whole number up to here


@dataclass(frozen=True)
class Embedding:
    """The only input is a whole number from 0 to `vocabulary` - 1, which stands for a row of `width` numbers.

    Raises
    ------
    BadArtifact : a size is out of its bounds
    """

    vocabulary: int
    width: int

    def __post_init__(self) -> None:
        _check_size("the embedding's vocabulary", self.vocabulary, MAX_VOCABULARY)
        _check_size("the embedding's width", self.width, MAX_WIDTH)


@dataclass(frozen=True)
class Architecture:
    """The layers of a network, from its inputs to its readout.

    Attributes
    ----------
    cell
        "lstm", "gru" (as `torch.nn.GRU` has it) or "rnn" (`torch.nn.RNN` with tanh).
    head
        What lies between the hidden state of the last layer and the linear readout, in order. A number is a
        linear layer with so many outputs.
    embedding
        None where the inputs are numbers.

    Raises
    ------
    BadArtifact : a cell or a layer is unknown, or a size is out of its bounds
    """

    cell: Cell = "lstm"
    head: tuple[HeadLayer, ...] = ()
    embedding: Embedding | None = None

    def __post_init__(self) -> None:
        if self.cell not in CELLS:
            raise BadArtifact(f"cell must be one of {', '.join(CELLS)}, not {str(self.cell)[:40]!r}")
        if len(self.head) > MAX_HEAD:
            raise BadArtifact(f"the head has {len(self.head)} layers; it may have {MAX_HEAD}")
        for layer in self.head:
            if isinstance(layer, str):
                if layer not in ("layer_norm", *ACTIVATIONS):
                    known = ", ".join(("layer_norm", *ACTIVATIONS))
                    raise BadArtifact(f"the head has an unknown layer {layer[:40]!r}; there are {known}")
            else:
                _check_size("a linear layer of the head", layer, MAX_WIDTH)

    @property
    def states(self) -> int:
        """Numbers that a layer keeps of a session for each hidden unit."""
        return STATES[self.cell]

    def weight_shapes(self, input_size: int, hidden_size: int, num_layers: int, output_size: int) -> Shapes:
        """Name -> shape of every weight of a network with these layers and sizes."""
        shapes: Shapes = {}
        into = input_size
        if self.embedding is not None:
            shapes["embedding.weight"] = (self.embedding.vocabulary, self.embedding.width)
            into = self.embedding.width
        rows = GATES[self.cell] * hidden_size
        for layer in range(num_layers):
            shapes[f"{self.cell}.weight_ih_l{layer}"] = (rows, into if layer == 0 else hidden_size)
            shapes[f"{self.cell}.weight_hh_l{layer}"] = (rows, hidden_size)
            shapes[f"{self.cell}.bias_ih_l{layer}"] = (rows,)
            shapes[f"{self.cell}.bias_hh_l{layer}"] = (rows,)
        width = hidden_size
        for place, part in enumerate(self.head):
            if isinstance(part, int):
                shapes |= {f"head.{place}.weight": (part, width), f"head.{place}.bias": (part,)}
                width = part
            elif part == "layer_norm":
                shapes |= {f"head.{place}.weight": (width,), f"head.{place}.bias": (width,)}
        return shapes | {"fc.weight": (output_size, width), "fc.bias": (output_size,)}

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        embedding = self.embedding
        return {
            "cell": self.cell,
            "head": list(self.head),
            "embedding": embedding and {"vocabulary": embedding.vocabulary, "width": embedding.width},
        }


def parse_architecture(value: Any) -> Architecture:
    """What `as_dict` gave.

    Raises
    ------
    BadArtifact : the message names the field
    """
    if not isinstance(value, dict) or set(value) != {"cell", "head", "embedding"}:
        raise BadArtifact("architecture is not {cell, head, embedding}")
    embedding = value["embedding"]
    if not isinstance(value["head"], list):
        raise BadArtifact("architecture.head is not a list")
    if embedding is not None and (
        not isinstance(embedding, dict) or set(embedding) != {"vocabulary", "width"}
    ):
        raise BadArtifact("architecture.embedding is not {vocabulary, width}")
    cell: Any = value["cell"] if isinstance(value["cell"], str) else None
    return Architecture(cell, tuple(value["head"]), None if embedding is None else Embedding(**embedding))


def _check_size(what: str, size: Any, most: int) -> None:
    if type(size) is not int or not 1 <= size <= most:
        raise BadArtifact(f"{what} must be a whole number from 1 to {most}, not {str(size)[:40]}")
