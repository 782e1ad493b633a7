"""Training on text: what a text is, the carry between its pieces, and what can be trusted afterwards."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.artifact.files import load
from models.errors import BadCheckpoint, BadData, BadInput, BadRecipe, TrainingDiverged
from models.evaluation.text_report import write_text_report
from models.evaluation.verdict import judge_text
from models.generation.vocabulary import UNKNOWN
from models.net import Execution
from models.training import text_training
from models.training.checkpoint import load_checkpoint, save_checkpoint
from models.training.text import MOST_PIECES, Text, make_text, read_text
from models.training.text_network import cross_entropy, initial_network, sample
from models.training.text_recipe import TextRecipe
from models.training.text_training import TextTraining

torch.set_num_threads(1)

SMALL = TextRecipe(hidden_size=12, embedding=6, epochs=2, piece=32, dropout=0.0, learning_rate=0.02)


def verse(characters: int = 2400) -> Text:
    lines = ("the rose is red\n", "the sky is blue\n", "a ship at sea\n")
    order = np.random.default_rng(0).integers(3, size=characters)
    return make_text("verse", "".join(lines[line] for line in order)[:characters])


@pytest.fixture(scope="module")
def trained() -> TextTraining:
    training = TextTraining(verse(), SMALL)
    list(training.run())
    return training


def test_a_text_is_its_code_points_with_one_line_end_however_it_is_written(tmp_path):
    path = tmp_path / "book.txt"
    path.write_bytes(b"\xef\xbb\xbf" + "床前明月光，\r\n疑是地上霜。\r".encode() * 100)
    text = read_text(path)
    assert text.pieces == (UNKNOWN, *sorted("床前明月光，疑是地上霜。\n"))
    assert "".join(text.pieces[token] for token in text.tokens[:14]) == "床前明月光，\n疑是地上霜。\n"
    assert len(text.tokens) == 1400
    path.write_bytes(("ÄÖ\n" * 400).encode("latin-1"))
    assert read_text(path, "latin-1").pieces == (UNKNOWN, "\n", "Ä", "Ö")


def test_the_parts_are_in_the_order_of_the_text_and_the_last_tenth_is_kept():
    text = make_text("a", "ab" * 1000)
    assert (text.train, text.validation_rows, text.kept_rows) == (
        1700, range(1700, 1800), range(1800, 2000),
    )  # fmt: skip


def test_rare_characters_share_a_piece_and_so_do_those_that_only_come_later():
    text = make_text("a", "ab" * 800 + "xxyyy" + "ab" * 800 + "zzzz" * 10)
    assert text.pieces == (UNKNOWN, "a", "b", "y")
    assert (text.tokens == 0).sum() == 2 + 40


def test_a_text_with_too_many_different_characters_keeps_the_frequent_ones():
    rare, frequent = [chr(0x4E00 + each) for each in range(MOST_PIECES)], "ab"
    text = make_text("a", "".join(rare) + frequent * MOST_PIECES, fewest=1)
    assert len(text.pieces) == MOST_PIECES
    assert set(frequent) < set(text.pieces)


@pytest.mark.parametrize(
    ("content", "encoding", "message"),
    [
        (b"", "utf-8", "0 characters"),
        (b"too short\n" * 9, "utf-8", "at least 1,000"),
        (b"a" * 5000, "utf-8", "two different characters"),
        (b"abc\xff" * 5000, "utf-8", r"byte 3\): name its encoding with --encoding"),
        (b"abcd" * 5000, "klingon", "no encoding 'klingon'"),
    ],
)
def test_what_is_no_text_is_refused_by_name(tmp_path, content, encoding, message):
    path = tmp_path / "book.txt"
    path.write_bytes(content)
    with pytest.raises(BadData, match=message):
        read_text(path, encoding)


def test_a_file_that_is_not_there_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(BadData, match="cannot be read"):
            read_text(path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"hidden_size": 0}, {"embedding": 0}, {"epochs": 0}, {"streams": 0}, {"piece": 0}, {"patience": -1},
        {"dropout": 1.0}, {"dropout": math.nan}, {"learning_rate": 0.0}, {"learning_rate": math.inf},
        {"clip": math.nan}, {"minutes": -1.0}, {"minutes": math.nan}, {"cell": "lmu"}, {"embedding": 10**6},
        {"piece": 6000}, {"num_layers": 10**6}, {"hidden_size": 10**6},
    ],
)  # fmt: skip
def test_a_recipe_that_cannot_work_is_refused_before_the_training(wrong):
    with pytest.raises(BadInput):
        TextTraining(verse(), TextRecipe(**({"hidden_size": 4} | wrong)))


def test_the_carry_passes_from_piece_to_piece_and_each_piece_follows_the_one_before(monkeypatch):
    monkeypatch.setattr(text_training, "PIECES", 8)
    training = TextTraining(verse(1000), replace(SMALL, streams=3, piece=4))
    assert training.streams == 3
    calls, forward = [], training.network.forward

    def spy(observations, carry=None):
        logits, after = forward(observations, carry)
        calls.append((observations[..., 0].numpy(), carry, after))
        return logits, after

    training.network.forward = spy
    for _ in range(training.steps_per_epoch + 3):
        training._step(0.001)
    begun = [at for at, (_, carry, _) in enumerate(calls) if carry is None]
    assert len(begun) == 2  # epochs
    text = "".join(map(chr, training.text.tokens))
    for at, (pieces, carry, _) in enumerate(calls):
        if at in begun:
            continue
        before, _, after = calls[at - 1]
        assert all(torch.equal(part, was) for part, was in zip(carry, after, strict=True))
        assert not any(part.requires_grad for part in carry)
        for stream, was in zip(pieces, before, strict=True):
            assert "".join(map(chr, (*was, *stream))) in text


def test_training_learns_and_the_seed_decides_everything(trained):
    assert trained.history[-1].validation < trained.history[0].validation < math.log(len(trained.text.pieces))
    again = TextTraining(verse(), SMALL)
    losses = [each.loss for each in again.run()]
    assert losses == [each.loss for each in trained.history]
    other = TextTraining(verse(), replace(SMALL, seed=1))
    assert other.run_round().loss != losses[0]


def test_another_cell_and_products_in_bfloat16_learn_too():
    training = TextTraining(verse(), replace(SMALL, cell="rnn", bfloat16=True))
    first = training.run_round()
    second = training.run_round()
    assert second.validation < first.validation < math.log(len(training.text.pieces))
    assert all(weight.dtype == torch.float32 for weight in training.network.parameters())


def test_streams_in_parallel_measure_what_one_pass_through_the_text_does(trained):
    network, text = trained.best_network(), verse(12_000)
    tokens = torch.from_numpy(text.tokens)
    rows = range(7001, 11_990)
    measured = cross_entropy(network, tokens, rows, streams=7)
    with torch.inference_mode():
        logits, _ = network(tokens[None, :-1, None])
        errors = torch.nn.functional.cross_entropy(logits[0], tokens[1:], reduction="none")
    assert measured == pytest.approx(float(errors[rows.start - 1 : rows.stop - 1].mean()), rel=1e-4)


def test_a_limit_in_minutes_ends_the_training_and_brings_the_learning_rate_down():
    seconds = iter(range(10**6))
    recipe = replace(SMALL, minutes=1.0, epochs=10**6, patience=0)
    training = TextTraining(verse(), recipe, clock=lambda: float(next(seconds)))
    last = list(training.run())[-1]
    assert training.steps < 60  # the clock goes on by a second at each look at it
    assert last.learning_rate < 0.05 * recipe.learning_rate
    none = TextTraining(verse(), replace(SMALL, minutes=0.0))
    assert len(list(none.run())) == 1
    assert none.steps == 1


def test_training_stops_when_it_no_longer_improves():
    recipe = replace(SMALL, epochs=1000, patience=2, learning_rate=1e-30)
    assert 3 <= len(list(TextTraining(verse(), recipe).run())) < 20


def poison(training: TextTraining) -> None:
    with torch.no_grad():
        training.network.fc.bias[0] = math.nan


def test_nan_before_anything_was_learned_fails_and_later_leaves_the_best_weights(tmp_path):
    training = TextTraining(verse(), SMALL)
    poison(training)
    with pytest.raises(TrainingDiverged, match="round 1: the loss is nan; try a smaller learning rate"):
        list(training.run())
    training = TextTraining(verse(), SMALL)
    for _ in training.run():
        poison(training)
    assert training.diverged == "round 2: the loss is nan; try a smaller learning rate"
    artifact = write_text_report(training, "verse", 1.0, tmp_path / "verse")
    assert artifact.metrics["diverged"] == training.diverged
    assert math.isfinite(artifact.metrics["text"]["perplexity"])


def test_a_huge_learning_rate_is_a_failure_and_what_it_writes_can_be_read(tmp_path):
    training = TextTraining(verse(), replace(SMALL, learning_rate=1e6, clip=0.0, epochs=1))
    list(training.run())
    artifact = write_text_report(training, "verse", 1.0, tmp_path / "verse")
    assert judge_text(artifact.metrics).failed
    assert load(tmp_path / "verse").fingerprint == artifact.fingerprint


def test_the_artifact_is_read_back_with_its_vocabulary_and_its_measures(trained, tmp_path):
    write_text_report(trained, "verse", 1.0, tmp_path / "verse")
    artifact = load(tmp_path / "verse")
    assert artifact.vocabulary == trained.text.pieces
    assert artifact.text is not None
    measures = artifact.metrics["text"]
    assert measures["characters"] == 240
    assert 1 < measures["ngram_perplexity"] < measures["frequency_perplexity"]
    network = artifact.network()
    tokens = torch.from_numpy(trained.text.tokens)
    again = cross_entropy(network, tokens, trained.text.kept_rows)
    assert measures["perplexity"] == pytest.approx(math.exp(again), rel=1e-4)
    net, lengths = artifact.net(Execution()), np.array([50])
    logits, _ = net.advance(tokens[:50, None].numpy().astype(np.float32), lengths, net.fresh[None])
    with torch.inference_mode():
        expected = network(tokens[None, :50, None])[0][0, -1]
    np.testing.assert_allclose(logits[-1], expected, atol=1e-5)  # as it is served
    assert artifact.metrics["data"]["split"] == {"train": 2040, "validation": 120, "test": 240}


def test_a_sample_never_has_the_unknown_piece_and_its_seed_decides_it(trained):
    network, text = trained.best_network(), trained.text
    with torch.no_grad():
        network.fc.bias[0] = 100.0
    written = sample(network, text, 50, seed=3)
    assert len(written) == 50
    assert UNKNOWN not in written
    assert written == sample(network, text, 50, seed=3) != sample(network, text, 50, seed=4)


def test_training_leaves_torchs_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    training = TextTraining(verse(), replace(SMALL, dropout=0.5))
    training.run_round()
    initial_network(training.text, training.recipe)
    assert torch.equal(torch.rand(1), expected)


def test_the_name_of_a_recipes_field_is_in_the_refusal():
    with pytest.raises(BadRecipe, match="minutes must be at least 0, not -1"):
        TextRecipe(minutes=-1)


def test_resumed_within_an_epoch_equals_uninterrupted(tmp_path, monkeypatch):
    monkeypatch.setattr(text_training, "ROUND", 400)
    monkeypatch.setattr(text_training, "PIECES", 4)
    recipe, seconds = replace(SMALL, streams=4, dropout=0.2), iter(range(1000))
    whole, broken = (TextTraining(verse(), recipe, clock=lambda: 0.0) for _ in range(2))
    list(whole.run())
    assert 2 < whole.steps_per_round < whole.steps_per_epoch
    path = tmp_path / "checkpoint"
    for round_ in broken.run():
        save_checkpoint(broken, path)
        if round_.number == 3:
            break
    resumed = TextTraining(verse(), recipe, clock=lambda: 0.0)
    load_checkpoint(resumed, path)
    list(resumed.run())
    assert resumed.history == whole.history
    weights = zip(resumed.network.parameters(), whole.network.parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in weights)

    limited = replace(recipe, minutes=1.0)
    slow = TextTraining(verse(), limited, clock=lambda: float(next(seconds)))
    slow.run_round()
    save_checkpoint(slow, path)
    later = TextTraining(verse(), limited, clock=lambda: 5000.0)
    load_checkpoint(later, path)
    assert later.seconds == pytest.approx(slow.seconds, abs=2)


@pytest.mark.parametrize(
    ("recipe", "text", "message"),
    [(replace(SMALL, seed=1), verse(), "another recipe"), (SMALL, verse(2300), "another data")],
)
def test_a_checkpoint_of_another_text_or_recipe_is_refused(tmp_path, recipe, text, message):
    save_checkpoint(TextTraining(verse(), SMALL), tmp_path / "checkpoint")
    with pytest.raises(BadCheckpoint, match=message):
        load_checkpoint(TextTraining(text, recipe), tmp_path / "checkpoint")
