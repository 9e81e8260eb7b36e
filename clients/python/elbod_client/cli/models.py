"""`elboctl models` and `elboctl wait`."""

from dataclasses import asdict
from typing import Annotated

import typer

from elbod_client.cli import options


def models(
    url: options.Url = None,
    timeout: options.Timeout = 60.0,
    as_json: options.AsJson = False,
) -> None:
    """List what the server's store has and what is loaded.

    Example: elboctl models
    """
    with options.connect(url, None, timeout) as client:
        found = client.models()
    lines = []
    for model in found:
        aliases = ", ".join(f"{alias} -> {version}" for alias, version in sorted(model.aliases.items()))
        loaded = ", ".join(f"@{version.version}" for version in model.loaded)
        versions = f"versions {', '.join(map(str, model.versions))}" if model.versions else "no version"
        lines.append("  ".join(part for part in (model.name, versions, aliases, loaded and f"loaded {loaded}") if part))
    described = {
        "models": [
            {
                "name": model.name,
                "versions": model.versions,
                "aliases": dict(model.aliases),
                "loaded": [asdict(version) for version in model.loaded],
            }
            for model in found
        ]
    }
    options.say(lines or ["the store has no models"], described, as_json)


def wait(
    url: options.Url = None,
    seconds: Annotated[float, typer.Option(min=0, help="How long to wait at most.")] = 60.0,
    as_json: options.AsJson = False,
) -> None:
    """Wait until the server's default model is loaded.

    Example: elboctl wait && elboctl sample 16
    """
    with options.connect(url, None, 60.0) as client:
        client.wait_until_ready(seconds)
        version = client.version()
    options.say([f"ready, elbod {version}"], {"ready": True, "version": version}, as_json)
