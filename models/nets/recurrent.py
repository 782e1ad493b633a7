"""The network: (observations, carry) -> (outputs, carry)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.arrays import Floats
from models.nets.architecture import LAYER_NORM_EPSILON, Architecture, HeadLayer

Carry = tuple[Tensor, ...]
"""(h, c) of an LSTM, (h,) of others; each [layers, batch, hidden]."""

MODULES: dict[str, type[nn.LSTM | nn.GRU | nn.RNN]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
ACTIVATIONS: Mapping[HeadLayer, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
}


class RecurrentNetwork(nn.Module):
    """Recurrent layers whose state is an argument and a result, never an attribute, and a readout.

    Parameters
    ----------
    input_size, hidden_size, num_layers, output_size
        As in `torch.nn.LSTM` and `torch.nn.Linear`.
    change_of
        For each output its input column. When given, the network predicts the change from the last
        observation instead of the level, which suits data that drifts.
    dropout
        Share of the features that are dropped in training mode: between recurrent layers, before the head,
        and after each activation of the head.
    architecture
        The kind of cells, the head and the embedding; by default an LSTM with a linear readout.

    Raises
    ------
    ValueError
        If `change_of` does not name one existing input column for each output.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        output_size: int,
        change_of: Sequence[int] | None = None,
        dropout: float = 0.0,
        architecture: Architecture | None = None,
    ) -> None:
        super().__init__()
        if change_of is not None:
            _check_columns(change_of, input_size, output_size)
        self.architecture = architecture or Architecture()
        embedding, into = self.architecture.embedding, input_size
        if embedding is not None:
            self.embedding = nn.Embedding(embedding.vocabulary, embedding.width)
            into = embedding.width
        between = dropout if num_layers > 1 else 0.0
        module = MODULES[self.architecture.cell](
            into, hidden_size, num_layers, batch_first=True, dropout=between
        )
        self.add_module(self.architecture.cell, module)
        self.dropout = nn.Dropout(dropout)
        self.input_size = input_size
        self.head, width = _head(self.architecture.head, hidden_size)
        self.fc = nn.Linear(width, output_size)
        self.change_of = None if change_of is None else tuple(change_of)

    @property
    def recurrent(self) -> nn.LSTM | nn.GRU | nn.RNN:
        """The recurrent layers, which are registered under the name of their cell."""
        module: nn.LSTM | nn.GRU | nn.RNN = self.get_submodule(self.architecture.cell)  # type: ignore[assignment]
        return module

    def forward(self, observations: Tensor, carry: Carry | None = None) -> tuple[Tensor, Carry]:
        """Predict what follows each observation, and return the new state.

        Parameters
        ----------
        observations
            [batch, steps, input], in scaled units.
        carry
            Zeros when absent.

        Returns
        -------
        outputs
            [batch, steps, output], in scaled units: step t is the value at step t + 1.
        carry
            After the last step, still attached to the graph.
        """
        hidden, carry = self.recur(self.embed(observations), carry)
        outputs = self.read_out(hidden)
        if self.change_of is not None:
            outputs = outputs + observations[..., list(self.change_of)]
        return outputs, carry

    def embed(self, observations: Tensor) -> Tensor:
        """What the first layer reads of observations [..., input]: rows of the embedding, if there is one."""
        if self.architecture.embedding is None:
            return observations
        embedded: Tensor = self.embedding(observations[..., 0].long())
        return embedded

    def recur(self, inputs: Any, carry: Carry | None = None) -> tuple[Any, Carry]:
        """The hidden state of the last layer after each step, a tensor or packed as the inputs; the state."""
        given: Any = carry[0] if carry is not None and len(carry) == 1 else carry
        hidden, state = self.recurrent(inputs, given)
        return hidden, state if isinstance(state, tuple) else (state,)

    def read_out(self, hidden: Tensor) -> Tensor:
        """[..., outputs] of hidden states [..., hidden], without the input of `change_of`."""
        features = self.dropout(hidden)
        for layer in self.head:
            features = layer(features)
            if not isinstance(layer, nn.Linear | nn.LayerNorm):
                features = self.dropout(features)
        outputs: Tensor = self.fc(features)
        return outputs


def _head(layers: Sequence[HeadLayer], width: int) -> tuple[nn.ModuleList, int]:
    """The modules of a head, and how many features they give."""
    modules: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, int):
            modules.append(nn.Linear(width, layer))
            width = layer
        elif layer == "layer_norm":
            modules.append(nn.LayerNorm(width, LAYER_NORM_EPSILON))
        else:
            modules.append(ACTIVATIONS[layer]())
    return nn.ModuleList(modules), width


def _check_columns(change_of: Sequence[int], input_size: int, output_size: int) -> None:
    if len(change_of) != output_size or not set(change_of) <= set(range(input_size)):
        raise ValueError(f"change_of must name an input column for each of {output_size} outputs")


def detach_carry(carry: Carry) -> Carry:
    """The same numbers, detached from the graph."""
    return tuple(part.detach() for part in carry)


def weights_of(network: RecurrentNetwork) -> dict[str, Floats]:
    """Views of the weights of a network on the CPU, by their names."""
    return {name: weight.detach().numpy() for name, weight in network.state_dict().items()}


def network_from_weights(
    weights: dict[str, Tensor],
    num_layers: int,
    change_of: Sequence[int] | None = None,
    architecture: Architecture | None = None,
) -> RecurrentNetwork:
    """A network in eval mode with these weights; torch's random generator is not used."""
    architecture = architecture or Architecture()
    output_size = len(weights["fc.bias"])
    hidden_size = weights[f"{architecture.cell}.weight_hh_l0"].shape[1]
    input_size = 1 if architecture.embedding else weights[f"{architecture.cell}.weight_ih_l0"].shape[1]
    with torch.device("meta"):
        network = RecurrentNetwork(
            input_size, hidden_size, num_layers, output_size, change_of, architecture=architecture
        )
    network.load_state_dict(weights, assign=True)
    return network.eval()
