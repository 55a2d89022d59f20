"""Tasks, their answers and verdicts, the oracle of sums, and the wording of what is asked."""

import json
import multiprocessing
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import BadConfig, BadInput
from pipeline.prompts import PACKS, ROLES, load_pack
from pipeline.tasks import verifiers
from pipeline.tasks.answers import find_answer, split_solution
from pipeline.tasks.arithmetic import Sum, first_error, read_sum, reference_steps, steps_right
from pipeline.tasks.mathematics import equal
from pipeline.tasks.sources import file, gym
from pipeline.tasks.verifiers import Question, Verdict, verify
from pipeline.variants.intervene import Proposal, read_proposal
from pipeline.variants.reflect import read_reflection


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("work\n#### 42", "42"),
        ("#### 1\nno:\n#### 2", "2"),
        ("####42 apples \nmore", "42 apples"),
        (r"so \boxed{42} it is", "42"),
        (r"\boxed{1} then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        ("Final Answer: 42", "42"),
        ("the final answer is 42.", "42"),
        ("final answer is: -1.5.\nDone", "-1.5"),
        pytest.param("#### 1\n\\boxed{2}\nFinal answer: 3", "1", id="hashes before box before words"),
        pytest.param("\\boxed{2}\nFinal answer: 3", "2", id="box before words"),
        pytest.param("\\boxed{2\nFinal answer: 3", "3", id="box that does not close"),
        pytest.param("#### " + "9" * 200, "9" * 200, id="as long as may be"),
        *[(text, None) for text in ("42", "", "####", "#### \n", r"\boxed{}", r"\boxed{42")],
        pytest.param("#### " + "9" * 201, None, id="longer than may be"),
    ],
)
def test_find_answer(text, answer):
    assert find_answer(text) == answer
    assert split_solution(f" {text}\n") == (text.strip(), answer)


