"""`elboctl replay`: ask again what a receipt was given for, and compare."""

from pathlib import Path
from typing import Annotated, Any

import typer

from elbod_client.cli import options

DIFFERS = 3


def replay(
    receipt: Annotated[Path, typer.Argument(help="What `--receipt` or `Receipt.save` wrote, its arrays beside it.")],
    url: options.Url = None,
    timeout: options.Timeout = 60.0,
    as_json: options.AsJson = False,
) -> None:
    """Ask again, and say whether the bytes are the same; if not, whether the fingerprint explains it. Exit code 3 then.

    Example: elboctl replay receipt.json
    """
    from elbod_client import Receipt

    before = Receipt.load(receipt)
    if before.verb not in {"sample", "encode", "elbo"}:
        raise ValueError(f"{receipt} is of an unknown verb {before.verb!r}")
    arguments: dict[str, Any] = {**before.fields, **before.arrays}
    with options.connect(url, None, timeout) as client:
        now = getattr(client, before.verb)(**arguments).receipt()
    different = sorted(
        name for name in before.outputs.keys() | now.outputs.keys() if before.outputs.get(name) != now.outputs.get(name)
    )
    lines = [f"{before.verb} of {before.model}, {len(before.outputs)} arrays"]
    if now.digest != before.digest:
        lines.append(f"the model is another one: digest {now.digest}, was {before.digest}")
    if now.fingerprint != before.fingerprint:
        lines.append(f"the fingerprint is another one: {now.fingerprint}, was {before.fingerprint}")
    if not before.reproducible or not now.reproducible:
        lines.append("the model is not reproducible: it failed its self-test at load")
    lines.append(f"bytes differ: {', '.join(different)}" if different else "every byte is the same")
    described = {
        "same": not different,
        "different": different,
        "digest": now.digest,
        "same_digest": now.digest == before.digest,
        "fingerprint": now.fingerprint,
        "same_fingerprint": now.fingerprint == before.fingerprint,
        "reproducible": before.reproducible and now.reproducible,
    }
    options.say(lines, described, as_json)
    if different:
        raise typer.Exit(DIFFERS)
