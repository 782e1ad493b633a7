"""The one owner of all sessions' state: queue, admission, step, commit."""
