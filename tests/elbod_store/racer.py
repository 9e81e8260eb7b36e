"""One of several writers. `python racer.py URL publish|promote COUNT ME` writes, as JSON, what it won."""

import json
import sys

from elbod_store import Conflict, ModelStore
from elbod_store.testing import a_draft


def publish(store: ModelStore, count: int, me: str) -> list[list[object]]:
    won = []
    for turn in range(count):
        # The same weights from every racer: the blobs are raced for as well.
        manifest = store.publish(a_draft(fill=turn, card=f"{me}-{turn}"))
        won.append([manifest.version, manifest.card])
    return won


def promote(store: ModelStore, count: int, me: str) -> list[list[object]]:
    won = []
    for turn in range(count):
        try:
            entry = store.promote("digits", "production", 1, who=f"{me}-{turn}", why="race")
        except Conflict:
            continue
        won.append([entry.number, entry.who])
    return won


if __name__ == "__main__":
    url, race, count, me = sys.argv[1:]
    store = ModelStore.open(url)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    json.dump({"publish": publish, "promote": promote}[race](store, int(count), me), sys.stdout)
