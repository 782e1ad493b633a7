"""Texts as tokens, and the two fields of an artifact of text."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from models.artifact.files import load, save
from models.errors import BadArtifact
from models.generation.vocabulary import UNKNOWN, Vocabulary
from tests.helpers.text import LETTERS, text_model


def test_a_text_of_characters_is_a_token_each() -> None:
    vocabulary = Vocabulary("月光ab")
    assert vocabulary.encode("b月月a") == [3, 0, 0, 2]
    assert vocabulary.decode([3, 0, 0, 2]) == "b月月a"


def test_longer_pieces_are_taken_first() -> None:
    vocabulary = Vocabulary(["a", "b", "ab", "abba"])
    assert vocabulary.encode("abbaabb") == [3, 2, 1]


def test_a_character_without_a_piece_is_unknown() -> None:
    assert Vocabulary(["a", UNKNOWN]).encode("aé") == [0, 1]
    with pytest.raises(ValueError, match=r"'é'.*at 1"):
        Vocabulary("ab").encode("aé")


@pytest.mark.parametrize(
    ("pieces", "sample"),
    [
        ([UNKNOWN, *"The sa"], "The sea "),
        ([UNKNOWN, *LETTERS], "the sea "),
        ([UNKNOWN, "\n", "ab", "c"], "ab"),  # words would be unknown, and a new line cannot be seen
        (["\n", "\t"], "\n"),
    ],
)
def test_the_sample_of_a_vocabulary_is_a_text_that_it_knows(pieces: list[str], sample: str) -> None:
    vocabulary = Vocabulary(pieces)
    assert vocabulary.sample == sample
    assert vocabulary.decode(vocabulary.encode(sample)) == sample


@pytest.mark.parametrize(
    "pieces", [["a"], ["a", ""], ["a", "a"], ["a", 3], ["a", "\ud800"], ["a", "b" * 257]]
)
def test_what_is_no_vocabulary_is_refused(pieces: list[str]) -> None:
    with pytest.raises(BadArtifact, match=r"vocabulary"):
        Vocabulary(pieces)


def test_a_model_of_text_is_the_same_after_saving(tmp_path: Path) -> None:
    artifact = text_model()
    save(artifact, tmp_path)
    read = load(tmp_path)
    document = json.loads((tmp_path / "model.json").read_text())
    assert document["targets"] == ["logits"]
    assert document["feedback"] == {"token": {"sample": "logits"}}
    assert document["vocabulary"] == list(LETTERS)
    assert (read.fingerprint, read.vocabulary) == (artifact.fingerprint, tuple(LETTERS))
    assert read.missing == ("token",), "nothing is fed back without a draw"


def test_a_piece_may_be_called_as_the_input_is(tmp_path: Path) -> None:
    artifact = text_model()
    pieces = ("token", *artifact.vocabulary[1:])
    save(replace(artifact, vocabulary=pieces, targets=pieces), tmp_path)
    assert load(tmp_path).feedback == (None,)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vocabulary", list("abc")),
        ("vocabulary", None),
        ("feedback", {"token": {"sample": "other"}}),
        ("feedback", None),
        ("targets", ["a", "b"]),
        ("target_scaling", {"mean": [0.0, 0.0], "std": [1.0, 1.0]}),
        ("target_scaling", {"mean": [1.0], "std": [1.0]}),
    ],
)
def test_fields_that_do_not_fit_are_refused(tmp_path: Path, field: str, value: object) -> None:
    save(text_model(), tmp_path)
    path = tmp_path / "model.json"
    document = json.loads(path.read_text())
    document[field] = value
    if value is None:
        del document[field]
    path.write_text(json.dumps(document))
    with pytest.raises(BadArtifact, match=r"vocabulary|target_scaling|logits"):
        load(tmp_path)
