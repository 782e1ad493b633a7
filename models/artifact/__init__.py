"""A trained model as a value and as a folder on disk."""
