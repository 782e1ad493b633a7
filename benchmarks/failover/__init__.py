"""Replicas that are killed, put to sleep, cut off and restarted under load, and a check of what clients saw."""
