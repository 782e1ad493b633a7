"""Text: the vocabulary of a model, and how its next token is drawn."""
