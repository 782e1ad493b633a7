"""The log says what a server serves: at its start, and after a reload what has changed."""

import json
import logging
import shlex
from dataclasses import replace

import pytest

from app.access.keys import write
from app.config import Settings
from app.main import create_app
from app.start_report import describe_lost_default, describe_start, example_command
from models.artifact.files import save
from models.installation import installed_version
from tests.helpers.text import text_model
from tests.helpers.zoo import made

FINGERPRINT = 12


@pytest.fixture
def folder(artifacts, tmp_path):
    save(artifacts["sine"], tmp_path / "zoo" / "sine")
    return tmp_path / "zoo"


def sentences(**changes) -> list[str]:
    return list(describe_start(create_app(Settings(**changes))))


def test_the_start_shows_a_text_to_a_model_of_text_and_rows_to_others(artifacts, tmp_path):
    save(text_model(), tmp_path / "letters")
    save(artifacts["sine"], tmp_path / "sine")
    sent = {}
    for name in ("letters", "sine"):
        app = create_app(Settings(models=(tmp_path,), default_model=name))
        *command, body = shlex.split(example_command(app, "http://here"))
        sent[command[1]] = json.loads(body)
    assert sent["http://here/sessions/demo/generate"] == {"prompt": "the sea ", "steps": 80}
    assert len(sent["http://here/sessions/demo/observations"]["observations"]) > 0


def test_the_start_names_models_default_store_keys_and_workers(folder, artifacts):
    assert sentences(models=(folder,)) == [
        f"Carryover {installed_version()}, 1 worker",
        f"model sine: fingerprint {artifacts['sine'].fingerprint[:FINGERPRINT]}, from {folder / 'sine'}",
        "default model: sine",
        "store: memory, sessions are lost when the server ends",
        "keys: none, for this machine only",
    ]


def test_the_start_says_that_there_is_no_default_where_keys_are_and_where_sessions_are_kept(
    folder, artifacts, tmp_path
):
    save(artifacts["pair"], folder / "pair")
    write(tmp_path / "keys.json", [])
    path = tmp_path / "sessions.sqlite"
    found = sentences(models=(folder,), store=f"sqlite:{path}", api_keys_file=tmp_path / "keys.json")
    assert "default model: none, new sessions must name their model" in found
    assert f"store: {path}, a chunk is on disk before it is answered" in found
    assert f"keys: 0 in {tmp_path / 'keys.json'}" in found


@pytest.mark.anyio
async def test_a_reload_logs_what_changed_and_nothing_else(start_hot, folder, artifacts, caplog):
    newer = made("sine", hidden=32, layers=2, seed=9)
    old, new = (artifact.fingerprint[:FINGERPRINT] for artifact in (artifacts["sine"], newer))
    async with start_hot(models=(folder,), default_model=None, log_level="info") as service:
        logging.getLogger(
            "carryover"
        ).propagate = True  # uvicorn has configured it; caplog listens at the root
        for change, expected in (
            (lambda: None, ["models were read again: no model has changed"]),
            (
                lambda: save(newer, folder / "sine"),
                [f"model sine is reloaded: fingerprint {new} in place of {old}"],
            ),
            (
                lambda: save(replace(newer, name="next"), folder / "next"),
                [
                    f"model next is loaded: fingerprint {new}",
                    "the default model is still sine; after a restart it would be none: set "
                    "CARRYOVER_DEFAULT_MODEL",
                ],
            ),
        ):
            change()
            caplog.clear()
            await service.server._reload()
            assert [
                record.getMessage() for record in caplog.records if record.name == "carryover"
            ] == expected
        assert describe_lost_default(service.app) is not None