class TestVerifiers:
    @pytest.mark.parametrize(
        ("answer", "text", "verdict"),
        [
            pytest.param("42", "#### 42", Verdict(1.0, "42", None), id="right"),
            pytest.param("42", "#### 43", Verdict(0.0, "43", None), id="wrong"),
            pytest.param("42", "it is 42", Verdict(0.0, None, None), id="no answer is wrong"),
            pytest.param("1/2", "#### 0.5", Verdict(1.0, "0.5", None), id="decimal of a fraction"),
            pytest.param("0.5", r"\boxed{\frac12}", Verdict(1.0, r"\frac12", None), id="fraction without braces"),
            pytest.param(r"\frac{1}{2}", "#### 0.49", Verdict(0.0, "0.49", None), id="close is wrong"),
            pytest.param("1,000", "#### $1000$", Verdict(1.0, "$1000$", None), id="thousands and dollars"),
            pytest.param("x+1", "#### 1+x", Verdict(1.0, "1+x", None), id="order of a sum"),
            pytest.param("(1,2)", "#### (2,1)", Verdict(0.0, "(2,1)", None), id="order of a pair"),
            pytest.param("42", "#### 41 or 42", Verdict(0.0, "41 or 42", None), id="two answers"),
            pytest.param("\\notion{", "#### \\notion{", Verdict(1.0, "\\notion{", None), id="equal text"),
        ],
    )
    def test_math(self, answer, text, verdict):
        assert verify("math", Question(answer, None), text) == verdict

    @pytest.mark.parametrize(
        ("text", "reward"),
        [
            ("#### the Grey  Quill guild.", 1.0),
            ("#### Grey Quill", 0.0),
            ("#### grey quill guild hall", 0.0),
            ("#### ...", 0.0),
        ],
    )
    def test_words(self, text, reward):
        assert verify("words", Question("Grey Quill Guild", None), text).reward == reward

    @pytest.mark.parametrize("text", ["#### 5", "#### 15", "#### 5 or 6"])
    def test_reasoning_gym_pays_the_whole_answer_alone(self, text):
        question = Question("5", json.dumps({"dataset": "chain_sum", "metadata": {}}))
        verdict = verify("reasoning_gym", question, text)
        assert verdict == Verdict(float(text == "#### 5"), text[5:], None)

    @pytest.mark.parametrize(
        ("info", "error"),
        [
            pytest.param(None, "KeyError: 'dataset'", id="nothing known"),
            pytest.param("{", "JSONDecodeError", id="no JSON"),
            pytest.param('{"dataset": "none"}', "ValueError", id="no such dataset"),
        ],
    )
    def test_a_verifier_that_fails_is_no_zero(self, info, error):
        reward, answer, found = verify("reasoning_gym", Question("5", info), "#### 5")
        assert (reward, answer) == (None, "5")
        assert found.startswith(error)
        assert len(found) <= 200

    @pytest.mark.parametrize(
        ("answer", "reward"),
        [
            pytest.param("9" * 10**5, 0.0, id="long number"),
            pytest.param("2**10**9", 0.0, id="tower of Python powers"),
            pytest.param("2^{10^{9}}", None, id="tower of powers"),
            pytest.param("(" * 60 + "1" + ")" * 60, None, id="brackets in brackets"),
            pytest.param("{" * 10**5 + "}" * 10**5, 0.0, id="braces in braces"),
        ],
    )
    def test_monsters_take_no_time(self, monkeypatch, answer, reward):
        verify("math", Question("42", None), "#### 43 - 0")
        monkeypatch.setattr(verifiers, "_SECONDS", 2)
        for text in (f"#### {answer}", f"\\boxed{{{answer}}}"):
            verdict = verify("math", Question("42", None), text)
            assert verdict.reward == reward
            assert (verdict.error is None) == (reward is not None)

    def test_the_time_limit_holds_in_any_thread(self, monkeypatch):
        monkeypatch.setattr(verifiers, "_SECONDS", 2)
        with ThreadPoolExecutor(1) as threads:
            late = threads.submit(verify, "math", Question("42", None), "#### 2^{10^{9}}").result(timeout=60)
            next_one = threads.submit(verify, "math", Question("1/2", None), "#### 0.5").result(timeout=60)
        assert late == Verdict(None, "2^{10^{9}}", "TimeoutError: math-verify takes over 2 s")
        assert next_one == Verdict(1.0, "0.5", None)

    def test_a_process_that_compared_ends_with_its_work(self):
        child = multiprocessing.get_context("spawn").Process(target=equal, args=("1/2", "0.5"), kwargs={"seconds": 9})
        child.start()
        child.join(60)
        assert child.exitcode == 0

    def test_a_killed_process_is_replaced(self):
        assert equal("1/2", "0.5", seconds=9)
        for beside in [child for child in multiprocessing.active_children() if "pebble" in child.name]:
            beside.kill()
            beside.join()
        time.sleep(0.5)
        assert equal("1/2", "0.5", seconds=9)

    def test_unknown_verifier(self):
        with pytest.raises(BadConfig, match=r"'maths' does not exist; choose one of reasoning_gym, math"):
            verify("maths", Question("1", None), "#### 1")


PROBLEM = Sum(terms=(12, 7, 5), operators=("+", "-"))


