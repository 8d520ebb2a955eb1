"""Find and fetch models on the Hub. No torch here.

The client is huggingface_hub as it is; HF_ENDPOINT names a private Hub. What is fetched stays in its cache, and is
compared with the hashes that the Hub lists. Nothing here is pickle or code: see `ALLOWED`.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from genhub.errors import CheckpointError, GenhubError, HubError, HubUnavailable, InputError, shown
from genhub.ground.disk import write_whole
from genhub.ground.ids import check_revision, nearest_path, parse_id
from genhub.hub.client import connect
from genhub.store.find import foreign_format, no_model, pickle_advice
from genhub.store.manifest import (
    CODE,
    MANIFEST,
    MAX_FILES,
    MAX_JSON_BYTES,
    PICKLES,
    FileEntry,
    Manifest,
    file_digest,
    inside,
    read_manifest,
)

if TYPE_CHECKING:
    from huggingface_hub import HfApi


T = TypeVar("T")
ALLOWED = (".json", ".yaml", ".safetensors", ".md", ".png")
"""Endings of the files that are pushed and fetched."""
TEXTS = (".json", ".yaml")
"""Endings of the files that are read before anything else is fetched."""
MAX_BYTES = 2**37
"""Most bytes that a repository's files may take."""


# Fetching


@dataclass(frozen=True)
class RemoteFile:
    size: int
    oid: str
    """SHA-256 of a large file, git's SHA-1 of a small one; empty if the Hub names neither."""


