"""The network: (observations, carry) -> (outputs, carry)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

Carry = tuple[Tensor, Tensor]


class StatefulLSTM(nn.Module):
    """An LSTM whose state is an argument and a result, never an attribute.

    Parameters
    ----------
    input_size, hidden_size, num_layers, output_size
        As in `torch.nn.LSTM` and `torch.nn.Linear`.
    change_of
        For each output its input column. When given, the network predicts the change from the last
        observation instead of the level, which suits data that drifts.
    dropout
        Share of the hidden features that are dropped before the readout, in training mode only.

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
    ) -> None:
        super().__init__()
        if change_of is not None:
            _check_columns(change_of, input_size, output_size)
        self.lstm = nn.LSTM(input_size, hidden_size, num_layers, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(hidden_size, output_size)
        self.change_of = None if change_of is None else tuple(change_of)

    def forward(self, observations: Tensor, carry: Carry | None = None) -> tuple[Tensor, Carry]:
        """Predict what follows each observation, and return the new state.

        Parameters
        ----------
        observations
            [batch, steps, input], in scaled units.
        carry
            (h, c), each [layers, batch, hidden]; zeros when absent.

        Returns
        -------
        outputs
            [batch, steps, output], in scaled units: step t is the value at step t + 1.
        carry
            (h, c) after the last step, still attached to the graph.
        """
        hidden, carry = self.lstm(observations, carry)  # [batch, steps, hidden]
        outputs: Tensor = self.fc(self.dropout(hidden))
        if self.change_of is not None:
            outputs = outputs + observations[..., list(self.change_of)]
        return outputs, carry


def _check_columns(change_of: Sequence[int], input_size: int, output_size: int) -> None:
    if len(change_of) != output_size or not set(change_of) <= set(range(input_size)):
        raise ValueError(f"change_of must name an input column for each of {output_size} outputs")


def detach_carry(carry: Carry) -> Carry:
    """The same numbers, detached from the graph."""
    return carry[0].detach(), carry[1].detach()


def weight_shapes(
    input_size: int, hidden_size: int, num_layers: int, output_size: int, rank: int = 0
) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every weight of a `StatefulLSTM` of this size, and of a readout basis of this rank."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(num_layers):
        into = input_size if layer == 0 else hidden_size
        shapes[f"lstm.weight_ih_l{layer}"] = (4 * hidden_size, into)
        shapes[f"lstm.weight_hh_l{layer}"] = (4 * hidden_size, hidden_size)
        shapes[f"lstm.bias_ih_l{layer}"] = (4 * hidden_size,)
        shapes[f"lstm.bias_hh_l{layer}"] = (4 * hidden_size,)
    if rank:
        shapes["readout.basis"] = (hidden_size, rank)
    return shapes | {"fc.weight": (output_size, hidden_size), "fc.bias": (output_size,)}


def network_from_weights(
    weights: dict[str, Tensor], num_layers: int, change_of: Sequence[int] | None = None
) -> StatefulLSTM:
    """A network in eval mode with these weights; torch's random generator is not used."""
    output_size, hidden_size = weights["fc.weight"].shape
    input_size = weights["lstm.weight_ih_l0"].shape[1]
    with torch.device("meta"):
        network = StatefulLSTM(input_size, hidden_size, num_layers, output_size, change_of)
    network.load_state_dict(weights, assign=True)
    return network.eval()