class TestArithmetic:
    def test_reference(self):
        assert reference_steps(PROBLEM) == ["12 + 7 = 19", "19 - 5 = 14", "#### 14"]
        assert first_error(PROBLEM, reference_steps(PROBLEM)) is None

    @pytest.mark.parametrize(
        ("question", "problem"),
        [
            ("State the final answer: 12 + 7 - 5 =", PROBLEM),
            ("-3 + -4 =", Sum((-3, -4), ("+",))),
            ("3 =", None),
            ("3 * 4 =", None),
            ("12 + 7", None),
            pytest.param("1 + " + "9" * 19 + " =", None, id="too many digits"),
        ],
    )
    def test_read(self, question, problem):
        assert read_sum(question) == problem
        assert problem is None or read_sum(f"{problem.expression} =") == problem

    @pytest.mark.parametrize(
        ("steps", "right"),
        [
            pytest.param("12 + 7 = 19|19 - 5 = 14|#### 14", "111", id="right"),
            pytest.param(" 12 + 7 = 19 |19 - 5 = 14\n|#### 14", "111", id="blanks around"),
            pytest.param("12 + 7 = 18|18 - 5 = 13|#### 13", "011", id="an error carried on faithfully"),
            pytest.param("12 + 7 = 18|19 - 5 = 14|#### 14", "001", id="an error not carried on"),
            pytest.param("12 + 7 = 19|18 - 5 = 13|#### 13", "101", id="left operand copied wrongly"),
            pytest.param("12 + 7 = 19|19 - 5 = 13|#### 14", "100", id="last line of another value"),
            pytest.param("12 + 7 = 19|19 + 5 = 24|#### 24", "101", id="wrong operator"),
            pytest.param("12 + 5 = 17|17 - 7 = 10|#### 10", "001", id="terms swapped"),
            pytest.param("12 + 7 = 19|19 - 5 = 14", "11", id="last line missing"),
            pytest.param("12 + 7 = 19|#### 19", "10", id="a step missing"),
            pytest.param("12 + 7 = 19|19 - 5 = 14|14 + 0 = 14|#### 14", "1100", id="a step too many"),
            pytest.param("12 + 7 = 19|19 - 5 = 14|#### 14|#### 14", "1110", id="a line after the answer"),
            pytest.param("12 + 7 = 19|so far so good|19 - 5 = 14", "100", id="all after junk is wrong"),
            pytest.param("12+7=19|19 - 5 = 14", "00", id="not spaced"),
            pytest.param(f"12 + 7 = {'9' * 10**5}|#### 14", "00", id="endless number"),
        ],
    )
    def test_steps(self, steps, right):
        verdicts = [verdict == "1" for verdict in right]
        assert steps_right(PROBLEM, steps.split("|")) == verdicts
        assert first_error(PROBLEM, steps.split("|")) == (right.index("0") if "0" in right else None)

    def test_nothing_said(self):
        assert steps_right(PROBLEM, []) == []
        assert first_error(PROBLEM, []) is None


def read(path, *rows: dict, **options) -> list:
    lines = "\n\n".join(json.dumps(row) for row in rows)
    (path / "tasks.jsonl").write_text(lines)
    return list(file.read(file.Options("tasks.jsonl", **options), base=path))


