"""`elbod score`: the bounds of a whole set of rows, on this machine, without a server."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from elbod.cli.engines import check_engine


def score(
    model: Annotated[str, typer.Option(help="Model reference: name, name@alias or name@version.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="A folder of images or IDX files, .npy, .npz, .csv, .parquet or a named set; default: own test rows."
        ),
    ] = None,
    num_samples: Annotated[int, typer.Option(min=1, help="S, draws of the ELBO a row.")] = 1,
    importance_samples: Annotated[
        int, typer.Option(min=0, help="K, draws of the importance-weighted bound a row.")
    ] = 0,
    rows: Annotated[int | None, typer.Option(min=1, help="Only the first so many rows.")] = None,
    against: Annotated[str | None, typer.Option(help="Another model: paired differences over the same rows.")] = None,
    against_flips: Annotated[
        bool, typer.Option("--against-flips", help="How well each score tells the rows from their mirror images.")
    ] = False,
    binarize: Annotated[str | None, typer.Option(help="threshold or stochastic: x in [0, 1] to bits.")] = None,
    given_labels: Annotated[
        bool,
        typer.Option("--given-labels", help="Score log p(x|y) with the data's labels, not their marginal log p(x)."),
    ] = False,
    marginal: Annotated[
        str | None, typer.Option(help="labels: score the sum over labels in place of the null label.")
    ] = None,
    num_steps: Annotated[int | None, typer.Option(min=1, help="Passes of a draw, of a model with levels.")] = None,
    num_levels: Annotated[
        int | None, typer.Option(min=1, help="Sampled levels a draw in place of a whole path, of a model with levels.")
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(help="reconstruction_map; of a model with levels bound_map and kl_per_level. May be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Decides everything random.")] = 0,
    first_index: Annotated[int, typer.Option(min=0, max=2**56 - 1, help="Example index of the first row.")] = 0,
    output: Annotated[
        str | None, typer.Option(help="Every row's scores: .csv, .jsonl, .npz or .parquet, or a folder of parts.")
    ] = None,
    engine: Annotated[str, typer.Option(help="local, or ray: the parts of a folder on a Ray cluster.")] = "local",
    actors: Annotated[int | None, typer.Option(min=1, help="Of --engine ray; default: one a core, or a GPU.")] = None,
    part_rows: Annotated[
        int | None, typer.Option(min=1, help="Rows of each part of a folder; default: by work.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    store: Annotated[str | None, typer.Option(help="URL or folder of the model store.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
) -> None:
    """Score rows with a published model: mean bounds with their errors, in nats.

    The numbers are those of POST /elbo with the same seed. A folder is written part by part: interrupted, the same
    command goes on with the parts that are not there.

    Example: elbod score --model digits --importance-samples 500 --output scores.csv
    """
    if binarize not in (None, "threshold", "stochastic"):
        raise typer.BadParameter("--binarize is threshold or stochastic")
    if marginal not in (None, "labels", "null label"):
        raise typer.BadParameter("--marginal is labels, or 'null label'")
    if not set(include or ()) <= {"reconstruction_map", "bound_map", "kl_per_level"}:
        raise typer.BadParameter("--include is reconstruction_map, bound_map or kl_per_level")
    in_parts = check_engine(engine, actors, part_rows, output)
    if include and not in_parts and not (output or "").endswith(".npz"):
        raise typer.BadParameter("--include gives arrays: give --output FILE.npz, or a folder")
    if in_parts and (against is not None or against_flips):
        raise typer.BadParameter("--against and --against-flips need all rows at once: give --output FILE, or none")
    from elbod.cli.tables import check_output, write_table
    from elbod.settings import load_settings

    settings = load_settings(store=store, device=device)
    if output is not None and not in_parts:
        check_output(Path(output))
    # torch takes seconds to import: only now, with the configuration checked.
    import numpy as np

    from elbod.cli.scoring import Session, labels_of, origin_of
    from elbod.engine import comparison
    from elbod.engine.jobs import Array, Verb
    from elbod.engine.loading import Resident
    from elbod.errors import StartupError
    from elbod.requests.checks import UNLIMITED, check_count
    from elbod.requests.verbs import ElboRequest, validated
    from elbod.training.held_out import rows_to_score

    check_count("--num-samples", num_samples, settings.max_num_samples)
    check_count("--importance-samples", importance_samples, settings.max_importance_samples)
    fields = {
        "seed": seed,
        "first_index": first_index,
        "num_samples": num_samples,
        "num_importance_samples": importance_samples,
        "binarize": binarize,
        "num_steps": num_steps,
        "num_levels": num_levels,
        "marginal": marginal,
        "include": include or [],
    }
    if in_parts:
        assert output is not None
        from elbod.cli import parts

        request = parts.Request(
            verb=Verb.ELBO,
            model=model,
            output=output,
            engine=engine,
            actors=actors,
            part_rows=part_rows,
            rows=rows,
            data=data,
            quiet=as_json,
            fields=fields | {"given_labels": given_labels, "include": tuple(include or ())},
        )
        done = parts.run(request, settings)
        manifest, plan = done.manifest, done.plan
        likelihood = comparison.likelihood_of(manifest)
        report: dict[str, Any] = {
            "model": plan.model,
            "digest": plan.digest,
            "fingerprint": plan.fingerprint,
            "reproducible": done.reproducible,
            "rows": done.origin + ("" if rows is None else f", the first {plan.rows:,}"),
            "seed": seed,
            "first_index": first_index,
            "num_samples": num_samples,
            "num_steps": num_steps,
            "num_levels": num_levels,
            "conditional_on": "label" if given_labels else None,
            **({} if marginal is None else {"marginal": marginal}),
            "output": done.output.url,
            **comparison.overview(done.output.read(plan.parts), likelihood, importance_samples),
        }
        _say(report, as_json)
        return
    with Session.open(settings, quiet=as_json) as session:
        resident = session.load(model)
        found = rows_to_score(resident.manifest, data, binarized=binarize is not None)
        label = labels_of(found, resident, rows) if given_labels else None
        asked = validated(ElboRequest, fields)

        def scored(x: Array, scorer: Resident, title: str) -> dict[str, Array]:
            return session.run(asked.job({"x": x, "label": label}, scorer.description, UNLIMITED), scorer, title)

        x = found.x[:rows]
        if against_flips and x.ndim < 3:
            raise StartupError(f"--against-flips needs images: rows of {resident} have shape {x.shape[1:]}")
        rival = session.load(against) if against is not None else None
        if rival is not None:
            comparison.check_comparable(resident.manifest, rival.manifest, given_labels=given_labels)
        columns = scored(x, resident, f"scoring {resident}")
        report = {
            **origin_of(resident.description),
            "rows": found.origin + ("" if rows is None else f", the first {len(x):,}"),
            "seed": seed,
            "first_index": first_index,
            "num_samples": num_samples,
            "num_steps": num_steps,
            "num_levels": num_levels,
            "conditional_on": "label" if given_labels else None,
            **({} if marginal is None else {"marginal": marginal}),
            **comparison.overview(columns, resident.description.likelihood, importance_samples),
        }
        if rival is not None:
            theirs = scored(x, rival, f"scoring {rival}")
            report["against"] = {"model": str(rival)} | {
                name: comparison.paired_difference(columns[name], theirs[name])
                for name in ("elbo", "iwae")
                if name in columns
            }
        if against_flips:
            report["flips"] = {}
            for name, axis in (("horizontal", -1), ("vertical", -2)):
                flipped = np.ascontiguousarray(np.flip(x, axis))
                altered = scored(flipped, resident, f"{name} flips")
                report["flips"][name] = comparison.outlier_report(columns, altered)
    if output is not None:
        write_table(Path(output), columns)
    _say(report, as_json)


def _say(report: dict[str, Any], as_json: bool) -> None:
    from elbod.cli.scoring import print_report

    if as_json:
        typer.echo(json.dumps(report))
    else:
        print_report(report)
