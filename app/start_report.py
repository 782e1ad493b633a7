"""What a server says of itself in its log: at the start what was loaded, after a reload what changed."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import orjson
from fastapi import FastAPI

from app.access.keys import KeyRing
from app.config import Settings
from app.engine.model_slabs import ModelSlabs
from app.model_library import ModelLibrary
from models.installation import installed_version
from models.wording import counted

SHOWN_CHARACTERS = 12  # of a fingerprint
MAX_EXAMPLE_NUMBERS = 16  # in an observation of the example command


def describe_start(app: FastAPI) -> Iterator[str]:
    """A sentence for each model, and for the default, the store, the keys, the workers and gRPC."""
    library: ModelLibrary = app.state.library
    models: ModelSlabs = app.state.engine.residents.models
    settings = library.settings
    yield f"Carryover {installed_version()}, {counted(settings.workers, 'worker')}"
    for name, slab in models.current.items():
        fingerprint = slab.forecaster.artifact.fingerprint[:SHOWN_CHARACTERS]
        yield f"model {name}: fingerprint {fingerprint}, from {library.folders[name]}"
    yield f"default model: {models.default_model or 'none, new sessions must name their model'}"
    yield f"store: {_store(settings)}"
    yield f"keys: {_keys(app.state.authenticator.key_ring, settings)}"
    if app.state.grpc is not None:
        yield f"gRPC: {app.state.grpc.listens_on}"


def describe_lost_default(app: FastAPI) -> str | None:
    """A warning if the next start would have another default model than this server; None if it would not."""
    library: ModelLibrary = app.state.library
    models: ModelSlabs = app.state.engine.residents.models
    now = models.default_model
    later = library.default_name([slab.forecaster for slab in models.current.values()])
    if now == later:
        return None
    return (
        f"the default model is still {now or 'none'}; after a restart it would be {later or 'none'}: "
        "set CARRYOVER_DEFAULT_MODEL"
    )


def example_command(app: FastAPI, address: str) -> str:
    """A command that tries the server at this address: it sends observations, or has a text written."""
    models: ModelSlabs = app.state.engine.residents.models
    curl = "curl" if app.state.authenticator.key_ring is None else 'curl -H "authorization: Bearer $KEY"'
    forecaster = models.current[models.default_model or next(iter(models.current))].forecaster
    artifact = forecaster.artifact
    if forecaster.input_size > MAX_EXAMPLE_NUMBERS:
        return f"{curl} {address}/models/{artifact.name}"
    body: dict[str, Any] = {} if models.default_model else {"model": artifact.name}
    if artifact.text is not None:
        action = "generate"
        body |= {"prompt": artifact.text.vocabulary.sample, "steps": 80}
    else:
        action = "observations"
        body["observations"] = [[float(f"{number:.3g}") for number in row] for row in forecaster.example()]
    return f"{curl} {address}/sessions/demo/{action} -d {shlex.quote(orjson.dumps(body).decode())}"


def _store(settings: Settings) -> str:
    if settings.store == "memory":
        return "memory, sessions are lost when the server ends"
    if settings.store_is_shared:
        from app.stores.redis.url import parse_url

        return str(parse_url(settings.store))  # without the password
    when = f"within {settings.durability:g} s" if settings.durability else "before it is answered"
    return f"{settings.store_path}, a chunk is on disk {when}"


def _keys(ring: KeyRing | None, settings: Settings) -> str:
    if ring is not None:
        return f"{len(list(ring))} in {ring.path}"
    return f"none, {'anyone may connect' if settings.insecure else 'for this machine only'}"
