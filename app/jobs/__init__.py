"""What the engine can be asked to do, and what it answers."""
