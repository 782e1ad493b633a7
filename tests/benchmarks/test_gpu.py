"""The comparison of a GPU with one core: without CUDA its numbers are compared on the CPU."""

import sys

import pytest
import torch

from benchmarks import gpu

without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu", "--sessions", "3", "--hidden", "8", "--seconds", "0"])


@without_cuda
def test_without_cuda_the_outputs_are_compared_on_the_cpu(small, capsys):
    gpu.main()
    printed = capsys.readouterr().out
    assert "No CUDA here" in printed
    assert printed.count("outputs differ by at most") == 4  # two networks, two ways beside one core
    assert "ms a batch" not in printed


@without_cuda
def test_carries_that_are_lost_between_batches_are_found(small, monkeypatch):
    def forgetful(network, sessions, device):
        def step(observations):
            return whole(network, sessions, device)(observations)

        return step

    whole = gpu.kept_by_torch
    monkeypatch.setattr(gpu, "kept_by_torch", forgetful)
    with pytest.raises(SystemExit, match="differ by more than"):
        gpu.main()


def test_a_batch_is_timed_once_at_least():
    assert gpu.timed(lambda observations: observations, 2, 0.0) >= 0
