"""The models that a round makes: the policy, and the language model that learns beside it. Found, or trained now.

What trains them is heavy and is imported on use.
"""

from __future__ import annotations

import polars as pl

from pipeline.errors import BadTable
from pipeline.generation.policies import find_policy
from pipeline.report import Progress
from pipeline.stages.work import Work, inputs
from pipeline.store.layout import Place
from trainers.online.implicit import loss_recipe, taught_rows
from trainers.online.learners import implicit_model, made_model, make_room
from trainers.online.replay import chosen_rows
from trainers.online.run import VERSION, Run
from trainers.online.watch import STAGE
from trainers.stages import stored_numbers


def update_round(run: Run, number: int, source: str) -> tuple[dict[str, float], int]:
    """The policy of a round: found, or trained on its rows and those kept of earlier rounds.

    Args:
        source: stage whose rows are trained on.

    Returns:
        Figures of the update, and 1 where it was made now, else 0.

    Raises:
        BadTable: no attempt has a trained token.
    """
    work, recipe = run.at(number), run.recipe
    parent = find_policy(run.made(number - 1), policies=work.settings.policies)
    store, out = work.store, work.settings.policies / run.made(number)
    window = range(max(0, number - recipe.replay_age), number + 1)
    places = {one: _places(run.at(one), source) for one in range(number + 1)}
    reference = run.work.policy if recipe.kl_weight else None
    made_from = inputs(
        VERSION,
        config=recipe,
        parent=parent.fingerprint,
        reference=reference.fingerprint if reference else "",
        seed=str([run.seed, number]),
        rows=" ".join(store.digest("rl_samples", place) for one in window for place in places[one]),
    )
    if (known := stored_numbers(out, made_from)) is not None:
        return known, 0
    names = [store.read("rl_samples", places[one], columns=("task", "row")) for one in range(number + 1)]
    options = {"age": recipe.replay_age, "uses": recipe.replay_uses, "per_task": recipe.rows_per_task}
    taken = chosen_rows(names, seed=run.seed, **options)
    rows = pl.concat(
        store.read("rl_samples", places[one]).join(taken.filter(pl.col("round") == one), on="row", how="semi")
        for one in window
    )
    if rows.is_empty():
        raise BadTable(f"round {work.round} has no attempt to train on", remedy="sample more, or credit otherwise")
    from trainers.online.update import update_policy

    make_room()
    states = [run.folder / f"optimiser-{one}.safetensors" for one in range(number + 1)]
    found = update_policy(
        rows,
        policy=parent.path,
        out=out,
        recipe=recipe,
        seed=(run.seed, number),
        reference=reference.path if reference else None,
        state=states[-2] if number else None,
        new_state=states[-1],
        inputs=made_from,
        on_progress=lambda p: work.on_progress(Progress(STAGE, "steps", p.step, p.steps, 0, 0, p.seconds)),
    )
    for old in states[:-2]:
        old.unlink(missing_ok=True)
    return found, 1


def update_implicit(run: Run, number: int, source: str) -> dict[str, float]:
    """Let the language model that told a round's rewards learn from its outcomes; the next round asks what it became.

    Returns:
        What the model said of the round before it learnt, see `taught_rows`.
    """
    work, recipe, first = run.at(number), run.recipe, run.work.policy_name
    name, out = implicit_model(work, run.names[: number + 1], first=first), made_model(work)
    parent, places = find_policy(name, policies=work.settings.policies), _places(work, source)
    rows = work.store.read("rl_samples", places)
    rows, numbers = taught_rows(work, rows, method=recipe.method, params=recipe.params_at(number))
    digests = " ".join(work.store.digest("rl_samples", place) for place in places)
    made_from = inputs(VERSION, config=recipe, parent=parent.fingerprint, seed=str([run.seed, number]), rows=digests)
    if stored_numbers(out, made_from) is not None:
        return numbers
    from trainers.online.update import update_policy

    make_room()
    states = [run.folder / f"implicit-{one}.safetensors" for one in range(number + 1)]
    update_policy(
        rows,
        policy=parent.path,
        out=out,
        recipe=loss_recipe(recipe),
        seed=(run.seed, number),
        state=states[-2] if number else None,
        new_state=states[-1],
        inputs=made_from,
    )
    for old in states[:-2]:
        old.unlink(missing_ok=True)
    return numbers


def _places(work: Work, source: str) -> list[Place]:
    """The shards of a round's rows, those of its chosen tasks."""
    chosen = work.shards()
    return [place for place in work.places("rl_samples", stage=source) if place.shard in chosen]
