from pathlib import Path

import pytest
from pydantic import ValidationError

from app.config import SERVICE_LINK, SHIPPED, Settings, describe_settings, variable
from app.errors import ConfigError


def test_defaults_listen_on_loopback_and_serve_the_shipped_models():
    settings = Settings.from_env({})
    assert settings == Settings()
    assert (settings.host, settings.port, settings.models) == ("127.0.0.1", 8000, SHIPPED)


def test_every_kind_of_value_is_read_from_the_environment():
    settings = Settings.from_env(
        {
            "CARRYOVER_PORT": " 9000 ",
            "CARRYOVER_MAX_SESSIONS": "2_000",
            "CARRYOVER_IDLE_TTL_SECONDS": "0.5",
            "CARRYOVER_HOT_ROUTE": "Off",
            "CARRYOVER_MODELS": "/srv/pumps:/srv/fans",
            "CARRYOVER_DEFAULT_MODEL": "pump",
            "CARRYOVER_DEVICE": "cuda",
        }
    )
    assert (settings.port, settings.max_sessions, settings.idle_ttl_seconds) == (9000, 2000, 0.5)
    assert (settings.hot_route, settings.default_model, settings.device) == (False, "pump", "cuda")
    assert settings.models == (Path("/srv/pumps"), Path("/srv/fans"))


def test_host_names_are_checked_only_on_a_local_server_without_keys():
    environment = {"CARRYOVER_ALLOWED_HOSTS": "Plant.example, carryover"}
    assert Settings.from_env({}).accepted_host_names == {"localhost"}
    assert Settings.from_env(environment).accepted_host_names == {"localhost", "plant.example", "carryover"}
    assert Settings.from_env({"CARRYOVER_ALLOWED_HOSTS": "*"}).accepted_host_names is None
    assert Settings(host="127.0.0.2", insecure=True).accepted_host_names == {"localhost"}
    assert Settings(host="0.0.0.0", published_host="127.0.0.1").accepted_host_names == {"localhost"}
    assert Settings(host="0.0.0.0", insecure=True).accepted_host_names is None
    assert Settings(api_keys_file=Path("keys.json")).accepted_host_names is None


def test_names_without_the_prefix_are_ignored():
    assert Settings.from_env({"PATH": "/bin", "PORT": "1", "carryover_port": "2"}) == Settings()


def test_the_error_for_a_misspelt_setting_suggests_the_nearest_name():
    with pytest.raises(
        ConfigError, match=r"unknown setting CARRYOVER_PROT \(did you mean CARRYOVER_PORT\?\)"
    ):
        Settings.from_env({"CARRYOVER_PROT": "9000"})


def test_an_old_name_of_a_setting_still_works_and_is_logged(caplog):
    assert Settings.from_env({"CARRYOVER_WAVE_SESSIONS": "9"}).batch_sessions == 9
    assert "CARRYOVER_WAVE_SESSIONS is now called CARRYOVER_BATCH_SESSIONS" in caplog.text
    with pytest.raises(ConfigError, match="is the old name of CARRYOVER_BATCH_SESSIONS"):
        Settings.from_env({"CARRYOVER_WAVE_SESSIONS": "9", "CARRYOVER_BATCH_SESSIONS": "9"})


def test_variables_that_kubernetes_and_docker_inject_for_a_service_named_carryover_are_ignored():
    injected = {
        "CARRYOVER_SERVICE_HOST": "10.96.0.17",
        "CARRYOVER_SERVICE_PORT": "80",
        "CARRYOVER_SERVICE_PORT_HTTP": "80",
        "CARRYOVER_PORT": "tcp://10.96.0.17:80",
        "CARRYOVER_PORT_80_TCP": "tcp://10.96.0.17:80",
        "CARRYOVER_PORT_80_TCP_PROTO": "tcp",
        "CARRYOVER_PORT_80_TCP_PORT": "80",
        "CARRYOVER_PORT_80_TCP_ADDR": "10.96.0.17",
        "CARRYOVER_STORE_SERVICE_HOST": "10.96.0.18",
        "CARRYOVER_STORE_PORT": "tcp://10.96.0.18:6379",
        "CARRYOVER_STORE_PORT_6379_TCP_ADDR": "10.96.0.18",
        "CARRYOVER_GRPC_PORT": "udp://10.96.0.19:8001",
    }
    assert Settings.from_env(injected) == Settings()
    assert Settings.from_env(injected | {"CARRYOVER_PORT": "9000"}).port == 9000


@pytest.mark.parametrize(
    "name", ["CARRYOVER_SERVICE", "CARRYOVER_SERVICE_HOSTS", "CARRYOVER_PORT_80", "CARRYOVER_HTTP_PORT"]
)
def test_a_variable_that_only_resembles_a_service_link_is_refused(name):
    with pytest.raises(ConfigError, match=f"unknown setting {name}"):
        Settings.from_env({name: "80"})


def test_no_setting_has_the_name_of_a_service_link():
    for each in describe_settings():
        assert SERVICE_LINK.fullmatch(each.variable.removeprefix("CARRYOVER_")) is None


