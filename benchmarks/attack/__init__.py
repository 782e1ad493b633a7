"""Attacks on a real server in a process of its own, and what they do to another client of it.

Each attack starts a server, sends something hostile to it over 127.0.0.1, and measures the longest stop of
another client, the server's peak memory, and whether the attack worked. `python -m benchmarks.attack` runs
them. The attackers use plain asyncio sockets, so that they depend on nothing in the server.
"""
