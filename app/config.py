"""Settings: read once from a mapping, refused by name when unknown, checked whatever they come from.

Each field carries its own reader, bounds and one-line description, so `carryover serve --help`, the
settings page of the documentation and the tests all read the same source.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

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
SHIPPED = Path(__file__).resolve().parent.parent / "models" / "zoo"

LOOPBACK = ("localhost", "127.0.0.1", "::1")
ORIGIN = re.compile(r"https?://[a-z0-9.\-_\[\]:]+")
HOST_NAME = re.compile(r"[a-z0-9.\-_]+")
ANY_HOST = "*"

T = TypeVar("T")


def whole_number(text: str) -> int:
    """A whole number; underscores may group its digits."""
    return int(text)


def number(text: str) -> float:
    """A finite number."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def true_or_false(text: str) -> bool:
    """One of 1, true, yes, on; 0, false, no, off."""
    words = {
        "1": True,
        "true": True,
        "yes": True,
        "on": True,
        "0": False,
        "false": False,
        "no": False,
        "off": False,
    }
    try:
        return words[text.lower()]
    except KeyError:
        raise ValueError(text) from None


def store_name(text: str) -> str:
    """`memory`, `sqlite:` and a path, or the URL of a Redis."""
    if text != "memory" and not text.startswith(("sqlite:", *SHARED_STORE_SCHEMES)):
        raise ValueError(text)
    return text


def period(text: str) -> float:
    """Seconds, of `commit` (0), `250ms` or `2s`."""
    if text == "commit":
        return 0.0
    for unit, seconds in (("ms", 1e-3), ("s", 1.0)):
        if text.endswith(unit):
            value = number(text.removesuffix(unit)) * seconds
            if value > 0:
                return value
    raise ValueError(text)


def folders(text: str) -> tuple[Path, ...]:
    """Folders, parted as in PATH."""
    return tuple(Path(part).expanduser() for part in text.split(os.pathsep) if part)


def file_path(text: str) -> Path:
    """A file."""
    return Path(text).expanduser()


def origins(text: str) -> tuple[str, ...]:
    """Origins (RFC 6454), parted by commas."""
    told = tuple(part.strip().rstrip("/").lower() for part in text.split(",") if part.strip())
    for one in told:
        if ORIGIN.fullmatch(one) is None:
            raise ValueError(one)
    return told


def host_names(text: str) -> tuple[str, ...]:
    """Names of hosts without their ports, parted by commas; `*` is any."""
    told = tuple(part.strip().lower() for part in text.split(",") if part.strip())
    for one in told:
        if one != ANY_HOST and HOST_NAME.fullmatch(one) is None:
            raise ValueError(one)
    return told


