"""Where alerts go once they are committed: to readers of `/events`, and to webhooks."""
