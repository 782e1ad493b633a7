"""Where a shared store is: URLs, Sentinels, TLS; and who must hold a write."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from redis.exceptions import ResponseError

from app.config import SHARED, Settings
from app.errors import ConfigError
from app.main import open_store
from app.stores.redis.scripting import Acknowledged
from app.stores.redis.store import RedisStore
from app.stores.redis.url import SCHEMES, Place, place
from benchmarks.failover.processes import wait_until
from tests.helpers.records import blocks
from tests.helpers.redis_server import RedisServer, free_port, needs_redis
from tests.stores.test_store import record


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://here", Place("", (("here", 6379),))),
        ("redis://here:7000/3", Place("", (("here", 7000),), "", {"db": 3})),
        ("redis://[::1]:7000", Place("", (("::1", 7000),))),
        ("redis://me:p%40ss@here", Place("", (("here", 6379),), "", {"username": "me", "password": "p@ss"})),
        ("redis://:pw@here", Place("", (("here", 6379),), "", {"username": None, "password": "pw"})),
        ("rediss://here?ssl_ca_certs=/ca", Place("", (("here", 6379),), "", {"ssl_ca_certs": "/ca"}, True)),
        ("redis+sentinel://a,b:1/main", Place("sentinel", (("a", 26379), ("b", 1)), "main")),
        ("redis+sentinel://a/main/2", Place("sentinel", (("a", 26379),), "main", {"db": 2})),
        ("rediss+cluster://a:1,b", Place("cluster", (("a", 1), ("b", 6379)), "", {}, True)),
    ],
)
def test_a_url_is_taken_to_parts(url, told):
    assert place(url) == told


@pytest.mark.parametrize(
    "url",
    [
        "http://here", "redis://", "redis://a,b", "redis://here:0", "redis://here:x", "redis://here/x",
        "redis://here/1/2", "redis+sentinel://here", "redis+cluster://here/1", "redis://here?db=1",
        "redis://here?ssl_ca_certs=/ca", "rediss://here?verify=no",
    ],
)  # fmt: skip
def test_another_url_is_refused(url):
    with pytest.raises(ValueError, match=r"."):
        place(url)


def test_no_password_is_shown():
    assert str(place("rediss+sentinel://me:secret@a,b/main")) == "rediss+sentinel://a:26379,b:26379/main"
    assert "secret" not in repr(place("redis://me:secret@a"))


def test_the_settings_know_every_scheme():
    assert {scheme.removesuffix(":") for scheme in SHARED} == set(SCHEMES)


def test_a_url_that_cannot_be_read_is_a_setting_that_cannot_be_read():
    with pytest.raises(ConfigError, match="CARRYOVER_STORE"):
        open_store(Settings(store="redis://a,b"))


@pytest.mark.parametrize(
    ("acknowledged", "command", "enough", "lacking"),
    [
        (Acknowledged(2, False, 900), ("WAIT", 2, 900), 2, 1),
        (Acknowledged(0, True, 900), ("WAITAOF", 1, 0, 900), [1, 0], [0, 0]),
        (Acknowledged(1, True, 900), ("WAITAOF", 1, 1, 900), [1, 1], [1, 0]),
    ],
)
def test_who_must_hold_a_write_is_asked_and_counted(acknowledged, command, enough, lacking):
    assert acknowledged.command() == command
    assert acknowledged.lacking(enough) is None
    assert acknowledged.lacking(lacking)
    assert acknowledged.lacking(ResponseError("WAIT cannot be used")) == "WAIT cannot be used"


@needs_redis
def test_the_sentinels_say_which_server_it_is(tmp_path):
    config = tmp_path / "sentinel.conf"
    with RedisServer(tmp_path / "store") as server:
        config.write_text(f"sentinel monitor main 127.0.0.1 {server.port} 1\n")
        with RedisServer(tmp_path / "sentinel", first=(str(config), "--sentinel")) as sentinel:
            url = f"redis+sentinel://127.0.0.1:{sentinel.port}/main"
            wait_until(lambda: "status=ok" in sentinel.ask("INFO", "sentinel"), "the Sentinel knows it")
            store = RedisStore(place(url), 1000.0)
            store.commit(blocks([record("a")]), [])
            assert server.ask("EXISTS", "carryover:{a}") == ":1"
            assert store.load(["a"])[0] == [record("a")]
            store.close()


@needs_redis
@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")
def test_it_speaks_tls_and_trusts_only_whom_it_should(tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    made += ["-keyout", str(key), "-out", str(certificate), "-days", "2", *subject]
    subprocess.run(made, check=True, capture_output=True)
    port = free_port()
    tls = ["--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
    with RedisServer(tmp_path / "store", *tls, "--tls-auth-clients", "no"):
        store = RedisStore(place(f"rediss://127.0.0.1:{port}?ssl_ca_certs={certificate}"), 1000.0)
        store.commit(blocks([record("a")]), [])
        assert store.load(["a"])[0] == [record("a")]
        store.close()
        with pytest.raises(ConfigError, match="certificate verify failed"):
            RedisStore(place(f"rediss://127.0.0.1:{port}"), 1000.0)
