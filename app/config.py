"""Settings of the server: read once, from a mapping such as the environment; an unknown name is refused.

Each field of `Settings` has its type, bounds and description. `carryover serve --help`, the reference page
and the tests are made from them.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from app.errors import ConfigError

PREFIX = "CARRYOVER_"
SHARED_STORE_SCHEMES = (
    "redis:",
    "rediss:",
    "redis+sentinel:",
    "rediss+sentinel:",
    "redis+cluster:",
    "rediss+cluster:",
)
SHIPPED_MODELS = Path(__file__).resolve().parent.parent / "models" / "zoo"
SHIPPED = (SHIPPED_MODELS / "sine", SHIPPED_MODELS / "shakespeare")  # the first is the default model

LOOPBACK = ("localhost", "127.0.0.1", "::1")
ORIGIN = re.compile(r"https?://[a-z0-9.\-_\[\]:]+")
HOST_NAME = re.compile(r"[a-z0-9.\-_]+")
ANY_HOST = "*"
CLIENT_VARIABLES = frozenset(("CARRYOVER_URL", "CARRYOVER_KEY_FILE"))  # of the client; no settings
RENAMED = {"CARRYOVER_WAVE_SESSIONS": "CARRYOVER_BATCH_SESSIONS"}  # old names, still accepted

# What Kubernetes and Docker put into the environment for a service whose name begins with ours, such as
# `carryover` or `carryover-store`: CARRYOVER_SERVICE_HOST, CARRYOVER_PORT_80_TCP_ADDR, CARRYOVER_PORT=tcp://...
SERVICE_LINK = re.compile(
    r"(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
LINK_ADDRESS = re.compile(r"(tcp|udp|sctp)://")

T = TypeVar("T")

log = logging.getLogger("carryover")


def parse_store(text: str) -> str:
    """`memory`, `sqlite:` and a path, or the URL of a Redis."""
    if text != "memory" and not text.startswith(("sqlite:", *SHARED_STORE_SCHEMES)):
        raise ValueError("memory, sqlite:PATH or redis://HOST")
    return text


def parse_period(text: str) -> float:
    """Seconds, from `commit` (0), `250ms` or `2s`."""
    if text == "commit":
        return 0.0
    number, seconds = (text[:-2], 1e-3) if text.endswith("ms") else (text[:-1], 1.0)
    try:
        period = float(number) * seconds if text.endswith("s") else 0.0
    except ValueError:
        period = 0.0
    if not 0 < period < math.inf:
        raise ValueError("commit or a period such as 250ms")
    return period


def parse_folders(text: str) -> tuple[Path, ...]:
    """Folders, separated as in PATH."""
    return tuple(Path(part).expanduser() for part in text.split(os.pathsep) if part)


def parse_origins(text: str) -> tuple[str, ...]:
    """Origins (RFC 6454), separated by commas."""
    origins = tuple(part.strip().rstrip("/").lower() for part in text.split(",") if part.strip())
    if not all(map(ORIGIN.fullmatch, origins)):
        raise ValueError("origins such as https://plant.example, separated by commas")
    return origins


def parse_host_names(text: str) -> tuple[str, ...]:
    """Names of hosts without their ports, separated by commas; `*` is any."""
    names = tuple(part.strip().lower() for part in text.split(",") if part.strip())
    if not all(name == ANY_HOST or HOST_NAME.fullmatch(name) for name in names):
        raise ValueError("host names such as plant.example, separated by commas, or *")
    return names


def text_only(parse: Callable[[str], T]) -> BeforeValidator:
    """Parses a text from the environment; a value that was made in code passes as it is."""
    return BeforeValidator(lambda value: parse(value) if isinstance(value, str) else value)


FilePath = Annotated[Path, AfterValidator(Path.expanduser)]
Folders = Annotated[tuple[Path, ...], NoDecode, text_only(parse_folders), Field(min_length=1)]
HostNames = Annotated[tuple[str, ...], NoDecode, text_only(parse_host_names), Field(min_length=1)]
Origins = Annotated[tuple[str, ...], NoDecode, text_only(parse_origins), Field(min_length=1)]
Period = Annotated[float, text_only(parse_period), Field(ge=0, le=60, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Store = Annotated[str, text_only(parse_store)]
Text = Annotated[str, Field(min_length=1)]


def setting(default: Any, description: str, *, shown: str | None = None, **bounds: Any) -> Any:
    """A field of `Settings`.

    Parameters
    ----------
    shown : the default as people read it, where `default` itself would say little
    bounds : of pydantic's `Field`: `ge`, `le`
    """
    extra: dict[str, Any] | None = None if shown is None else {"shown": shown}
    return Field(default, description=description, json_schema_extra=extra, **bounds)


class SettingFields(BaseSettings):
    """Every setting with its type, bounds, default and description, in the order in which they are shown."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    host: Text = setting("127.0.0.1", "address to listen on; 0.0.0.0 is every interface")
    port: int = setting(8000, "port to listen on; 0 takes a free one", ge=0, le=65_535)
    workers: int = setting(
        1,
        "processes that serve the port together, one for each core; each has a part of the sessions",
        ge=1,
        le=64,
    )
    grpc_port: int | None = setting(
        None,
        "port for the Open Inference Protocol over gRPC; needs the extra `grpc`; 0 takes a free one",
        ge=0,
        le=65_535,
        shown="no gRPC",
    )
    models: Folders = setting(
        SHIPPED,
        "artifacts, or folders of artifacts, separated as in PATH",
        shown="the shipped models",
    )
    default_model: Text | None = setting(
        None,
        "model of a new session that names none",
        shown="the first artifact that `models` names, or the only one that is loaded",
    )
    device: Literal["cpu", "cuda"] = setting("cpu", "where the network runs")
    max_sessions: int = setting(1_000_000, "most sessions that the server keeps", ge=1)
    resident_sessions: int = setting(100_000, "most sessions whose carry is kept in memory", ge=1)
    batch_sessions: int = setting(1024, "most sessions that one batch advances", ge=1)
    tenant_share: int = setting(
        16, "most jobs of one tenant in a batch while other tenants wait; 0: no limit", ge=0
    )
    queue_jobs: int = setting(
        100_000,
        "most jobs that may wait, each session of a bulk request counted; above it 503",
        ge=1,
    )
    queue_bytes: int = setting(256 * 2**20, "most bytes of observations that may wait; above it 503", ge=1024)
    forecast_steps: int = setting(
        10_000, "most steps of one forecast, above it 422; most tokens of one text, above it 413", ge=1
    )
    chunk_observations: int = setting(10_000, "most observations in one chunk; above it 413", ge=1)
    bulk_sessions: int = setting(10_000, "most sessions in one bulk request; above it 413", ge=1)
    body_bytes: int = setting(8 * 2**20, "most bytes in one request body; above it 413", ge=1024)
    store: Store = setting(
        "memory", "where sessions are kept: memory, sqlite:PATH, or redis://HOST for several replicas"
    )
    durability: Period = setting(
        0.0,
        "when a chunk is on disk: commit (before it is answered), or within a period such as 250ms",
        shown="commit",
    )
    idle_ttl_seconds: Seconds | None = setting(
        None,
        "idle seconds after which a session expires; 0: never",
        shown="86400; with a store on disk 0",
    )
    expire_after_jump: bool = setting(
        False,
        "after a start that finds the clock later than the last write by more than the idle time: expire "
        "sessions as usual, in place of keeping those that idled meanwhile",
    )
    store_replicas: int = setting(
        0, "replicas of the Redis primary that must hold a chunk before it is answered", ge=0
    )
    store_fsync: bool = setting(
        False, "a chunk must be in the append-only file of Redis on disk before it is answered"
    )
    store_timeout_seconds: float = setting(
        1.0, "how long the server waits for an answer of Redis", ge=0.01, le=60
    )
    drain_seconds: Seconds = setting(
        0.0,
        "seconds to serve on after a stop signal while readiness fails, so that balancers send requests "
        "elsewhere",
    )
    stop_seconds: float = setting(
        30.0,
        "seconds after the drain in which the server answers accepted requests and exits",
        ge=0.1,
        le=3600,
        allow_inf_nan=False,
    )
    tombstones: int = setting(
        100_000, "most deleted or expired sessions whose last position is remembered", ge=0
    )
    tombstone_ttl_seconds: Seconds = setting(
        604_800.0, "how long the last position of a deleted or expired session is remembered; 0: no limit"
    )
    recent_chunks: int = setting(
        8, "answers of each session that are kept, so that a retry gets the same answer again", ge=1
    )
    recent_bytes: int = setting(
        4096, "most bytes of kept answers of each session; the last answer is always kept", ge=0
    )
    carry_bytes: int = setting(
        262_144,
        "most bytes of the carry of a session; a model whose sessions need more is not loaded, because each "
        "chunk writes the carry to the store",
        ge=1,
    )
    run_seconds: float = setting(
        10.0,
        "longest that one call of a graph may take; its chunks are then refused and not applied",
        gt=0,
        allow_inf_nan=False,
    )
    replay_observations: int = setting(
        0,
        "last observations of each session that are kept, to move it to a reloaded model; 0: it keeps its "
        "model until it is reset",
        ge=0,
        le=10_000,
    )
    history_observations: int = setting(
        256,
        "last observations and predictions of each session that are kept in memory, to be shown; 0: none",
        ge=0,
        le=65_536,
    )
    history_bytes: int = setting(
        64 * 2**20,
        "most memory for them; above it those of the sessions that were used least recently are dropped",
        ge=0,
    )
    socket_messages: int = setting(64, "most messages of one socket that may wait for an answer", ge=1)
    hot_route: bool = setting(
        True, "answer chunks on a shorter path than other requests: same answers, less delay"
    )
    keep_alive_seconds: int = setting(75, "idle seconds after which a connection is closed", ge=1)
    api_keys_file: FilePath | None = setting(
        None,
        "file of the API keys that clients need, made by `carryover keys`; read again when it changes",
        shown="no keys: anyone may do anything",
    )
    alerts_file: FilePath | None = setting(
        None, "file of the webhooks that alerts may go to, and of the alerts of models", shown="none"
    )
    insecure: bool = setting(
        False, "allow other machines to connect without keys; anyone may then do anything"
    )
    published_host: Text | None = setting(
        None,
        "address at which clients reach this server, if it differs from the host: in a container",
        shown="the host",
    )
    published_port: int | None = setting(
        None,
        "port at which clients reach this server, if it differs from the port: in a container",
        ge=1,
        le=65_535,
        shown="the port",
    )
    allowed_origins: Origins | None = setting(
        None,
        "origins of web pages that may call this server, separated by commas, such as https://plant.example",
        shown="none",
    )
    allowed_hosts: HostNames | None = setting(
        None,
        "host names, separated by commas, that requests may name while there are no keys; `*`: any",
        shown="localhost and IP addresses",
    )
    tls_certificate: FilePath | None = setting(
        None, "certificate chain (PEM) to serve TLS with; a proxy in front is better", shown="no TLS"
    )
    tls_key: FilePath | None = setting(None, "private key (PEM) of the certificate", shown="none")
    observations_per_second: Seconds = setting(
        0.0, "most observations per second of all clients together; above it 503; 0: no limit"
    )
    connections: int = setting(
        20_000,
        "most open connections; a further one is answered 503; with gRPC, a quarter are for its port",
        ge=1,
    )
    sockets: int = setting(10_000, "most open sockets; above it 503", ge=1)
    request_seconds: int = setting(
        30, "how long a request may take to arrive completely; else 408, over gRPC DEADLINE_EXCEEDED", ge=1
    )
    key_sessions: int = setting(
        0, "most sessions of the tenant of one key, unless the keys' file says otherwise; 0: no limit", ge=0
    )
    key_observations_per_second: Seconds = setting(
        0.0, "most observations per second of one key, unless the keys' file says otherwise; 0: no limit"
    )
    key_sockets: int = setting(
        1000, "most open sockets of one key, unless the keys' file says otherwise", ge=1
    )
    key_in_flight: int = setting(
        10_000, "most unanswered requests of one key, unless the keys' file says otherwise", ge=1
    )
    log_format: Literal["text", "json"] = setting("text", "format of a log line")
    traces: Literal["off", "otlp", "console"] = setting(
        "off", "where OpenTelemetry spans are sent; needs the extra `traces`"
    )
    access_log: bool = setting(False, "log each request")
    log_level: Literal["debug", "info", "warning", "error", "critical"] = setting(
        "info", "lowest level of logged lines"
    )


