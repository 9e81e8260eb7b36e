"""`elboctl sample`."""

from pathlib import Path
from typing import Annotated

import typer

from elbod_client.cli import options


def sample(
    num_samples: Annotated[int, typer.Argument(min=1, help="How many rows.")] = 1,
    output: Annotated[Path, typer.Option(help="A grid as .png, x as .npy, x and z as .npz or .safetensors.")] = Path(
        "samples.png"
    ),
    seed: options.Seed = None,
    first_index: options.FirstIndex = 0,
    label: options.Label = None,
    temperature: Annotated[float, typer.Option(min=0, help="Scale of the randomness of z.")] = 1.0,
    mean: Annotated[bool, typer.Option("--mean", help="E[x|z] in place of a sample.")] = False,
    num_steps: options.NumSteps = None,
    level: options.Level = None,
    sampler: Annotated[str | None, typer.Option(help="ancestral or ddim, of a model with levels.")] = None,
    guidance: Annotated[
        float | None,
        typer.Option(min=0, max=100, help="How much further draws go towards --label (models with a null label)."),
    ] = None,
    trajectory: Annotated[
        int | None, typer.Option(min=1, max=16, help="Also save E[x|z] at this many levels (models with levels).")
    ] = None,
    receipt: options.ReceiptPath = None,
    model: options.Model = None,
    url: options.Url = None,
    timeout: options.Timeout = 60.0,
    as_json: options.AsJson = False,
) -> None:
    """Draw rows from the prior and save them.

    Example: elboctl sample 64 --seed 7 --output digits.png
    """
    if output.suffix not in {".png", ".npy", ".npz", ".safetensors"}:
        raise typer.BadParameter(f"--output {output}: the ending must be .png, .npy, .npz or .safetensors")
    if trajectory is not None and output.suffix not in {".npz", ".safetensors"}:
        raise typer.BadParameter("--trajectory gives an array: give --output FILE.npz or FILE.safetensors")
    options.check_sampler(sampler)
    with options.connect(url, model, timeout) as client:
        samples = client.sample(
            num_samples,
            seed=seed,
            first_index=first_index,
            label=label,
            temperature=temperature,
            output="mean" if mean else "sample",
            num_steps=num_steps,
            level=level,
            sampler=sampler,  # type: ignore[arg-type]
            guidance=guidance,
            include=[] if trajectory is None else ["trajectory"],
            trajectory_steps=trajectory,
        )
    samples.save(output)
    if receipt is not None:
        samples.receipt().save(receipt)
    described = {
        "model": str(samples.model),
        "seed": samples.seed,
        "rows": len(samples.x),
        "output": str(output),
        "fingerprint": samples.fingerprint,
    }
    options.say([f"{len(samples.x):,} rows of {samples.model}, seed {samples.seed}: {output}"], described, as_json)
