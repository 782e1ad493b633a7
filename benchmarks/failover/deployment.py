"""Replicas behind a balancer over one store, every line between them a network that can be cut."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from benchmarks.failover.processes import Balancer, RedisServer, Replica, wait_until
from benchmarks.failover.proxy import Network, Proxy

SETTINGS = {
    "CARRYOVER_LOG_LEVEL": "warning",
    "CARRYOVER_RESIDENT_SESSIONS": "1024",
    "CARRYOVER_STORE_TIMEOUT_SECONDS": "1",
    "CARRYOVER_DRAIN_SECONDS": "1",
}


DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


class Deployment:
    """As many replicas as are asked for, `running` of them started; the balancer knows of all.

    Parameters
    ----------
    sentinels : the store is a primary with two replicas, and a Sentinel promotes one when it is lost
    """

    def __init__(
        self, folder: Path, replicas: int, running: int | None = None, *, sentinels: bool = False
    ) -> None:
        self.folder = folder
        self.network = Network()
        self.stores = _stores(folder, 3 if sentinels else 1)
        self.sentinel = _sentinel(folder, self.stores[0]) if sentinels else None
        self.to_store: list[Proxy] = []
        self.to_replica: list[Proxy] = []
        self.replicas: list[Replica] = []
        for _ in range(replicas):
            self._add()
        self.balancer = Balancer(folder / "balancer", [proxy.port for proxy in self.to_replica])
        self.running = running or replicas

    def __enter__(self) -> Deployment:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every process, whatever state it is in."""
        for proxy in (*self.to_store, *self.to_replica):
            proxy.heal()
        self.balancer.stop()
        for replica in self.replicas:
            replica.stop()
        for server in (*self.stores, *([self.sentinel] if self.sentinel else [])):
            server.kill()
        self.network.close()

    def replace_primary(self) -> None:
        """Wait until another store was promoted, and let a new, empty one follow that."""
        wait_until(lambda: self._primary() not in ("", str(self.stores[0].port)), "a replica is promoted")
        options = (*DURABLE, "--replicaof", f"127.0.0.1 {self._primary()}")
        self.stores.append(RedisServer(self.folder / "another", *options).start())

    def _primary(self) -> str:
        if self.sentinel is None:
            return str(self.stores[0].port)
        words = self.sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "carryover").split()
        return words[-1] if words[-1:] and words[-1].isdecimal() else ""

    def _start(self) -> None:
        for replica in self.replicas[: self.running]:
            replica.start()
        for replica in self.replicas[: self.running]:
            replica.wait()
        self.balancer.start()
        front = Replica(self.folder, {}, self.balancer.port)
        wait_until(front.ready, "the balancer has a replica")

    def fenced(self) -> list[int]:
        """Commits that each replica was refused since it was started."""
        return [replica.counter("fenced") for replica in self.replicas]

    def _add(self) -> None:
        environment = dict(SETTINGS)
        if self.sentinel is None:
            self.to_store.append(self.network.proxy(self.stores[0].port))
            environment["CARRYOVER_STORE"] = f"redis://127.0.0.1:{self.to_store[-1].port}"
        else:
            environment["CARRYOVER_STORE"] = f"redis+sentinel://127.0.0.1:{self.sentinel.port}/carryover"
            environment["CARRYOVER_STORE_REPLICAS"] = str(len(self.stores) - 1)
        self.replicas.append(Replica(self.folder / "replicas", environment))
        self.to_replica.append(self.network.proxy(self.replicas[-1].port))


def _stores(folder: Path, count: int) -> list[RedisServer]:
    primary = RedisServer(folder / "store0", *DURABLE).start()
    followers = [
        RedisServer(folder / f"store{i}", *DURABLE, "--replicaof", f"127.0.0.1 {primary.port}").start()
        for i in range(1, count)
    ]
    if followers:  # a link that is up may still be at offset 0: ask for what was written
        primary.ask("SET", "carryover:first", "1")
        wait_until(
            lambda: all(replica.ask("GET", "carryover:first").startswith("1") for replica in followers),
            "the replicas have what the primary has",
        )
    return [primary, *followers]


def _sentinel(folder: Path, primary: RedisServer) -> RedisServer:
    (folder / "sentinel").mkdir(parents=True, exist_ok=True)
    config = folder / "sentinel" / "sentinel.conf"
    config.write_text(
        f"sentinel monitor carryover 127.0.0.1 {primary.port} 1\n"
        "sentinel down-after-milliseconds carryover 500\n"
        "sentinel failover-timeout carryover 3000\n"
    )
    return RedisServer(folder / "sentinel", first=(str(config), "--sentinel")).start()
