"""Suites: what their files may say, and the tasks they give."""

import json
from dataclasses import replace

import pytest

from pipeline.errors import BadConfig
from pipeline.tasks.answers import find_answer
from pipeline.tasks.arithmetic import read_sum, steps_right
from pipeline.tasks.suites import SUITES, load_suite, more_tasks, suite_names, suite_tasks
from schemas import Tasks
from schemas.words import SPLITS

SUITE = 'name = "mine"\ndescription = ""\nprompts = "tiny"\nseparator = "\\n"\nmax_tokens = 9\n'
ALL_HELD_OUT = "held_out = 0.999999\n"
BAND = '[[bands]]\nname = "b"\nsource = "file"\npath = "tasks.jsonl"\n'


class TestSuites:
    def test_ones_own(self, tmp_path):
        other = BAND.replace('"b"', '"c"').replace("tasks", "others")
        (tmp_path / "mine.toml").write_text(SUITE + BAND + other + ALL_HELD_OUT)
        (tmp_path / "tasks.jsonl").write_text('{"question": "q", "answer": "1"}\n{"question": "r", "answer": "2"}')
        (tmp_path / "others.jsonl").write_text('{"question": "s", "answer": "1"}\n{"question": "t", "answer": "2"}')
        for suite in (load_suite("mine", folder=tmp_path), load_suite(str(tmp_path / "mine.toml"))):
            tasks = Tasks.validate(suite_tasks(replace(suite, bands=suite.bands[1:])))
            assert tasks["task"].to_list() == ["mine/c/held_out/000000", "mine/c/held_out/000001"]
        tasks = suite_tasks(suite)
        assert tasks["difficulty"].to_list() == [0.0, 0.0, 1.0, 1.0]
        assert tasks["reference_solution"].null_count() == tasks["info"].null_count() == 4

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            pytest.param(SUITE + 'color = "red"\n' + BAND, "unknown key 'color'", id="unknown key"),
            pytest.param(SUITE + BAND + "color = 1\n", "band 'b': unknown key 'color'", id="unknown key of a band"),
            pytest.param(SUITE + BAND.replace('"file"', '"web"'), "source 'web' does not exist", id="unknown source"),
            pytest.param(SUITE, r"has no \[\[bands\]\]", id="no bands"),
            pytest.param(SUITE + BAND.replace("[[bands]]", "[bands]"), r"has no \[\[bands\]\]", id="single brackets"),
            pytest.param("name = ", "is not TOML", id="not TOML"),
            pytest.param(BAND + 'x = "y\n', "is not TOML", id="not TOML at the end"),
            pytest.param(SUITE.replace("max_tokens = 9", "") + BAND, "max_tokens", id="missing key"),
            pytest.param(SUITE.replace("= 9", '= "9"') + BAND, "max_tokens is '9', not int", id="wrong kind"),
            pytest.param(SUITE + BAND.replace('name = "b"', ""), "name is None, not str", id="band without a name"),
            pytest.param(SUITE.replace('"\\n"', '""') + BAND, "suite mine: separator is empty", id="no separator"),
            pytest.param(
                SUITE.replace("= 9", "= 0") + BAND, "suite mine: max_tokens is 0; give at least 1", id="no tokens"
            ),
            pytest.param(
                SUITE.replace('"tiny"', '"huge"') + BAND,
                "suite mine: prompts 'huge' do not exist; choose one of tiny, instruct",
                id="unknown prompts",
            ),
            *(
                pytest.param(
                    SUITE + BAND + f"held_out = {share}",
                    f"suite mine, band 'b': held_out is {share}; give a share of the tasks from 0 to 1",
                    id=f"held out {share}",
                )
                for share in ("1.5", "20", "-0.1", "nan")
            ),
            pytest.param(SUITE + BAND + "limit = -1", "band 'b': limit is -1; give a number of rows", id="limit"),
            pytest.param(SUITE + BAND + BAND, "suite mine: two bands have the name 'b'", id="two bands of one name"),
            pytest.param(
                SUITE.replace('"mine"', '"yours"') + BAND,
                r"suite mine: name is 'yours' in the file mine\.toml; give file and suite the same name",
                id="name of another file",
            ),
        ],
    )
    def test_refusals(self, tmp_path, text, message):
        (tmp_path / "mine.toml").write_text(text)
        with pytest.raises(BadConfig, match=message):
            load_suite("mine", folder=tmp_path)

    @pytest.mark.parametrize("name", SUITES)
    def test_a_file_cannot_take_the_name_of_an_embedded_suite(self, tmp_path, name):
        path = tmp_path / f"{name}.toml"
        path.write_text(SUITE.replace("mine", name) + BAND)
        for asked in (str(path), name):
            with pytest.raises(BadConfig, match=f"'{name}' is the name of an embedded suite; give file and suite anot"):
                load_suite(asked, folder=tmp_path)

    def test_the_suites_there_are(self, tmp_path):
        (tmp_path / "mine.toml").write_text(SUITE + BAND)
        assert suite_names(tmp_path) == (*SUITES, "mine")
        with pytest.raises(BadConfig, match=f"choose one of {', '.join(SUITES)}, mine, or give the path"):
            load_suite("none", folder=tmp_path)

    def test_what_to_change_where_a_split_is_empty(self, tmp_path):
        gym_band = '[[bands]]\nname = "g"\nsource = "reasoning_gym"\ndataset = "chain_sum"\nsizes = {}\nseeds = {}\n'
        (tmp_path / "mine.toml").write_text(SUITE + BAND + BAND.replace('"b"', '"c"') + gym_band)
        assert [more_tasks(load_suite("mine", folder=tmp_path), split) for split in SPLITS] == [
            "in band b or c lower held_out or give it more rows, or in band g give sizes and seeds a train",
            "in band b or c raise held_out or give it more rows, or in band g give sizes and seeds a held_out",
        ]

    def test_what_is_held_out_is_not_in_train(self, tmp_path, caplog):
        """The second question of the first band is held out in the second: it goes, the third keeps its number."""
        bands = BAND + "held_out = 0\n" + BAND.replace('"b"', '"c"').replace("tasks", "others") + ALL_HELD_OUT
        (tmp_path / "mine.toml").write_text(SUITE + bands)
        rows = [json.dumps({"question": question, "answer": "1"}) for question in ("q", "r", "s", "t")]
        (tmp_path / "tasks.jsonl").write_text("\n".join(rows[:3]))
        (tmp_path / "others.jsonl").write_text("\n".join([rows[1], rows[3]]))
        tasks = suite_tasks(load_suite("mine", folder=tmp_path))
        assert dict(tasks.select("task", "question").iter_rows()) == {
            "mine/b/train/000000": "q",
            "mine/b/train/000002": "s",
            "mine/c/held_out/000000": "r",
            "mine/c/held_out/000001": "t",
        }
        assert caplog.messages == ["suite mine: 1 train tasks ask what a held-out task asks and are left out"]

    def test_overlapping_seeds_of_a_gym(self, tmp_path):
        """reasoning-gym counts up from its seed, so ten tasks from seed 1 hold those of seed 5."""
        gym_band = (
            '[[bands]]\nname = "b"\nsource = "reasoning_gym"\ndataset = "chain_sum"\n'
            "sizes = { train = 10, held_out = 3 }\nseeds = { train = 1, held_out = 5 }\n"
        )
        (tmp_path / "mine.toml").write_text(SUITE + gym_band)
        tasks = suite_tasks(load_suite("mine", folder=tmp_path))
        train = tasks.filter(split="train")["task"].to_list()
        assert train == [f"mine/b/train/{number:06d}" for number in range(10) if number not in (4, 5, 6)]
        assert tasks.filter(split="held_out").height == 3

    @pytest.mark.parametrize("name", ["none", "none.toml"])
    def test_none_of_that_name(self, tmp_path, name):
        with pytest.raises(BadConfig, match=r"suite '?none"):
            load_suite(name, folder=tmp_path)

    @pytest.mark.parametrize("name", ["chain_sum", "calculator"])
    def test_sums_are_solved_as_their_solutions_say(self, name, caplog):
        tasks = Tasks.validate(suite_tasks(load_suite(name)))
        assert caplog.messages == []
        problems = [read_sum(question) for question in tasks["question"]]
        for problem, solution, answer in zip(problems, tasks["reference_solution"], tasks["answer"], strict=True):
            assert steps_right(problem, solution.split("\n")) == [True] * (len(problem.terms))
            assert find_answer(solution) == answer
        by_split = dict.fromkeys(tasks["split"])
        for split in by_split:
            by_split[split] = {p.expression for p, s in zip(problems, tasks["split"], strict=True) if s == split}
        assert by_split.keys() == {"train", "held_out"}
        assert not by_split["train"] & by_split["held_out"]
