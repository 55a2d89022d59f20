"""Uploads to a Hub on this machine with the real client: resumed, guarded, never twice, and silent on the token."""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import shutil
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from fakes.hub import TOKEN, FakeHub, Fault
from huggingface_hub import constants, utils
from scripted_round import Pupil, run, scripted

from pipeline.errors import BadConfig, BadTable
from pipeline.publish import commands
from pipeline.publish.commands import plan_lines, run_publish, run_verify
from pipeline.publish.folder import MANIFEST, Folder, Local, local_release
from pipeline.publish.hub import Hub, HubRefused
from pipeline.stages.credit import CreditConfig, write_credit
from pipeline.stages.publish import PublishConfig, write_publication
from pipeline.stages.release import release_folder, write_release

REPO = "me/sums"
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    with scripted(tmp_path_factory.mktemp("round"), Pupil()) as made:
        run(made)
        write_release(made)
        yield made


@pytest.fixture
def folder(work, tmp_path) -> Folder:
    return Folder(Path(shutil.copytree(release_folder(work), tmp_path / "release")))


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No Xet, no cache and no token of this machine; the client's own pauses are none."""
    unhurried = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})
    monkeypatch.setattr("huggingface_hub.utils._http.time", unhurried)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    utils.disable_progress_bars()


@pytest.fixture
def fake():
    with FakeHub() as hub:
        yield hub


def client(fake: FakeHub, **options) -> Hub:
    return Hub(fake.endpoint, TOKEN, **{"pauses": (), **options})


def publish(hub: Hub, local, **options):
    return hub.upload(hub.plan(REPO, local, **options), local)


def held(fake: FakeHub) -> dict[str, bytes]:
    """What main holds, but for the Hub's own file."""
    repo = fake.repos["datasets", REPO]
    return {path: data for path, data in repo.commits[repo.head].items() if path != ".gitattributes"}


def few_files(local: Local) -> Local:
    """The same with the files of three configs alone."""
    kept = ("README.md", MANIFEST, "pairs/", "credit/", "tasks/")
    return replace(local, files={name: said for name, said in local.files.items() if name.startswith(kept)})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_one_commit_one_tag_private(fake, folder):
    local = local_release(folder)
    plan = client(fake).plan(REPO, local)
    assert {one.method for one in fake.seen} <= {"GET", "HEAD"}
    assert (plan.exists, plan.private, plan.tag, plan.same) == (False, True, "v5.1", 0)
    assert plan.new == {path: len(data) for path, data in contents(folder.path).items()}
    done = client(fake).upload(plan, local)
    repo = fake.repos["datasets", REPO]
    assert held(fake) == contents(folder.path)
    assert repo.private
    assert len(repo.commits) == 2
    assert repo.tags == {"v5.1": done.commit} == {"v5.1": repo.head}
    assert done.url == f"{fake.endpoint}/datasets/{REPO}/tree/v5.1"
    assert done.sent == len(plan.new)


def test_twice_sends_nothing(fake, folder):
    local = local_release(folder)
    first = publish(client(fake), local)
    fake.forget()
    again = client(fake).plan(REPO, local)
    assert again.settled
    assert (again.new, again.gone, again.same) == ({}, (), len(local.files))
    assert client(fake).upload(again, local) == replace(first, sent=0, bytes=0)
    assert {one.method for one in fake.seen} <= {"GET", "HEAD"}


def test_a_new_method_leaves_base_files_untouched(fake, work, tmp_path):
    mine = replace(work, settings=replace(work.settings, store=tmp_path / "store", release=tmp_path / "release"))
    shutil.copytree(work.settings.store, tmp_path / "store")
    write_release(mine)
    first = publish(client(fake), local_release(Folder(release_folder(mine))))
    write_credit(mine, CreditConfig(("rloo",)))
    write_release(mine)
    local = local_release(Folder(release_folder(mine)))
    plan = client(fake).plan(REPO, local)
    assert set(plan.new) == {"README.md", MANIFEST, "credit/train-00000-of-00001.parquet"}
    done = client(fake).upload(plan, local)
    assert (first.tag, done.tag) == ("v5.1", "v5.2")
    assert fake.repos["datasets", REPO].tags == {"v5.1": first.commit, "v5.2": done.commit}


def test_cut_at_any_request_and_resumed(folder):
    """Before the server acts, and after it; the second run ends as one that was never cut."""
    local = few_files(local_release(folder))
    with FakeHub() as whole:
        publish(client(whole), local)
        wanted, requests, remedies = held(whole), whole.asked, set()
    for number, acted in itertools.product(range(requests), (False, True)):
        with FakeHub() as fake:
            fake.fault = lambda at, *_, number=number, acted=acted: Fault(acted=acted) if at == number else None
            try:
                publish(client(fake), local)
            except HubRefused as error:
                remedies.add(error.remedy)
            large = [one.path for one in fake.seen if one.method == "PUT" and one.status == 200]
            fake.forget()
            fake.fault = lambda *_: None
            publish(client(fake), local)
            repo = fake.repos["datasets", REPO]
            assert held(fake) == wanted
            assert len(repo.commits) == 2, f"request {number}: committed twice"
            assert repo.tags == {"v5.1": repo.head}
            sent_again = {one.path for one in fake.seen if one.method == "PUT"} & set(large)
            assert not sent_again, f"request {number}: sent again"
    assert remedies == {"run the same command again: what has arrived is not sent again"}


