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
    example: str, server: Server, chain_server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ELBOD_URL", server.url)
    url = chain_server.url if "digits-diffusion" in example else server.url
    models = {'"digits-labels"': '"labels"', '"digits-diffusion"': '"diffusion"', '"digits"': '"levels"'}
    for written, there in {"http://127.0.0.1:8000": url, **models}.items():
        example = example.replace(written, there)
    exec(example, {"Client": Client})
