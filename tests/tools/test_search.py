"""Search: what it finds, in which order, and that no query is syntax."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import BadConfig, BadInput
from pipeline.tools import search
from pipeline.tools.corpus.passages import Passage, read_passages
from pipeline.tools.search import Index
from pipeline.tools.toolbox import ToolAnswer, Toolbox

PASSAGES = [
    Passage("a", "Ardale", "A town on the Belwin, famous for bells."),
    Passage("b", "Belwin", "A river; the Belwin passes Ardale."),
    Passage("c", "Corham", "A town of no river."),
    Passage("d", "Twin", "Twins are alike."),
    Passage("e", "Twin", "Twins are alike."),
]


@pytest.fixture(scope="module")
def index():
    with Index(PASSAGES) as made:
        yield made


class TestIndex:
    @pytest.mark.parametrize(
        ("query", "found"),
        [
            ("belwin", "ba"),
            ("Where is ARDALE?", "ab"),
            ("towns", "ca"),
            ("bell", "a"),
            ("twin", "de"),
            ("nothing-here", ""),
            ("", ""),
            ("\x00", ""),
        ],
    )
    def test_order(self, index, query, found):
        hits = index.search(query, 5)
        assert "".join(hit.passage.id for hit in hits) == found
        scores = [hit.score for hit in hits]
        assert scores == sorted(scores, reverse=True)
        assert all(score > 0 for score in scores)

    def test_k(self, index):
        assert [len(index.search("town river twin", k)) for k in (-1, 0, 1, 3, 99)] == [0, 0, 1, 3, 5]

    def test_gives_passages_as_they_were(self, index):
        assert index.search("corham", 1)[0].passage == PASSAGES[2]

    @pytest.mark.parametrize(
        "query",
        [
            '"ardale',
            "ardale OR",
            "NOT ardale",
            "NEAR(ardale",
            "title:ardale",
            "ardale*",
            "^ardale",
            "ardale'; --",
            "{ardale}",
        ],
    )
    def test_syntax_is_text(self, index, query):
        assert index.search(query, 5)[0].passage.id == "a"

    @given(st.text(max_size=80))
    def test_any_text_is_a_query(self, index, query):
        assert len(index.search(query, 2)) <= 2

    def test_a_long_query_takes_its_first_words(self, index):
        assert index.search("ardale " + " ".join(map(str, range(10**5))), 1)[0].passage.id == "a"

    def test_threads(self, index):
        with ThreadPoolExecutor(4) as threads:
            assert {hits[0].passage.id for hits in threads.map(index.search, ["belwin"] * 200, [1] * 200)} == {"b"}

    def test_a_file_is_made_once(self, tmp_path, index):
        with Index(PASSAGES, cache=tmp_path / "made") as first:
            (path,) = (tmp_path / "made").iterdir()
            assert path.stem == first.digest == index.digest
            written = path.stat().st_mtime_ns
        with Index(PASSAGES, cache=tmp_path / "made") as again:
            assert path.stat().st_mtime_ns == written
            assert again.search("belwin ardale", 5) == index.search("belwin ardale", 5)
        with Index(PASSAGES[1:], cache=tmp_path / "made") as other:
            assert other.digest != index.digest
            assert [hit.passage.id for hit in other.search("ardale", 5)] == ["b"]


class TestPassages:
    def test_read(self, tmp_path):
        path = tmp_path / "p.jsonl"
        path.write_text(
            "\n".join(json.dumps(passage._asdict()) for passage in PASSAGES) + '\n\n{"id": "f", "text": "t"}'
        )
        assert read_passages(path) == [*PASSAGES, Passage("f", "", "t")]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "has no passages"),
            ("{", "p.jsonl:1 is not JSON"),
            ('{"id": "a", "text": "\\ud800"}', "p.jsonl:1 is not JSON"),
            ("[]", "p.jsonl:1 is no passage"),
            ('{"id": "a"}', "p.jsonl:1 is no passage"),
            ('{"id": 1, "text": "t"}', "p.jsonl:1 is no passage"),
            ('{"id": "a", "text": "t"}\n{"id": "a", "text": "u"}', "p.jsonl:2: id 'a' is there twice"),
        ],
    )
    def test_refusals(self, tmp_path, text, message):
        (tmp_path / "p.jsonl").write_text(text)
        with pytest.raises(BadInput, match=message):
            read_passages(tmp_path / "p.jsonl")

    def test_no_file(self, tmp_path):
        with pytest.raises(BadInput, match="cannot be read"):
            read_passages(tmp_path / "none.jsonl")


class TestTool:
    def test_shows_passages(self, tmp_path):
        path = tmp_path / "p.jsonl"
        path.write_text("\n".join(json.dumps(passage._asdict()) for passage in PASSAGES))
        tools = Toolbox([search.opened(search.Options(k=1, corpus=str(path), cache=str(tmp_path / "indexes")))])
        shown = ToolAnswer("[c] Corham\nA town of no river.", documents=(("c", 0),))
        assert tools.call("search", '{"query": "corham"}') == shown
        assert tools.call("search", '{"query": "zzz"}') == ToolAnswer("nothing was found", documents=())

    def test_says_where_each_passage_begins(self, tmp_path):
        path = tmp_path / "p.jsonl"
        path.write_text("\n".join(json.dumps(passage._asdict()) for passage in PASSAGES))
        answer = Toolbox([search.opened(search.Options(k=3, corpus=str(path)))]).call("search", '{"query": "town"}')
        assert len(answer.documents) > 1
        assert all(answer.text[one.begins :].startswith(f"[{one.id}]") for one in answer.documents)

    @pytest.mark.parametrize(
        ("options", "message"),
        [({"k": 0}, "search k is 0"), ({"world": {"size": 1}}, "size"), ({"world": {"towns": 1}}, "world towns is 1")],
    )
    def test_options(self, options, message):
        with pytest.raises(BadConfig, match=message):
            search.Options(**options)
