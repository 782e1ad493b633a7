"""The pages of the documentation site that are written from the code, and what building it needs."""
