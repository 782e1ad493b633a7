"""Resampling in pieces, the rules of speech events, and what an artifact over samples may say."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from models.artifact.files import load_any, save
from models.artifact.graph_artifact import Samples, SpeechEvents
from models.errors import BadArtifact
from models.forecaster import Forecaster, WrongRate
from models.nets.resampler import RATES, resampler
from models.nets.speech import SPEECH_END, SPEECH_START, SpeechDetector, SpeechState
from tests.helpers import graphs

FRAME, RATE = 512, 16_000


def in_pieces(samples: np.ndarray, source: int, target: int, cuts: list[int]) -> np.ndarray:
    resampling = resampler(source, target)
    tail, done, parts = np.zeros(resampling.tail, np.float32), 0, []
    for piece in np.split(samples, cuts):
        given = np.concatenate([tail, piece])
        parts.append(resampling.resample(given, done))
        tail, done = given[len(given) - resampling.tail :], done + len(piece)
    return np.concatenate(parts)


@pytest.mark.parametrize("source", RATES)
def test_pieces_are_resampled_as_the_whole(source):
    random = np.random.default_rng(0)
    samples = random.standard_normal(3000).astype(np.float32)
    for target in (8000, 16_000, 48_000):
        whole = in_pieces(samples, source, target, [])
        pieces = in_pieces(samples, source, target, np.sort(random.integers(1, 2999, 40)).tolist())
        assert len(pieces) == len(whole)
        assert_allclose(pieces, whole, atol=1e-6)
        resampling = resampler(source, target)
        assert len(whole) == resampling.count(3000)
        for count in range(1, len(whole), 37):
            assert (
                resampling.count(resampling.needed(count) - 1)
                < count
                <= resampling.count(resampling.needed(count))
            )


@pytest.mark.parametrize("source", [8000, 11_025, 44_100, 48_000])
def test_a_tone_keeps_its_frequency_and_one_above_the_band_is_removed(source):
    times = np.arange(source // 2) / source
    resampled = in_pieces(np.sin(2 * np.pi * 1000 * times).astype(np.float32), source, RATE, [])
    expected = np.sin(2 * np.pi * 1000 * np.arange(len(resampled)) / RATE)
    inside = slice(200, len(resampled) - 200)
    assert np.abs(resampled[inside] - expected[inside]).max() < 2e-3
    if source > 2 * 10_000:
        above = in_pieces(np.sin(2 * np.pi * 10_000 * times).astype(np.float32), source, RATE, [])
        assert np.abs(above[inside]).max() < 5e-3


def theirs(probabilities: list[float], threshold: float, min_silence_ms: float, pad_ms: float) -> list:
    """What `VADIterator` of silero-vad answers, by its own lines."""
    min_silence, pad = RATE * min_silence_ms / 1000, RATE * pad_ms / 1000
    triggered, temp_end, current_sample, found = False, 0, 0, []
    for speech_prob in probabilities:
        current_sample += FRAME
        if (speech_prob >= threshold) and temp_end:
            temp_end = 0
        if (speech_prob >= threshold) and not triggered:
            triggered = True
            found.append((SPEECH_START, int(max(0, current_sample - pad - FRAME))))
        elif (speech_prob < threshold - 0.15) and triggered:
            if not temp_end:
                temp_end = current_sample
            if current_sample - temp_end >= min_silence:
                found.append((SPEECH_END, int(temp_end + pad - FRAME)))
                temp_end, triggered = 0, False
    return found


@pytest.mark.parametrize("min_silence_ms", [0, 100, 333.3])
@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_events_are_those_of_the_package_however_the_frames_are_cut(threshold, min_silence_ms):
    random = np.random.default_rng(1)
    swings = np.convolve(random.random(3000) - 0.5, np.ones(9), "same")
    smooth = (0.4 + 0.4 * swings).clip(0, 1).astype(np.float32).tolist()
    events = SpeechEvents("speech", threshold, min_silence_ms=min_silence_ms, speech_pad_ms=30)
    detector, state, found = SpeechDetector(events, FRAME, RATE), SpeechState(0, 0, 0), []
    cuts = [0, *np.sort(random.integers(0, 3000, 500)).tolist(), 3000]
    for start, stop in pairwise(cuts):
        found += detector.detect(smooth[start:stop], start * FRAME, state)
    assert found == theirs(smooth, threshold, min_silence_ms, 30)
    assert len(found) > 40


def test_speech_that_is_too_short_is_left_out_and_the_second_threshold_ends_it():
    events = SpeechEvents("speech", 0.5, 0.4, min_speech_ms=64, min_silence_ms=0, speech_pad_ms=0)
    detector, state = SpeechDetector(events, FRAME, RATE), SpeechState(0, 0, 0)
    probabilities = [0.9, 0.1, 0.9, 0.45, 0.45, 0.1, 0.9]
    assert detector.detect(probabilities, 0, state) == [(SPEECH_START, 2 * FRAME), (SPEECH_END, 5 * FRAME)]
    # The last frame may become speech.
    assert detector.detect([0.6], 7 * FRAME, state) == [(SPEECH_START, 6 * FRAME)]


def test_an_artifact_over_samples_is_read_as_it_was_written_and_others_keep_their_fingerprint(tmp_path):
    artifact = graphs.loudness()
    save(artifact, tmp_path / "loudness")
    again = load_any(tmp_path / "loudness")
    assert (again.samples, again.fingerprint) == (artifact.samples, artifact.fingerprint)
    plain = replace(artifact, samples=None)
    assert plain.fingerprint != artifact.fingerprint
    assert not {"unit", "rate", "events"} & plain._document().keys()


WRONG = {
    "unit must be null or 'sample'": {"unit": "second"},
    "rate must be one of": {"rate": 7},
    "rate must be one of .*, not 8000.0": {"rate": 8000.0},
    "belong to a model with the unit sample": {"unit": None},
    "there is no output 'other'": {"events": {"output": "other"}},
    "events has an unknown field 'volume'": {"events": {"output": "speech", "volume": 11}},
    "events.threshold must be": {"events": {"output": "speech", "threshold": 2}},
    "must not be above the threshold": {"events": {"output": "speech", "negative_threshold": 0.9}},
    "events.min_speech_ms must be": {"events": {"output": "speech", "min_speech_ms": -1}},
}


@pytest.mark.parametrize("message", WRONG)
def test_a_wrong_description_is_refused(message, tmp_path):
    save(graphs.loudness(), tmp_path / "wrong")
    file = tmp_path / "wrong" / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | WRONG[message]))
    with pytest.raises(BadArtifact, match=message):
        load_any(tmp_path / "wrong")


def test_a_graph_that_takes_no_frames_cannot_have_samples():
    for artifact in (graphs.convolution(), graphs.counter(), graphs.gru()):
        with pytest.raises(BadArtifact, match=r"unit sample|over samples"):
            replace(artifact, samples=Samples(8000))


def test_a_carry_with_an_impossible_count_is_refused_and_a_rate_stays():
    forecaster = Forecaster(graphs.loudness())
    samples, carry = forecaster.samples, forecaster.new_carry
    forecaster.check(carry)
    samples.set_rate(carry, 48_000)
    with pytest.raises(WrongRate):
        samples.set_rate(carry, 47_999)
    _, (moved,) = forecaster.advance(np.ones((5, 1), np.float32), np.array([5]), carry[None])
    forecaster.check(moved)
    with pytest.raises(WrongRate):
        samples.set_rate(moved, 8000)
    newer = Forecaster(graphs.loudness()).initial_carries_from(forecaster, moved[None])
    assert samples.rate_of(newer[0]) == 48_000
    counters = samples._read(moved)
    for change in ({"consumed": -1}, {"rate": 3}, {"phase": 7}):
        samples._write(moved, counters | change)
        with pytest.raises(ValueError, match="count of samples"):
            forecaster.check(moved)


def test_one_sample_at_a_time_is_the_same(tmp_path):
    forecaster = Forecaster(graphs.loudness())
    samples = np.random.default_rng(2).standard_normal((50, 1)).astype(np.float32)
    whole, after = forecaster.advance(samples, np.array([50]), forecaster.new_carry[None])
    carry = forecaster.new_carry[None]
    stepped = [forecaster.net.step(row[None], carry)[0] for row in samples]
    assert_allclose(stepped, whole, atol=1e-6)
    assert_allclose(carry[:, forecaster.layout.state], after[:, forecaster.layout.state], atol=1e-6)
    assert_array_equal(whole[:7], 0)  # before the first frame is complete
