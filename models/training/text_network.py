"""A network on text: as it begins, how well it predicts, what it writes, and the artifact it becomes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models.artifact.artifact import Artifact, check_bounds
from models.artifact.text import text_artifact
from models.generation.vocabulary import UNKNOWN
from models.nets.recurrent import RecurrentNetwork
from models.training.text import Text
from models.training.text_recipe import TextRecipe

WARMUP = 500  # characters before a stream that is measured, which its carry has seen
MOST_LOGITS = 2**23  # of a pass without gradients: 32 MiB


def initial_network(text: Text, recipe: TextRecipe) -> RecurrentNetwork:
    """The network before training, whose weights the seed decides; torch's global generator is restored.

    Raises
    ------
    BadRecipe, BadArtifact : it would be too large; no memory was taken for it
    """
    size = len(text.pieces)
    check_bounds(recipe.architecture(size), 1, recipe.hidden_size, recipe.num_layers, size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return RecurrentNetwork(
            1,
            recipe.hidden_size,
            recipe.num_layers,
            size,
            dropout=recipe.dropout,
            architecture=recipe.architecture(size),
        )


@torch.inference_mode()
def cross_entropy(
    network: RecurrentNetwork, tokens: Tensor, rows: range, device: str = "cpu", streams: int = 32
) -> float:
    """Mean cross-entropy, in nats a character, of these characters of a text; the network stays in eval mode.

    The characters are cut into streams that run in parallel. The carry of each stream has seen the
    characters before it: `WARMUP` of them, or all where there are fewer.

    Parameters
    ----------
    tokens : [characters] of the whole text
    """
    network.eval()
    streams = max(1, min(streams, len(rows) // WARMUP))
    length = math.ceil(len(rows) / streams)
    starts = [min(rows.start + stream * length, rows.stop) for stream in range(streams)]
    warmup = min(WARMUP, rows.start - 1)
    # [streams, warmup + length + 1], from the character before the first that the carry sees
    at = torch.tensor(starts)[:, None] - warmup - 1 + torch.arange(warmup + length + 1)
    counted = (at[:, 1:] < rows.stop) & (torch.arange(warmup + length) >= warmup)
    text = tokens[at.clamp(max=len(tokens) - 1)].to(device)
    counted = counted.to(device)
    most = max(1, MOST_LOGITS // (streams * network.fc.out_features))
    total, carry = 0.0, None
    for start in range(0, warmup + length, most):
        end = min(start + most, warmup + length)
        logits, carry = network(text[:, start:end, None], carry)
        errors = nn.functional.cross_entropy(
            logits.flatten(0, 1), text[:, start + 1 : end + 1].flatten(), reduction="none"
        )
        total += float(errors[counted[:, start:end].flatten()].double().sum())
    return total / len(rows)


@torch.inference_mode()
def sample(
    network: RecurrentNetwork, text: Text, characters: int, seed: int, temperature: float = 0.8
) -> str:
    """So many characters that the network writes from an empty carry; the network stays in eval mode.

    Parameters
    ----------
    temperature : above 0; divides the logits
    """
    network.eval()
    device = network.fc.weight.device
    generator = torch.Generator().manual_seed(seed)
    # A text goes on behind a line end where it has any.
    token = text.pieces.index("\n") if "\n" in text.pieces else int(text.tokens[0])
    written, carry = [], None
    for _ in range(characters):
        logits, carry = network(torch.tensor([[[token]]], device=device), carry)
        weights = (logits[0, 0].double().cpu() / temperature).softmax(dim=0)
        weights[text.pieces.index(UNKNOWN)] = 0  # stands for no character
        token = int(torch.multinomial(weights, 1, generator=generator))
        written.append(text.pieces[token])
    return "".join(written)


def build_text_artifact(
    network: RecurrentNetwork,
    text: Text,
    name: str = "trained",
    metrics: Mapping[str, Any] | None = None,
) -> Artifact:
    """Make an artifact of a network that was trained on text.

    Raises
    ------
    BadArtifact
        If anything does not fit together.
    """
    weights = {key: weight.detach().cpu().numpy() for key, weight in network.state_dict().items()}
    return text_artifact(name, text.pieces, weights, network.architecture, metrics)
