"""A store and a dictionary, driven together, never disagree."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from elbod_store import Conflict, ModelStore, Retired, StoreError, UnknownAlias, UnknownModel, UnknownVersion
from elbod_store.testing import WHO, a_draft
from tests.seaweed import Seaweed

NAMES = st.sampled_from(["digits", "fashion"])
ALIASES = st.sampled_from(["production", "canary"])
VERSIONS = st.integers(1, 4)


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.store = ModelStore.open(self.url(Path(self.folder.name)), cache_dir=Path(self.folder.name) / "cache")
        self.digests: dict[str, list[str]] = {"digits": [], "fashion": []}
        self.retired: set[tuple[str, int]] = set()
        self.logs: dict[tuple[str, str], list[int | None]] = {}
        self.watches = {name: self.store.watch(name) for name in self.digests}
        self.changed = dict.fromkeys(self.digests, False)

    def url(self, folder: Path) -> str:
        """An empty store."""
        return "memory://"

    def teardown(self) -> None:
        self.folder.cleanup()

    def live(self, name: str) -> list[int]:
        return [v for v in range(1, len(self.digests[name]) + 1) if (name, v) not in self.retired]

    def refusal(self, name: str, version: int) -> type[StoreError] | None:
        if not self.digests[name]:
            return UnknownModel
        if (name, version) in self.retired:
            return Retired
        return None if version <= len(self.digests[name]) else UnknownVersion

    def append(self, name: str, alias: str, version: int | None) -> None:
        self.logs.setdefault((name, alias), []).append(version)
        self.changed[name] = True

    @rule(name=NAMES, fill=st.integers(0, 3))
    def publish(self, name: str, fill: int) -> None:
        manifest = self.store.publish(a_draft(name, fill))
        self.digests[name].append(manifest.digest)
        self.changed[name] = True
        assert manifest.version == len(self.digests[name])

    @rule(name=NAMES, alias=ALIASES, version=VERSIONS, expected=st.none() | st.integers(0, 3))
    def promote(self, name: str, alias: str, version: int, expected: int | None) -> None:
        refusal = self.refusal(name, version)
        if refusal is None and expected not in (None, len(self.logs.get((name, alias), []))):
            refusal = Conflict
        if refusal:
            with pytest.raises(refusal):
                self.store.promote(name, alias, version, expected=expected, **WHO)
            return
        self.store.promote(name, alias, version, expected=expected, **WHO)
        self.append(name, alias, version)

    @rule(name=NAMES, alias=ALIASES)
    def rollback(self, name: str, alias: str) -> None:
        log = self.logs.get((name, alias), [])
        target = next((v for v in reversed(log) if v is not None and v != log[-1]), None)
        refusal = UnknownAlias if not log else UnknownVersion if target is None else self.refusal(name, target)
        if refusal:
            with pytest.raises(refusal):
                self.store.rollback(name, alias, **WHO)
            return
        assert self.store.rollback(name, alias, **WHO).version == target
        self.append(name, alias, target)

    @rule(name=NAMES, alias=ALIASES)
    def unalias(self, name: str, alias: str) -> None:
        if self.logs.get((name, alias), [None])[-1] is None:
            with pytest.raises(UnknownAlias):
                self.store.unalias(name, alias, **WHO)
            return
        self.store.unalias(name, alias, **WHO)
        self.append(name, alias, None)

    @rule(name=NAMES, version=VERSIONS)
    def retire(self, name: str, version: int) -> None:
        refusal = self.refusal(name, version)
        held = any(log[-1] == version for (owner, _), log in self.logs.items() if owner == name)
        if refusal is None and held:
            refusal = Conflict
        if refusal and refusal is not Retired:
            with pytest.raises(refusal):
                self.store.retire(name, version)
            return
        self.store.retire(name, version)
        if refusal is None:
            self.retired.add((name, version))
            self.changed[name] = True

    @rule(name=NAMES)
    def poll(self, name: str) -> None:
        assert self.watches[name].poll() is self.changed[name]
        self.changed[name] = False

    @invariant()
    def names_and_versions_agree(self) -> None:
        assert self.store.names() == [name for name in sorted(self.digests) if self.live(name)]
        for name, digests in self.digests.items():
            if digests:
                assert self.store.versions(name) == self.live(name)
                for version in self.live(name):
                    assert self.store.manifest(name, version).digest == digests[version - 1]

    @invariant()
    def aliases_agree(self) -> None:
        for name, digests in self.digests.items():
            if digests:
                now = {alias: log[-1] for (owner, alias), log in self.logs.items() if owner == name and log[-1]}
                assert self.store.aliases(name) == now
        for (name, alias), log in self.logs.items():
            assert [entry.version for entry in self.store.history(name, alias)] == log

    @invariant()
    def references_agree(self) -> None:
        for name in self.digests:
            log = self.logs.get((name, "production"), [None])
            if self.live(name):
                assert self.store.resolve(name).version == (log[-1] or self.live(name)[-1])
                assert self.store.resolve(f"{name}@latest").version == self.live(name)[-1]


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=60, stateful_step_count=30)


class FolderMachine(StoreMachine):
    def url(self, folder: Path) -> str:
        return (folder / "store").as_uri()


TestFolderMachine = FolderMachine.TestCase
TestFolderMachine.settings = settings(max_examples=10, stateful_step_count=30)


def test_a_store_on_s3_and_a_dictionary_never_disagree(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)

    class S3Machine(StoreMachine):
        def url(self, folder: Path) -> str:
            return seaweed.prefix()

    run_state_machine_as_test(S3Machine, settings=settings(max_examples=20, stateful_step_count=30))
