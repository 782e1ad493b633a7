"""Options that several commands share, as one typed value."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from inspect import Parameter
from typing import TYPE_CHECKING, Any, get_type_hints

from app.cli import options

if TYPE_CHECKING:
    from models.data.tables.options import TableOptions


@dataclass(frozen=True)
class FileArguments:
    """How a file is read."""

    names_map: options.Map = None
    separator: options.Separator = None
    decimal: options.Decimal = None
    encoding: options.Encoding = "utf-8"
    header: options.Header = None
    time_zone: options.TimeZone = None
    day_first: options.DayFirst = None
    resample: options.Resample = None

    @property
    def step(self) -> float | None:
        """Seconds to resample to; None for the rows as they are."""
        from models.data.resampling import parse_step

        return None if self.resample is None else parse_step(self.resample)

    @property
    def names(self) -> dict[str, str]:
        """New names by old names of columns."""
        return options.parse_pairs(self.names_map, "--map", "COLUMN=NAME")

    def table_options(self, **more: Any) -> TableOptions:
        """The options of the reader, with these beside them.

        Raises
        ------
        BadParameter, BadData : they are not valid, or do not fit together
        """
        from models.data.tables.options import TableOptions

        return TableOptions(
            encoding=self.encoding,
            separator="\t" if self.separator in ("tab", "\\t") else self.separator,
            decimal=self.decimal,
            header=self.header,
            zone=self.time_zone,
            day_first=self.day_first,
            names=self.names,
            **more,
        )


@dataclass(frozen=True)
class DataArguments(FileArguments):
    """How the files of a training or an evaluation are read: one series, or many."""

    time_column: options.TimeColumn = None
    no_times: options.NoTimes = False
    ignore: options.Ignore = None
    series_column: options.SeriesColumn = None
    gaps: options.Gaps = False

    def table_options(self, **more: Any) -> TableOptions:
        """As in `FileArguments`, with the columns that are read."""
        return super().table_options(
            time_column=self.time_column,
            no_times=self.no_times,
            ignored=options.parse_names(self.ignore),
            **more,
        )


def with_bundles(command: Callable[..., None]) -> Callable[..., None]:
    """The same command with an option for each field of its parameters that are dataclasses.

    typer makes options of a function's parameters, and has nothing for a group of them.
    """
    hints = get_type_hints(command, include_extras=True)
    bundles: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters: list[Parameter] = []
    for name in inspect.signature(command).parameters:
        if name in bundles:
            parameters += _options_of(bundles[name])
        else:
            default = inspect.signature(command).parameters[name].default
            parameters.append(
                Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=hints[name])
            )

    @wraps(command)
    def run(**given: Any) -> None:
        for name, bundle in bundles.items():
            given[name] = bundle(**{field.name: given.pop(field.name) for field in fields(bundle)})
        command(**given)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _options_of(bundle: Any) -> list[Parameter]:
    hints = get_type_hints(bundle, include_extras=True)
    return [
        Parameter(field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name])
        for field in fields(bundle)
    ]