@dataclass
class Repository:
    """A model repository at one commit."""

    id: str
    commit: str
    token: str | None = field(repr=False)
    files: Mapping[str, RemoteFile]
    folder: Path
    """Folder of its files, once fetched: the client's cache has one for each commit."""
    ref: Path | None = None
    """File in which the client's cache remembers the commit of a branch or tag; None: nothing to remember."""
    online: bool = True
    _whole: set[str] = field(default_factory=set)

    def fetch_texts(self) -> None:
        """Fetch what describes the model, and check that it does.

        Raises:
            HubError: it can't be fetched, or names what may not be fetched.
            CheckpointError: it is damaged, or no plugin reads it.
        """
        with self.naming():
            if MANIFEST in self.files:
                self._fetch(MANIFEST)
            elif not {"model_index.json", "config.json"} & self.files.keys():
                raise CheckpointError(f"{self.id}: holds no model ({MANIFEST} or model_index.json)")
            wanted = self.wanted()
            for name in wanted:
                if name.endswith(TEXTS) or not self.online:  # from the cache, it is all there or it is of no use
                    self._fetch(name)
            if MANIFEST not in self.files:
                if foreign_format(self.folder) is None:
                    raise no_model(self.folder)
                self._refuse_pickle(wanted)
            if sum(self.files[name].size for name in wanted) > MAX_BYTES:
                raise HubError(f"{self.id}: its files take more than {MAX_BYTES // 2**30} GiB; refused")

    def fetch_weights(self) -> Path:
        """Fetch the rest, and verify everything that genhub.json vouches for; return the folder."""
        with self.naming():
            for name in self.wanted():
                self._fetch(name)
            if MANIFEST in self.files:
                # A large file's hash there is the Hub's, too, with which it was compared when it was fetched.
                listed = self.manifest().files.items()
                rest = {name: entry for name, entry in listed if entry.sha256 != self.files[name].oid}
                Manifest.verify_files(rest, self.folder)
            if self.ref and not (self.ref.is_file() and self.ref.read_text() == self.commit):
                with contextlib.suppress(OSError, GenhubError):  # of a cache that can't be written all is there
                    self.ref.parent.mkdir(parents=True, exist_ok=True)
                    write_whole(self.ref, self.commit)
        return self.folder

    def fetch_files(self, wanted: Callable[[str], bool]) -> Path:
        """Fetch the files of another library's repository that are wanted; return the folder.

        Raises:
            HubError: they can't be fetched, or are too large.
        """
        names = [name for name in self.files if wanted(name)]
        if sum(self.files[name].size for name in names) > MAX_BYTES:
            raise HubError(f"{self.id}: its files take more than {MAX_BYTES // 2**30} GiB; refused")
        for name in names:
            self._fetch(name)
        return self.folder

    def fetch_code(self, code: FileEntry) -> bytes:
        """Fetch plugin.py, once: the bytes that genhub.json lists, whatever becomes of the file."""
        with self.naming():
            self._fetch(CODE)
            content = (self.folder / CODE).read_bytes()
            if FileEntry.of(content) != code:
                raise CheckpointError(f"{self.folder / CODE}: damaged (its SHA-256 is not the one in {MANIFEST})")
        return content

    @property
    def weight_bytes(self) -> int:
        return sum(self.files[name].size for name in self.wanted() if name.endswith(".safetensors"))

    def manifest(self) -> Manifest:
        return read_manifest(self.folder)

    def wanted(self) -> list[str]:
        """Return the files to fetch: those that genhub.json lists, or, of another library's folder, its JSON and weights."""
        if MANIFEST not in self.files:
            return [name for name in self.files if re.fullmatch(r"([\w-]+/)?[\w-]+\.(json|safetensors)", name, re.ASCII)]
        listed = self.manifest().files
        for name in listed:
            if not name.endswith(ALLOWED):
                raise HubError(
                    f"{self.id}: {MANIFEST} lists {name:.100}; of a repository, genhub fetches {' '.join(ALLOWED)} only"
                )
            if name not in self.files:
                raise HubError(f"{self.id}: {MANIFEST} lists {name:.100}, which the repository lacks")
        return [MANIFEST, *listed]

    @contextlib.contextmanager
    def naming(self) -> Iterator[None]:
        """Have errors about the folder in the cache name the repository instead."""
        try:
            yield
        except CheckpointError as error:
            raise type(error)(str(error).replace(str(self.folder), self.id)) from error

    def _refuse_pickle(self, wanted: list[str]) -> None:
        pickles = [name for name in self.files if name.endswith(PICKLES)]
        if pickles and not any(name.endswith(".safetensors") for name in wanted):
            raise CheckpointError(f"{self.id}: {pickle_advice(pickles[0], self.id)}")

    def _fetch(self, name: str) -> None:
        """Have a file in the folder, the same as the Hub lists; a damaged one is fetched once more."""
        if name in self._whole:
            return
        remote, file = self.files[name], self.folder / name
        if name.endswith(TEXTS) and remote.size > MAX_JSON_BYTES:
            raise HubError(f"{self.id}: {name} is larger than {MAX_JSON_BYTES} bytes; refused")
        inside = file.resolve().is_relative_to(self.folder.parents[2].resolve())
        if self.online and remote.oid and inside and file.is_file() and _is(file, remote):  # the cache may be read-only
            self._whole.add(name)
            return
        for _ in range(2):
            if self.online:
                with connect(self.id, self.token, f"fetching {name}") as client:
                    file = client.retrying(lambda: download(client.api, self.id, name, self.commit))
            if not file.resolve().is_relative_to(self.folder.parents[2].resolve()):
                raise HubError(f"{self.id}: {name} was not put into the cache; refused")
            if file.is_file() and _is(file, remote):
                self._whole.add(name)
                return
            if not self.online:
                raise HubUnavailable(f"{self.id}: {name} is not whole in the cache, and the Hub can't be asked")
            for bad in (file.resolve(), file):  # what the link in the folder points to, and the link
                bad.unlink(missing_ok=True)
        raise HubError(f"{self.id}: {name} came damaged twice (its hash is not the one the Hub lists); try again later")


