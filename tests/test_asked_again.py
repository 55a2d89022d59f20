"""What a run that loses its engine leaves: the same command asks again what failed, and nothing that was refused."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from environments.played_round import SUMS, Script, nodes_of, played, verdicts_of
from polars.testing import assert_frame_equal
from scripted_round import Pupil, read, run, scripted

from pipeline.errors import BadConfig, BadModel
from pipeline.generation.engine import Completion, Request, failed
from pipeline.generation.scripted import ScriptedEngine
from pipeline.stages.best_answers import write_best_answers
from pipeline.stages.episodes import EpisodeConfig, write_episodes
from pipeline.stages.judge import JudgeConfig, write_judgements
from pipeline.stages.plan import write_plan
from pipeline.stages.rollouts import RolloutConfig, write_rollouts
from pipeline.stages.tasks import write_tasks
from pipeline.stages.work import MISSED, Work
from schemas import TABLES
from trainers.offline.compare import OfflineConfig, compare_methods
from trainers.online.rounds import OnlineConfig, train_online


class Troubled(Pupil):
    """Whose engine now and then loses a request, and refuses others.

    lost, refused: whether it does so with a request.
    """

    def __init__(self, lost: Callable[[Request], bool], refused: Callable[[Request], bool] = lambda request: False):
        super().__init__()
        self.lost, self.refused = lost, refused


class Grader(Troubled):
    """Finds every step right that it is asked about."""

    def __call__(self, request: Request) -> list[int]:
        if "Is the last step correct?" in self.tokens._tokenizer.decode(request.prompt.tolist()):
            return [*self.tokens.encode("correct").tolist(), 1]
        return super().__call__(request)


class TroubledEngine(ScriptedEngine):
    def generate(self, requests: Iterable[Request | None]) -> Generator[Completion, None, None]:
        for request in requests:
            if request is None:
                continue
            if self._answer.lost(request):
                yield failed(request, "no server for 600 s", may_pass=True)
            elif self._answer.refused(request):
                yield failed(request, "the server refused it")
            else:
                yield from super().generate([request])


def one_in_three(request: Request) -> bool:
    return request.seed % 3 == 0


def never(request: Request) -> bool:
    return False


def rows(work: Work) -> dict[str, pl.DataFrame]:
    """Every table but for the tries of each request."""
    return {name: read(work, name).drop("attempts", strict=False) for name in TABLES}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, pl.DataFrame]:
    with scripted(tmp_path_factory.mktemp("calm"), Pupil()) as work:
        run(work)
        return rows(work)


@pytest.mark.parametrize("lost", [pytest.param(one_in_three, id="some"), pytest.param(lambda request: True, id="all")])
def test_a_round_that_lost_requests_becomes_that_of_an_undisturbed_run(tmp_path: Path, undisturbed, lost):
    pupil = Troubled(lost)
    with scripted(tmp_path, pupil, kind=TroubledEngine) as work:
        write_tasks(work)
        first = write_rollouts(work, RolloutConfig(group=4))
        missing = read(work, "requests")["error"].count()
        assert first.numbers[MISSED] == missing > 0
        assert any(f"run again to ask {missing} failed requests again" in note for note in first.notes)
        if lost is one_in_three:
            run(work)
        pupil.lost = never
        reports = run(work)
        assert not any(MISSED in report.numbers for report in _reports(reports))
        assert not read(work, "requests")["error"].count()
        for name, wanted in undisturbed.items():
            assert_frame_equal(rows(work)[name], wanted)
        asked = len(pupil.prompts)
        assert not any(report.fresh for report in _reports(run(work)))
        assert len(pupil.prompts) == asked


def test_what_was_refused_is_current(tmp_path: Path):
    pupil = Troubled(never, one_in_three)
    with scripted(tmp_path, pupil, kind=TroubledEngine) as work:
        reports = run(work)
        assert read(work, "requests")["error"].count()
        assert not any(MISSED in report.numbers for report in _reports(reports))
        asked = len(pupil.prompts)
        assert not any(report.fresh for report in _reports(run(work)))
        assert len(pupil.prompts) == asked


def test_a_judge_that_lost_requests_says_in_the_end_what_an_undisturbed_one_says(tmp_path: Path):
    said = {}
    for name, lost in (("calm", never), ("lost", one_in_three)):
        (tmp_path / name).mkdir()
        pupil = Grader(never)
        with scripted(tmp_path / name, pupil, kind=TroubledEngine) as work:
            write_tasks(work)
            write_rollouts(work, RolloutConfig(group=4))
            pupil.lost = lost
            (report,) = write_judgements(work, JudgeConfig(per_task=0))
            assert (MISSED in report.numbers) == (name == "lost")
            pupil.lost = never
            (report,) = write_judgements(work, JudgeConfig(per_task=0))
            assert report.fresh == (name == "lost")
            said[name] = read(work, "step_labels")
            assert write_judgements(work, JudgeConfig(per_task=0))[0].fresh == 0
    assert_frame_equal(said["lost"], said["calm"])


def test_episodes_that_lost_turns_are_played_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calculator, found = 'name = "tools"\ntools = ["calculator"]\nschemas = false\ninstructions = "Use it."', {}
    monkeypatch.setattr(Script, "refused", staticmethod(never), raising=False)
    for name, lost in (("calm", never), ("lost", one_in_three)):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(Script, "lost", staticmethod(lost), raising=False)
        with played(tmp_path / name, calculator, SUMS, calls_once, kind=TroubledEngine) as work:
            write_tasks(work)
            assert (MISSED in write_episodes(work, EpisodeConfig(group=4)).numbers) == (name == "lost")
            monkeypatch.setattr(Script, "lost", staticmethod(never))
            assert write_episodes(work, EpisodeConfig(group=4)).fresh == (name == "lost")
            found[name] = nodes_of(work), verdicts_of(work)
    for again, calm in zip(found["lost"], found["calm"], strict=True):
        assert_frame_equal(again, calm)


def test_a_pilot_that_lost_requests_makes_no_plan(tmp_path: Path):
    pupil = Troubled(one_in_three)
    with scripted(tmp_path, pupil, kind=TroubledEngine) as work:
        write_tasks(work)
        with pytest.raises(BadModel, match=r"\d requests of rollouts, round r0 of three, failed.*run again"):
            write_plan(work)
        assert not work.places("evals")
        pupil.lost = never
        assert write_plan(work).fresh == 1


def first_time() -> Callable[[Request], bool]:
    """Loses every request when it first comes."""
    seen: set[str] = set()
    return lambda request: request.key not in seen and not seen.add(request.key)


def test_a_round_of_online_training_waits_for_all_its_answers(tmp_path: Path):
    config = OnlineConfig("grpo", rounds=1, changes='{"group": 4, "eval_samples": 0}')
    made = {}
    for name, lost in (("once", first_time()), ("long", one_in_three)):
        (tmp_path / name).mkdir()
        pupil = Troubled(lost)
        with scripted(tmp_path / name, pupil, kind=TroubledEngine) as work:
            if name == "long":
                with pytest.raises(BadModel, match="run again, which asks those alone"):
                    train_online(work, config)
                assert not (work.settings.policies / "three-r0-online").exists()
                pupil.lost = never
            made[name] = train_online(work, config).digest
    assert len(set(made.values())) == 1


def test_a_round_of_online_training_goes_on_without_what_never_comes_where_it_is_told_to(tmp_path: Path):
    config = OnlineConfig("grpo", rounds=1, changes='{"group": 4, "eval_samples": 0}')
    lost: set[str] = set()

    def one(request: Request) -> bool:
        if not lost:
            lost.add(request.key)
        return request.key in lost

    pupil = Troubled(one)
    with scripted(tmp_path, pupil, kind=TroubledEngine) as work:
        for few in (0.0, 0.0, 0.05):
            with pytest.raises(BadModel, match=r"1 of 12 requests of rollouts, round r0 of three.*--unanswered"):
                train_online(work, replace(config, unanswered=few))
        with pytest.raises(BadConfig, match=r"unanswered is 1.*below 1"):
            train_online(work, replace(config, unanswered=1))
        made = train_online(work, replace(config, unanswered=0.1))
        assert made.fresh == 1
        assert read(work, "requests").filter(request=lost.pop())["error"].count() == 1
        asked, pupil.lost = len(pupil.prompts), never
        again = train_online(work, config)
        assert (again.fresh, again.digest, len(pupil.prompts)) == (0, made.digest, asked)


def test_a_comparison_that_lost_answers_asks_them_again(tmp_path: Path):
    pupil = Troubled(one_in_three)
    config = OfflineConfig(("start", "sft"), seeds=1, tokens=200, steps=2, samples=4, out=str(tmp_path / "out"))
    with scripted(tmp_path, Pupil()) as work:
        run(work)
        write_best_answers(work)
    with scripted(tmp_path, pupil, kind=TroubledEngine) as work:
        assert compare_methods(work, config).numbers[MISSED] > 0
        pupil.lost = never
        report = compare_methods(work, config)
        assert report.fresh == 2
        assert MISSED not in report.numbers
        assert compare_methods(work, config).fresh == 0


def calls_once(text: str, sample: int) -> str:
    call = '{"name": "calculator", "arguments": {"expression": "1 + 1"}}'
    return "#### 2" if "tool_response" in text else f"<tool_call>{call}</tool_call>{sample}"


def _reports(found: dict[str, object]) -> list:
    return [report for report in found.values() if report.stage != "tasks"]
