"""Replicas killed, put to sleep, cut off and restarted under load; and a check of what their clients saw."""
