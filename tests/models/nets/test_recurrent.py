"""RecurrentNetwork: the carry is a value, and all that passes between chunks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.nets.architecture import Architecture, Embedding
from models.nets.recurrent import RecurrentNetwork, detach_carry, network_from_weights

torch.set_num_threads(1)


KINDS = [
    Architecture(),
    Architecture("gru", (6, "relu", "layer_norm")),
    Architecture("rnn", ("layer_norm", 4, "gelu", 3, "tanh")),
]
of_each_kind = pytest.mark.parametrize("architecture", KINDS, ids=lambda architecture: architecture.cell)


def network(
    change_of=None, *, layers: int = 2, architecture: Architecture | None = None, dropout: float = 0.0
) -> RecurrentNetwork:
    torch.manual_seed(3)
    return RecurrentNetwork(3, 8, layers, 2, change_of, dropout, architecture).eval()


def observations(steps: int = 40, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, steps, 3, generator=torch.Generator().manual_seed(5))


@settings(max_examples=30, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 39), max_size=12), change=st.booleans(), architecture=st.sampled_from(KINDS)
)
def test_chunks_of_any_sizes_equal_one_pass(cuts, change, architecture):
    lstm, whole = network((2, 0) if change else None, architecture=architecture), observations()
    with torch.no_grad():
        expected, last = lstm(whole)
        carry, parts = None, []
        for start, end in zip([0, *sorted(set(cuts))], [*sorted(set(cuts)), 40], strict=True):
            outputs, carry = lstm(whole[:, start:end], carry)
            parts.append(outputs)
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(carry, last, atol=1e-6, rtol=0)


def test_an_absent_carry_is_zero():
    lstm, chunk = network(), observations(5)
    zeros = torch.zeros(2, 2, 8), torch.zeros(2, 2, 8)
    torch.testing.assert_close(lstm(chunk)[0], lstm(chunk, zeros)[0], atol=0, rtol=0)


def test_nothing_is_remembered_between_calls():
    lstm, chunk = network(), observations(5)
    first, _ = lstm(chunk)
    lstm(observations(30))
    assert torch.equal(lstm(chunk)[0], first)


def test_a_network_that_predicts_changes_adds_the_last_observation():
    level, change, chunk = network(), network((2, 0)), observations(5)
    torch.testing.assert_close(change(chunk)[0], level(chunk)[0] + chunk[..., [2, 0]], atol=1e-6, rtol=0)


@pytest.mark.parametrize("change_of", [(0,), (0, 3), (-1, 0)])
def test_a_change_of_a_column_that_does_not_exist_is_refused(change_of):
    with pytest.raises(ValueError, match="change_of"):
        network(change_of)


def test_a_detached_carry_has_the_same_numbers_without_the_graph():
    _, carry = network()(observations(5))
    cut = detach_carry(carry)
    assert carry[0].requires_grad
    assert not cut[0].requires_grad
    assert not cut[1].requires_grad
    assert torch.equal(cut[1], carry[1])


@of_each_kind
@pytest.mark.parametrize("layers", [1, 3])
def test_weight_shapes_are_those_of_the_network(layers, architecture):
    weights = network(layers=layers, architecture=architecture).state_dict()
    assert architecture.weight_shapes(3, 8, layers, 2) == {
        name: tuple(weight.shape) for name, weight in weights.items()
    }


@of_each_kind
def test_a_network_from_weights_predicts_the_same_and_draws_no_random_numbers(architecture):
    original, chunk = network((2, 0), architecture=architecture), observations()
    before = torch.random.get_rng_state()
    copy = network_from_weights(dict(original.state_dict()), 2, (2, 0), architecture)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(copy(chunk)[0], original(chunk)[0])
    assert not copy.training


def test_an_embedding_replaces_the_input():
    torch.manual_seed(3)
    architecture = Architecture("gru", embedding=Embedding(5, 4))
    tokens = RecurrentNetwork(1, 8, 1, 2, architecture=architecture).eval()
    assert architecture.weight_shapes(1, 8, 1, 2) == {
        name: tuple(weight.shape) for name, weight in tokens.state_dict().items()
    }
    plain = RecurrentNetwork(4, 8, 1, 2, architecture=Architecture("gru")).eval()
    plain.load_state_dict(
        {name: weight for name, weight in tokens.state_dict().items() if "embedding" not in name}
    )
    chunk = torch.tensor([[[3.0], [0.0], [4.0]]])
    assert torch.equal(tokens(chunk)[0], plain(tokens.embedding.weight[[3, 0, 4]][None])[0])
    copy = network_from_weights(dict(tokens.state_dict()), 1, None, architecture)
    assert torch.equal(copy(chunk)[0], tokens(chunk)[0])


def test_dropout_acts_between_layers_and_in_the_head_in_training_only():
    head = network(architecture=Architecture(head=(16, "relu")), dropout=0.5)
    hidden = torch.ones(1, 50, 8)
    assert torch.equal(head.read_out(hidden)[0, 0], head.read_out(hidden)[0, 1])
    head.train()
    dropped = head.read_out(hidden)
    assert not torch.equal(dropped[0, 0], dropped[0, 1])
    head.dropout.eval()  # what is left is between the recurrent layers
    chunk = observations(5)
    assert torch.equal(head.read_out(hidden)[0, 0], head.read_out(hidden)[0, 1])
    assert not torch.equal(head(chunk)[0], head(chunk)[0])
