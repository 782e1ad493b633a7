"""A network that is worse than predictions without a network is named, and one that is of no use fails."""

import pytest

from models.evaluation.verdict import Verdict, judge, judge_text


def metrics(mse: float | None, persistence: float | None = 0.5, mean: float | None = 1.0) -> dict:
    return {
        "one_step": {
            "part": "test",
            "mse_scaled": mse,
            "persistence_mse_scaled": persistence,
            "mean_mse_scaled": mean,
        }
    }


@pytest.mark.parametrize(
    "measured", [metrics(0.4), metrics(0.5), metrics(9.0, None), metrics(9.0, 0.5, None)]
)
def test_a_network_that_is_no_worse_or_cannot_be_compared_has_no_warning(measured):
    assert judge(measured) == Verdict()


@pytest.mark.parametrize(("mse", "failed"), [(0.6, False), (3.9, False), (4.1, True), (2e18, True)])
def test_a_network_that_is_worse_is_named_and_one_with_twice_the_error_of_both_fails(mse, failed):
    verdict = judge(metrics(mse))
    assert verdict.warning.startswith("worse than persistence on the test part: MSE ")
    assert verdict.failed == failed


def test_a_network_beside_large_changes_fails_only_by_both_predictions():
    assert not judge(metrics(9.0, persistence=3.0)).failed


def test_an_error_that_is_not_finite_fails():
    assert judge(metrics(None)) == Verdict("the error of the network is not a finite number", failed=True)


def test_sessions_that_learn_are_compared_as_they_are_served():
    assert judge(metrics(9.0) | {"served": {"mse_scaled": 0.1}}) == Verdict()
    assert judge(metrics(0.1) | {"served": {"mse_scaled": 9.0}}).failed


def of_text(perplexity: float | None) -> dict:
    return {
        "text": {
            "perplexity": perplexity,
            "ngram_perplexity": 5.0,
            "ngram_order": 4,
            "frequency_perplexity": 20.0,
        }
    }


@pytest.mark.parametrize(
    ("perplexity", "warned", "failed"),
    [(4.9, False, False), (5.0, True, False), (19.9, True, False), (20.0, True, True), (None, True, True)],
)
def test_a_model_of_text_must_beat_n_grams_and_fails_where_single_characters_are_as_good(
    perplexity, warned, failed
):
    verdict = judge_text(of_text(perplexity))
    assert (bool(verdict.warning), verdict.failed) == (warned, failed)
