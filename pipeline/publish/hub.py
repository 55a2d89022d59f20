"""The one file that speaks to the Hub: what an upload would change, one commit, one tag; and a release fetched back.

Knows folders with a manifest, not what is in them. A token is never printed, neither are answers that repeat it.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pipeline.errors import BranchpointError
from pipeline.publish.folder import MANIFEST, NOT_OURS, Local

if TYPE_CHECKING:
    from httpx2 import Response
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

Found = TypeVar("Found")
Gate = Literal["as_is", "auto", "manual"]
"""Who may read must ask and is let in at once (auto) or by a person (manual); or it stays as it is on the Hub."""

LONGEST_WAIT = 120.0
"""Seconds that are waited at most where the Hub says for how long."""
_TOKEN = re.compile(r"\b(hf|api)_[A-Za-z0-9_-]{6,}")
_LONGEST = 300
_AGAIN = "run the same command again: what has arrived is not sent again"
_TAG = re.compile(r"v(?P<version>[^.]+)\.(?P<number>\d+)")


class HubRefused(BranchpointError):
    """The Hub, or the way to it, did not let something pass."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What an upload would do.

    exists:  whether the repository is there. private: whether it is, or would be.
    parent:  the commit that the upload would follow; None: there is no repository yet.
    new:     bytes of the files to send, by path; chunks of them that the Hub has are not sent.
    gone:    files of the release before that this one no longer has.
    same:    files that are there already.
    tag:     that the release has, or would get. tagged: it has it.
    before:  the release in the repository, as it calls itself; empty: none.
    gated:   the gate that it has, or would get; empty: none. gating: it would be set.
    """

    repo: str
    exists: bool
    private: bool
    parent: str | None
    new: dict[str, int]
    gone: tuple[str, ...]
    same: int
    tag: str
    tagged: bool
    before: str
    gated: str = ""
    gating: bool = False

    @property
    def settled(self) -> bool:
        """Whether there is nothing to do."""
        return self.exists and not self.new and not self.gone and self.tagged and not self.gating


@dataclass(frozen=True, slots=True)
class Published:
    """Where a release lies on the Hub. sent: files of the commit; 0: nothing was uploaded."""

    url: str
    commit: str
    tag: str
    private: bool
    sent: int
    bytes: int


@dataclass(frozen=True)
class Hub:
    """A Hub, and who is asking.

    endpoint: None: HF_ENDPOINT, else huggingface.co.
    token:    None: that of the environment or of `hf auth login`.
    pauses:   seconds before each further try after the way was cut or the Hub was busy.
    """

    endpoint: str | None = None
    token: str | None = field(default=None, repr=False)
    pauses: tuple[float, ...] = (1.0, 5.0, 20.0)

    def plan(self, repo: str, local: Local, *, private: bool = True, tag: str = "", gate: Gate = "as_is") -> Plan:
        """Compare a folder with a repository. Sends no file and changes nothing.

        Args:
            private: whether a new repository shall be; one that is there must be too.
            tag: to give the release; the next number where it is empty.
            gate: that it shall have.

        Raises:
            HubRefused: the repository is something else or public, the tag is another commit's, or the Hub is not
                reached.
        """
        return self._patiently(lambda: self._plan(repo, local, private=private, tag=tag, gate=gate), repo)

    def upload(self, plan: Plan, local: Local) -> Published:
        """Do what a plan says: create the repository, one commit that follows the plan's, one tag.

        May be run again after any failure; what has arrived is not sent again.

        Raises:
            HubRefused: somebody else committed since the plan, or the Hub refused or was not reached.
        """
        return self._patiently(lambda: self._upload(plan, local), plan.repo)

    def fetch(self, repo: str, folder: Path, *, kind: str = "dataset", revision: str | None = None) -> str:
        """Download a repository into a folder.

        Returns:
            Its commit.

        Raises:
            HubRefused: there is none, or the Hub is not reached.
        """

        def once() -> str:
            info = self._api.repo_info(repo, repo_type=kind, revision=revision)
            self._api.snapshot_download(repo, repo_type=kind, revision=info.sha, local_dir=folder)
            return info.sha

        return self._patiently(once, repo)

    @property
    def _api(self) -> HfApi:
        from huggingface_hub import HfApi

        return HfApi(endpoint=self.endpoint, token=self.token, library_name="branchpoint")

    def _plan(self, repo: str, local: Local, *, private: bool, tag: str, gate: str) -> Plan:
        from huggingface_hub.errors import RepositoryNotFoundError

        api, of, wanted = self._api, {"repo_type": local.kind}, "" if gate == "as_is" else gate
        try:
            info = api.repo_info(repo, **of)
        except RepositoryNotFoundError:
            sizes = {name: stated["bytes"] for name, stated in local.files.items()}
            first = tag or f"v{local.version}.1"
            return Plan(repo, False, private, None, sizes, (), 0, first, False, "", wanted, bool(wanted))
        if private and not info.private:
            raise HubRefused(f"{repo} is public", remedy="say --public if that is meant, or make it private there")
        there = {
            entry.path: entry
            for entry in api.list_repo_tree(repo, recursive=True, revision=info.sha, **of)
            if hasattr(entry, "blob_id") and entry.path.split("/")[0] not in NOT_OURS
        }
        before = self._manifest_of(repo, info.sha, local.kind) if MANIFEST in there else None
        self._refuse_strangers(repo, there, before, local)
        new = {name: stated["bytes"] for name, stated in local.files.items() if not _same(there.get(name), local, name)}
        brought = before["files"] if before else {}
        gone = tuple(sorted(name for name in there if name in brought and name not in local.files))
        unchanged = not new and not gone
        tags = {one.name: one.target_commit for one in api.list_repo_refs(repo, **of).tags}
        found, tagged = _tag(tags, info.sha if unchanged else None, local.version, tag, repo=repo)
        title = f"{before.get('suite', '')} {before.get('round', '')}".strip() if before else ""
        gated, same = wanted or info.gated or "", len(local.files) - len(new)
        gating = gated != (info.gated or "")
        return Plan(repo, True, bool(info.private), info.sha, new, gone, same, found, tagged, title, gated, gating)

    def _manifest_of(self, repo: str, commit: str, kind: str) -> dict[str, Any] | None:
        """The manifest in a repository. None: it is none of ours."""
        with TemporaryDirectory() as folder:
            path = self._api.hf_hub_download(repo, MANIFEST, repo_type=kind, revision=commit, local_dir=folder)
            try:
                found = json.loads(Path(path).read_text(encoding="utf-8"))
            except ValueError:
                return None
        return found if isinstance(found, dict) and isinstance(found.get("files"), dict) else None

    def _refuse_strangers(
        self, repo: str, there: Mapping[str, RepoFile], before: dict[str, Any] | None, local: Local
    ) -> None:
        """Refuse a repository of something else, and files of others that the card would take for the release's.

        Raises:
            HubRefused: names one of them.
        """
        known = {*(before or {}).get("files", {}), MANIFEST, *local.files}
        if before is None and (other := sorted(there.keys() - {"README.md"})):
            raise HubRefused(
                f"{repo} holds {other[0]} and no release of ours", remedy="publish into a repository of its own"
            )
        folders = {name.split("/")[0] for name in local.files if "/" in name}
        strange = sorted(name for name in there if name not in known and name.split("/")[0] in folders)
        if strange:
            raise HubRefused(
                f"{repo} has {strange[0]}, which no release brought", remedy="remove it there: it would be loaded too"
            )

    def _upload(self, plan: Plan, local: Local) -> Published:
        api, repo, of = self._api, plan.repo, {"repo_type": local.kind}
        again = {"private": plan.private, "tag": plan.tag, "gate": plan.gated if plan.gating else "as_is"}
        now = self._plan(repo, local, **again)
        if not now.exists:
            api.create_repo(repo, private=plan.private, exist_ok=True, **of)
            now = self._plan(repo, local, **again)
        changed = bool(now.new or now.gone)
        if changed and now.parent != plan.parent and (plan.exists or now.before):
            raise _overtaken(repo)
        if now.gating:  # before there is anything to read
            api.update_repo_settings(repo, gated=now.gated, **of)
        commit, sent = (self._commit(now, local), len(now.new)) if changed else (now.parent, 0)
        if not now.tagged:
            api.create_tag(repo, tag=now.tag, revision=commit, tag_message=local.title, **of)
        prefix = "datasets/" if local.kind == "dataset" else ""
        url = f"{api.endpoint}/{prefix}{repo}/tree/{now.tag}"
        return Published(url, commit, now.tag, now.private, sent, sum(now.new.values()))

    def _commit(self, plan: Plan, local: Local) -> str:
        """Send what is new and commit it at once, after the commit that the plan saw; gives the new one."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        operations = [
            *(CommitOperationAdd(name, local.folder / name) for name in sorted(plan.new)),
            *(CommitOperationDelete(name) for name in plan.gone),
        ]
        try:
            made = self._api.create_commit(
                plan.repo,
                operations,
                commit_message=f"Release {local.title}",
                commit_description="\n".join(f"{name}: {count:,} rows" for name, count in local.counts.items()),
                parent_commit=plan.parent,
                repo_type=local.kind,
            )
        except (RuntimeError, ValueError) as error:  # what clients of large files make of any failure
            if isinstance(cause := error.__cause__ or error, self._trouble):
                raise cause from None
            raise HubRefused(f"{plan.repo}: {self._said(error)}", remedy=_AGAIN) from None
        return made.oid

    def _patiently(self, do: Callable[[], Found], repo: str) -> Found:
        """The answer, after some more tries where the way was cut or the Hub was busy."""
        pauses = list(self.pauses)
        while True:
            try:
                return do()
            except self._trouble as error:
                wait = _wait(error)
                if not pauses or wait is None:
                    raise self._refused(error, repo) from None
            time.sleep(max(pauses.pop(0), min(wait, LONGEST_WAIT)))

    @property
    def _trouble(self) -> tuple[type[Exception], ...]:
        """What the clients raise where the Hub or the way to it fails; a busy Hub may answer with no JSON."""
        from httpx2 import HTTPError
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        return (
            HfHubHTTPError,
            HTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
            ConnectionError,
            json.JSONDecodeError,
        )

    def _refused(self, error: Exception, repo: str) -> HubRefused:
        """The failure in our words."""
        status = _status(error)
        if status in (409, 412):
            return _overtaken(repo)
        if status in (401, 403):
            remedy = "run `hf auth login`, or set HF_TOKEN, with a token that may write there"
        elif status == 404:
            remedy = "see that it is there and that the token may read it"
        elif _wait(error) is None:
            remedy = "correct what it names"
        else:
            remedy = _AGAIN
        return HubRefused(f"{repo}: {self._said(error)}", remedy=remedy)

    def _said(self, error: Exception) -> str:
        """What was first at fault, in a line with no token in it."""
        from huggingface_hub import get_token

        root = _root(error)
        text = (str(root).strip() or type(root).__name__).splitlines()[0]
        if server := getattr(error, "server_message", None):
            text = f"{text}: {server}"
        for token in filter(None, (self.token, get_token())):
            text = text.replace(token, "***")
        return " ".join(_TOKEN.sub("***", text)[:_LONGEST].split())


