"""The only package that changes sessions: queue, admission, step, commit."""