@pytest.mark.parametrize("fault", [Fault(429, retry_after=0), Fault(503), Fault(500), Fault()], ids=str)
def test_a_busy_hub_is_asked_again(fake, folder, fault):
    """Every call that the client does not repeat itself."""
    failed = set()

    def once(_, method, path):
        key = (method, path)
        if path.startswith("/lfs") or path.endswith("/batch") or key in failed:
            return None
        failed.add(key)
        return fault

    fake.fault = once
    publish(client(fake, pauses=(0.0,) * 20), local_release(folder))
    assert held(fake) == contents(folder.path)
    assert len(fake.repos["datasets", REPO].commits) == 2


def test_retry_after_is_kept_to(fake, folder, monkeypatch):
    slept = []
    told = SimpleNamespace(**{**vars(time), "sleep": slept.append})
    monkeypatch.setattr("pipeline.publish.hub.time", told)
    fake.fault = lambda number, *_: Fault(429, retry_after=17) if number == 0 else None
    client(fake, pauses=(1.0,)).plan(REPO, local_release(folder))
    assert slept == [17.0]


@pytest.mark.parametrize("at", ["before the upload", "before the commit"])
def test_a_concurrent_commit_is_refused(fake, folder, at):
    fake.add(REPO, {})
    local, repo = local_release(folder), fake.repos["datasets", REPO]
    plan = client(fake).plan(REPO, local)

    def meddle(*_):
        repo.commit({**repo.commits[repo.head], "README.md": b"mine"})
        fake.fault = lambda *_: None

    if at == "before the upload":
        meddle()
    else:
        fake.fault = lambda number, method, path: meddle() if path.endswith("/commit/main") else None
    with pytest.raises(HubRefused, match=r"somebody else committed to me/sums.*look at that commit, then run again"):
        client(fake).upload(plan, local)
    assert held(fake) == {"README.md": b"mine"}
    assert repo.tags == {}


def test_the_gate_is_closed_before_anything_lies_behind_it(fake, folder):
    local = few_files(local_release(folder))
    plan = client(fake).plan(REPO, local, private=False, gate="manual")
    assert plan_lines(plan)[0] == f"{REPO}: PUBLIC, gated (manual), would be made"
    client(fake).upload(plan, local)
    calls = ("create", "settings", "preupload", "commit")
    made = [call for method, path, *_ in fake.seen if method != "GET" for call in calls if call in path]
    assert fake.repos["datasets", REPO].gated == "manual"
    assert made == list(calls)
    fake.forget()
    kept = client(fake).plan(REPO, local, private=False)
    assert (kept.gated, kept.settled) == ("manual", True), "a gate that is there stays"
    assert client(fake).plan(REPO, local, private=False, gate="manual").settled
    other = client(fake).plan(REPO, local, private=False, gate="auto")
    assert (other.settled, other.new, other.tagged) == (False, {}, True)
    assert "the gate there would become auto" in plan_lines(other)
    assert not any("would become" in line for line in plan_lines(kept))
    assert client(fake).upload(other, local).sent == 0
    assert fake.repos["datasets", REPO].gated == "auto"
    assert [one.path.rpartition("/")[2] for one in fake.seen if one.method in ("POST", "PUT")] == ["settings"]


def test_a_tag_is_never_moved(fake, folder):
    local = local_release(folder)
    first = publish(client(fake), local, tag="best")
    (folder.path / "README.md").write_text("changed")
    changed = replace(local, files={**local.files, "README.md": {"bytes": 7, "sha256": ""}})
    with pytest.raises(HubRefused, match="tag best of me/sums is another commit; choose another"):
        client(fake).plan(REPO, changed, tag="best")
    assert fake.repos["datasets", REPO].tags == {"best": first.commit}


def test_files_of_the_release_before_go_and_others_stay(fake, folder):
    local = local_release(folder)
    publish(client(fake), local)
    repo = fake.repos["datasets", REPO]
    repo.commit({**repo.commits[repo.head], "LICENSE": b"as is"})
    gone = "patches/train-00000-of-00001.parquet"
    fewer = replace(local, files={name: stated for name, stated in local.files.items() if name != gone})
    plan = client(fake).plan(REPO, fewer)
    assert (plan.gone, plan.new) == ((gone,), {})
    client(fake).upload(plan, fewer)
    assert "LICENSE" in held(fake)
    assert gone not in held(fake)


def test_a_repository_is_verified_with_files_of_others_in_it(fake, folder, monkeypatch, capsys):
    publish(client(fake), local_release(folder))
    repo = fake.repos["datasets", REPO]
    repo.commit({**repo.commits[repo.head], "LICENSE": b"as is", "mine/notes.txt": b"x"})
    monkeypatch.setattr("pipeline.publish.hub.Hub", lambda: client(fake))
    options = argparse.Namespace(release=REPO, revision=None, no_rebuild=True, json=True)
    assert run_verify(options) == 0
    repo.commit({**repo.commits[repo.head], "nodes/stray.txt": b"x"})
    capsys.readouterr()
    assert run_verify(options) == 1
    found = map(json.loads, capsys.readouterr().out.splitlines())
    assert [one["what"] for one in found if not one["passed"]] == ["nodes/stray.txt"]


