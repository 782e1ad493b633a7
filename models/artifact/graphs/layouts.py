"""Where the tensors of a graph may have their batch and their time, by what the graph declares of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from models.artifact.graphs.choices import Choices, Tensor
from models.errors import BadArtifact

BATCH_NAMES = frozenset(("batch", "batch_size", "batchsize", "bs", "b", "n"))


@dataclass(frozen=True)
class Layout:
    """Where a tensor has its batch and its time, and its shape without either.

    Attributes
    ----------
    context
        Samples before the step's own, along the last axis or, with a time axis, along that.
    """

    batch: int
    time: int | None
    shape: tuple[int, ...]
    context: int = 0

    def full(self, batch: int, steps: int) -> tuple[int, ...]:
        """The tensor's shape for so many sessions and steps."""
        sizes = list(self.shape)
        if self.time is None and self.context:
            sizes[-1] += self.context
        places = [(self.batch, batch)]
        if self.time is not None:
            places.append((self.time, steps + self.context))
        for place, size in sorted(places):
            sizes.insert(place, size)
        return tuple(sizes)


def possible_layouts(value: Tensor, choices: Choices, *, may_have_time: bool) -> list[Layout]:
    """All layouts that fit what the graph declares of an input.

    Raises
    ------
    BadArtifact
        If there is none.
    """
    found: list[Layout] = []
    for batch in batch_axes(value, choices):
        rest = [(axis, dim) for axis, dim in enumerate(value.dims or ()) if axis != batch]
        found += _with_batch(value, batch, rest, choices, may_have_time=may_have_time)
    if not found:
        raise BadArtifact(
            f"input {value.name!r} is {value}: give the shape of a step, as in --shape {value.name}=512"
        )
    return found


def batch_axes(value: Tensor, choices: Choices) -> list[int]:
    """The axes that may be the batch, the likeliest first.

    Raises
    ------
    BadArtifact
        If there is none.
    """
    if value.name in choices.batch_axes:
        axis, rank = choices.batch_axes[value.name], len(value.dims or ())
        if not 0 <= axis < rank:
            raise BadArtifact(f"input {value.name!r} has {rank} axes: its batch cannot be axis {axis}")
        return [axis]
    if value.name in choices.controls:
        return [choices.controls[value.name].batch_axis]
    if value.dims is None:
        raise BadArtifact(f"input {value.name!r} declares no shape: export it with one")
    named = [axis for axis, dim in enumerate(value.dims) if str(dim).lower() in BATCH_NAMES]
    free = [axis for axis, dim in enumerate(value.dims) if isinstance(dim, str)]
    single = [axis for axis, dim in enumerate(value.dims) if dim == 1]
    if named:
        return named[:1]
    if choices.free_batch and single:
        return [*single, *free] if value.name in choices.states else [*free, *single]
    if not free:
        hint = "it has no axis for the sessions of a batch"
        if single:
            hint = "--free-batch tries to free it"
        elif not value.dims:
            hint += f"; --constant {value.name}=NUMBER gives all of them the same"
        raise BadArtifact(f"input {value.name!r} has the fixed shape {list(value.dims)}: {hint}")
    return free


def _with_batch(
    value: Tensor, batch: int, rest: list[tuple[int, int | str]], choices: Choices, *, may_have_time: bool
) -> Iterator[Layout]:
    context = choices.context.get(value.name, 0)
    given = choices.shapes.get(value.name)
    free = [axis for axis, dim in rest if isinstance(dim, str)]
    times: Iterable[int | None] = free if may_have_time and free else (None,)
    if given is not None:
        times = (None,) if len(given) == len(rest) else [axis for axis, _ in rest]
    for time in times if may_have_time else (None,):
        sizes = [dim for axis, dim in rest if axis != time]
        if time is None and context and sizes and isinstance(sizes[-1], int):
            sizes[-1] -= context
        shape = tuple(given) if given is not None else tuple(sizes)
        fits = len(shape) == len(sizes) and all(
            isinstance(size, int) and size > 0 and (isinstance(dim, str) or dim == size)
            for size, dim in zip(shape, sizes, strict=True)
        )
        if fits:
            yield Layout(batch, time, tuple(map(int, shape)), context)


def followers(first: tuple[int, ...], second: tuple[int, ...], before: int, after: int) -> list[int]:
    """The axes that were `before` long, and then `after`."""
    if len(first) != len(second):
        return []
    return [axis for axis, sizes in enumerate(zip(first, second, strict=True)) if sizes == (before, after)]


def single_axis(layouts: list[Layout]) -> int | None:
    """The axis that is the time, of one step, in all these tensors; None if there is none."""
    if any(layout.time is not None or layout.context or len(layout.shape) < 2 for layout in layouts):
        return None
    for axis in (1, 0, 2):
        if all(layout.batch != axis and layout.full(2, 1)[axis : axis + 1] == (1,) for layout in layouts):
            return axis
    return None


def without_axis(layout: Layout, axis: int) -> Layout:
    """The same tensor, with this axis of its shape taken for the time."""
    sizes = list(layout.full(2, 1))
    shape = tuple(size for i, size in enumerate(sizes) if i not in (layout.batch, axis))
    return Layout(layout.batch, axis, shape, layout.context)
