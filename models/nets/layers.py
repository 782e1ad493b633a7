"""The layers of a native network before and after the recurrent ones, each from an array to a new array."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from torch import nn

from models.arrays import Floats
from models.nets.architecture import LAYER_NORM_EPSILON, Activation
from models.nets.kernels import apply_gelu, apply_sigmoid, apply_silu, normalize
from models.nets.recurrent import RecurrentNetwork

Layer = Callable[[Floats], Floats]
"""[batch, features] -> [batch, features of this layer], a new array"""


def layers_before(network: RecurrentNetwork) -> list[Layer]:
    """The embedding of a network on the CPU, if it has one; its weights are copied."""
    return [Lookup(network.embedding)] if network.architecture.embedding else []


def layers_after(network: RecurrentNetwork) -> list[Layer]:
    """The head of a network on the CPU and its linear readout; their weights are copied."""
    layers: list[Layer] = []
    for kind, module in zip(network.architecture.head, network.head, strict=True):
        if isinstance(module, nn.Linear):
            layers.append(Linear(module))
        elif isinstance(module, nn.LayerNorm):
            layers.append(LayerNorm(module))
        else:
            layers.append(ACTIVATIONS[kind])  # type: ignore[index]
    return [*layers, Linear(network.fc)]


class Lookup:
    """`torch.nn.Embedding`, whose weights are copied."""

    def __init__(self, module: nn.Embedding) -> None:
        self.table = module.weight.detach().numpy().copy()

    def __call__(self, x: Floats) -> Floats:
        # An unknown token was refused before. Should it arrive, it must not stop the batch of its neighbours.
        return np.asarray(self.table.take(x[:, 0].astype(np.int64), axis=0, mode="clip"))


class Linear:
    """`torch.nn.Linear`, whose weights are copied."""

    def __init__(self, module: nn.Linear) -> None:
        self.weights = np.ascontiguousarray(module.weight.detach().numpy().T)
        self.bias = module.bias.detach().numpy().copy()

    def __call__(self, x: Floats) -> Floats:
        product: Floats = x @ self.weights
        product += self.bias
        return product


class LayerNorm:
    """`torch.nn.LayerNorm`, whose weights are copied."""

    def __init__(self, module: nn.LayerNorm) -> None:
        self.scale, self.bias = module.weight.detach().numpy().copy(), module.bias.detach().numpy().copy()

    def __call__(self, x: Floats) -> Floats:
        out = np.empty(x.shape, np.float32)
        normalize(np.ascontiguousarray(x), self.scale, self.bias, LAYER_NORM_EPSILON, out)
        return out


def _relu(x: Floats) -> Floats:
    return np.maximum(x, np.float32(0))


def _compiled(function: Callable[[Floats, Floats], None]) -> Layer:
    def layer(x: Floats) -> Floats:
        out = np.empty(x.shape, np.float32)
        function(np.ascontiguousarray(x), out)
        return out

    return layer


ACTIVATIONS: Mapping[Activation, Layer] = {
    "relu": _relu,
    "tanh": np.tanh,
    "sigmoid": _compiled(apply_sigmoid),
    "silu": _compiled(apply_silu),
    "gelu": _compiled(apply_gelu),
}
