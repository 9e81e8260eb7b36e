"""The operating guide's commands, from the first to the last, as a new operator would type them."""

import os
import re
import subprocess
from pathlib import Path

from elbod_store import ModelStore
from tests.support import ELBOD, HANG

GUIDE = (Path(__file__).parents[2] / "docs/operating.md").read_text()


def test_the_guide_runs_as_it_stands(tmp_path: Path) -> None:
    script = "\n".join(re.findall(r"```bash\n(.*?)```", GUIDE, re.DOTALL))
    path = f"{ELBOD.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euxc", script],
        cwd=tmp_path,
        env=os.environ | {"PATH": path, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=HANG,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    store = ModelStore.open(tmp_path / "elbod-store")
    assert store.aliases("digits") == {"production": 2}
    assert [entry.version for entry in store.history("digits", "production")] == [1, 2, 1, 2]
    assert store.names() == ["digits"]
    assert done.stdout.count("all is well") == 2
    assert (tmp_path / "digits-export" / "model.safetensors").exists()
