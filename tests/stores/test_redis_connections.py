"""Where a shared store is: URLs, Sentinels, TLS; and who must hold a write."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from redis.exceptions import ResponseError

from app.config import SHARED_STORE_SCHEMES, Settings
from app.errors import ConfigError
from app.stores.factory import open_store
from app.stores.redis.scripting import WriteConcern
from app.stores.redis.store import RedisStore
from app.stores.redis.url import SCHEMES, RedisUrl, parse_url
from benchmarks.failover.processes import wait_until
from benchmarks.ports import free_port
from tests.helpers.records import blocks
from tests.helpers.redis_server import RedisServer, needs_redis
from tests.stores.test_store import record


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://here", RedisUrl("", (("here", 6379),))),
        ("redis://here?allow_eviction=true", RedisUrl("", (("here", 6379),), allow_eviction=True)),
        ("redis://here:7000/3", RedisUrl("", (("here", 7000),), "", {"db": 3})),
        ("redis://[::1]:7000", RedisUrl("", (("::1", 7000),))),
        (
            "redis://me:p%40ss@here",
            RedisUrl("", (("here", 6379),), "", {"username": "me", "password": "p@ss"}),
        ),
        ("redis://:pw@here", RedisUrl("", (("here", 6379),), "", {"username": None, "password": "pw"})),
        (
            "rediss://here?ssl_ca_certs=/ca",
            RedisUrl("", (("here", 6379),), "", {"ssl_ca_certs": "/ca"}, True),
        ),
        ("redis+sentinel://a,b:1/main", RedisUrl("sentinel", (("a", 26379), ("b", 1)), "main")),
        ("redis+sentinel://a/main/2", RedisUrl("sentinel", (("a", 26379),), "main", {"db": 2})),
        ("rediss+cluster://a:1,b", RedisUrl("cluster", (("a", 1), ("b", 6379)), "", {}, True)),
    ],
)
def test_a_url_is_parsed(url, expected):
    assert parse_url(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "http://here", "redis://", "redis://a,b", "redis://here:0", "redis://here:x", "redis://here/x",
        "redis://here/1/2", "redis+sentinel://here", "redis+cluster://here/1", "redis://here?db=1",
        "redis://here?ssl_ca_certs=/ca", "rediss://here?verify=no",
    ],
)  # fmt: skip
def test_an_invalid_url_is_refused(url):
    with pytest.raises(ValueError, match=r"."):
        parse_url(url)


def test_no_password_is_shown():
    assert str(parse_url("rediss+sentinel://me:secret@a,b/main")) == "rediss+sentinel://a:26379,b:26379/main"
    assert "secret" not in repr(parse_url("redis://me:secret@a"))


def test_the_settings_know_every_scheme():
    assert {scheme.removesuffix(":") for scheme in SHARED_STORE_SCHEMES} == set(SCHEMES)


def test_an_invalid_url_is_an_invalid_setting():
    with pytest.raises(ConfigError, match="CARRYOVER_STORE"):
        open_store(Settings(store="redis://a,b"))


@pytest.mark.parametrize(
    ("write_concern", "command", "enough", "shortfall"),
    [
        (WriteConcern(2, False, 900), ("WAIT", 2, 900), 2, 1),
        (WriteConcern(0, True, 900), ("WAITAOF", 1, 0, 900), [1, 0], [0, 0]),
        (WriteConcern(1, True, 900), ("WAITAOF", 1, 1, 900), [1, 1], [1, 0]),
    ],
)
def test_the_write_concern_sends_its_command_and_counts_the_reply(write_concern, command, enough, shortfall):
    assert write_concern.command() == command
    assert write_concern.shortfall(enough) is None
    assert write_concern.shortfall(shortfall)
    assert write_concern.shortfall(ResponseError("WAIT cannot be used")) == "WAIT cannot be used"


@needs_redis
def test_the_sentinels_name_the_server(tmp_path):
    config = tmp_path / "sentinel.conf"
    with RedisServer(tmp_path / "store") as server:
        config.write_text(f"sentinel monitor main 127.0.0.1 {server.port} 1\n")
        with RedisServer(tmp_path / "sentinel", first=(str(config), "--sentinel")) as sentinel:
            url = f"redis+sentinel://127.0.0.1:{sentinel.port}/main"
            wait_until(lambda: "status=ok" in sentinel.ask("INFO", "sentinel"), "the Sentinel knows it")
            store = RedisStore(parse_url(url), 1000.0)
            store.commit(blocks([record("a")]), [])
            assert server.ask("EXISTS", "carryover:{a}") == ":1"
            assert store.load(["a"])[0] == [record("a")]
            store.close()


@needs_redis
@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")
def test_tls_is_used_and_an_unknown_certificate_is_refused(tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    made += ["-keyout", str(key), "-out", str(certificate), "-days", "2", *subject]
    subprocess.run(made, check=True, capture_output=True)
    port = free_port()
    tls = ["--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
    with RedisServer(tmp_path / "store", *tls, "--tls-auth-clients", "no"):
        store = RedisStore(parse_url(f"rediss://127.0.0.1:{port}?ssl_ca_certs={certificate}"), 1000.0)
        store.commit(blocks([record("a")]), [])
        assert store.load(["a"])[0] == [record("a")]
        store.close()
        with pytest.raises(ConfigError, match="certificate verify failed"):
            RedisStore(parse_url(f"rediss://127.0.0.1:{port}"), 1000.0)
