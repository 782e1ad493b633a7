import hashlib
import json

import pytest

from app.access import keys
from app.access.keys import KeyRing
from app.cli import run
from app.errors import ConfigError
from tests.helpers.locked import Keys


@pytest.fixture
def key_file(tmp_path):
    found = Keys(tmp_path)
    found.add("pump-house", observations_per_second=100)
    found.add("boss", "admin")
    return found


def test_a_token_finds_its_own_key_and_no_other_token_finds_any(key_file):
    key_ring = KeyRing(key_file.path)
    assert key_ring.find(key_file.token["pump-house"].encode()).name == "pump-house"
    assert key_ring.find(key_file.token["boss"].encode()).role == "admin"
    for wrong in (
        b"",
        b"no",
        key_file.token["boss"].encode()[:-1],
        key_file.token["boss"].encode() + b"x",
        b"x" * 10_000,
    ):
        assert key_ring.find(wrong) is None


class Uncomparable(bytes):
    """A token whose comparison, which would take the longer the more of it is right, is noticed."""

    def __eq__(self, other: object) -> bool:
        raise AssertionError(f"the token was compared with {other!r}")

    __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = startswith = __eq__  # type: ignore[assignment]

    def __hash__(self) -> int:
        raise AssertionError("the token was looked up as it is")


def test_the_time_of_a_look_up_reveals_no_part_of_a_token(key_file):
    """Only its digest is looked up, and nobody can choose tokens by the beginning of their digests."""
    key_ring = KeyRing(key_file.path)
    token = key_file.token["boss"].encode()
    assert key_ring.find(Uncomparable(token)).name == "boss"
    assert key_ring.find(Uncomparable(token[:-1] + b"!")) is None
    digests = {hashlib.sha256(text.encode()).digest() for text in key_file.token.values()}
    assert set(key_ring._keys) == digests


def test_nothing_in_the_file_opens_a_door(key_file):
    text = key_file.path.read_text()
    for token in key_file.token.values():
        assert token not in text
    key_ring = KeyRing(key_file.path)
    for key in json.loads(text)["keys"]:
        assert key_ring.find(key["sha256"].encode()) is None
        assert key_ring.find(bytes.fromhex(key["sha256"])) is None


def test_tokens_differ_and_are_hard_to_guess():
    tokens = {keys.generate_key("a")[1] for _ in range(100)}
    assert len(tokens) == 100
    assert all(len(token.removeprefix("cyo_")) >= 43 for token in tokens)


def test_the_file_is_for_its_owners_eyes_only(key_file):
    assert key_file.path.stat().st_mode & 0o077 == 0


def test_a_file_that_somebody_was_let_into_on_purpose_stays_open_to_them(key_file):
    key_file.path.chmod(0o640)
    key_file.add("more")
    assert key_file.path.stat().st_mode & 0o777 == 0o640


def test_keys_are_read_anew_when_the_file_changes_and_only_then(key_file):
    key_ring = KeyRing(key_file.path)
    assert not key_ring.refresh()
    key_file.add("new")
    assert key_ring.refresh()
    assert key_ring.find(key_file.token["new"].encode()) is not None
    key_file.remove("boss")
    assert key_ring.refresh()
    assert key_ring.find(key_file.token["boss"].encode()) is None


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"keys": [{}]}', "\ud800", "[" * 100_000])
def test_a_file_that_went_bad_leaves_the_keys_as_they_were(key_file, content):
    key_ring = KeyRing(key_file.path)
    if content is None:
        key_file.path.unlink()
    else:
        key_file.path.write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(ConfigError, match=r"keys\.json"):
        key_ring.refresh()
    assert key_ring.find(key_file.token["boss"].encode()) is not None


KEY = {"name": "a", "sha256": "0" * 64, "tenant": "a"}


@pytest.mark.parametrize(
    "wrong",
    [
        [KEY, KEY],
        [KEY, KEY | {"name": "b"}],
        [KEY, KEY | {"sha256": "1" * 64}],
        [KEY | {"name": ""}],
        [KEY | {"name": "a/b"}],
        [KEY | {"tenant": ""}],
        [KEY | {"tenant": "a/b"}],
        [KEY | {"tenant": "a\n"}],
        [KEY | {"sha256": "0" * 63}],
        [KEY | {"role": "god"}],
        [KEY | {"limits": {"sessions": 0}}],
        [KEY | {"limits": {"observations_per_second": -1}}],
        [KEY | {"limits": {"sesions": 1}}],
        [KEY | {"token": "x"}],
    ],
)
def test_a_file_that_says_something_else_is_refused_by_name(tmp_path, wrong):
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": wrong}))
    with pytest.raises(ConfigError, match=r"keys\.json"):
        KeyRing(path)


@pytest.mark.parametrize("name", ["", "a/b", "a b", "x" * 65, "ä", "a\n"])
def test_a_name_that_cannot_be_one_makes_no_key(name):
    with pytest.raises(ConfigError):
        keys.generate_key(name)
    with pytest.raises(ConfigError):
        keys.generate_key("fine", tenant=name)


def test_the_command_makes_lists_and_removes_keys(tmp_path, capsys, monkeypatch):
    path = tmp_path / "keys.json"
    monkeypatch.setenv("CARRYOVER_API_KEYS_FILE", str(path))
    assert run(["keys", "add", "pump", "--observations-per-second", "50", "--sessions", "7"]) == 0
    token = capsys.readouterr().out.strip()
    key = KeyRing(path).find(token.encode())
    assert (key.name, key.tenant, key.role, key.limits.sessions) == ("pump", "pump", "stream", 7)
    assert run(["keys", "add", "old", "--tenant", "plant", "--role", "read"]) == 0
    capsys.readouterr()
    assert run(["keys", "list", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(listed["name"], listed["role"], listed["tenant"]) for listed in lines] == [
        ("pump", "stream", "pump"),
        ("old", "read", "plant"),
    ]
    assert lines[0]["limits"] == {"sessions": 7, "observations_per_second": 50.0}
    assert run(["keys", "remove", "pump"]) == 0
    assert [key.name for key in KeyRing(path)] == ["old"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["keys", "list"], "--file"),
        (["keys", "list", "--file", "none.json"], "none.json"),
        (["keys", "remove", "x", "--file", "keys.json"], "no key 'x'"),
        (["keys", "add", "a", "--file", "keys.json"], "already"),
        (["keys", "add", "b/c", "--file", "keys.json"], "b/c"),
        (["keys", "add", "b", "--tenant", "", "--file", "keys.json"], "no name of a tenant"),
        (["keys", "add", "b", "--sessions", "0", "--file", "keys.json"], "sessions"),
    ],
)
def test_a_key_command_that_cannot_be_done_says_why_in_one_line(
    arguments, said, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CARRYOVER_API_KEYS_FILE", raising=False)
    Keys(tmp_path).add("a")
    assert run(arguments) == 2
    line = capsys.readouterr().err
    assert said in line
    assert line.count("\n") == 1
