"""What owns a transport: HTTP connections and WebSockets."""
