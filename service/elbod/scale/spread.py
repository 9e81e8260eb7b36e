"""Parts of a job on a Ray cluster: a pool of actors of Ray Data, each with a model of its own.

Ray decides who works which part, starts actors again that died and gives their parts to others. A part is written
once, whole, by whoever has it first, and anybody who works it again gets the same bytes: so it may.
"""

import logging
from collections.abc import Iterable, Iterator
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from elbod.errors import StartupError
from elbod.scale.cluster import Cluster, agreed, ask_every_node, uses_gpu
from elbod.scale.output import Output
from elbod.scale.plan import Plan
from elbod.scale.sources import Source
from elbod.scale.work import Place, Worker, failures

# Tasks of Ray: one a part, of very long jobs several parts a task.
_MOST_TASKS = 2_000

Batch = dict[str, NDArray[Any]]


@final
class _Actor:
    """One process of the pool. What goes wrong travels as a sentence: exceptions would come back wrapped."""

    def __init__(self, plan: bytes, source: Any, place: Place) -> None:
        import ray

        self._worker, self._failure = None, ""
        try:
            held: Source | None = ray.get(source) if isinstance(source, ray.ObjectRef) else source
            self._worker = Worker(Plan.of_json(plan), held, place)
        except failures() as error:
            self._failure = str(error)

    def __call__(self, batch: Batch) -> Batch:
        rows, failure = 0, self._failure
        if self._worker is not None:
            try:
                rows = self._worker.run(int(batch["part"][0]))
            except failures() as error:
                failure = str(error)
        return {"part": batch["part"], "rows": np.array([rows]), "failure": np.array([failure], dtype=object)}


def fingerprint_of(cluster: Cluster, store: str, model: str, digest: str, device: str) -> tuple[str, bool]:
    """What all nodes compute this model as, and whether they promise its bytes.

    Raises StartupError: two of them differ, or one cannot load it.
    """

    def found(store: str, model: str, digest: str, device: str) -> tuple[str, bool, str]:
        from elbod.scale.work import failures, load_version

        try:
            _, resident = load_version(store, model, digest, device)
        except failures() as error:
            return "", False, str(error)
        return resident.description.fingerprint, resident.description.reproducible, ""

    answers = ask_every_node(cluster, found, store, model, digest, device, gpu=uses_gpu(cluster, device))
    for address, (_, _, failure) in answers.items():
        if failure:
            raise StartupError(f"node {address}: {failure}")
    fingerprint = agreed({address: fingerprint for address, (fingerprint, _, _) in answers.items()})
    return fingerprint, all(reproducible for _, reproducible, _ in answers.values())


def spread(
    cluster: Cluster, plan: Plan, parts: Iterable[int], source: Source | None, place: Place, actors: int | None
) -> Iterator[int]:
    """Work the parts, each written when its rows are yielded. Raises StartupError, and StoreError of the output."""
    import ray
    import ray.data

    # Ray Data sets it up when it is imported.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    todo = list(parts)
    if not todo:
        return
    gpu = uses_gpu(cluster, place.device)
    size = min(actors or (cluster.gpus if gpu else cluster.cpus), len(todo))
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Rows in memory travel once, through the cluster's own.
    shared = ray.put(source) if source is not None else None
    pool = ray.data.ActorPoolStrategy(min_size=1, initial_size=size, max_size=size)
    results = ray.data.from_items(
        [{"part": part} for part in todo], override_num_blocks=min(len(todo), _MOST_TASKS)
    ).map_batches(
        _Actor,
        fn_constructor_args=(plan.to_json(), shared, place),
        batch_size=1,
        compute=pool,
        num_cpus=0 if gpu else 1,
        num_gpus=1 if gpu else 0,
    )
    output, seen = Output(place.output), False
    for batch in results.iter_batches(batch_size=None, prefetch_batches=0):
        for part, rows, failure in zip(batch["part"], batch["rows"], batch["failure"], strict=True):
            if failure:
                raise StartupError(str(failure))
            if not seen and int(part) not in output.finished():
                raise StartupError(
                    f"--output {place.output}: a part that a node wrote there is not here: use a place all nodes share"
                )
            seen = True
            yield int(rows)
