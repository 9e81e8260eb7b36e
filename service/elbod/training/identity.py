"""What a training run belongs to: everything that decides its weights, as plain JSON, and whether two are the same."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from pydantic import TypeAdapter, ValidationError

import elbod
from elbod.training.errors import CannotResume
from elbod.training.recipes import Recipe, command_line
from elbod_store import RunEntry


@dataclass(frozen=True)
class Identity:
    """`data` is the digest of the training data, `processes` how many train together.

    `machine` is what the command does not decide, and what yet decides the last bits of the weights.
    """

    name: str
    recipe: Recipe
    seed: int
    data: str
    device: str
    processes: int
    publish_every: int | None

    @property
    def machine(self) -> dict[str, str]:
        capability = torch.backends.cpu.get_cpu_capability()
        if self.device == "cuda":
            capability = torch.cuda.get_device_name()
        return {"torch": torch.__version__, "capability": capability}

    def to_json(self) -> dict[str, Any]:
        """For the run's entries in the store."""
        plain = {**asdict(self), "command": command_line(self.recipe, self.seed), "machine": self.machine}
        found: dict[str, Any] = json.loads(json.dumps({**plain, "elbod": elbod.__version__}))
        return found

    def check(self, entry: RunEntry) -> list[str]:
        """Raises CannotResume if the entry is of a run with other weights; warnings about its machine."""
        mine, theirs = self.to_json(), entry.training
        run = entry.run
        if theirs.get("recipe") != mine["recipe"]:
            raise CannotResume(f"the run {run} has another recipe: {_first_difference(theirs, mine)}")
        if entry.data != self.data:
            raise CannotResume(
                f"the run {run} trains on data of digest {entry.data[:12]}, these have {self.data[:12]}: "
                "they have changed since; train anew"
            )
        for key, way_out in (
            ("name", "give --name"),
            ("seed", "give --seed"),
            ("publish_every", "give --publish-every"),
            ("device", "give --device"),
            ("processes", "start as many with torchrun"),
        ):
            if theirs.get(key) != mine[key]:
                raise CannotResume(
                    f"the run {run} has {key.replace('_', ' ')} {theirs.get(key)}, this is {mine[key]}: {way_out}"
                )
        before = theirs.get("machine")
        if not isinstance(before, Mapping):
            raise CannotResume(f"the run {run} does not say what machine it ran on: train anew")
        return [
            f"the run {run} began with {key} {before.get(key)}, here it is {value}: the weights may differ in their "
            "last bits from those of an uninterrupted run"
            for key, value in self.machine.items()
            if before.get(key) != value
        ]


@dataclass(frozen=True)
class Command:
    """What a run was started with, read back from its newest entry; `alias`, `gated` and `keep` decide no weights."""

    name: str
    recipe: Recipe
    seed: int
    publish_every: int | None
    alias: str | None
    gated: bool
    keep: int | None

    @classmethod
    def of(cls, entry: RunEntry) -> Self:
        """Raises CannotResume for a run of another version of elbod, whose recipes have other keys."""
        fields = {key: entry.training.get(key) for key in cls.__dataclass_fields__}
        try:
            found = TypeAdapter(cls).validate_json(json.dumps(fields))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise CannotResume(f"the run {entry.run} cannot be read: {place}: {first['msg']}") from error
        if json.loads(json.dumps(asdict(found.recipe))) != fields["recipe"]:
            raise CannotResume(
                f"the run {entry.run} has a recipe of elbod {entry.training.get('elbod')}, which this elbod "
                f"{elbod.__version__} does not know: resume it there"
            )
        return found


def _first_difference(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> str:
    before, now = theirs.get("recipe"), mine["recipe"]
    if isinstance(before, Mapping):
        for key in now:
            if before.get(key) != now[key]:
                return f"its {key} is {before.get(key)}, this one's {now[key]}"
    return "its keys are those of another elbod"
