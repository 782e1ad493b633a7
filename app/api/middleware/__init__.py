"""ASGI middleware: limits on bodies, checks of origin and host, access log."""