def open_repository(
    source: str, *, revision: str | None = None, token: str | None = None, local_files_only: bool = False
) -> Repository:
    """Find a repository and its commit: on the Hub, or, when that can't be reached, as it was fetched last.

    Args:
        source: `user/name` or `user/name@revision`.
        revision: branch, tag or commit; left out: main.
    Raises:
        HubError: it is not there, or not for this login.
        HubUnavailable: the Hub can't be reached, and nothing is cached.
    """
    repo_id, own_revision = parse_id(source) or (source, None)
    if revision and own_revision:
        raise InputError(f"{source}: gives a revision already; leave out revision={shown(revision)}")
    revision = revision or own_revision
    try:
        revision = revision and check_revision(revision)
    except ValueError as error:
        raise InputError(f"revision: {error}") from error
    with connect(repo_id, token, "looking it up", revision) as client:
        cache = client.cache / f"models--{repo_id.replace('/', '--')}"
        ref = None if revision and re.fullmatch("[0-9a-f]{40}", revision) else cache / "refs" / (revision or "main")
        if not local_files_only:
            try:
                commit, files = client.retrying(lambda: listing(client.api, repo_id, revision))
                return Repository(repo_id, commit, token, files, cache / "snapshots" / commit, ref)
            except HubUnavailable as error:
                unavailable = error
        if ref is None:  # the revision is a commit
            commit = revision or ""
        elif ref.is_file():
            commit = ref.read_text().strip()
        else:
            commit = ""
        folder = cache / "snapshots" / commit
        if not re.fullmatch("[0-9a-f]{40}", commit) or not folder.is_dir():
            if local_files_only:
                raise HubError(f"{repo_id}: is not in the cache ({client.cache}); without local_files_only it is fetched")
            local = f"there is no such folder here{nearest_path(Path(repo_id))}"
            raise HubUnavailable(f"{unavailable}; nothing of it is in the cache, and {local}")
    if not local_files_only and not client.offline:
        from genhub.ground.console import warn  # imports torch

        warn(f"{unavailable}; going on with commit {commit[:12]} from the cache")
    found = [file for file in folder.rglob("*") if file.is_file()]
    cached = {file.relative_to(folder).as_posix(): RemoteFile(file.stat().st_size, _cached_oid(file)) for file in found}
    return Repository(repo_id, commit, token, cached, folder, online=False)


def _cached_oid(file: Path) -> str:
    """Return the hash of a file in the cache, which is the name of the file that its link points to."""
    name = file.readlink().name if file.is_symlink() else ""
    return name if re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", name) else ""


def _is(file: Path, remote: RemoteFile) -> bool:
    """Whether a file is what the Hub lists, by size and hash."""
    if file.stat().st_size != remote.size:
        return False
    return remote.oid in ("", digest(file, remote.oid))


def digest(content: Path | bytes, like: str) -> str:
    """Return the hash of a file or bytes, of the kind that `like` is: git's SHA-1 (40 digits) or SHA-256."""
    if len(like) == 40:
        data = content.read_bytes() if isinstance(content, Path) else content
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    return file_digest(content) if isinstance(content, Path) else hashlib.sha256(content).hexdigest()


def listing(api: HfApi, repo_id: str, revision: str | None) -> tuple[str, dict[str, RemoteFile]]:
    """Return a revision's commit and files."""
    info = api.model_info(repo_id, revision=revision, files_metadata=True, timeout=30)
    siblings = info.siblings or []
    if len(siblings) > 10 * MAX_FILES:
        raise HubError(f"{repo_id}: holds {len(siblings):,} files; refused")
    files = {s.rfilename: RemoteFile(s.size or 0, s.lfs.sha256 if s.lfs else s.blob_id or "") for s in siblings}
    try:
        for name in files:
            inside(name)
    except ValueError as error:
        raise HubError(f"{repo_id}: {error}; refused") from error
    return info.sha or "", files


def download(api: HfApi, repo_id: str, name: str, commit: str) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    if not isinstance(try_to_load_from_cache(repo_id, name, revision=commit), str):
        # The client makes a path of the ETag: one that leads elsewhere must not reach it.
        url = hf_hub_url(repo_id, name, revision=commit, endpoint=api.endpoint)
        etag = get_hf_file_metadata(url, token=api.token, timeout=30).etag
        if etag and not re.fullmatch(r"[\w+=-]+", etag):
            raise HubError(f"{repo_id}: {name} comes with the ETag {shown(etag)}, which leads out of the cache; refused")
    return Path(api.hf_hub_download(repo_id, name, revision=commit))
