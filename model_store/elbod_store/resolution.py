"""From a model reference to a manifest: one set of rules for a single look-up and for a watch."""

from difflib import get_close_matches

from elbod_store import log
from elbod_store.catalogue import Catalogue
from elbod_store.errors import (
    Corrupt,
    NotFound,
    Retired,
    StoreError,
    UnknownAlias,
    UnknownModel,
    UnknownVersion,
    Unsupported,
)
from elbod_store.manifest import MAX_RECORD, AliasEntry, Manifest, decode_entry, decode_manifest
from elbod_store.names import (
    LATEST,
    Reference,
    alias_prefix,
    check_name,
    numbered,
    trash_key,
    version_key,
    versions_prefix,
)
from elbod_store.objects import Objects

DEFAULT_ALIAS = "production"


def resolve(
    objects: Objects, reference: Reference, catalogue: Catalogue, refused: dict[int, StoreError] | None = None
) -> Manifest:
    """The manifest that `reference` means in `catalogue`.

    A bare name is its alias `production` if set, else its newest version; `latest` is its newest version. Newest means
    the newest *readable* one: a version whose manifest is damaged, or of a newer schema, refuses itself and not the
    model, and its error is written into `refused`. What is named raises instead, since the caller asked for that one;
    and an alias whose newest entry is damaged is never taken to mean the entry before.

    Raises UnknownModel, UnknownVersion, UnknownAlias, Retired, Corrupt, Unsupported, Unavailable.
    """
    name, refused = reference.name, {} if refused is None else refused
    if not catalogue.versions:
        raise unknown_model(objects, name)
    version = reference.version
    if version is None and reference.alias != LATEST:
        alias = reference.alias or DEFAULT_ALIAS
        entry = newest_entry(objects, name, alias, catalogue)
        version = entry.version if entry else None
        if version is None and reference.alias is not None:
            raise unknown_alias(name, alias, catalogue)
    if version is None:
        return _newest_readable(objects, name, catalogue, refused)
    try:
        return load(objects, name, version, catalogue)
    except (Corrupt, Unsupported) as error:
        refused[version] = error
        raise


def resolve_directly(objects: Objects, reference: Reference) -> Manifest | None:
    """As `resolve`, by requests whose number does not grow with the model's history: for a log a hint, a list after it
    and an entry, then the manifest and whether it was retired.

    None where only the whole listing tells what is meant, or what is wrong. Raises Corrupt, Unsupported, Unavailable.
    """
    name, version = reference.name, reference.version
    if version is None and reference.alias != LATEST:
        alias = reference.alias or DEFAULT_ALIAS
        number = log.newest(objects, alias_prefix(name, alias))
        version = read_entry(objects, name, alias, number).version if number else None
        if version is None and reference.alias is not None:
            return None
    named = version is not None
    if version is None and not (version := log.newest(objects, versions_prefix(name))):
        return None
    try:
        manifest = decode_manifest(objects.get(version_key(name, version), limit=MAX_RECORD), name, version)
    except NotFound:
        return None
    except (Corrupt, Unsupported):
        if named:
            raise
        return None
    return None if objects.exists(trash_key(name, version)) else manifest


def load(objects: Objects, name: str, version: int, catalogue: Catalogue) -> Manifest:
    """The manifest of one live version. Raises UnknownVersion, Retired, Corrupt, Unsupported."""
    key = version_key(name, version)
    if version in catalogue.retired:
        raise Retired(f"{name}@{version} was retired; the newest live version is {_newest_name(name, catalogue)}")
    try:
        if version in catalogue.versions:
            return decode_manifest(objects.get(key, limit=MAX_RECORD), name, version)
    except NotFound:
        pass
    raise unknown_version(objects, name, version, catalogue)


def newest_entry(objects: Objects, name: str, alias: str, catalogue: Catalogue) -> AliasEntry | None:
    """The alias's newest entry, or None if it never had one. Raises Corrupt, Unsupported."""
    number = catalogue.aliases.get(alias, 0)
    return read_entry(objects, name, alias, number) if number else None


def read_entry(objects: Objects, name: str, alias: str, number: int) -> AliasEntry:
    key = numbered(alias_prefix(name, alias), number)
    return decode_entry(objects.get(key, limit=MAX_RECORD), name, alias, number)


def model_names(objects: Objects) -> list[str]:
    """Everything under `models/` whose name could be a model's, in order."""
    found = []
    for child in objects.children("models"):
        try:
            found.append(check_name(child))
        except StoreError:
            continue
    return found


def unknown_model(objects: Objects, name: str) -> UnknownModel:
    return UnknownModel(
        f"there is no model {name!r}",
        [match for match in get_close_matches(name, model_names(objects)) if match != name],
    )


def unknown_version(objects: Objects, name: str, version: int, catalogue: Catalogue) -> NotFound:
    if not catalogue.versions:
        return unknown_model(objects, name)
    return UnknownVersion(
        f"{name} has no version {version}; its newest is {_newest_name(name, catalogue)}",
        get_close_matches(f"{name}@{version}", [f"{name}@{number}" for number in reversed(catalogue.live)]),
    )


def unknown_alias(name: str, alias: str, catalogue: Catalogue) -> UnknownAlias:
    return UnknownAlias(
        f"{name} has no alias {alias!r}",
        [match for match in get_close_matches(alias, [*catalogue.aliases, LATEST]) if match != alias],
    )


def _newest_readable(objects: Objects, name: str, catalogue: Catalogue, refused: dict[int, StoreError]) -> Manifest:
    first: StoreError | None = None
    for version in reversed(catalogue.live):
        try:
            return load(objects, name, version, catalogue)
        except (Corrupt, Unsupported, UnknownVersion) as error:
            refused[version] = error
            first = first or error
    raise first or Retired(f"every version of {name} was retired: publish a new one")


def _newest_name(name: str, catalogue: Catalogue) -> str:
    return f"{name}@{catalogue.live[-1]}" if catalogue.live else "none"
