"""The options of `carryover train` that make a recipe, one for each of its settings.

Their defaults are told here and lie in `models.recipe`, so that a named recipe can have others.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from models.training.recipe import Recipe


class RecipeName(StrEnum):
    """Recipes that have a name."""

    textbook = "textbook"
    drifting = "drifting"


class PredictsName(StrEnum):
    """What the network gives."""

    level = "level"
    change = "change"


class ReadoutName(StrEnum):
    """What a session corrects of its predictions."""

    off = "off"
    gain = "gain"
    rls = "rls"


class ScheduleName(StrEnum):
    """What becomes of the learning rate."""

    constant = "constant"
    cosine = "cosine"


def _of_recipe(text: str, default: str, **bounds: Any) -> Any:
    return typer.Option(help=f"{text} [default: {default}]", show_default=False, **bounds)


Named = Annotated[
    RecipeName | None,
    typer.Option(
        help="`textbook`: one stream, pieces of 50, 10 epochs, Adam 0.01, all rows, unscaled. "
        "`drifting`: for a stream that does not stay as it was; its sessions go on learning."
    ),
]
Hidden = Annotated[int | None, _of_recipe("Hidden units a layer.", "64", metavar="N", min=1)]
Layers = Annotated[int | None, _of_recipe("Layers.", "1", metavar="N", min=1)]
Predicts = Annotated[
    PredictsName | None,
    _of_recipe("The next level, or its change from the last observation (for data that drifts).", "level"),
]
Epochs = Annotated[
    int | None, _of_recipe("Passes over the training part, at most.", "50", metavar="N", min=1)
]
Patience = Annotated[
    int | None,
    _of_recipe(
        "Stop after so many epochs without a better validation error; 0: never.", "10", metavar="N", min=0
    ),
]
Streams = Annotated[int | None, _of_recipe("Contiguous streams learnt in parallel.", "4", metavar="N", min=1)]
Piece = Annotated[
    int | None, _of_recipe("Steps between two cuts of back-propagation.", "50", metavar="N", min=1)
]
JudgeEvery = Annotated[
    int | None, _of_recipe("Epochs from one validation to the next.", "1", metavar="N", min=1)
]
Shuffled = Annotated[
    bool | None,
    typer.Option(
        "--shuffled/--side-by-side",
        help="Begin the streams at random rows, anew in each epoch, or lay them side by side. "
        "[default: side by side]",
        show_default=False,
    ),
]
Drift = Annotated[
    float | None,
    _of_recipe(
        "Spread, in scaled units, of random levels that streams are moved to.", "0", metavar="X", min=0
    ),
]
Dropout = Annotated[
    float | None, _of_recipe("Share of hidden features left out while learning.", "0", metavar="X", min=0)
]
WeightDecay = Annotated[float | None, _of_recipe("Decay of the weights.", "0", metavar="X", min=0)]
ClosedLoop = Annotated[
    int | None,
    _of_recipe(
        "Steps run freely after each piece and learnt from, for long forecasts.", "0", metavar="N", min=0
    ),
]
LearningRate = Annotated[float | None, _of_recipe("Adam's learning rate.", "0.01", metavar="X")]
Schedule = Annotated[
    ScheduleName | None, _of_recipe("`cosine` lets the learning rate fall towards zero.", "cosine")
]
Clip = Annotated[float | None, _of_recipe("Largest norm of a gradient; 0: any.", "1.0", metavar="X", min=0)]
Scaled = Annotated[
    bool | None,
    typer.Option(
        "--scaled/--unscaled",
        help="Scale by mean and standard deviation of the training part, or keep the data's own units. "
        "[default: scaled]",
        show_default=False,
    ),
]
Seed = Annotated[int | None, _of_recipe("Seed of the first weights.", "0", metavar="N", min=0)]
Readout = Annotated[
    ReadoutName | None,
    _of_recipe(
        "What each session corrects by its own errors: nothing, a gain and a bias of each output, or the "
        "whole readout by recursive least squares.",
        "off",
    ),
]
ReadoutInputs = Annotated[
    bool | None,
    typer.Option(
        "--readout-inputs/--hidden-only",
        help="Whether `rls` sees the observation beside the hidden features. [default: hidden only]",
        show_default=False,
    ),
]
Rank = Annotated[
    int | None,
    _of_recipe("Leading directions of the hidden features for `rls`; 0: all.", "0", metavar="N", min=0),
]
Forgetting = Annotated[
    float | None,
    _of_recipe("Weight that an observation keeps at the next one, for `rls`.", "0.999", metavar="X"),
]
Prior = Annotated[float | None, _of_recipe("Pull of `rls` towards the trained readout.", "1.0", metavar="X")]
Levels = Annotated[
    str | None,
    typer.Option(
        metavar="A,B,...",
        help="Levels of prediction intervals, between 0 and 1; with any, errors are judged, too.",
    ),
]


def chosen(named: RecipeName | None, **given: Any) -> Recipe:
    """The named recipe, or the plain one, with the settings that were given."""
    from dataclasses import replace

    from models.training.recipe import RECIPES, Recipe

    return replace(RECIPES[named.value] if named else Recipe(), **_told(given))


def with_learning(recipe: Recipe, **given: Any) -> Recipe:
    """The same for what its sessions learn.

    Raises
    ------
    BadRecipe : a value is out of its bounds
    """
    from dataclasses import replace

    from models.errors import BadArtifact, BadRecipe

    try:
        return replace(recipe, learning=replace(recipe.learning, **_told(given)))
    except BadArtifact as error:
        raise BadRecipe(str(error)) from error


def _told(given: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, as plain values."""
    plain = {key: str(value) if isinstance(value, StrEnum) else value for key, value in given.items()}
    return {key: value for key, value in plain.items() if value is not None}
