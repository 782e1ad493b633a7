"""Several processes that serve one port: who owns a session, and how jobs reach its owner."""