def _overtaken(repo: str) -> HubRefused:
    return HubRefused(
        f"somebody else committed to {repo} meanwhile; no file was changed there",
        remedy="look at that commit, then run again to publish on top of it",
    )


def _same(there: RepoFile | None, local: Local, name: str) -> bool:
    """Whether a file on the Hub has the bytes of the one here."""
    if there is None or there.size != local.files[name]["bytes"]:
        return False
    if there.lfs is not None:
        return there.lfs.sha256 == local.files[name]["sha256"]
    data = (local.folder / name).read_bytes()
    return there.blob_id == hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _tag(tags: Mapping[str, str], commit: str | None, version: str, wanted: str, *, repo: str) -> tuple[str, bool]:
    """The tag a release has or gets, and whether it has it. commit: that it lies in; None: it does not yet.

    Raises:
        HubRefused: the tag that is wanted is another commit's.
    """
    if wanted:
        if wanted in tags and tags[wanted] != commit:
            raise HubRefused(f"tag {wanted} of {repo} is another commit", remedy="choose another: a tag is never moved")
        return wanted, wanted in tags
    ours = {
        int(found["number"]): name for name in tags if (found := _TAG.fullmatch(name)) and found["version"] == version
    }
    held = [name for _, name in sorted(ours.items()) if tags[name] == commit]
    return (held[-1], True) if held else (f"v{version}.{max(ours, default=0) + 1}", False)


def _root(error: BaseException) -> BaseException:
    """What was first at fault."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _answer(error: BaseException | None) -> Response | None:
    """The Hub's answer that was at fault; None: there was none."""
    while error is not None:
        if (response := getattr(error, "response", None)) is not None:
            return response
        error = error.__cause__
    return None


def _status(error: Exception) -> int | None:
    response = _answer(error)
    return None if response is None else response.status_code


def _wait(error: Exception) -> float | None:
    """Seconds to wait at least before another try; None: it would fail likewise."""
    response = _answer(error)
    if response is None:
        return None if isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError) else 0.0
    if response.status_code != 429 and response.status_code < 500:
        return None
    try:
        return float(response.headers.get("Retry-After", 0))
    except ValueError:
        return 0.0
