"""Triton's sequence batcher, from the server binary that `nvidia-pytriton` carries."""
