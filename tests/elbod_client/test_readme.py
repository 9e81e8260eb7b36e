"""The README's examples run as they stand, but for the server's address and the models' names."""

import re
from pathlib import Path

import pytest

import elbod_client
from elbod_client import Client
from tests.support import Server

README = Path(elbod_client.__file__).parent.parent / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_of_the_readme_runs(
    example: str, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ELBOD_URL", server.url)
    served = {"http://127.0.0.1:8000": server.url, '"digits-labels"': '"labels"', '"digits"': '"levels"'}
    for written, there in served.items():
        example = example.replace(written, there)
    exec(example, {"Client": Client})
