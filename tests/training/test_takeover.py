"""Two live workers that drive one run publish each of its versions once, wherever the one overtakes the other."""

from collections.abc import Callable

import pytest

from elbod.training import recipes
from elbod.training.identity import Identity
from elbod.training.pauses import Pause
from elbod.training.progress import Silence
from elbod.training.run import Run
from elbod_store import Conflict, Draft, ModelStore, Unavailable
from elbod_store.testing import a_draft, assert_complete

STEPS = ("weights", "check", "number", "manifest", "hint")


def identity() -> Identity:
    recipe = recipes.recipe("digits")
    return Identity("digits", recipe, seed=0, data="0" * 64, device="cpu", processes=1, publish_every=None)


def options(on_step: Callable[[str], None]) -> dict[str, object]:
    return {"progress": Silence(), "save_every": 600, "on_step": on_step}


def draft_of(run: Run) -> Callable[[], Draft]:
    return lambda: a_draft(training={"run": {"id": run.id, "publication": run.publications}})


def nothing(step: str) -> None:
    pass


def publications(store: ModelStore) -> list[int]:
    return [m.training["run"]["publication"] for m in map(store.manifest, ["digits"] * 9, assert_complete(store))]


@pytest.mark.parametrize("company", [0, 1, 2], ids=["alone", "another model version", "two other versions"])
@pytest.mark.parametrize("step", STEPS)
def test_a_run_that_is_taken_over_in_the_middle_of_a_publication_makes_one_version(store, step, company):
    successors = []

    def overtaken(done: str) -> None:
        if done == f"publish:{step}" and not successors:
            for fill in range(company):
                store.publish(a_draft(fill=fill, training={"run": {"id": "another", "publication": 0}}))
            successor = Run.resume(store, store.run(first.id), "second", **options(nothing))
            successors.append(successor.publish(draft_of(successor)))

    first = Run.begin(store, identity(), {}, "first", **options(overtaken))
    with pytest.raises(Conflict, match="driven by another worker"):
        first.publish(draft_of(first))

    assert sorted(publications(store)) == [0] * company + [1]
    assert successors[0].training["run"] == {"id": first.id, "publication": 1}


def test_of_two_workers_inside_one_publication_the_successor_finds_what_the_other_made(store):
    """The first one stops before its manifest, the second before its own; then the first one is the faster."""
    found = []

    def overtaken(done: str) -> None:
        if done == "publish:number":
            successor = Run.resume(store, store.run(first.id), "second", **options(overtakes))
            found.append(successor.publish(draft_of(successor)))
            raise Unavailable("cut off")

    def overtakes(done: str) -> None:
        if done == "publish:number":
            # What the first one would write next, as if it were let go on here.
            store.publish(draft_of(first)())

    first = Run.begin(store, identity(), {}, "first", **options(overtaken))
    with pytest.raises(Unavailable, match="cut off"):
        first.publish(draft_of(first))

    assert publications(store) == [1]
    assert found == [store.manifest("digits", 1)]
    assert store.run(first.id).published == (1,)


def test_the_end_of_training_is_saved_before_the_next_save_is_due(store):
    """Scores of many rows may take longer than the training, and an interruption would cost all of it."""
    run = Run.begin(store, identity(), {}, "first", **options(nothing))
    run._saved_at -= 100  # seconds ago, of the 600 between two saves
    assert run.wanted(end_of_epoch=True) == Pause.NONE
    assert run.wanted(end_of_epoch=True, end_of_training=True) == Pause.SAVE
    run._saved_at += 90
    assert run.wanted(end_of_epoch=True, end_of_training=True) == Pause.NONE
