"""Bytes to values and back. No input or output, no state."""
