"""Runs the code blocks of pages as a reader would: in order, in one directory, with the server that they start.

`bash` and `python` blocks run; `console` blocks are shown only, for what needs hardware or services that a reader must
bring. Within a page Python blocks share their names, as in one session. A block that is `elbod serve ...` becomes a
server on a free port, which later blocks find in place of port 8000.
"""

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import ELBOD, HANG, Server

DOCS = Path(__file__).parents[2] / "docs"

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_ADDRESS = "http://127.0.0.1:8000"


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """(language, code) of each block."""
    yield from _BLOCK.findall((DOCS / page).read_text())


@dataclass
class Reader:
    """Someone in an empty directory, the current one, who types what the pages say."""

    folder: Path
    start_server: Callable[..., Server]
    server: Server | None = None

    def read(self, page: str) -> None:
        session: dict[str, Any] = {}
        for language, code in blocks(page):
            if language == "bash" and code.startswith("elbod serve "):
                flags = code.split()[2:]
                assert flags[0] == "--store"
                self.server = self.start_server(self.folder / flags[1], *flags[2:])
            elif language == "bash":
                self._shell(page, self._addressed(code))
            elif language == "python":
                exec(compile(self._addressed(code), page, "exec"), session)

    def _addressed(self, code: str) -> str:
        return code if self.server is None else code.replace(_ADDRESS, self.server.url)

    def _shell(self, page: str, code: str) -> None:
        variables = {"PATH": f"{ELBOD.parent}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "200"}
        if self.server is not None:
            variables["ELBOD_URL"] = self.server.url
        done = subprocess.run(
            ["bash", "-euc", code],
            cwd=self.folder,
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=HANG,
        )
        assert done.returncode == 0, f"{page}:\n{code}\n{done.stdout}"
