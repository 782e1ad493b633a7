"""Mixed traffic for a long time, with every prediction checked."""
