"""`elbod report`: one version on one page."""

import importlib.util
from pathlib import Path
from typing import Annotated

import typer


def report(
    model: Annotated[str, typer.Option(help="Model reference: name, name@alias or name@version.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="A folder of images or IDX files, .npy, .npz, .csv, .parquet or a named set; default: own test rows."
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="An .html; default: NAME-VERSION.html.")] = None,
    rows: Annotated[
        int | None,
        typer.Option(min=2, help="Only the first so many rows; default: 1000, fewer where draws take passes."),
    ] = None,
    num_samples: Annotated[
        int | None, typer.Option(min=2, help="S, draws of the ELBO a row; default: 16, or 4 of a model with levels.")
    ] = None,
    importance_samples: Annotated[
        int | None,
        typer.Option(
            min=1, help="K, draws of the importance-weighted bound; default: 64, or 8 of a model with levels."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Decides everything random.")] = 0,
    store: Annotated[str | None, typer.Option(help="URL or folder of the model store.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
) -> None:
    """Write a page about a published model: samples, reconstructions, scores, and whether its errors are honest.

    One HTML file that opens without a network. The numbers are those of POST /elbo with the same seed. A draw of a
    model with levels takes many passes of the network: by default its page takes a bounded number of them.

    Example: elbod report --model digits
    """
    from elbod.cli.tables import check_output, write_whole
    from elbod.errors import StartupError
    from elbod.settings import load_settings

    settings = load_settings(store=store, device=device)
    if importlib.util.find_spec("matplotlib") is None or importlib.util.find_spec("markdown_it") is None:
        raise StartupError("a report needs matplotlib: pip install 'elbod[report]'")
    if output is not None:
        check_output(output, (".html",))
    # torch takes seconds to import: only now, with the configuration checked.
    from elbod.cli.scoring import Session
    from elbod.report.effort import effort
    from elbod.report.findings import find
    from elbod.report.page import page
    from elbod.requests.checks import check_count, check_rows
    from elbod.training.held_out import rows_to_score

    check_count("--num-samples", num_samples or 0, settings.max_num_samples)
    check_count("--importance-samples", importance_samples or 0, settings.max_importance_samples)
    with Session.open(settings, quiet=False) as session:
        resident = session.load(model)
        found = rows_to_score(resident.manifest, data)
        if len(found.x) < 2:
            raise StartupError(f"{found.origin}: a report needs at least two rows")
        spent = effort(
            resident.levels,
            len(found.x),
            rows=rows,
            num_samples=num_samples,
            num_importance_samples=importance_samples,
        )
        x = check_rows(resident.description, found.x[: spent.rows], binarize=None, max_rows=spent.rows)
        path = output or Path(f"{resident.description.name}-{resident.description.version}.html")
        check_output(path, (".html",))
        label = None if found.label is None else found.label[: len(x)]
        findings = find(
            resident,
            x,
            label,
            found.origin,
            lambda job, title: session.run(job, resident, title),
            seed=seed,
            effort=spent,
        )
    write_whole(path, page(findings).encode())
    typer.echo(f"{path}: {resident}, {len(x):,} rows; open it in a browser")
