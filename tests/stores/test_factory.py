"""Which store the settings open."""

import pytest

from app import main
from app.config import Settings
from app.errors import ConfigError
from app.stores.sqlite.commit_mark import mark_path
from app.stores.sqlite.store import SqliteStore


def test_the_service_passes_on_that_a_loss_is_accepted(tmp_path, zoo_folder):
    path = tmp_path / "sessions.sqlite"
    SqliteStore(path, 100, 1e9).close()
    mark_path(path).write_bytes(bytes(64))
    settings = Settings(store=f"sqlite:{path}", models=(zoo_folder,), default_model="sine")
    with pytest.raises(ConfigError, match="mark is damaged"):
        main.create_app(settings)
    app = main.create_app(settings, accept_loss=True)
    app.state.engine.residents.store.close()
