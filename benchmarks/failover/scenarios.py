"""What may go wrong, one scenario each: a coroutine that does it and says how many seconds recovery took."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Protocol

from benchmarks.failover.clients import Crowd
from benchmarks.failover.deployment import Deployment
from benchmarks.failover.processes import wait_until

CUT_SECONDS = 3.0  # longer than the balancer, and the sessions' take-over, need


class Scenario(Protocol):
    """Does it, under the load of a crowd, and returns seconds."""

    __name__: str

    async def __call__(self, deployment: Deployment, crowd: Crowd) -> float: ...


async def nothing(deployment: Deployment, crowd: Crowd) -> float:  # noqa: ARG001
    """For comparison: nothing happens."""
    return await crowd.all_answered_since(time.monotonic())


async def killed(deployment: Deployment, crowd: Crowd) -> float:
    """A replica is killed, and later started again."""
    victim = deployment.replicas[0]
    victim.stop(signal.SIGKILL)
    took = await crowd.all_answered_since(time.monotonic())
    await _started(deployment, 0)
    return took


async def asleep(deployment: Deployment, crowd: Crowd) -> float:
    """A replica sleeps until others have its sessions, then wakes with its commits still to make."""
    victim = deployment.replicas[0]
    victim.send(signal.SIGSTOP)
    took = await crowd.all_answered_since(time.monotonic())
    await asyncio.sleep(1.0)
    victim.send(signal.SIGCONT)
    await asyncio.to_thread(victim.wait)
    return took


async def cut_from_store(deployment: Deployment, crowd: Crowd) -> float:
    """A replica's packets to the store are dropped; what was under way arrives late."""
    return await _cut(deployment, crowd, store=True, balancer=False)


async def cut_from_balancer(deployment: Deployment, crowd: Crowd) -> float:
    """The balancer's packets to a replica are dropped, and its answers."""
    return await _cut(deployment, crowd, store=False, balancer=True)


async def cut_off(deployment: Deployment, crowd: Crowd) -> float:
    """Both."""
    return await _cut(deployment, crowd, store=True, balancer=True)


async def store_restarted(deployment: Deployment, crowd: Crowd) -> float:
    """The store is killed, and started again on its append-only file."""
    store = deployment.stores[0]
    await asyncio.to_thread(store.kill)
    began = time.monotonic()
    await asyncio.sleep(0.5)
    await asyncio.to_thread(store.start)
    return await crowd.all_answered_since(began)


async def primary_lost(deployment: Deployment, crowd: Crowd) -> float:
    """The store's primary is lost, a replica promoted; a new server takes the place that has become free.

    Every replica holds what was acknowledged: a Sentinel knows their offsets only as they were a while ago,
    and may promote the one that is behind.
    """
    await asyncio.to_thread(deployment.stores[0].kill)
    began = time.monotonic()
    await asyncio.to_thread(deployment.replace_primary)
    return await crowd.all_answered_since(began)


async def rolling_restart(deployment: Deployment, crowd: Crowd) -> float:
    """Stop every replica in turn, and start it again."""
    worst = 0.0
    for i in range(len(deployment.replicas)):
        began = time.monotonic()
        await asyncio.to_thread(deployment.replicas[i].stop, signal.SIGTERM)
        worst = max(worst, await crowd.all_answered_since(began))
        await _started(deployment, i)
    return worst


async def scaled(deployment: Deployment, crowd: Crowd) -> float:
    """Two replicas become four, and then three."""
    worst = 0.0
    for i in (2, 3):
        await _started(deployment, i)
        worst = max(worst, await crowd.all_answered_since(time.monotonic()))
    began = time.monotonic()
    await asyncio.to_thread(deployment.replicas[0].stop, signal.SIGTERM)
    return max(worst, await crowd.all_answered_since(began))


async def _started(deployment: Deployment, which: int) -> None:
    replica = deployment.replicas[which]
    replica.start()
    await asyncio.to_thread(replica.wait)
    await asyncio.sleep(0.5)  # until the balancer has seen it, which nobody can ask it here


async def _cut(deployment: Deployment, crowd: Crowd, *, store: bool, balancer: bool) -> float:
    lines = [deployment.to_store[0]] * store + [deployment.to_replica[0]] * balancer
    began = time.monotonic()
    for line in lines:
        line.cut()
    took = await crowd.all_answered_since(began)
    await asyncio.sleep(max(0.0, CUT_SECONDS - took))
    for line in lines:
        line.heal()
    await asyncio.to_thread(wait_until, deployment.replicas[0].ready, "the replica is ready again")
    return took
