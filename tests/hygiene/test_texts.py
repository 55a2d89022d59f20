"""What is found in texts: near-duplicates, benchmarks' n-grams, secrets and personal data."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

from pipeline.errors import BadInput
from pipeline.hygiene.benchmarks import overlaps, read_benchmark
from pipeline.hygiene.grams import grams, word_codes
from pipeline.hygiene.near import near_groups
from pipeline.hygiene.private import PERSONAL, SECRET, find_private, redacted, suspects
from pipeline.hygiene.splits import held_out_groups

STORY = "A train leaves the old station at noon and runs north along the river for three hours without a stop"
KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA\n-----END RSA PRIVATE KEY-----"
TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"


class TestGrams:
    def test_runs_of_words(self):
        codes = word_codes("One two one two")
        assert len(codes) == 4
        assert len(set(codes.tolist())) == 2
        assert len(grams(codes, 2)) == 2, "one two, two one"
        assert grams(codes, 9).tolist() == grams(codes, 4).tolist(), "a short text is one"
        assert len(grams(word_codes(""), 2)) == 0

    def test_signs_tell_sums_apart(self):
        assert grams(word_codes("4 + 5"), 3)[0] != grams(word_codes("4 - 5"), 3)[0]


class TestNear:
    def test_groups(self):
        texts = [STORY, "Quite another question about apples", STORY.replace("noon", "night"), STORY.upper(), "1 + 1"]
        near = near_groups(texts, threshold=0.6)
        assert near.group.tolist() == [0, 1, 0, 0, 4]
        assert np.isnan(near.similarity).tolist() == [False, True, False, False, True]
        assert near.similarity[3] == 1.0
        # 18 shingles each, of which the three with the word that was changed differ: 15 of 21.
        assert near.similarity[2] == pytest.approx(15 / 21)
        assert near_groups(texts, threshold=0.8).group.tolist() == [0, 1, 2, 0, 4]

    def test_common_wording_does_not_count(self):
        texts = [f"State the final answer to the following problem, please: {n} + {n + 1} =" for n in range(40)]
        near = near_groups([*texts, texts[7]])
        assert near.group.tolist() == [*range(40), 7]

    def test_links_join(self):
        texts = ["a b c d e f g h i j", "a b c d e f g h i k", "z b c d e f g h i k"]
        assert near_groups(texts, threshold=0.7).group.tolist() == [0, 0, 0]

    def test_nothing(self):
        assert near_groups([]).group.tolist() == []


class TestBenchmarks:
    @pytest.mark.parametrize("ending", [".jsonl", ".txt", ".parquet"])
    def test_shared_runs(self, tmp_path, ending):
        path, rows = tmp_path / f"gsm8k{ending}", [{"question": f"{STORY} .", "answer": "7"}, {"question": "1 + 1"}]
        if ending == ".parquet":
            pl.DataFrame(rows).write_parquet(path)
        else:
            lines = [json.dumps(row) if ending == ".jsonl" else row["question"] for row in rows]
            path.write_text("\n".join(lines))
        benchmark = read_benchmark(path)
        half = " ".join(STORY.split()[:16]) + " and quite other words then follow it up to the very end of the text now"
        found = overlaps([STORY, half, "1 + 1", "1 + 2", ""], [benchmark])
        assert [one.benchmark for one in found] == ["gsm8k", "gsm8k", "gsm8k", None, None]
        assert (found[0].share, found[3].share) == (1.0, 0.0)
        assert found[1].share == pytest.approx(4 / len(grams(word_codes(half), 13)))

    def test_refusals(self, tmp_path):
        for name, text, said in (
            ("a.csv", "x", "of no kind"),
            ("b.jsonl", '{"question": "x"}\n{"ques', r"b\.jsonl, line 2 is no JSON"),
            ("c.jsonl", '{"number": 1}', "has no text"),
        ):
            (tmp_path / name).write_text(text)
            with pytest.raises(BadInput, match=said):
                read_benchmark(tmp_path / name)
        with pytest.raises(BadInput, match="cannot be read"):
            read_benchmark(tmp_path / "d.jsonl")


class TestPrivate:
    @pytest.mark.parametrize(
        ("text", "kind", "without"),
        [
            pytest.param("the key AKIAIOSFODNN7EXAMPLX ok", SECRET, "the key [aws access key] ok", id="aws"),
            pytest.param(f"so ghp_{'a1B2' * 9}.", SECRET, "so [github token].", id="github"),
            pytest.param(f"jwt {TOKEN}", SECRET, "jwt [json web token]", id="jwt, its signature too"),
            pytest.param(f"see {KEY} end", SECRET, "see [private key] end", id="key over lines"),
            pytest.param(KEY[:40], SECRET, "[private key]", id="key that was cut off"),
            pytest.param("at https://me:hunter2@a.example/x", SECRET, None, id="password in a URL"),
            pytest.param("write to bob.s+x@mail.example.org!", PERSONAL, "write to [email]!", id="email"),
            pytest.param("call +1 415-555-2671 now", PERSONAL, "call [telephone] now", id="telephone"),
            pytest.param("card 4111 1111 1111 1111.", PERSONAL, "card [card number].", id="card"),
            pytest.param("from 8.8.8.8,", PERSONAL, "from [ip address],", id="address"),
            pytest.param("to 2001:4860:4860::8888", PERSONAL, "to [ip address]", id="address of version 6"),
        ],
    )
    def test_found(self, text, kind, without):
        found = find_private(text)
        assert {one.kind for one in found} == {kind}
        assert suspects(pl.Series([text])).all(), "it is looked at closely"
        cleaned = redacted(text, found)
        assert without is None or cleaned == without
        assert "hunter2" not in cleaned
        assert not find_private(cleaned)

    @pytest.mark.parametrize(
        "text",
        [
            "4 + 5 - 3 = 6",
            "12 + 4155552671 = 4155552683",
            "4111111111111111 + 2",
            "pi is 3.14159265358979323846",
            "4111 1111 1111 1112",
            "at 12:30:45 from 10.0.0.1 or 127.0.0.1",
            "call (415) 555-2671",
            "0x1234567890abcdef1234567890abcdef",
            "the password is not told",
        ],
    )
    def test_left_alone(self, text):
        assert find_private(text) == []

    def test_numbers_of_a_region(self):
        text = "call (415) 555-2671"
        assert redacted(text, find_private(text, region="US")) == "call [telephone]"

    def test_most_texts_need_no_closer_look(self):
        assert not suspects(pl.Series(["4 + 5 - 3 = 6", "#### 6", "So the answer is six.", None])).any()


def test_splits_keep_groups_together():
    groups = [f"g{number // 2}" for number in range(2000)]
    aside = held_out_groups(groups, share=0.1)
    assert (aside[::2] == aside[1::2]).all()
    assert 0.06 < aside.mean() < 0.14
    assert (held_out_groups(groups[::-1], share=0.1) == aside[::-1]).all()
    assert (held_out_groups(groups, share=0.1, seed=1) != aside).any()
    assert not held_out_groups(groups, share=0.0).any()