class TestFileSource:
    @pytest.mark.parametrize(
        ("row", "answer", "solution"),
        [
            pytest.param({"answer": " 42 "}, "42", None, id="answer"),
            pytest.param({"answer": 42}, "42", None, id="number"),
            pytest.param({"answer": "6 * 7 = 42\n#### 42"}, "42", "6 * 7 = 42\n#### 42", id="GSM8K"),
            pytest.param({"solution": r"so \boxed{42}"}, "42", r"so \boxed{42}", id="boxed solution"),
            pytest.param({"answer": "42", "solution": "6 * 7"}, "42", "6 * 7", id="both"),
            pytest.param({"answer": "42", "solution": " "}, "42", None, id="blank solution"),
        ],
    )
    @pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
    def test_rows(self, tmp_path, row, answer, solution, suffix):
        row = {"question": "6 * 7?"} | row
        if suffix == "jsonl":
            (task,) = read(tmp_path, row)
        else:
            pq.write_table(pa.Table.from_pylist([row]), tmp_path / "tasks.parquet")
            (task,) = file.read(file.Options("tasks.parquet"), base=tmp_path)
        assert (task.question, task.answer, task.reference_solution) == ("6 * 7?", answer, solution)

    def test_names_of_columns(self, tmp_path):
        columns = {"question": "problem", "answer": "final"}
        (task,) = read(tmp_path, {"problem": "q", "final": "1", "answer": "2"}, columns=columns)
        assert (task.question, task.answer) == ("q", "1")

    def test_limit(self, tmp_path):
        rows = [{"question": f"q{number}", "answer": "1"} for number in range(5)]
        assert [task.question for task in read(tmp_path, *rows, limit=2)] == ["q0", "q1"]
        assert len(read(tmp_path, *rows)) == 5

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"answer": "1"}, r"tasks\.jsonl, row 3: no 'question'"),
            ({"question": " ", "answer": "1"}, r"tasks\.jsonl, row 3: no 'question'"),
            ({"question": "q"}, r"tasks\.jsonl, row 3: no answer"),
            ({"question": "q", "answer": "#### "}, r"tasks\.jsonl, row 3: no answer"),
            ({"question": "q", "solution": "it is 42"}, r"tasks\.jsonl, row 3: no answer"),
            (
                {"question": "q", "answer": ["1"]},
                r"tasks\.jsonl, row 3: 'answer' is a list; give one text or one number",
            ),
            ({"question": "q", "answer": {"value": 1}}, r"tasks\.jsonl, row 3: 'answer' is a dict"),
            ({"question": "q", "answer": "1", "solution": ["1"]}, r"tasks\.jsonl, row 3: 'solution' is a list"),
            (["q", "1"], r"tasks\.jsonl:3 is no JSON object"),
        ],
    )
    def test_bad_rows_are_named_by_their_line(self, tmp_path, row, message):
        with pytest.raises(BadInput, match=message):
            read(tmp_path, {"question": "q", "answer": "1"}, row)

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("tasks.jsonl", b'{"question": "q"', r"tasks\.jsonl:1 is not JSON"),
            ("tasks.jsonl", b'{"question": "\xff"}', r"tasks\.jsonl:1 is not JSON"),
            ("tasks.jsonl", b'{"question": "\\ud800"}', r"tasks\.jsonl:1 is not JSON"),
            pytest.param("tasks.jsonl", b"[" * 10**5, r"tasks\.jsonl:1 is not JSON", id="nested too deeply"),
            ("tasks.parquet", b"none", r"tasks\.parquet is no Parquet file"),
        ],
    )
    def test_bad_files_are_named(self, tmp_path, name, content, message):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadInput, match=message):
            list(file.read(file.Options(name), base=tmp_path))
        with pytest.raises(BadInput, match="does not exist"):
            list(file.read(file.Options(f"other-{name}"), base=tmp_path))

    @pytest.mark.parametrize("name", ["tasks.csv", "a/tasks.JSON", "tasks.jsonl.gz", "other/folder/tasks", "here"])
    def test_other_files_are_no_datasets(self, tmp_path, monkeypatch, name):
        """Nothing is asked of the Hub."""
        monkeypatch.setitem(sys.modules, "datasets", None)
        (tmp_path / "here").mkdir()
        with pytest.raises(BadInput, match=rf"{name} is no \.jsonl or \.parquet file; save it as one, or name a da"):
            list(file.read(file.Options(name), base=tmp_path))

    def test_the_suffix_is_read_in_either_case(self, tmp_path):
        (tmp_path / "TASKS.JSONL").write_text('{"question": "q", "answer": "1"}')
        assert [task.answer for task in file.read(file.Options("TASKS.JSONL"), base=tmp_path)] == ["1"]

    def test_the_split_is_the_questions_own(self, tmp_path):
        rows = [{"question": f"What is {number}?", "answer": "1"} for number in range(200)]
        splits = {task.question: task.split for task in read(tmp_path, *rows)}
        assert 20 < list(splits.values()).count("held_out") < 60
        others = [{"question": f" what  IS {number}?", "answer": "2"} for number in reversed(range(200))]
        again = {task.question.strip(): task.split for task in read(tmp_path, *others)}
        assert list(again.values()) == list(splits.values())[::-1]
        wider = {task.question for task in read(tmp_path, *rows, held_out=0.5) if task.split == "held_out"}
        assert {question for question, split in splits.items() if split == "held_out"} < wider
        assert {task.split for task in read(tmp_path, *rows, held_out=0.0)} == {"train"}


