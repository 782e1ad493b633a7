"""What is fast, and how fast, beside its peers."""