class Settings(SettingFields):
    """How a server runs. Immutable.

    `Settings(...)` reads no environment variable; `Settings.from_env` does.

    Raises
    ------
    ConfigError
        At construction, when a value is out of its bounds or two values contradict each other.
    """

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError("; ".join(map(_explain, error.errors()))) from None

    def model_post_init(self, _: Any, /) -> None:
        """Check what concerns several settings."""
        self._check_store()
        if (self.tls_key is None) != (self.tls_certificate is None):
            raise ConfigError("set both CARRYOVER_TLS_CERTIFICATE and CARRYOVER_TLS_KEY, or neither")
        self._check_exposure()
        if self.bulk_sessions > self.queue_jobs:
            raise ConfigError(
                f"bulk_sessions ({self.bulk_sessions}) must be at most queue_jobs ({self.queue_jobs}): "
                "a bulk request that is larger than the whole queue could never be accepted"
            )
        if self.resident_sessions < self.batch_sessions:
            raise ConfigError(
                f"resident_sessions ({self.resident_sessions}) must be at least batch_sessions "
                f"({self.batch_sessions}): all sessions of a batch must be in memory at once"
            )

    def _check_store(self) -> None:
        if self.store != "memory" and self.store_path is None and not self.store_is_shared:
            raise ConfigError(
                f"store (CARRYOVER_STORE) must be memory, sqlite:PATH or redis://HOST, not {self.store!r:.80}"
            )
        if self.durability and self.store_path is None:
            raise ConfigError("CARRYOVER_DURABILITY needs a store on disk: CARRYOVER_STORE=sqlite:PATH")
        if (self.store_replicas or self.store_fsync) and not self.store_is_shared:
            raise ConfigError("store_replicas and store_fsync need a redis:// store in CARRYOVER_STORE")
        if self.store_is_shared and self.workers > 1:
            raise ConfigError(
                "workers divide a store in memory or on disk among them; with a redis:// store start several "
                "servers with one worker each"
            )
        if self.store_is_shared and not self.tombstone_ttl_seconds:
            raise ConfigError(
                "a redis:// store forgets deleted sessions by time: "
                "CARRYOVER_TOMBSTONE_TTL_SECONDS must be above 0"
            )

    def _check_exposure(self) -> None:
        if self._is_local or self.api_keys_file is not None or self.insecure:
            return
        raise ConfigError(
            f"other machines can reach {self.published_host or self.host}, and there are no API keys: "
            "make one (carryover keys add NAME --file FILE) and name the file in CARRYOVER_API_KEYS_FILE, "
            "or allow everyone in with --insecure"
        )

    @property
    def _is_local(self) -> bool:
        host = self.published_host or self.host
        return host in LOOPBACK or host.startswith("127.")

    @property
    def accepted_host_names(self) -> frozenset[str] | None:
        """Names that the `Host` of a request may have, beside IP addresses; None: any."""
        allowed = self.allowed_hosts or ()
        if self.api_keys_file is not None or not self._is_local or ANY_HOST in allowed:
            return None
        return frozenset(("localhost", *allowed))

    @property
    def grpc_connections(self) -> int:
        """Connections of the gRPC port: a quarter of all, as each carries many calls; 0 without the port."""
        return 0 if self.grpc_port is None else max(1, self.connections // 4)

    @property
    def http_connections(self) -> int:
        """Connections of the HTTP port: what gRPC does not have."""
        return max(1, self.connections - self.grpc_connections)

    @property
    def store_path(self) -> Path | None:
        """The file that sessions are kept in, if any."""
        kind, _, path = self.store.partition(":")
        return Path(path).expanduser() if kind == "sqlite" and path else None

    @property
    def store_is_shared(self) -> bool:
        """Whether other replicas keep their sessions in the same store."""
        return self.store.startswith(SHARED_STORE_SCHEMES)

    @property
    def ttl_seconds(self) -> float:
        """Idle seconds until a session expires, unless its client chose another time; may be infinite."""
        if self.idle_ttl_seconds is None:
            return 86_400.0 if self.store_path is None else math.inf
        return self.idle_ttl_seconds or math.inf

    @classmethod
    def from_env(cls, environment: Mapping[str, str], **overrides: Any) -> Settings:
        """Settings from the `CARRYOVER_*` names of `environment`; other names and service links are ignored.

        Parameters
        ----------
        overrides : values by field, which win over the environment

        Raises
        ------
        ConfigError
            Naming every unknown setting, or the values that cannot be read.
        """
        given = {
            name: text.strip()
            for name, text in environment.items()
            if name.startswith(PREFIX) and name not in CLIENT_VARIABLES and not _is_service_link(name, text)
        }
        for old, new in RENAMED.items():
            if old in given:
                _accept_old_name(given, old, new)
        known = [variable(name) for name in cls.model_fields]
        if unknown := sorted(given.keys() - known):
            raise ConfigError("; ".join(_describe_unknown(name, known) for name in unknown))
        if empty := sorted(name for name, text in given.items() if not text):
            raise ConfigError(f"{', '.join(empty)} is empty: give it a value or unset it")
        source = EnvSettingsSource(cls, env_prefix=PREFIX)
        source.env_vars = {name.lower(): text for name, text in given.items()}
        return cls(**(source() | overrides))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is handed in: settings are a value, whatever the environment of the process is."""
        return (init_settings,)


@dataclass(frozen=True)
class SettingDescription:
    """One setting as people read of it."""

    name: str
    variable: str
    default: str
    description: str


def describe_settings() -> Iterator[SettingDescription]:
    """Every setting, in the order of the fields."""
    for name, field in Settings.model_fields.items():
        description = field.description or ""
        if choices := _choices(field):
            description = f"{description}: {' or '.join(choices)}"
        yield SettingDescription(name, variable(name), _shown_default(field), description)


def _is_service_link(name: str, text: str) -> bool:
    # CARRYOVER_PORT is a setting and can be a link: a link's value is an address, a setting's a number.
    if name.endswith("_PORT") and LINK_ADDRESS.match(text):
        return True
    return SERVICE_LINK.fullmatch(name.removeprefix(PREFIX)) is not None


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.upper()


def _choices(field: FieldInfo) -> tuple[str, ...]:
    return get_args(field.annotation) if get_origin(field.annotation) is Literal else ()


def _shown_default(field: FieldInfo) -> str:
    if isinstance(field.json_schema_extra, dict):
        return str(field.json_schema_extra["shown"])
    default = field.default
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) and default < 1e6 else str(default)


_EXPECTED = {"int": "a whole number", "float": "a number", "finite": "a number", "bool": "true or false"}


def _explain(error: Any) -> str:
    """One of pydantic's errors as a sentence that names the setting and its variable."""
    if not error["loc"]:
        return str(error["msg"])
    name, kind, value = str(error["loc"][0]), error["type"], error["input"]
    both = f"{name} ({variable(name)})"
    context = error.get("ctx", {})
    if kind == "greater_than_equal":
        return f"{both} must be at least {context['ge']}, not {value}"
    if kind == "less_than_equal":
        return f"{both} must be at most {context['le']}, not {value}"
    if kind == "literal_error":
        return f"{both} must be {' or '.join(_choices(Settings.model_fields[name]))}, not {value!r:.80}"
    if kind in ("too_short", "string_too_short"):
        return f"{both} must not be empty"
    if kind == "extra_forbidden":
        return f"there is no setting {name}"
    expected = context["error"] if kind == "value_error" else _EXPECTED.get(kind.partition("_")[0])
    return f"{variable(name)}={value!r:.80} is not {expected}" if expected else f"{both}: {error['msg']}"


def _accept_old_name(given: dict[str, str], old: str, new: str) -> None:
    if new in given:
        raise ConfigError(f"{old} is the old name of {new}: set only {new}")
    log.warning("%s is now called %s; the old name still works", old, new)
    given[new] = given.pop(old)


def _describe_unknown(name: str, known: Iterable[str]) -> str:
    # Compared without the prefix: with it, any two names would look similar.
    similar = get_close_matches(name.removeprefix(PREFIX), [one.removeprefix(PREFIX) for one in known], n=1)
    return f"unknown setting {name}" + (f" (did you mean {PREFIX}{similar[0]}?)" if similar else "")