class TestGymSource:
    options = gym.Options("chain_sum", {"train": 3}, {"train": 1})

    def test_same_seed_same_tasks(self):
        first, again = list(gym.read(self.options)), list(gym.read(self.options))
        other = list(gym.read(replace(self.options, seeds={"train": 100})))
        assert first == again
        assert first != other
        assert [task.split for task in first] == ["train"] * 3
        assert all(json.loads(task.info)["dataset"] == "chain_sum" for task in first)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"dataset": "chain_sums"}, "no dataset 'chain_sums'"),
            ({"seeds": {}}, "chain_sum: 'train'; correct sizes, seeds"),
            ({"parameters": {"min_term": 2}}, "min_term"),
            ({"parameters": {"min_terms": -1}}, "correct sizes, seeds or parameters"),
            ({"sizes": {"test": 1}}, "a split 'test'; the splits are train and held_out"),
        ],
    )
    def test_refusals(self, changes, message):
        with pytest.raises(BadConfig, match=message):
            list(gym.read(replace(self.options, **changes)))


HOLES = {"question": "What is $question?", "outcome": "failure", "report": '{"a": "$5"}', "reference": "#### $1"}


@pytest.mark.parametrize("name", PACKS)
class TestPromptPacks:
    @pytest.mark.parametrize("role", ROLES)
    def test_fills_every_role_in_one_pass(self, name, role):
        pack = load_pack(name)
        holes = HOLES | {"steps": pack.transcript(["a = $question", "b"])}
        messages = pack.messages(role, **holes)
        speakers = [message["role"] for message in messages]
        assert speakers in (["user"], ["system", "user"])
        text = "\n".join(message["content"] for message in messages)
        used = {"solve": (), "reflect": ("steps", "outcome"), "retry": ("report",), "intervene": ("steps", "reference")}
        used |= {"generate": (), "refine": ("report",)}
        for hole in ("question", *used.get(role, ("steps",))):
            assert holes[hole] in text
            text = text.replace(holes[hole], "")
        assert "$" not in text.replace(holes["steps"], "")

    def test_transcript_counts_from_zero(self, name):
        assert load_pack(name).transcript(["1 + 1 = 2", "$index"]) == "Step 0: 1 + 1 = 2\nStep 1: $index\n"
        assert load_pack(name).transcript([]) == ""

    def test_a_hole_left_open_is_an_error(self, name):
        with pytest.raises(KeyError):
            load_pack(name).messages("reflect", question="q")

    def test_answers_of_a_judge(self, name):
        assert (load_pack(name).right, load_pack(name).wrong) == ("correct", "incorrect")


def test_packs_differ():
    assert len({load_pack(name).digest for name in PACKS}) == len(PACKS)
    with pytest.raises(BadConfig, match="prompt pack 'huge' does not exist; choose one of tiny, instruct"):
        load_pack("huge")


def test_instruct_examples_are_of_the_form_it_asks_for():
    (reflect, *_), (intervene, *_) = (
        load_pack("instruct").messages(role, **HOLES, steps="") for role in ("reflect", "intervene")
    )
    reflection = read_reflection(reflect["content"], steps=4)
    assert (reflection.valid, reflection.pivot) == (True, 1)
    assert all(f'"{key}"' in reflect["content"].split("An example")[0] for key in json.loads(reflection.report))
    proposal = read_proposal(intervene["content"], steps=4, reference_answer="28")
    assert proposal == Proposal(1, "12 + 10 = 22", None)
