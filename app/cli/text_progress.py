"""Progress of a training on text: a bar with perplexity and speed, and what the network writes by then."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from models.training.text_network import sample
from models.training.text_training import Round, TextTraining

SAMPLES = 10  # in a training
CHARACTERS = 160  # of a sample


class TextProgress:
    """Shows the rounds of a training on stderr, or nothing."""

    def __init__(self, training: TextTraining, silent: bool) -> None:
        self.training, self.silent = training, silent
        self.progress = Progress(
            TaskProgressColumn(),
            BarColumn(bar_width=16),
            TextColumn("{task.description}"),
            TimeRemainingColumn(compact=True),
            console=Console(stderr=True, soft_wrap=True),
            disable=silent,
        )
        self.task = self.progress.add_task("", total=1.0)
        self.next_sample = 0.0

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def show(self, result: Round) -> None:
        """Show a round that has ended."""
        if self.silent:
            return
        training = self.training
        done = training.steps * training.streams * training.recipe.piece
        speed = done / result.seconds if result.seconds else 0.0
        shown = f"epoch {result.epochs:.2f}  perplexity {result.perplexity:.3f}  {speed:,.0f} characters/s"
        self.progress.update(self.task, completed=training.progress, description=shown)
        if training.progress >= self.next_sample:
            self.next_sample = training.progress + 1 / SAMPLES
            written = sample(training.network, training.text, CHARACTERS, training.recipe.seed)
            self.progress.console.print(Text(f"perplexity {result.perplexity:.3f}", style="bold"))
            self.progress.console.print(Text(written.strip("\n")), "\n")
