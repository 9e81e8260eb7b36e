"""What can go wrong while a model is trained, as one tree.

TrainingError
├── InvalidDataset    no such data, or data that the likelihood does not support; names file, row and value
├── InvalidRecipe     an unknown recipe or key, or a value that does not fit; lists what is known
├── Diverged          too many steps in a row had a loss that was not finite
├── RefusedModel      training ended, but the model must not be published; says why
├── NotPromoted       the version is published, but its alias was not moved: it is worse, or cannot be compared
├── CannotResume      no such run, one that has ended, or one of other data or another recipe; says which
└── LostProcess       of the processes that train together another one ended

KeyboardInterrupt
└── Stopped           a signal asked for the end, and the run's state is saved
"""


class TrainingError(Exception):
    """The base of every failure that a user can cause and mend; the message is one line."""


class InvalidDataset(TrainingError, ValueError):
    """Data that cannot be trained on."""


class InvalidRecipe(TrainingError, ValueError):
    """Settings that describe no training."""


class Diverged(TrainingError):
    """The loss stayed non-finite."""


class RefusedModel(TrainingError):
    """A trained model that failed the publish check."""


class NotPromoted(TrainingError):
    """A version that did not pass the gate in front of an alias."""


class CannotResume(TrainingError):
    """A run that cannot go on here to where it would have gone."""


class LostProcess(TrainingError):
    """Another process of this training ended."""


class Stopped(KeyboardInterrupt):
    """SIGINT or SIGTERM (`number`) ended training in good order."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number
