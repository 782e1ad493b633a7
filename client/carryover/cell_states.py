"""States of nn.LSTMCell, nn.GRUCell and nn.RNNCell that a module makes inside its `forward`.

A module that loops over the steps starts its cells from states of its own making. Called with one step, each
cell runs once: what it is given is replaced by an input, and what it returns is the state for the next step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from carryover.errors import ExportError

if TYPE_CHECKING:
    from torch import Tensor, nn


class CellStates:
    """The cells of a module; false if it has none.

    Parameters
    ----------
    module
        Whose cells are meant, also those in its parts.
    """

    def __init__(self, module: nn.Module) -> None:
        from torch import nn

        kinds = (nn.LSTMCell, nn.GRUCell, nn.RNNCell)
        self._cells = {name: inner for name, inner in module.named_modules() if isinstance(inner, kinds)}

    def __bool__(self) -> bool:
        return bool(self._cells)

    def starts(self, call: Callable[[], Any]) -> dict[str, Tensor]:
        """[batch, hidden] by state: what the module starts its cells from."""
        started: dict[str, Tensor] = {}

        def keep(name: str, cell: nn.Module, inputs: Tensor, state: Any) -> Any:
            if state is None:
                fresh = inputs.new_zeros(len(inputs), cell.get_parameter("weight_hh").shape[1])
                state = (fresh, fresh) if _has_pair(cell) else fresh
            started.update(zip(_names(name, cell), _tensors(state), strict=True))
            return state

        with self._hooked(keep, lambda *_: None):
            call()
        return started

    def run(self, call: Callable[[], Any], states: Mapping[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
        """What a call returns when the cells start from these states, and the states after it.

        Raises
        ------
        ExportError
            If a cell runs more than once, or not at all.
        """
        after: dict[str, Tensor] = {}

        def feed(name: str, cell: nn.Module, *_: Any) -> Any:
            values = [states[key] for key in _names(name, cell)]
            return tuple(values) if _has_pair(cell) else values[0]

        def keep(name: str, cell: nn.Module, made: Any) -> None:
            keys = _names(name, cell)
            if keys[0] in after:
                raise ExportError(f"the cell {name!r} runs twice in a step: give and return its state")
            after.update(zip(keys, _tensors(made), strict=True))

        with self._hooked(feed, keep):
            made = call()
        for key in states:
            if key not in after:
                raise ExportError(f"the state {key!r} of a cell is not used in every step")
        return made, {key: after[key] for key in states}

    @contextmanager
    def _hooked(
        self, before: Callable[..., Any], behind: Callable[[str, nn.Module, Any], None]
    ) -> Iterator[None]:
        hooks = []
        for name, cell in self._cells.items():

            def replace(
                cell: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str = name
            ) -> tuple[tuple[Any, ...], dict[str, Any]]:
                inputs = args[0] if args else kwargs["input"]
                given = args[1] if len(args) > 1 else kwargs.get("hx")
                return (inputs, before(name, cell, inputs, given)), {}

            def watch(cell: Any, _: Any, made: Any, name: str = name) -> None:
                behind(name, cell, made)

            hooks.append(cell.register_forward_pre_hook(replace, with_kwargs=True))
            hooks.append(cell.register_forward_hook(watch))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _has_pair(cell: nn.Module) -> bool:
    from torch import nn

    return isinstance(cell, nn.LSTMCell)


def _names(name: str, cell: nn.Module) -> tuple[str, ...]:
    return (f"{name}.h", f"{name}.c") if _has_pair(cell) else (f"{name}.h",)


def _tensors(state: Any) -> tuple[Any, ...]:
    return tuple(state) if isinstance(state, (tuple, list)) else (state,)