def setting(
    default: T,
    about: str,
    read: Callable[[str], T],
    *,
    least: float | None = None,
    most: float | None = None,
    choices: tuple[str, ...] = (),
    shown: str | None = None,
) -> T:
    """A field of `Settings`: its reader, inclusive bounds, and what people are told of it."""
    metadata = {
        "about": about,
        "read": read,
        "least": least,
        "most": most,
        "choices": choices,
        "shown": shown,
    }
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that a server can be told at start.

    Raises
    ------
    ConfigError
        At construction, when a value is out of its bounds or two values contradict each other.
    """

    host: str = setting("127.0.0.1", "address to listen on; 0.0.0.0 is every interface", str)
    port: int = setting(8000, "port to listen on; 0 takes a free one", whole_number, least=0, most=65_535)
    grpc_port: int | None = setting(
        None,
        "port for the Open Inference Protocol over gRPC; needs the extra `grpc`; 0 takes a free one",
        whole_number,
        least=0,
        most=65_535,
        shown="no gRPC",
    )
    models: tuple[Path, ...] = setting(
        (SHIPPED,), "artifacts, or folders of artifacts, parted as in PATH", folders, shown="the shipped zoo"
    )
    default_model: str | None = setting(
        None, "model of a session that names none", str, shown="the first that is loaded"
    )
    device: str = setting("cpu", "where the network runs", str, choices=("cpu", "cuda"))
    max_sessions: int = setting(1_000_000, "sessions kept, resident or not", whole_number, least=1)
    resident_sessions: int = setting(100_000, "sessions whose carry stays in the slab", whole_number, least=1)
    wave_sessions: int = setting(1024, "sessions that one tick advances at most", whole_number, least=1)
    tenant_share: int = setting(
        16, "jobs of one tenant that a tick takes while others call, too; 0: no bound", whole_number, least=0
    )
    queue_jobs: int = setting(
        100_000,
        "jobs that may wait, each session of a bulk request counting; above it 503",
        whole_number,
        least=1,
    )
    queue_bytes: int = setting(
        256 * 2**20, "bytes of observations that may wait; above it 503", whole_number, least=1024
    )
    forecast_steps: int = setting(10_000, "steps in one forecast; above it 422", whole_number, least=1)
    chunk_observations: int = setting(
        10_000, "observations in one chunk; above it 413", whole_number, least=1
    )
    bulk_sessions: int = setting(10_000, "sessions in one bulk request; above it 413", whole_number, least=1)
    body_bytes: int = setting(8 * 2**20, "bytes in one request body; above it 413", whole_number, least=1024)
    store: str = setting(
        "memory", "where sessions rest: memory, sqlite:PATH, or redis://HOST for many replicas", store_name
    )
    durability: float = setting(
        0.0,
        "when an answered chunk is on disk: commit (when it is answered), or a period such as 250ms",
        period,
        least=0,
        most=60,
        shown="commit",
    )
    idle_ttl_seconds: float | None = setting(
        None,
        "a session idle for this long expires; 0 is never",
        number,
        least=0,
        shown="86400, 0 in a file",
    )
    store_replicas: int = setting(
        0,
        "replicas of the store's primary that must hold a chunk before it is answered",
        whole_number,
        least=0,
    )
    store_fsync: bool = setting(
        False, "a chunk must be in the store's append-only file on disk before it is answered", true_or_false
    )
    store_timeout_seconds: float = setting(
        1.0, "how long a store on the network has for an answer", number, least=0.01, most=60
    )
    drain_seconds: float = setting(
        0.0, "once told to stop, serve on for this long, not ready: balancers send elsewhere", number, least=0
    )
    tombstones: int = setting(
        100_000, "gone sessions whose last position is remembered", whole_number, least=0
    )
    tombstone_ttl_seconds: float = setting(
        604_800.0, "a gone session is remembered for this long; 0 is until pushed out", number, least=0
    )
    recent_chunks: int = setting(
        8, "answers remembered a session, so that a retry is replayed", whole_number, least=1
    )
    recent_bytes: int = setting(
        4096, "bytes of remembered answers a session; the last answer always stays", whole_number, least=0
    )
    replay_observations: int = setting(
        0,
        "last observations kept a session, to start it warm on a reloaded model; 0: it waits for a reset",
        whole_number,
        least=0,
        most=10_000,
    )
    socket_messages: int = setting(
        64, "messages of one socket that may wait for an answer", whole_number, least=1
    )
    hot_route: bool = setting(
        True, "answer chunks ahead of the router: the same answers, sooner", true_or_false
    )
    keep_alive_seconds: int = setting(
        75, "an idle connection is closed after this long", whole_number, least=1
    )
    api_keys_file: Path | None = setting(
        None,
        "the keys that clients must have, as `carryover keys` writes them; read anew when it changes",
        file_path,
        shown="none: everybody may do everything",
    )
    insecure: bool = setting(
        False,
        "serve beyond this machine without keys, though anybody may then do anything",
        true_or_false,
    )
    published_host: str | None = setting(
        None,
        "address under which others reach this server, where that is not what it listens on: in a container",
        str,
        shown="the host",
    )
    allowed_origins: tuple[str, ...] | None = setting(
        None,
        "other origins whose pages may call this server, parted by commas, such as https://plant.example",
        origins,
        shown="none",
    )
    allowed_hosts: tuple[str, ...] | None = setting(
        None,
        "host names, parted by commas, that this server has on its own machine without keys; `*`: any",
        host_names,
        shown="localhost and addresses",
    )
    tls_certificate: Path | None = setting(
        None, "certificate chain to serve TLS with; better a proxy in front", file_path, shown="no TLS"
    )
    tls_key: Path | None = setting(None, "the certificate's private key", file_path, shown="none")
    observations_per_second: float = setting(
        0.0, "observations a second from everybody together; above it 503; 0: no limit", number, least=0
    )
    connections: int = setting(
        20_000, "connections open at once; one more is closed unanswered", whole_number, least=1
    )
    sockets: int = setting(10_000, "sockets open at once; above it 503", whole_number, least=1)
    request_seconds: int = setting(
        30, "in which a request must have come in, whole; else 408", whole_number, least=1
    )
    key_sessions: int = setting(
        0, "sessions of one key's tenant, unless its file says else; 0: as the server", whole_number, least=0
    )
    key_observations_per_second: float = setting(
        0.0, "observations a second of one key, unless its file says else; 0: no limit", number, least=0
    )
    key_sockets: int = setting(1000, "sockets of one key, unless its file says else", whole_number, least=1)
    key_in_flight: int = setting(
        10_000,
        "chunks and commands of one key that wait, unless its file says else",
        whole_number,
        least=1,
    )
    log_format: str = setting("text", "how a line is logged", str, choices=("text", "json"))
    traces: str = setting(
        "off",
        "OpenTelemetry spans; needs the extra `traces`",
        str,
        choices=("off", "otlp", "console"),
    )
    access_log: bool = setting(False, "log a line a request", true_or_false)
    log_level: str = setting(
        "info", "least severe lines logged", str, choices=("debug", "info", "warning", "error", "critical")
    )

    def __post_init__(self) -> None:
        for one in fields(self):
            _check(one, getattr(self, one.name))
        self._check_store()
        if (self.tls_key is None) != (self.tls_certificate is None):
            raise ConfigError("tls_certificate and tls_key come together")
        self._check_exposure()
        if self.bulk_sessions > self.queue_jobs:
            raise ConfigError(
                f"bulk_sessions ({self.bulk_sessions}) must be at most queue_jobs ({self.queue_jobs}): "
                "a request that fills the queue alone would never be taken"
            )
        if self.resident_sessions < self.wave_sessions:
            raise ConfigError(
                f"resident_sessions ({self.resident_sessions}) must be at least wave_sessions "
                f"({self.wave_sessions}): a slab smaller than a wave makes healthy sessions look unknown"
            )

    def _check_store(self) -> None:
        if self.store != "memory" and self.store_path is None and not self.store_is_shared:
            raise ConfigError(
                f"store (CARRYOVER_STORE) must be memory, sqlite:PATH or redis://HOST, not {self.store!r:.80}"
            )
        if self.durability and self.store_path is None:
            raise ConfigError("a durability period needs a store on disk: name one in CARRYOVER_STORE")
        if (self.store_replicas or self.store_fsync) and not self.store_is_shared:
            raise ConfigError("store_replicas and store_fsync need a redis:// store in CARRYOVER_STORE")
        if self.store_is_shared and not self.tombstone_ttl_seconds:
            raise ConfigError(
                "in a redis:// store a gone session is forgotten by time: tombstone_ttl_seconds"
            )

    def _check_exposure(self) -> None:
        host = self.published_host or self.host
        if self._serves_its_machine or self.api_keys_file is not None or self.insecure:
            return
        raise ConfigError(
            f"without keys this server serves its own machine only, not {host}: make a key "
            "(carryover keys add NAME), name the file in CARRYOVER_API_KEYS_FILE, or insist with --insecure"
        )

    @property
    def _serves_its_machine(self) -> bool:
        host = self.published_host or self.host
        return host in LOOPBACK or host.startswith("127.")

    @property
    def accepted_host_names(self) -> frozenset[str] | None:
        """What a request may call its host, beside an address; None: anything."""
        allowed = self.allowed_hosts or ()
        if self.api_keys_file is not None or not self._serves_its_machine or ANY_HOST in allowed:
            return None
        return frozenset(("localhost", *allowed))

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
        """How long a session may idle unless its client says otherwise; on disk it may for ever."""
        if self.idle_ttl_seconds is None:
            return 86_400.0 if self.store_path is None else math.inf
        return self.idle_ttl_seconds or math.inf

    @classmethod
    def from_env(cls, environment: Mapping[str, str]) -> Settings:
        """Settings from the `CARRYOVER_*` names of `environment`; other names are none of ours.

        Raises
        ------
        ConfigError
            Naming every unknown setting, or the one whose value cannot be read.
        """
        known = {variable(one.name): one for one in fields(cls)}
        given = {name: text for name, text in environment.items() if name.startswith(PREFIX)}
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise ConfigError("; ".join(_unknown(name, known) for name in unknown))
        return cls(**{known[name].name: _read(known[name], text.strip()) for name, text in given.items()})


@dataclass(frozen=True)
class SettingDescription:
    """One setting as people are told of it."""

    name: str
    variable: str
    default: str
    about: str


def describe_settings() -> Iterator[SettingDescription]:
    """Every setting, in the order of the fields."""
    for one in fields(Settings):
        about = one.metadata["about"]
        if one.metadata["choices"]:
            about = f"{about}: {' or '.join(one.metadata['choices'])}"
        yield SettingDescription(
            one.name, variable(one.name), one.metadata["shown"] or _shown(one.default), about
        )


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.upper()


def _read(one: Field[Any], text: str) -> Any:
    if not text:
        raise ConfigError(f"{variable(one.name)} is empty: give it a value or unset it")
    try:
        return one.metadata["read"](text)
    except ValueError:
        expected = _EXPECTED[one.metadata["read"]]
        raise ConfigError(f"{variable(one.name)}={text!r:.80} is not {expected}") from None


_EXPECTED = {
    whole_number: "a whole number",
    number: "a number",
    true_or_false: "true or false",
    store_name: "memory, sqlite:PATH or redis://HOST",
    period: "commit or a period such as 250ms",
    host_names: "host names such as plant.example, parted by commas, or *",
    origins: "origins such as https://plant.example, parted by commas",
}


def _check(one: Field[Any], value: Any) -> None:
    told, name = one.metadata, f"{one.name} ({variable(one.name)})"
    if value is None:
        return
    if told["least"] is not None and not value >= told["least"]:
        raise ConfigError(f"{name} must be at least {told['least']}, not {value}")
    if told["most"] is not None and not value <= told["most"]:
        raise ConfigError(f"{name} must be at most {told['most']}, not {value}")
    if told["choices"] and value not in told["choices"]:
        raise ConfigError(f"{name} must be {' or '.join(told['choices'])}, not {value!r:.80}")
    if value in ("", ()):
        raise ConfigError(f"{name} must not be empty")


def _unknown(name: str, known: Iterable[str]) -> str:
    # Compared without the prefix: all that they share would make any two names look near.
    near = get_close_matches(name.removeprefix(PREFIX), [one.removeprefix(PREFIX) for one in known], n=1)
    return f"unknown setting {name}" + (f" (did you mean {PREFIX}{near[0]}?)" if near else "")


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) and value < 1e6 else str(value)
