"""The jobs that the engine takes, and its answers."""
