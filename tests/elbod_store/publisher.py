"""A publisher to be killed. `python publisher.py URL [STEP NTH]` publishes for ever, and kills itself at that step."""

import os
import signal
import sys
import tempfile
from pathlib import Path

from elbod_store import ModelStore
from elbod_store.testing import a_draft, safetensors_bytes


def main(url: str, step: str = "", nth: str = "0") -> None:
    store = ModelStore.open(url)
    published = 0

    def on_step(done: str) -> None:
        if (done, published + 1) == (step, int(nth)):
            os.kill(os.getpid(), signal.SIGKILL)

    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "model.safetensors"
        while True:
            # Some by their bytes, some by a file: these ways differ.
            content = safetensors_bytes(published, size=300_000)
            weights.write_bytes(content)
            store.publish(a_draft(fill=published, weights=weights if published % 2 == 0 else content), on_step=on_step)
            published += 1


if __name__ == "__main__":
    main(*sys.argv[1:])
