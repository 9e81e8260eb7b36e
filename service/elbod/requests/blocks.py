"""Long work on arrays, in blocks: between two of them it calls its `Pause`."""

from collections.abc import Callable

# Called between two blocks of a long piece of work; raises where nobody waits for it any more.
Pause = Callable[[], None]

# Numbers or characters in a block, about a millisecond of work: one call into C keeps all other threads waiting.
BLOCK = 16 * 1024


def no_pause() -> None:
    """The pause of work that is done in one piece."""
