import pytest

from app.access.quotas import Quota, TokenBucket, quota_error
from app.config import Settings
from app.errors import OverLimit


class Ticking:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("chunk", [1, 7, 50, 1000])
def test_a_bucket_passes_its_rate_and_one_seconds_worth_on_credit(chunk):
    clock = Ticking()
    bucket, passed = TokenBucket(100, clock), 0
    for _ in range(6000):
        clock.now += 0.01
        passed += chunk if not bucket.take(chunk) else 0
    assert 100 * 60 * 0.9 - chunk <= passed <= 100 * 60 + 100 + chunk


def test_a_chunk_larger_than_a_second_passes_and_is_paid_for_afterwards():
    clock = Ticking()
    bucket = TokenBucket(10, clock)
    assert bucket.take(50) == 0
    assert bucket.take(1) == pytest.approx(4, abs=0.01)
    clock.now += 3.9
    assert bucket.take(1) > 0
    clock.now += 0.2
    assert bucket.take(1) == 0


def test_a_request_repeated_after_the_wait_is_granted():
    clock = Ticking()
    bucket = TokenBucket(3, clock)
    for _ in range(100):
        wait = bucket.take(2)
        clock.now += wait
        assert not wait or bucket.take(2) == 0


def test_a_keys_limits_are_its_own_but_never_above_the_servers():
    settings = Settings(body_bytes=2000, chunk_observations=50, key_sessions=10, key_in_flight=5)
    quota = Quota(body_bytes=9000, chunk_observations=20, sessions=30).within(settings)
    assert (quota.body_bytes, quota.chunk_observations, quota.sessions, quota.in_flight) == (2000, 20, 30, 5)
    assert Quota().within(settings).sessions == 10
    assert Quota().within(Settings()).sessions == Settings().max_sessions
    assert Quota().within(Settings()).observations_per_second is None
    assert Quota().within(Settings(key_observations_per_second=9)).observations_per_second == 9


def test_a_refusal_names_the_quota_and_when_to_come_again():
    error = quota_error("sockets", 3, "key 'a'", 2.1)
    assert isinstance(error, OverLimit)
    assert error.detail == "key 'a' may have at most 3 sockets"
    assert (error.extra, error.retry_after_seconds) == ({"quota": "sockets", "limit": 3}, 3)
