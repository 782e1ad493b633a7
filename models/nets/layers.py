"""The layers of a native network before and after the recurrent ones, each from an array to a new array."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from models.arrays import Floats
from models.nets.architecture import LAYER_NORM_EPSILON, Activation, Architecture
from models.nets.kernels import (
    apply_gelu,
    apply_narrow,
    apply_sigmoid,
    apply_silu,
    apply_wide,
    in_panels,
    normalize,
    padded_to_blocks,
    panels_of,
)

WIDE = 16  # outputs from which a product by blocks is faster than a sum for each output

Layer = Callable[[Floats], Floats]
"""[batch, features] -> [batch, features of this layer], a new array"""


def layers_before(weights: Mapping[str, Floats], architecture: Architecture) -> list[Layer]:
    """The embedding of a network, if it has one."""
    return [Lookup(weights["embedding.weight"])] if architecture.embedding else []


def layers_after(weights: Mapping[str, Floats], architecture: Architecture) -> list[Layer]:
    """The head of a network and its linear readout."""
    layers: list[Layer] = []
    for place, kind in enumerate(architecture.head):
        if isinstance(kind, int):
            layers.append(Linear(*_weight_and_bias(weights, f"head.{place}")))
        elif kind == "layer_norm":
            layers.append(LayerNorm(*_weight_and_bias(weights, f"head.{place}")))
        else:
            layers.append(ACTIVATIONS[kind])
    return [*layers, Linear(*_weight_and_bias(weights, "fc"))]


def _weight_and_bias(weights: Mapping[str, Floats], module: str) -> tuple[Floats, Floats]:
    return weights[f"{module}.weight"], weights[f"{module}.bias"]


class Lookup:
    """`torch.nn.Embedding`, whose weights are copied."""

    def __init__(self, table: Floats) -> None:
        self.table = table.copy()

    def __call__(self, x: Floats) -> Floats:
        # An unknown token was refused before. Should it arrive, it must not stop the batch of its neighbours.
        return np.asarray(self.table.take(x[:, 0].astype(np.int64), axis=0, mode="clip"))


class Linear:
    """`torch.nn.Linear`, whose weights are copied.

    BLAS would take the same time, and add up the products in another order for one row than for many.
    """

    def __init__(self, weight: Floats, bias: Floats) -> None:
        self.bias = bias.copy()
        self._is_wide = len(weight) >= WIDE
        if self._is_wide:
            padded = padded_to_blocks(weight.T)
            self._weights = in_panels(padded, panels_of(*padded.shape))
        else:
            self._weights = np.array(weight, order="C")

    def __call__(self, x: Floats) -> Floats:
        out = np.empty((len(x), len(self.bias)), np.float32)
        apply = apply_wide if self._is_wide else apply_narrow
        apply(np.ascontiguousarray(x), self._weights, self.bias, out)
        return out


class LayerNorm:
    """`torch.nn.LayerNorm`, whose weights are copied."""

    def __init__(self, scale: Floats, bias: Floats) -> None:
        self.scale, self.bias = scale.copy(), bias.copy()

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
