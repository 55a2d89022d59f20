"""The viewer's page: whole, and harmless whatever a model wrote."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from scripted_round import Pupil, run, scripted

from pipeline.cli import main
from pipeline.lineage.at_hand import AtHand
from pipeline.settings import Settings
from pipeline.store.query import open_database
from pipeline.view.gather import gather_tree, telling_trees
from pipeline.view.write import page

HOSTILE = "</script><script>alert(1)</script><!--<script> & \u2028 \x00 ]]> <img src=x onerror=alert(1)>"


class Seen(HTMLParser):
    """Tags of a page, and the text of its data block."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.data = ""
        self._inside = False

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self._inside = dict(attributes).get("id") == "data"

    def handle_endtag(self, tag):
        self._inside = False

    def handle_data(self, data):
        self.data += data if self._inside else ""


def seen(text: str) -> Seen:
    parser = Seen()
    parser.feed(text)
    return parser


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory):
    with scripted(tmp_path_factory.mktemp("round"), Pupil()) as made:
        run(made)
        yield made


def test_a_tree_is_gathered_whole(work):
    with open_database(work.store) as connection:
        (name, *_) = telling_trees(connection, suite="three", round="r0", most=2)
        tree = gather_tree(connection, name, at_hand=AtHand(Settings.from_environment()))
    nodes = work.store.read("nodes", work.places("nodes")).filter(tree=name).sort("node")
    assert [node["text"] for node in tree["nodes"]] == nodes["text"].to_list()
    credit = work.store.read("credit", work.places("credit", stage="grpo")).filter(tree=name)
    expected = dict(credit.select("node", "advantage").iter_rows())
    said = {node["node"]: value for node, value in zip(tree["nodes"], tree["credit"]["grpo"]["advantage"], strict=True)}
    assert {node: value for node, value in said.items() if value is not None} == {
        node: value for node, value in expected.items() if value is not None
    }
    sampled = [node for node in tree["nodes"] if node["sampled"]]
    assert all(len(node["pieces"]) == node["tokens"] == len(node["logprobs"]) for node in sampled)
    assert {variant["kind"] for variant in tree["variants"]} <= {"retry", "intervention"}
    assert tree["task"]["question"]


def test_text_of_a_model_is_data_and_nothing_else(work):
    with open_database(work.store) as connection:
        (name, *_) = telling_trees(connection, most=1)
        tree = gather_tree(connection, name, at_hand=AtHand(Settings.from_environment()))
    plain = seen(page([tree]))
    tree["nodes"][1] |= {"text": HOSTILE, "pieces": [HOSTILE], "origin": HOSTILE}
    found = seen(page([tree]))
    assert found.tags == plain.tags
    assert json.loads(found.data)[0]["nodes"][1]["text"] == HOSTILE


def test_the_command_writes_the_page_and_names_what_is_wrong(work, tmp_path: Path, capsys):
    out, store = tmp_path / "deep" / "trees.html", ["--store", str(work.store.root)]
    assert main(["view", *store, "--most", "2", "--out", str(out)]) == 0
    assert len(json.loads(seen(out.read_text()).data)) == 2
    assert [path.name for path in out.parent.iterdir()] == ["trees.html"]
    assert main(["view", *store, "three/sums/train/00000@r0", "--out", str(out)]) == 2
    assert main(["view", *store, "--suite", "tree", "--round", "r7", "--out", str(out)]) == 2
    assert main(["view", *store, "--most", "1", "--out", "/proc/nothing/trees.html"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert "did you mean" in errors[0]
    assert "no judged trees of suite 'tree' of round 'r7'; there are those of three (round r0)" in errors[1]
    assert "cannot be written" in errors[2]
