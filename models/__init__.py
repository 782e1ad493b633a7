"""What exists before serving: the network, its artifact, its data and its training. Never imports app."""
