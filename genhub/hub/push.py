"""Push files into a repository on the Hub, in one commit that can be tried again. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from genhub.errors import CheckpointError, HubError, InputError, without_passwords
from genhub.ground.ids import parse_id
from genhub.hub.client import MOVED_ON, connect
from genhub.hub.repository import RemoteFile, digest, download, listing
from genhub.store.card import is_beside_card
from genhub.store.manifest import CODE, MANIFEST, MAX_JSON_BYTES, read_manifest

if TYPE_CHECKING:
    from huggingface_hub import HfApi


@dataclass(frozen=True)
class Pushed:
    """Result of a push."""

    repo_id: str
    commit: str
    changed: bool
    """Whether there is a new commit; without one, the repository was like that already."""
    url: str


@dataclass(frozen=True)
class Target:
    """A repository to publish a model in, and how: the options of `genhub.push_to_hub`, which says what each is."""

    repo_id: str
    private: bool = False
    revision: str | None = None
    tag: str | None = None
    token: str | None = None
    license: str | None = None
    with_code: bool = False


def push(target: Target, files: Mapping[str, bytes | Path], message: str) -> Pushed:
    """Make a branch of a repository hold these files, in one commit; what an earlier push left there too is deleted.

    Run again, it goes on: what is there is not sent, and nothing is committed twice.

    Raises:
        HubError: no access, a public repository where a private one is asked for, the repository moved on meanwhile, or the
            Hub doesn't take it.
    """
    repo_id, revision, tag = target.repo_id, target.revision, target.tag
    check_id(repo_id)
    with connect(repo_id, target.token, "pushing", revision) as client:
        client.retrying(lambda: _ensure(client.api, repo_id, target.private, revision))
        commit, changed = client.retrying(_Commit(client.api, repo_id, files, message, revision))
        if tag:
            client.retrying(lambda: _tag(client.api, repo_id, tag, commit))
        return Pushed(repo_id, commit, changed, without_passwords(f"{client.api.endpoint}/{repo_id}"))


def check_id(repo_id: str) -> None:
    """
    Raises:
        InputError: it can't be a repository's id.
    """
    if parse_id(repo_id) != (repo_id, None):
        raise InputError(f"{repo_id}: must look like user/name to be pushed to")


def _ensure(api: HfApi, repo_id: str, private: bool, revision: str | None) -> None:
    """Make the repository and the branch, where they are not there yet."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        if not api.model_info(repo_id, timeout=30).private and private:
            raise HubError(
                f"{repo_id}: is there already, and public; make it private in its settings first, or take another name"
            )
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        api.create_repo(repo_id, private=private, exist_ok=True)
    if revision and revision not in {branch.name for branch in api.list_repo_refs(repo_id).branches}:
        api.create_branch(repo_id, branch=revision, exist_ok=True)


@dataclass
class _Commit:
    """A commit that may have to be tried again: what a failed try did on the Hub is looked at first."""

    api: HfApi
    repo_id: str
    files: Mapping[str, bytes | Path]
    message: str
    revision: str | None
    base: str | None = None
    """The branch's head at the first try."""

    def __call__(self) -> tuple[str, bool]:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        head, remote = listing(self.api, self.repo_id, self.revision)
        changed = [name for name, content in self.files.items() if not _same(content, remote.get(name))]
        gone = self._left_over(head, remote)
        if not changed and not gone:
            return head, self.base not in (None, head)
        if self.base not in (None, head):
            raise HubError(f"{self.repo_id}: {MOVED_ON}")
        self.base = head
        adds = [CommitOperationAdd(name, content) for name, content in self.files.items() if name in changed]
        deletes = [CommitOperationDelete(name) for name in gone]
        done = self.api.create_commit(
            self.repo_id, [*adds, *deletes], commit_message=self.message, revision=self.revision, parent_commit=head or None
        )
        return str(done.oid), True

    def _left_over(self, head: str, remote: Mapping[str, RemoteFile]) -> list[str]:
        """Return the files of an earlier push that are not part of this one: those that its genhub.json lists, and what was
        drawn and measured of its weights."""
        if MANIFEST not in remote:
            return []
        earlier = set(filter(is_beside_card, remote)) | self._listed(head, remote[MANIFEST])
        return sorted(earlier & remote.keys() - self.files.keys())

    def _listed(self, head: str, manifest: RemoteFile) -> set[str]:
        """Return the files that the repository's genhub.json lists; none where it is the one that is pushed."""
        if _same(self.files[MANIFEST], manifest) or manifest.size > MAX_JSON_BYTES:
            return set()
        try:
            earlier = read_manifest(download(self.api, self.repo_id, MANIFEST, head).parent)
        except CheckpointError:  # not one of ours, or damaged: it vouches for nothing, and is replaced
            return set()
        return {*earlier.files, *([CODE] if earlier.code else [])}


def _same(content: bytes | Path, remote: RemoteFile | None) -> bool:
    if remote is None or not remote.oid:
        return False
    size = content.stat().st_size if isinstance(content, Path) else len(content)
    return size == remote.size and digest(content, remote.oid) == remote.oid


def _tag(api: HfApi, repo_id: str, tag: str, commit: str) -> None:
    found = {ref.name: ref.target_commit for ref in api.list_repo_refs(repo_id).tags}
    if tag not in found:
        api.create_tag(repo_id, tag=tag, revision=commit, exist_ok=True)
    elif found[tag] != commit:
        raise HubError(
            f"{repo_id}: the tag '{tag}' is at {found[tag][:12]} already, and a tag stays where it is; choose another "
            f"(commit {commit[:12]} is pushed)"
        )
