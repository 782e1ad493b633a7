"""Everything that models refuse, and why; light to import, so that a command can tell what went wrong.

ModelsError                  one sentence that says what to do
├── BadInput                 what was given cannot be used
│   ├── BadArtifact          cannot be trusted: damaged, truncated, unknown version, mismatching
│   ├── BadData              a file, row or column
│   ├── BadRecipe            a setting of the training
│   └── BadCheckpoint        damaged, or of another training
└── Diverged                 the loss is no longer a number
"""


class ModelsError(Exception):
    """Root of the tree."""


class BadInput(ModelsError, ValueError):
    """What was given cannot be used; the message names it."""


class BadArtifact(BadInput):
    """The artifact cannot be trusted; the message says what is wrong with it."""


class BadData(BadInput):
    """The data cannot be used; the message names the file, and row and column where there is one."""


class BadRecipe(BadInput):
    """The recipe cannot be followed; the message names the setting."""


class BadCheckpoint(BadInput):
    """The checkpoint is damaged, or of another training; the message says which."""


class TrainingDiverged(ModelsError, ArithmeticError):
    """The loss is no longer a number; a smaller learning rate may help."""
