"""CSV in the body of a request: its query parameters, and the rows for a model."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Literal

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from app.api.body import read_body
from app.api.middleware.guard import get_caller
from app.codec import csv_chunks
from app.codec.limits import SMALL_BODY_BYTES, Limits
from app.errors import SessionGone, UnknownSession, Unprocessable
from app.jobs.jobs import Inspect
from models.artifact.served import ServedArtifact
from models.data.tables.options import TableOptions
from models.errors import BadData

CSV_BODY: dict[str, Any] = {
    csv_chunks.CONTENT_TYPE: {"schema": {"type": "string"}}  # `app.api.examples` has rows of a model
}


class TableQuery(BaseModel):
    """How CSV in the body is read; of no meaning for JSON."""

    model_config = ConfigDict(extra="ignore")
    map: list[str] = Field([], description="`COLUMN=INPUT`: the input of the model that a column is.")
    time_column: str | None = Field(
        None, description="Column of times. The first one with times when absent."
    )
    timezone: str | None = Field(
        None, description="Of times without an offset, such as `Europe/Berlin`. UTC when absent."
    )
    day_first: bool | None = Field(
        None, description="How to read `03/04/2024`; refused when absent, unless an earlier row says it."
    )
    separator: str | None = Field(None, description="Found from the first rows when absent.", max_length=1)
    decimal: Literal[".", ","] | None = Field(
        None, description="That of the first number with a decimal mark when absent."
    )
    encoding: str = Field("utf-8", max_length=40)
    header: bool | None = Field(
        None, description="Whether the first row has names. When absent: if no cell is a number or a time."
    )

    def table_options(self) -> TableOptions:
        """The same, for the reader.

        Raises
        ------
        Unprocessable
        """
        pairs = [pair.partition("=") for text in self.map for pair in text.split(",")]
        if not all(name and equals for name, equals, _ in pairs):
            raise Unprocessable("map is COLUMN=INPUT", field="map")
        try:
            return TableOptions(
                encoding=self.encoding,
                separator=self.separator,
                decimal=self.decimal,
                header=self.header,
                time_column=self.time_column,
                zone=self.timezone,
                day_first=self.day_first,
                names={name: new for name, _, new in pairs},
            )
        except BadData as error:
            raise Unprocessable(str(error)) from None


def has_csv_body(request: Request) -> bool:
    """Whether the body is declared to be CSV."""
    return csv_chunks.is_csv(request.headers.get("content-type", ""))


def wants_csv(request: Request) -> bool:
    """Whether the answer should be CSV."""
    return csv_chunks.is_csv(request.headers.get("accept", ""))


async def read_csv(
    request: Request, artifact: ServedArtifact, options: TableOptions, limits: Limits
) -> csv_chunks.CsvRows:
    """The rows in the body, which is read in a thread if it is large.

    Raises
    ------
    Malformed, TooLarge, UnsupportedType
    """
    body = await read_body(request)
    if len(body) <= SMALL_BODY_BYTES:
        return csv_chunks.read_rows(body, options, artifact, limits)
    return await asyncio.to_thread(csv_chunks.read_rows, body, options, artifact, limits)


async def artifact_of(request: Request, session: str, model: str | None) -> ServedArtifact:
    """The network of a session, or that of the model which a new session would get."""
    caller = get_caller(request)
    models = caller.engine.residents.models
    with suppress(UnknownSession, SessionGone):
        view = await caller.ask(Inspect(session))
        # A session keeps its network when its model is reloaded or unloaded.
        if (slab := models.slabs.get(view.fingerprint)) is not None:
            return slab.forecaster.artifact
        model = view.model
    return models.slab_for_model(model).forecaster.artifact
