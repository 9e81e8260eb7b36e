"""The model store: versions that never change, aliases that move, and nothing but an object store underneath."""

import contextlib
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from elbod_store import aliases, blobs, gc, log, runs, transfer
from elbod_store.catalogue import look
from elbod_store.draft import Draft, check
from elbod_store.errors import Conflict, Corrupt, StoreError, Unsupported
from elbod_store.gc import Garbage
from elbod_store.manifest import MAX_RECORD, SCHEMA, AliasEntry, Blob, Manifest, RunEntry, decode_manifest, seal
from elbod_store.names import (
    Reference,
    check_alias,
    check_name,
    parse_reference,
    trash_key,
    version_key,
    versions_prefix,
)
from elbod_store.objects import Objects
from elbod_store.publish import publish
from elbod_store.resolution import (
    load,
    model_names,
    resolve,
    resolve_directly,
    unknown_model,
    unknown_version,
)
from elbod_store.runs import RunDraft
from elbod_store.verify import Finding, verify
from elbod_store.watch import Watch


def _nothing(step: object) -> None:
    """The default of `on_step`."""


class ModelStore:
    """One prefix in an object store. Safe to use from several threads, processes and machines at once.

    Every method may raise InvalidName (before any request) and Unavailable.
    """

    def __init__(self, objects: Objects, cache_dir: Path) -> None:
        self.objects = objects
        self.cache_dir = cache_dir
        self._probed = False

    @classmethod
    def open(cls, url: str | Path, *, cache_dir: Path | None = None) -> "ModelStore":
        """The store at `url`: `file:///path`, a bare path, `s3://bucket/prefix`, or `memory://` (see `Objects.open`).

        `cache_dir` holds verified copies of blobs that are not on this machine's disk anyway; it may be shared by
        stores and processes, and deleted at any time. Default: `elbod` in the user's cache folder.
        """
        return cls(Objects.open(url), cache_dir or _user_cache())

    # Versions

    def publish(
        self,
        draft: Draft,
        *,
        on_step: Callable[[str], None] = _nothing,
        claim: Callable[[int], None] = _nothing,
    ) -> Manifest:
        """Store the draft's blobs, then create its manifest as the next version: all of it becomes visible, or nothing.

        `on_step` is called after each step of `elbod_store.publish.STEPS`. `claim` is called with every number before
        it is tried, when all below it are taken; what it raises ends the publication unseen. Raises InvalidDraft;
        Unsupported if the store cannot put-if-absent; Unavailable, after which publishing again is safe and makes a
        version of its own.
        """
        self.probe()
        return publish(self.objects, draft, on_step, claim)

    def names(self) -> list[str]:
        """The models that have a live version, in order."""
        return [name for name in model_names(self.objects) if look(self.objects, name).live]

    def versions(self, name: str) -> list[int]:
        """The versions that are not retired, ascending, readable or not. Raises UnknownModel."""
        catalogue = look(self.objects, check_name(name))
        if not catalogue.versions:
            raise unknown_model(self.objects, name)
        return catalogue.live

    def manifest(self, name: str, version: int) -> Manifest:
        """The manifest of one version. Raises UnknownModel, UnknownVersion, Retired, Corrupt, Unsupported."""
        version_key(name, version)  # raises InvalidName
        return load(self.objects, name, version, look(self.objects, name))

    def manifests(self, name: str, after: int = 0) -> Iterator[Manifest]:
        """Every readable version above `after`, ascending, retired ones among them; none for an unknown model."""
        for version in log.numbers_after(self.objects, versions_prefix(name), after):
            with contextlib.suppress(Corrupt, Unsupported):
                raw = self.objects.get(version_key(name, version), limit=MAX_RECORD)
                yield decode_manifest(raw, name, version)

    def resolve(self, reference: str) -> Manifest:
        """The version that `name`, `name@alias`, `name@version` or `name@latest` means now.

        A bare name is its alias `production` if set, else its newest live version. A bare name and `latest` pass over
        versions that are damaged or of a newer schema (a Watch tells which). Raises UnknownModel, UnknownVersion,
        UnknownAlias, Retired, Corrupt, Unsupported.
        """
        parsed: Reference = parse_reference(reference)
        found = resolve_directly(self.objects, parsed)
        return found or resolve(self.objects, parsed, look(self.objects, parsed.name))

    def watch(self, name: str) -> Watch:
        """A watch on one model, which need not exist yet."""
        return Watch(self.objects, name)

    def retire(self, name: str, version: int) -> None:
        """Take a version out of service for good. Again is no error.

        Raises Conflict while an alias points there, UnknownModel, UnknownVersion, Corrupt if an alias is unreadable.
        """
        trash_key(name, version)  # raises InvalidName
        catalogue = look(self.objects, name)
        if version in catalogue.retired:
            return
        if version not in catalogue.versions:
            raise unknown_version(self.objects, name, version, catalogue)
        self._refuse_if_aliased(name, version)
        self.probe()
        body = seal(
            {
                "schema": SCHEMA,
                "name": name,
                "version": version,
                "publish_id": uuid.uuid4().hex,
                "when": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            }
        )
        if log.append(self.objects, trash_key(name, version), body):
            try:
                self._refuse_if_aliased(name, version)  # an alias may have moved here in between
            except StoreError:
                self.objects.delete(trash_key(name, version))
                raise
            finally:
                log.announce(self.objects, name)

    # Aliases

    def promote(
        self, name: str, alias: str, version: int, *, expected: int | None = None, who: str, why: str
    ) -> AliasEntry:
        """Point `alias` at `version`, by appending to its log.

        `expected` is the number of the entry that the caller saw: None for whatever is newest now, 0 if the alias
        never existed. Raises Conflict if another writer was faster, UnknownModel, UnknownVersion, Retired, and
        Corrupt or Unsupported for a version that could not be served.
        """
        check_alias(alias)
        self.manifest(name, version)
        self.probe()
        return aliases.promote(self.objects, name, alias, version, expected=expected, who=who, why=why)

    def rollback(self, name: str, alias: str, *, expected: int | None = None, who: str, why: str) -> AliasEntry:
        """Point `alias` at the version it named before the one it names now, by appending to its log.

        So a second rollback undoes the first, unless both give the entry that they saw: `expected`, as in `promote`.
        Raises as `promote`, UnknownAlias, and UnknownVersion if there is none.
        """
        check_alias(alias)
        catalogue = look(self.objects, check_name(name))
        self.probe()
        return aliases.rollback(self.objects, name, alias, catalogue, expected=expected, who=who, why=why)

    def unalias(self, name: str, alias: str, *, who: str, why: str) -> AliasEntry:
        """Remove `alias`, by appending to its log. Raises UnknownAlias, Conflict."""
        check_alias(alias)
        catalogue = look(self.objects, check_name(name))
        self.probe()
        return aliases.unalias(self.objects, name, alias, catalogue, who=who, why=why)

    def history(self, name: str, alias: str) -> list[AliasEntry]:
        """The alias's log, oldest entry first. Raises UnknownAlias, Corrupt, Unsupported."""
        check_alias(alias)
        return aliases.history(self.objects, name, alias, look(self.objects, check_name(name)))

    def aliases(self, name: str) -> dict[str, int]:
        """The aliases that are set, and the version of each. Raises UnknownModel, Corrupt, Unsupported."""
        catalogue = look(self.objects, check_name(name))
        if not catalogue.versions:
            raise unknown_model(self.objects, name)
        return aliases.current_versions(self.objects, name, catalogue)

    # Training runs

    def append_run(self, draft: RunDraft, *, expected: int, on_step: Callable[[str], None] = _nothing) -> RunEntry:
        """Store the draft's contents as blobs, then append the entry that names them to the run's log.

        `expected` is the number of the entry that the caller saw, 0 for a run that begins. `on_step` is called after
        each step of `elbod_store.runs.STEPS`. Raises Conflict if another worker appended since; InvalidDraft;
        Unsupported; Unavailable, after which appending again is safe.
        """
        self.probe()
        return runs.append(self.objects, draft, expected, on_step)

    def run(self, run: str) -> RunEntry:
        """The newest entry of a run. Raises UnknownRun, Corrupt, Unsupported."""
        return runs.newest(self.objects, run)

    def runs(self) -> list[str]:
        """The ids of all runs, finished or not, in order."""
        return runs.run_ids(self.objects)

    # Blobs

    def fetch(self, blob: Blob) -> Path:
        """A local file with the blob's bytes, hashed in this very call. Raises Corrupt, which is never cached."""
        return blobs.fetch(self.objects, blob, self.cache_dir)

    def read(self, blob: Blob) -> bytes:
        """The blob's bytes, hashed in this very call. Raises Corrupt."""
        return blobs.read(self.objects, blob)

    # Keeping house

    def garbage(self, *, grace: timedelta = gc.GRACE, now: datetime | None = None) -> list[Garbage]:
        """Blobs older than `grace` that no live version and no run's newest state names.

        Raises Corrupt or Unsupported if a manifest or run is unreadable, since nobody knows then what it names.
        """
        return gc.find(self.objects, grace, now or datetime.now(UTC))

    def delete_garbage(
        self, garbage: Iterable[Garbage], *, on_deleted: Callable[[Garbage], None] = lambda _: None
    ) -> None:
        """Delete what `garbage` found, but for what was written again since."""
        gc.delete(self.objects, garbage, on_deleted)

    def verify(self) -> Iterator[Finding]:
        """Read and hash everything that is live again, a finding for each thing looked at. Raises Unavailable."""
        return verify(self.objects)

    def export(self, reference: str, folder: Path) -> Manifest:
        """Write a version into a new folder in the layout of the Hugging Face Hub. Raises as `resolve`; Unavailable."""
        manifest = self.resolve(reference)
        transfer.export(self.objects, manifest, folder)
        return manifest

    def import_(self, folder: Path, name: str | None = None) -> Manifest:
        """Publish an exported folder, under its own name or another. It says and computes what the original does.

        Raises InvalidDraft, before anything is written, unless every file is what `export` wrote.
        """
        with transfer.opened(folder) as exported:
            draft = exported.draft(name)
            check(draft)
            exported.verify()
            self.probe()
            return publish(self.objects, draft, _nothing, _nothing, exported.blobs)

    # Start

    def probe(self) -> None:
        """Prove that this store refuses to create a key twice, without which publishing would lose versions.

        Done once, before the first write of each `ModelStore`. Raises Unsupported.
        """
        if self._probed:
            return
        key = f"probe/{uuid.uuid4().hex}"
        first, second = self.objects.create(key, b"1"), self.objects.create(key, b"2")
        with contextlib.suppress(StoreError):
            self.objects.delete(key)
        if not first or second:
            raise Unsupported(
                f"{self.objects.url} lacks put-if-absent (it let a key be created twice), so two publishers could take "
                "the same version: use a store that honours conditional writes"
            )
        self._probed = True

    def _refuse_if_aliased(self, name: str, version: int) -> None:
        current = aliases.current_versions(self.objects, name, look(self.objects, name))
        holders = [alias for alias, target in current.items() if target == version]
        if holders:
            raise Conflict(
                f"{name}@{version} is what {' and '.join(map(repr, holders))} points to: promote another first"
            )


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "elbod"
