"""The options of `carryover train` that make a recipe.

The defaults in their help are those of `models.training.recipe.Recipe`; a named recipe has others.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from models.training.recipe import Recipe
    from models.training.text_recipe import TextRecipe


class RecipeName(StrEnum):
    """Named recipes."""

    textbook = "textbook"
    drifting = "drifting"


class CellName(StrEnum):
    """Kinds of recurrent cells."""

    lstm = "lstm"
    gru = "gru"
    rnn = "rnn"


class PredictsName(StrEnum):
    """What the network predicts."""

    level = "level"
    change = "change"


class ReadoutName(StrEnum):
    """How a session corrects its predictions."""

    off = "off"
    gain = "gain"
    rls = "rls"


class ScheduleName(StrEnum):
    """How the learning rate changes."""

    constant = "constant"
    cosine = "cosine"


def _of_recipe(text: str, default: str, **bounds: Any) -> Any:
    return typer.Option(help=f"{text} [default: {default}]", show_default=False, **bounds)


NamedRecipe = Annotated[
    RecipeName | None,
    typer.Option(
        help="`textbook`: one stream, pieces of 50, 10 epochs, Adam 0.01, all rows, unscaled. "
        "`drifting`: for a stream whose behaviour changes; its sessions go on learning."
    ),
]
Hidden = Annotated[int | None, _of_recipe("Hidden units of a layer.", "64", metavar="N", min=1)]
Layers = Annotated[int | None, _of_recipe("Number of layers.", "1", metavar="N", min=1)]
Cell = Annotated[CellName | None, _of_recipe("Kind of the cells; `rnn` is the plain one with tanh.", "lstm")]
Embedding = Annotated[
    int | None,
    typer.Option(
        help="Numbers that stand for a character; with --text only. [default: 64]",
        show_default=False,
        metavar="N",
        min=1,
    ),
]
Bfloat16 = Annotated[
    bool,
    typer.Option(
        "--bfloat16",
        help="Train with products in bfloat16; with --text only. Faster where the processor has instructions "
        "for it.",
    ),
]
MinCount = Annotated[
    int | None,
    typer.Option(
        help="Characters that occur less often become one piece, unknown; with --text only. [default: 3]",
        show_default=False,
        metavar="N",
        min=1,
    ),
]
Head = Annotated[
    str | None,
    typer.Option(
        metavar="N,N,...",
        help="Units of layers with ReLU between the hidden state and the readout. [default: none]",
        show_default=False,
    ),
]
Predicts = Annotated[
    PredictsName | None,
    _of_recipe("The next value, or its change from the last observation (for data that drifts).", "level"),
]
Epochs = Annotated[int | None, _of_recipe("Most passes over the training part.", "50", metavar="N", min=1)]
Patience = Annotated[
    int | None,
    _of_recipe(
        "Stop after this many epochs without a better validation error; 0: never.", "10", metavar="N", min=0
    ),
]
Streams = Annotated[
    int | None, _of_recipe("Contiguous streams that are trained in parallel.", "4", metavar="N", min=1)
]
Piece = Annotated[
    int | None, _of_recipe("Steps between two truncations of back-propagation.", "50", metavar="N", min=1)
]
JudgeEvery = Annotated[
    int | None, _of_recipe("Epochs from one validation to the next.", "1", metavar="N", min=1)
]
Shuffled = Annotated[
    bool | None,
    typer.Option(
        "--shuffled/--side-by-side",
        help="Start the streams at random rows in each epoch, or side by side. [default: side by side]",
        show_default=False,
    ),
]
Drift = Annotated[
    float | None,
    _of_recipe(
        "Standard deviation, in scaled units, of a random offset of each stream.", "0", metavar="X", min=0
    ),
]
Dropout = Annotated[
    float | None,
    _of_recipe(
        "Fraction of features that are dropped in training, between layers and before the readout.",
        "0",
        metavar="X",
        min=0,
    ),
]
WeightDecay = Annotated[float | None, _of_recipe("Weight decay.", "0", metavar="X", min=0)]
ClosedLoop = Annotated[
    int | None,
    _of_recipe(
        "Free-running steps after each piece that are trained on, for long forecasts.",
        "0",
        metavar="N",
        min=0,
    ),
]
LearningRate = Annotated[float | None, _of_recipe("Adam's learning rate.", "0.01", metavar="X")]
Schedule = Annotated[
    ScheduleName | None, _of_recipe("`cosine` decreases the learning rate towards zero.", "cosine")
]
Clip = Annotated[
    float | None, _of_recipe("Largest norm of a gradient; 0: no limit.", "1.0", metavar="X", min=0)
]
Scaled = Annotated[
    bool | None,
    typer.Option(
        "--scaled/--unscaled",
        help="Scale by mean and standard deviation of the training part, or keep the data's own units. "
        "[default: scaled]",
        show_default=False,
    ),
]
Seed = Annotated[int | None, _of_recipe("Random seed.", "0", metavar="N", min=0)]
Readout = Annotated[
    ReadoutName | None,
    _of_recipe(
        "How each session corrects its predictions: not at all, by a gain and a bias of each output, or "
        "by recursive least squares on the whole readout.",
        "off",
    ),
]
ReadoutInputs = Annotated[
    bool | None,
    typer.Option(
        "--readout-inputs/--hidden-only",
        help="Whether `rls` uses the observation as well as the hidden features. [default: hidden only]",
        show_default=False,
    ),
]
Rank = Annotated[
    int | None,
    _of_recipe("Leading directions of the hidden features for `rls`; 0: all.", "0", metavar="N", min=0),
]
Forgetting = Annotated[
    float | None,
    _of_recipe(
        "Factor by which each observation reduces the weight of earlier ones, for `rls`.",
        "0.999",
        metavar="X",
    ),
]
Prior = Annotated[
    float | None, _of_recipe("How strongly `rls` is pulled towards the trained readout.", "1.0", metavar="X")
]
Levels = Annotated[
    str | None,
    typer.Option(
        metavar="A,B,...",
        help="Levels of prediction intervals, between 0 and 1; with any, sessions have a surprise, too.",
    ),
]
Horizons = Annotated[
    str | None,
    typer.Option(
        metavar="1,N,...",
        help="Steps ahead that each session learns to forecast directly, ascending from 1. "
        "[default: none; a forecast feeds predictions back]",
        show_default=False,
    ),
]
Season = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Rows of a season, for --horizons. [default: found in the data]",
        show_default=False,
    ),
]


def build_recipe(named: RecipeName | None, **given: Any) -> Recipe:
    """The named recipe, or the default one, with the given options."""
    from dataclasses import replace

    from models.training.recipe import RECIPES, Recipe

    return replace(RECIPES[named.value] if named else Recipe(), **_given_values(given))


def build_text_recipe(**given: Any) -> TextRecipe:
    """The recipe for text with the given options."""
    from models.training.text_recipe import TextRecipe

    return TextRecipe(**_given_values(given))


def with_learning(recipe: Recipe, **given: Any) -> Recipe:
    """The recipe with the given options of what its sessions learn.

    Horizons need intervals: without levels, the usual ones are added.

    Raises
    ------
    BadRecipe : a value is out of bounds
    """
    from dataclasses import replace

    from models.artifact.learning import DEFAULT_LEVELS
    from models.errors import BadArtifact, BadRecipe

    values = _given_values(given)
    if values.get("horizons") and not (values.get("levels") or recipe.learning.levels):
        values["levels"] = DEFAULT_LEVELS
    try:
        return replace(recipe, learning=replace(recipe.learning, **values))
    except BadArtifact as error:
        raise BadRecipe(str(error)) from error


def _given_values(given: dict[str, Any]) -> dict[str, Any]:
    """Options that were given, as plain values."""
    plain = {key: str(value) if isinstance(value, StrEnum) else value for key, value in given.items()}
    return {key: value for key, value in plain.items() if value is not None}