@pytest.mark.parametrize(
    ("files", "private", "said"),
    [
        (
            {"weights.bin": b"1"},
            True,
            "holds weights.bin and no release of ours; publish into",
        ),
        ({}, False, "is public; say --public"),
    ],
)
def test_other_repositories_are_left_alone(fake, folder, files, private, said):
    fake.add(REPO, files, private=private)
    with pytest.raises(HubRefused, match=said):
        client(fake).plan(REPO, local_release(folder))


def test_a_stranger_among_the_files_is_named(fake, folder):
    publish(client(fake), local_release(folder))
    repo = fake.repos["datasets", REPO]
    repo.commit({**repo.commits[repo.head], "nodes/train-9.parquet": b"x"})
    with pytest.raises(HubRefused, match=r"has nodes/train-9.parquet, which no release brought"):
        client(fake).plan(REPO, local_release(folder))


def test_the_token_is_never_said(fake, folder, caplog, capsys):
    """Not even where the Hub repeats it, in any answer to any request."""
    secret = "hf_anotherTokenThatMayNot"
    caplog.set_level(logging.INFO)
    fake.add(REPO, {})
    repo = fake.repos["datasets", REPO]
    repo.private = False
    hub = Hub(fake.endpoint, secret, pauses=())
    local = local_release(folder)
    with pytest.raises(HubRefused, match="with a token that may write there") as refused:
        publish(hub, local, private=False)
    assert "***" in str(refused.value)
    fake.fault = lambda *_: Fault(400, text=f"Bearer {secret} is bad")
    with pytest.raises(HubRefused) as refused_again:
        hub.plan("me/other", local)
    heard = capsys.readouterr()
    for text in (repr(hub), str(refused.value), str(refused_again.value), heard.out, heard.err):
        assert secret not in text
    assert secret not in caplog.text


def test_a_card_that_disagrees_is_not_published(fake, work, tmp_path):
    mine = replace(work, settings=replace(work.settings, release=tmp_path))
    write_release(mine)
    card = release_folder(mine) / "README.md"
    spoilt = card.read_text().replace("nodes/train-*.parquet", "nodes/test-*.parquet")
    card.write_text(spoilt)
    manifest = json.loads((release_folder(mine) / MANIFEST).read_text())
    manifest["files"]["README.md"] = Folder(release_folder(mine)).listed()["README.md"]
    (release_folder(mine) / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BadTable, match=r"nodes: nodes/test-\*\.parquet of the card does not match"):
        write_publication(mine, PublishConfig(REPO), hub=client(fake))
    assert fake.seen == []


def test_no_repository_no_publication(fake, work):
    made = write_publication(work, PublishConfig(), hub=client(fake))
    assert made.done == ()
    assert made.report.notes == ("no repository is named: nothing was published",)
    assert fake.seen == []


def options(**given) -> argparse.Namespace:
    of = {name.removeprefix("--").replace("-", "_"): what.get("default") for name, what in commands.PUBLISH.items()}
    flags = {"public": False, "dry_run": False, "yes": False, "json": False, "store": None}
    return argparse.Namespace(**{**of, **flags, "repo": REPO, "suite": "three", **given})


@pytest.fixture
def at_hand(fake, work, monkeypatch):
    """The environment of a command."""
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, fake.endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", fake.endpoint)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for name in ("store", "policies", "release", "suites"):
        monkeypatch.setenv(f"BRANCHPOINT_{name.upper()}", str(getattr(work.settings, name)))


@pytest.mark.usefixtures("at_hand")
def test_the_command(fake, capsys):
    assert run_publish(options(dry_run=True)) == 0
    assert fake.repos == {}
    assert "files to send, at most" in capsys.readouterr().out
    with pytest.raises(BadConfig, match="nobody is there to say yes; give --yes"):
        run_publish(options())
    assert run_publish(options(yes=True, gate="auto")) == 0
    assert fake.repos["datasets", REPO].gated == "auto"
    assert f"{fake.endpoint}/datasets/{REPO}/tree/v5.1, private" in capsys.readouterr().out
    fake.forget()
    assert run_publish(options(json=True)) == 0
    assert json.loads(capsys.readouterr().out)["published"]["sent"] == 0
    verify = argparse.Namespace(release=REPO, revision="v5.1", no_rebuild=False, json=False)
    assert run_verify(verify) == 0
    shown = capsys.readouterr().out
    assert "FAILED" not in shown
    assert "rows as the nodes give them" in shown


def test_a_plan_in_print(fake, folder):
    lines = plan_lines(client(fake).plan(REPO, local_release(folder)))
    assert lines[0] == "me/sums: private, would be made"
    assert any(line.startswith("  + README.md") for line in lines)
    assert lines[-1] == "tag v5.1"
