"""docker-compose.yml and the Dockerfile, as tests read them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
COMPOSE_FILE = ROOT / "docker-compose.yml"
DOCUMENT: dict[str, Any] = YAML(typ="safe", pure=True).load(COMPOSE_FILE)
SERVICES: dict[str, dict[str, Any]] = DOCUMENT["services"]

# One instruction a line, without comments.
DOCKERFILE = re.sub(r"\\\n", "", re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE))


def stages() -> dict[str, list[str]]:
    """The instructions of each stage, those of the stages that it starts from first."""
    found: dict[str, list[str]] = {}
    for text in re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]:
        first, *lines = text.splitlines()
        base, name = first.split(" AS ")
        found[name] = [*found.get(base, []), *filter(None, lines)]
    return found


def last(instructions: list[str], name: str) -> str:
    """What the last instruction of that name says."""
    return [line.partition(" ")[2] for line in instructions if line.startswith(f"{name} ")][-1]


def entrypoint(stage: str) -> list[str]:
    """What an image of that stage runs."""
    found: list[str] = json.loads(last(stages()[stage], "ENTRYPOINT"))
    return found


def create_bucket(endpoint: str, credentials: Path, patience: str = "60") -> subprocess.CompletedProcess[str]:
    """Run the composition's first step."""
    return subprocess.run(
        [sys.executable, ROOT / "deploy/compose/create_bucket.py", "s3://elbod/models", patience],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=os.environ
        | {"AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "us-east-1", "AWS_SHARED_CREDENTIALS_FILE": str(credentials)},
    )
