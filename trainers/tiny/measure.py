"""Measures the embedded policy in its five roles on held-out sums, at temperature 1, through the product's own engine.

The oracle judges the answers; it never takes part in making them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.errors import BadModel
from pipeline.generation.engine import Engine, Sampling, make_request
from pipeline.generation.engines import open_engine, open_tokens
from pipeline.generation.policies import find_policy
from pipeline.prompts import Messages, load_pack
from pipeline.statistics import auc, difference_interval, pass_at_k, share_interval
from pipeline.tasks.arithmetic import Sum, first_error, read_sum, reference_steps, steps_right
from pipeline.tasks.suites import load_suite, suite_tasks
from pipeline.variants.intervene import read_proposal
from pipeline.variants.reflect import read_reflection

PROBLEMS = 500
GROUP = 8


def measure(policy: str, *, policies: Path = Path("policies"), say: Callable[[str], None] = print) -> dict[str, float]:
    """Every figure of the model card, by name.

    solve:       pass@1, pass@8 and the share of groups of 8 with both outcomes.
    intervene:   share of failed attempts whose first wrong step is found, and whose correction is right.
    judge_auc:   of P(correct) over all steps of one attempt a problem, right and wrong.
    retry_gain:  success of a retry after reflection less that of a plain resample, over the same failed attempts.
    """
    found = find_policy(policy, policies=policies)
    asker = _Asker(open_engine("vllm", found), open_tokens(found))
    pack = load_pack("tiny")
    suite = load_suite("chain_sum")
    tasks = suite_tasks(suite).filter(split="held_out")
    rows = tasks.sample(min(PROBLEMS, tasks.height), seed=0).sort("task")
    questions = rows["question"].to_list()
    problems = [read_sum(question) for question in questions]
    answers = asker.ask(
        [pack.messages("solve", question=question) for question in questions for _ in range(GROUP)], suite.max_tokens
    )
    steps = [[text.split("\n") for text, _ in answers[i * GROUP : (i + 1) * GROUP]] for i in range(len(problems))]
    right = np.array([[_right(problem, one) for one in group] for problem, group in zip(problems, steps, strict=True)])
    figures: dict[str, float] = {"problems": len(problems)}
    one = share_interval(list(right.mean(axis=1)))
    figures |= {"pass@1": one.mean, "pass@1_low": one.low, "pass@1_high": one.high}
    figures["pass@8"] = float(pass_at_k(np.full(len(right), GROUP), right.sum(axis=1), GROUP).mean())
    figures["mixed_groups"] = float(((right.mean(axis=1) > 0) & (right.mean(axis=1) < 1)).mean())
    for band in sorted(set(rows["band"])):
        figures[f"pass@1 {band}"] = float(right[(rows["band"] == band).to_numpy()].mean())
    say(json.dumps(figures))

    failed = [
        (i, next(s for s, ok in zip(steps[i], right[i], strict=True) if not ok))
        for i in range(len(problems))
        if not right[i].all()
    ]
    holes = [{"question": questions[i], "steps": pack.transcript(attempt)} for i, attempt in failed]
    figures["failed_attempts"] = len(failed)

    edits = asker.ask(
        [
            pack.messages("intervene", reference=pack.reference("\n".join(reference_steps(problems[i]))), **hole)
            for (i, _), hole in zip(failed, holes, strict=True)
        ],
        256,
    )
    found_first, corrected = [], []
    for (i, attempt), (text, _) in zip(failed, edits, strict=True):
        truth = first_error(problems[i], attempt)
        proposal = read_proposal(text, steps=len(attempt), reference_answer="")
        reference = reference_steps(problems[i])
        found_first.append(proposal.first_error == truth)
        corrected.append(proposal.first_error == truth and proposal.text == reference[min(truth, len(reference) - 1)])
    figures["first_error_found"] = float(np.mean(found_first))
    figures["correction_right"] = float(np.mean(corrected))

    reports = asker.ask([pack.messages("reflect", outcome="failure", **hole) for hole in holes], 256)
    reflections = [read_reflection(t, steps=len(a)) for (t, _), (_, a) in zip(reports, failed, strict=True)]
    figures["valid_reflections"] = float(np.mean([r.valid and not r.perfect for r in reflections]))
    figures["pivot_right"] = float(
        np.mean([r.pivot == first_error(problems[i], a) for r, (i, a) in zip(reflections, failed, strict=True)])
    )
    tried = [(i, r.report) for (i, _), r in zip(failed, reflections, strict=True) if r.valid and not r.perfect]
    retries = asker.ask(
        [pack.messages("retry", question=questions[i], report=report) for i, report in tried], suite.max_tokens
    )
    fresh = asker.ask([pack.messages("solve", question=questions[i]) for i, _ in tried], suite.max_tokens, first=1000)
    after = np.array([_right(problems[i], t.split("\n")) for (i, _), (t, _) in zip(tried, retries, strict=True)], float)
    plain = np.array([_right(problems[i], t.split("\n")) for (i, _), (t, _) in zip(tried, fresh, strict=True)], float)
    gain = difference_interval(list(after - plain))
    figures |= {"retry_success": float(after.mean()), "resample_success": float(plain.mean())}
    figures |= {"retry_gain": gain.mean, "retry_gain_low": gain.low, "retry_gain_high": gain.high}

    asked, truths = [], []
    for i, group in enumerate(steps):
        for last, verdict in enumerate(steps_right(problems[i], group[0])):
            asked.append(pack.messages("judge", question=questions[i], steps=pack.transcript(group[0][: last + 1])))
            truths.append(verdict)
    scores = []
    for text, logprobs in asker.ask(asked, 24):
        # The verdict is the last token before the end token.
        chance = float(np.exp(logprobs[-2])) if len(logprobs) > 1 else 0.5
        scores.append(chance if text.split()[-1:] == [pack.right] else 1 - chance)
    figures["judge_auc"] = auc(np.array(scores), np.array(truths))
    figures["judged_steps"] = len(truths)
    say(json.dumps(figures))
    return figures


def _right(problem: Sum, attempt: list[str]) -> bool:
    return first_error(problem, attempt) is None


class _Asker:
    """Messages in, texts and log-probabilities out, at temperature 1; equal prompts get samples of their own."""

    def __init__(self, engine: Engine, tokens):
        self._engine, self._tokens = engine, tokens

    def ask(self, prompts: list[Messages], max_tokens: int, *, first: int = 0) -> list[tuple[str, np.ndarray]]:
        sampling = replace(Sampling(), max_tokens=max_tokens)
        requests = [
            make_request(
                self._tokens.render(messages), sampling, sample=first + index, fingerprint=self._engine.fingerprint
            )
            for index, messages in enumerate(prompts)
        ]
        answers = {answer.key: answer for answer in self._engine.generate(requests)}
        if failed := next((answer.error for answer in answers.values() if answer.error), None):
            raise BadModel(f"the engine did not answer: {failed}", remedy="measure a policy that takes these prompts")
        return [
            (self._tokens.decode(answers[request.key].token_ids), answers[request.key].logprobs) for request in requests
        ]
