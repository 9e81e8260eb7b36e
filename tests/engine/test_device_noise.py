"""The noise of GPUs, in Triton's interpreter on a CPU."""

import subprocess
import sys
from pathlib import Path

# The interpreter is chosen when Triton is imported: a process of its own.
_COMPARE = """
import numpy as np, torch
from hypothesis import given, settings, strategies as st
from elbod.engine.backends.cuda import packed
from elbod.engine.backends.philox import fill
from elbod.generators.noise import MAX_INDEX, MAX_SEED, Keys, Stream, normals, uniforms

blocks = st.one_of(st.just(0), st.integers(0, 2**32 - 20))
rows = st.tuples(st.integers(0, MAX_SEED - 1), st.integers(0, MAX_INDEX - 1), st.integers(0, 2**32 - 1), blocks)

@settings(max_examples=20, deadline=None)
@given(st.lists(rows, min_size=1, max_size=9), st.integers(1, 30), st.sampled_from(list(Stream)))
def agrees(found, dimensions, stream):
    *columns, first = (np.array(column, np.uint64) for column in zip(*found))
    keys = Keys(*columns)
    for streams in (stream, np.full(len(found), stream, np.uint64)):
        words = torch.from_numpy(packed(keys, streams, first))
        exact = torch.empty(len(found), dimensions, dtype=torch.float64)
        fill(words, exact, gaussian=False)
        assert exact.numpy().tobytes() == uniforms(keys, stream, dimensions, first).tobytes()
        gaussian = torch.empty(len(found), dimensions)
        fill(words, gaussian, gaussian=True)
        assert gaussian.numpy().tobytes() == normals(keys, stream, dimensions, first).astype(np.float32).tobytes()

agrees()
print("agrees")
"""


def test_the_kernel_gives_the_numbers_of_the_host(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _COMPARE],
        env={"TRITON_INTERPRET": "1", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "agrees\n"), done.stderr
