"""Architecture: what it refuses, and that it is the same after a detour through JSON."""

import json

import pytest

from models.errors import BadArtifact
from models.nets.architecture import Architecture, Embedding, parse_architecture


@pytest.mark.parametrize(
    "architecture",
    [
        Architecture(),
        Architecture("gru", (64, "relu", "layer_norm", 3, "gelu")),
        Architecture("rnn", (), Embedding(128, 32)),
    ],
)
def test_an_architecture_is_the_same_after_json(architecture):
    assert parse_architecture(json.loads(json.dumps(architecture.as_dict()))) == architecture


VALID = Architecture().as_dict()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "architecture is not"),
        ({"cell": "gru"}, "architecture is not"),
        (VALID | {"tail": []}, "architecture is not"),
        (VALID | {"cell": "GRU"}, "cell must be one of lstm, gru, rnn, not 'GRU'"),
        (VALID | {"cell": ["gru"]}, "cell must be one of"),
        (VALID | {"head": "relu"}, "head is not a list"),
        (VALID | {"head": ["swish"]}, "unknown layer 'swish'"),
        (VALID | {"head": [["relu"]]}, "a linear layer of the head must be a whole number"),
        (VALID | {"head": [0]}, "a linear layer of the head must be a whole number from 1"),
        (VALID | {"head": [True]}, "a linear layer of the head must be a whole number"),
        (VALID | {"head": [10**9]}, "a linear layer of the head must be"),
        (VALID | {"head": ["relu"] * 33}, "33 layers"),
        (VALID | {"embedding": 3}, "embedding is not"),
        (VALID | {"embedding": {"vocabulary": 3}}, "embedding is not"),
        (VALID | {"embedding": {"vocabulary": 0, "width": 3}}, "vocabulary must be"),
        (VALID | {"embedding": {"vocabulary": 2**25, "width": 3}}, "vocabulary must be"),
        (VALID | {"embedding": {"vocabulary": 3, "width": 1.5}}, "width must be"),
    ],
)
def test_what_is_no_architecture_is_refused_by_name(value, message):
    with pytest.raises(BadArtifact, match=message):
        parse_architecture(value)
