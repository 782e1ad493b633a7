"""A Redis server for tests, on a free port, separate from any Redis of the machine."""

import pytest

from benchmarks.failover.processes import SERVER, RedisServer

__all__ = ["RedisServer", "needs_redis"]

needs_redis = pytest.mark.skipif(SERVER is None, reason="no redis-server here: apt-get install redis-server")
