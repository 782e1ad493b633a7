"""Networks, artifacts, data and training: everything that exists before serving. Never imports app."""
