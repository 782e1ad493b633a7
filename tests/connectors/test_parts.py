"""The parts of the bridge that need no broker: names, values, addresses, and the documents of Telegraf."""

from __future__ import annotations

import json
import re
import sys
import threading
from pathlib import Path

import pytest

from app.cli import run
from app.connectors.address import parse_address
from app.connectors.bridge import Options, check_templates
from app.connectors.mqtt import Mqtt
from app.connectors.names import Template, session_id
from app.connectors.source import BadMessage
from app.connectors.values import Reader
from app.errors import ConfigError
from tests.helpers.paths import ROOT


@pytest.mark.parametrize(
    ("template", "values", "slashes", "expected"),
    [
        ("{topic}", {"topic": "plant/7/t"}, True, "plant:7:t"),
        ("boiler-{1}", {"topic": "a:b", "1": "7"}, True, "boiler-7"),
        ("{key}", {"key": "a:b"}, False, "a:b"),
        ("{topic}", {"topic": "a:b"}, True, None),
        ("{topic}", {"topic": "a b"}, True, None),
        ("{key}", {"other": "1"}, False, None),
        ("{key}", {"key": ".."}, False, None),
        ("{key}", {"key": "a/b"}, False, None),
    ],
)
def test_a_session_id_is_made_from_a_template_or_refused(template, values, slashes, expected):
    if expected is None:
        with pytest.raises(BadMessage):
            session_id(Template(template), values, slashes)
    else:
        assert session_id(Template(template), values, slashes) == expected


@pytest.mark.parametrize(
    ("inputs", "fields", "payload", "expected"),
    [
        (["v"], [], b"21.5", [21.5]),
        (["v"], [], b"null", [None]),
        (["v"], ["value"], b'{"value": 3}', [3]),
        (["v"], [], b'{"v": "4.5"}', [4.5]),
        (["v"], ["data.c"], b'{"data": {"c": 1}}', [1]),
        (["v"], ["data.c"], {"data": '{"c": 1}'}, [1]),
        (["a", "b"], [], b'{"b": 2, "a": 1}', [1, 2]),
        (["a", "b"], ["a=x", "b=y"], b'{"y": 2, "x": 1}', [1, 2]),
        (["a", "b"], [], b"[1, 2]", [1, 2]),
        (["a", "b"], [], b"[1, 2, 3]", None),
        (["a", "b"], [], b"1", None),
        (["a", "b"], [], b'{"a": 1}', None),
        (["v"], [], b"[1]", [1]),
        (["v"], [], b"true", None),
        (["v"], [], b"NaN", None),
        (["v"], [], b"1" + b"0" * 400, None),
        (["v"], [], b"\xff", None),
        (["v"], [], b"[" * 100_000, None),
        (["v"], [], {}, None),
    ],
)
def test_values_are_read_by_name_or_refused(inputs, fields, payload, expected):
    reader = Reader(inputs, fields)
    if expected is None:
        with pytest.raises(BadMessage):
            reader.read(payload)
    else:
        assert reader.read(payload) == expected


def test_a_field_of_an_unknown_input_is_refused():
    with pytest.raises(ConfigError, match="no input 'c'; it has a, b"):
        Reader(["a", "b"], ["c=x"])


def test_an_address_may_hold_the_characters_of_a_filter(tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_PASSWORD", "from the environment")
    address = parse_address("mqtts://me@host.example/plant/+/#")
    assert (address.host, address.port, address.user, address.path) == (
        "host.example",
        8883,
        "me",
        "plant/+/#",
    )
    assert address.password == "from the environment"
    (tmp_path / "password").write_text("from the file\n")
    assert parse_address("redis://h/s", tmp_path / "password").password == "from the file"


@pytest.mark.parametrize("text", ["mqtt://host", "host/topic", "amqp://h/q", "mqtt:///t", "mqtt://h:x/t"])
def test_an_address_that_is_none_is_refused(text):
    with pytest.raises(ConfigError):
        parse_address(text)


def test_a_password_on_the_command_line_is_refused(capsys):
    assert run(["connect", "mqtt://me:secret@host/t", "--session", "{topic}"]) == 2
    shown = capsys.readouterr().err
    assert "--password-file" in shown
    assert "secret" not in shown


def test_an_empty_file_of_the_password_is_named(tmp_path, capsys):
    (tmp_path / "password").write_text("\n")
    words = ["connect", "mqtt://me@host/t", "--session", "{topic}", "--password-file"]
    assert run([*words, str(tmp_path / "password")]) == 2
    assert f"{tmp_path / 'password'} is empty: write the broker's password into it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"session": "{tpoic}"}, "--session: there is no {tpoic} here; this address has {1}, {topic}"),
        ({"publish": "out/{2}"}, "--publish: there is no {2} here; this address has {1}, {session}, {topic}"),
        ({"alarms": "{#}"}, "--alarms: there is no {#} here"),
        ({"dead_letter": "no/{session}"}, "--dead-letter: there is no {session} here"),
        ({"session": "{1}", "publish": "out/{session}", "dead_letter": "no/{topic}"}, None),
    ],
)
def test_a_name_that_no_message_has_is_refused_before_the_first_message(given, named):
    options = Options(
        **{"session": Template("{topic}")} | {name: Template(text) for name, text in given.items()}
    )
    source = Mqtt(parse_address("mqtt://h/plant/+/t"), "bridge", 1, None, threading.Event())
    if named is None:
        check_templates(options, source.names)
    else:
        with pytest.raises(ConfigError, match=re.escape(named)):
            check_templates(options, source.names)


def test_the_fields_of_an_entry_are_not_known_beforehand():
    check_templates(Options(Template("{device}"), publish=Template("{site}")), None)


@pytest.mark.parametrize(("module", "extra"), [("paho", "mqtt"), ("redis", "redis")])
def test_without_its_extra_a_source_says_what_to_install(module, extra, monkeypatch):
    from app.cli import connect_source

    for name in [*sys.modules]:
        if name.split(".")[0] == module or name.startswith(("app.connectors.mqtt", "app.connectors.redis")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    address = parse_address(f"{extra}://h/s")
    stop = threading.Event()
    make, arguments = {
        "mqtt": (connect_source._mqtt, (address, None, "", 1, None, stop)),
        "redis": (connect_source._redis, (address, "g", False, None, stop)),
    }[extra]
    with pytest.raises(ConfigError, match=rf"pip install .*\[{extra}\]"):
        make(*arguments)


@pytest.mark.anyio
@pytest.mark.parametrize("store", ["memory"])
async def test_the_server_takes_what_telegraf_sends(start_hot, store):
    """Telegraf's document of a batch, through the transformation that the how-to shows."""
    page = (ROOT / "docs" / "how-to" / "telegraf-node-red.md").read_text()
    assert (
        '{"model": "sine", "sessions": metrics.tags.host[], "observations": metrics.fields.value[]}' in page
    )
    batch = json.loads(Path(__file__).with_name("telegraf_batch.json").read_text())
    body = {
        "model": "sine",
        "sessions": [metric["tags"]["host"] for metric in batch["metrics"]],
        "observations": [metric["fields"]["value"] for metric in batch["metrics"]],
    }
    async with start_hot() as service:
        answer = await service.http.post("/observations", json=body)
        assert answer.status_code == 200
        assert answer.json()["positions"] == [1, 1, 2]
        assert answer.json()["errors"] == {}
