"""The errors of models; light to import, so that a command can report one without loading torch.

ModelsError                  the message is one sentence that says what to do
├── BadInput                 an input cannot be used
│   ├── BadArtifact          an artifact that is damaged, truncated, of an unknown version, or inconsistent
│   ├── BadData              a file, row or column
│   ├── BadRecipe            a setting of the training
│   └── BadCheckpoint        a checkpoint that is damaged, or of another training
└── TrainingDiverged         the loss is NaN or infinite
"""


class ModelsError(Exception):
    """Root of the tree."""


class BadInput(ModelsError, ValueError):
    """An input cannot be used; the message names it."""


class BadArtifact(BadInput):
    """The artifact cannot be trusted; the message says what is wrong with it."""


class BadData(BadInput):
    """The data cannot be used; the message names the file, and row and column where there is one."""


class BadRecipe(BadInput):
    """The recipe has an invalid setting; the message names it."""


class BadCheckpoint(BadInput):
    """The checkpoint is damaged, or of another training; the message says which."""


class TrainingDiverged(ModelsError, ArithmeticError):
    """The loss is NaN or infinite; a smaller learning rate may help."""
