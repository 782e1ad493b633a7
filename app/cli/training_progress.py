"""Progress of a training: a bar with loss and speed, or a line for each epoch."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from models.training.training import Epoch, Training


class SilentProgress:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to close."""

    def show(self, epoch: Epoch) -> None:
        """Show an epoch that has ended."""


class EpochLines(SilentProgress):
    """Prints a line with the loss after each epoch, on stdout."""

    def show(self, epoch: Epoch) -> None:
        """Show an epoch that has ended."""
        print(f"epoch {epoch.number:3d}  loss {epoch.loss:.6g}", flush=True)


class ProgressBar(SilentProgress):
    """Shows the number of epochs, loss, validation error and speed, on stderr."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.steps = training.steps
        self.progress = Progress(
            MofNCompleteColumn(),
            BarColumn(bar_width=16),
            TextColumn("{task.description}"),
            TimeRemainingColumn(compact=True),
            console=Console(stderr=True),
        )
        self.task = self.progress.add_task("", total=training.recipe.epochs, completed=len(training.history))

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def show(self, epoch: Epoch) -> None:
        """Show an epoch that has ended."""
        text = f"loss {epoch.loss:.2e}"
        if epoch.validation is not None:
            text += f"  validation {epoch.validation:.2e}"
        speed = self.progress.tasks[0].speed or 0.0
        description = f"{text}  {speed * self.steps:,.0f} steps/s"
        self.progress.update(self.task, advance=1, total=self.training.recipe.epochs, description=description)