def test_every_unknown_setting_is_named_at_once():
    with pytest.raises(ConfigError, match=r"CARRYOVER_MODLES.*CARRYOVER_MODELS.*CARRYOVER_XYZZY$"):
        Settings.from_env({"CARRYOVER_XYZZY": "1", "CARRYOVER_MODLES": "x"})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("CARRYOVER_PORT", "http", "CARRYOVER_PORT='http' is not a whole number"),
        ("CARRYOVER_PORT", "8000.5", "is not a whole number"),
        ("CARRYOVER_PORT", "", "CARRYOVER_PORT is empty"),
        ("CARRYOVER_PORT", "70000", r"port \(CARRYOVER_PORT\) must be at most 65535, not 70000"),
        ("CARRYOVER_PORT", "-1", "must be at least 0, not -1"),
        ("CARRYOVER_IDLE_TTL_SECONDS", "nan", "is not a number"),
        ("CARRYOVER_IDLE_TTL_SECONDS", "inf", "is not a number"),
        ("CARRYOVER_IDLE_TTL_SECONDS", "-1", "must be at least 0"),
        ("CARRYOVER_HOT_ROUTE", "maybe", "is not true or false"),
        ("CARRYOVER_DEVICE", "tpu", "must be cpu or cuda, not 'tpu'"),
        ("CARRYOVER_LOG_LEVEL", "loud", "must be debug or info"),
        ("CARRYOVER_MODELS", ":", "must not be empty"),
        ("CARRYOVER_ALLOWED_HOSTS", "http://plant", "is not host names such as plant.example"),
        ("CARRYOVER_ALLOWED_HOSTS", ",", r"allowed_hosts .* must not be empty"),
        ("CARRYOVER_MAX_SESSIONS", "0", "must be at least 1"),
        ("CARRYOVER_RECENT_CHUNKS", "0", "must be at least 1"),
    ],
)
def test_the_error_for_a_bad_value_says_what_was_expected(name, text, message):
    with pytest.raises(ConfigError, match=message):
        Settings.from_env({name: text})


def test_fewer_resident_sessions_than_a_batch_are_refused():
    with pytest.raises(ConfigError, match=r"resident_sessions \(8\) .* batch_sessions \(9\)"):
        Settings(resident_sessions=8, batch_sessions=9)
    assert Settings(resident_sessions=9, batch_sessions=9).batch_sessions == 9


def test_bounds_also_hold_for_settings_made_in_code():
    with pytest.raises(ConfigError, match="queue_jobs"):
        Settings(queue_jobs=0)
    with pytest.raises(ConfigError, match="IDLE_TTL_SECONDS"):
        Settings(idle_ttl_seconds=float("nan"))


def test_settings_are_immutable():
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]


def test_every_setting_has_a_variable_a_default_and_a_description():
    described = list(describe_settings())
    assert [setting.name for setting in described] == list(Settings.model_fields)
    assert all(setting.variable == variable(setting.name) for setting in described)
    assert all(setting.default and setting.description for setting in described)
    assert len({setting.description for setting in described}) == len(described)
    assert {setting.name: setting.default for setting in described}["tombstone_ttl_seconds"] == "604800"


def test_a_described_default_parses_to_the_default():
    for setting in describe_settings():
        if getattr(Settings(), setting.name) is not None and setting.name != "models":
            assert Settings.from_env({setting.variable: setting.default}) == Settings()


def test_the_store_and_its_durability_are_read_from_the_environment():
    settings = Settings.from_env(
        {"CARRYOVER_STORE": "sqlite:/sessions/carryover.sqlite", "CARRYOVER_DURABILITY": "250ms"}
    )
    assert (settings.store_path, settings.durability) == (Path("/sessions/carryover.sqlite"), 0.25)
    assert Settings().store_path is None


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"CARRYOVER_STORE": "postgres:x"}, "is not memory, sqlite:PATH or redis://HOST"),
        ({"CARRYOVER_STORE_REPLICAS": "1"}, "need a redis:// store"),
        (
            {"CARRYOVER_STORE": "redis://x", "CARRYOVER_TOMBSTONE_TTL_SECONDS": "0"},
            "forgets deleted sessions",
        ),
        ({"CARRYOVER_STORE": "redis://x", "CARRYOVER_DURABILITY": "1s"}, "needs a store on disk"),
        ({"CARRYOVER_STORE": "sqlite:"}, "must be memory, sqlite:PATH or redis://HOST"),
        ({"CARRYOVER_STORE": "sqlite:x", "CARRYOVER_DURABILITY": "0ms"}, "is not commit or a period"),
        ({"CARRYOVER_STORE": "sqlite:x", "CARRYOVER_DURABILITY": "soon"}, "is not commit or a period"),
        ({"CARRYOVER_STORE": "sqlite:x", "CARRYOVER_DURABILITY": "90s"}, "must be at most 60"),
        ({"CARRYOVER_DURABILITY": "250ms"}, "needs a store on disk"),
    ],
)
def test_contradictory_store_settings_are_refused(environment, message):
    with pytest.raises(ConfigError, match=message):
        Settings.from_env(environment)


def test_by_default_sessions_expire_after_a_day_in_memory_and_never_on_disk():
    on_disk = Settings(store="sqlite:x")
    assert (Settings().ttl_seconds, on_disk.ttl_seconds) == (86_400.0, float("inf"))
    assert Settings(store="sqlite:x", idle_ttl_seconds=5.0).ttl_seconds == 5.0
    assert Settings(idle_ttl_seconds=0.0).ttl_seconds == float("inf")


def test_without_keys_a_server_that_others_can_reach_is_refused(tmp_path):
    for exposed in ({"host": "0.0.0.0"}, {"host": "192.168.1.4"}, {"published_host": "plant.example"}):
        with pytest.raises(ConfigError, match=r"no API keys.*--insecure"):
            Settings(**exposed)
        assert Settings(**exposed, api_keys_file=tmp_path / "keys.json")
        assert Settings(**exposed, insecure=True)


def test_the_clients_variables_are_no_settings():
    assert Settings.from_env({"CARRYOVER_URL": "http://pump:8000", "CARRYOVER_KEY_FILE": "key"}) == Settings()
