"""Strategies that grow trees from cut points, forks, budgets and prefixes, and the merging of prefixes."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.credit.spo_chain import SpoChainParams, cut_points
from pipeline.errors import BadConfig
from pipeline.generation.engine import Completion, Request, Sampling, failed
from pipeline.generation.sampler import Sampler
from pipeline.generation.scheduler import Scheduler
from pipeline.store.ledger import Ledger
from pipeline.trees.draft import Draft, Piece, Reading, Spot, new_draft
from pipeline.trees.grow import Tree, nodes_frame, scores_frame
from pipeline.trees.growth.brpo import Brpo
from pipeline.trees.growth.flat import Flat
from pipeline.trees.growth.forks import Forks
from pipeline.trees.growth.guided import Guided, Paths, likelihood
from pipeline.trees.growth.p2t import P2t
from pipeline.trees.growth.pppo import Pppo
from pipeline.trees.growth.spo_chain import SpoChain
from pipeline.trees.lay_out import lay_out
from pipeline.trees.merging import merge_prefixes, token_counts
from pipeline.trees.prefixes import Prefixes, common_tokens
from pipeline.trees.segment import cut_steps
from pipeline.trees.strategy import Informed, Strategy
from schemas import Nodes

LETTERS = "\0abcdefgh\n.#>!"
END = 0
PROMPT = np.array([3, 1, 2], np.int32)
CLOSERS = np.array([letter == "\n" for letter in LETTERS])


def decode(ids: Iterable[int]) -> str:
    return "".join(LETTERS[index] for index in ids).replace("\0", "")


def encode(text: str) -> np.ndarray:
    return np.array([LETTERS.index(letter) for letter in text], np.int32)


READING = Reading(decode, lambda ids: cut_steps(ids, "\n", closers=CLOSERS, decode=decode), encode)


def babble(request: Request) -> list[int]:
    """A few letters of two, so that answers often begin alike."""
    rng = np.random.default_rng(request.seed)
    return [*rng.choice([1, 1, 1, 2, 9], size=rng.integers(0, 30)).tolist(), END]


@dataclass
class Shuffled:
    """Answers what it has in hand in an order drawn from a seed."""

    answer: Callable[[Request], list[int]] = babble
    seed: int = 0
    fails: Callable[[Request], bool] = lambda request: False
    seen: list[Request] = field(default_factory=list)
    name = "shuffled"
    fingerprint = "shuffled"

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        rng, source, hand, ended = np.random.default_rng(self.seed), iter(requests), [], False
        while True:
            while not ended and len(hand) < 12:
                request = next(source, "end")
                ended = request == "end"
                if ended or request is None:
                    break
                self.seen.append(request)
                hand.append(request)
            if not hand:
                return
            yield self._completed(hand.pop(rng.integers(len(hand))))

    def _completed(self, request: Request) -> Completion:
        if self.fails(request):
            return failed(request, "no luck")
        ids, most = self.answer(request), request.sampling.max_tokens
        kept = np.array(ids[:most], np.int32)
        logprobs = -np.random.default_rng(request.seed).random(len(kept)).astype(np.float32)
        return Completion(request.key, kept, logprobs, "length" if len(ids) > most else "stop")


@pytest.fixture
def grow(tmp_path_factory):
    """Grows one tree of a strategy on an engine of its own; answers of an odd number of letters are right."""

    def grown(strategy: Strategy, engine: Shuffled, *, max_tokens: int = 24) -> tuple[Draft, int]:
        with Ledger(tmp_path_factory.mktemp("ledger") / "ledger.sqlite") as ledger:
            scheduler = Scheduler(
                Sampler(ledger, engine.name, engine.fingerprint, lambda: engine),
                strategy,
                reward_of=lambda draft, piece: len(draft.written(draft.end_of(piece))) % 2,
            )
            draft = new_draft("q", "q@r0", PROMPT, text="?", max_tokens=max_tokens, reading=READING)
            [done] = scheduler.grow(iter([draft]))
        return done

    return grown


def nodes_of(draft: Draft, strategy: Strategy) -> pl.DataFrame:
    """The tree laid out: valid rows, on whose paths stand just what was asked and answered."""
    tree = Tree(draft.task, draft.tree)
    last = lay_out(draft, tree, by_step=strategy.by_step)
    for number, node in last.items():
        entry = draft.pieces[number].entry
        if entry is not None:
            assert tree.tokens(node).tolist() == [*entry.prompt.tolist(), *entry.completion.token_ids.tolist()]
    assert {number for number, piece in enumerate(draft.pieces) if len(piece.token_ids)} == set(last)
    return Nodes.validate(nodes_frame([tree]))


STRATEGIES = {
    "spo_chain": SpoChain(group=4, continuations=3, cutpoint_interval=3),
    "entropy": Forks(group=4, top=3),
    "disagreement": Forks("disagreement", group=8, top=4, cache_block=2),
    "brpo": Brpo((4, 8, 16), traces=3, summaries=2, summary_tokens=5, end_marker="b\n", cut="..", header="#"),
    "pppo": Pppo(group=4, continuations=3, eta=0.3),
    "guided": Guided(beam=3, branching=2, segment=6),
}
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES.keys())


@every_strategy
def test_the_order_of_answers_does_not_matter(strategy, grow):
    frames = [nodes_of(grow(strategy, Shuffled(seed=seed))[0], strategy) for seed in range(4)]
    assert frames[0].height > 11
    for frame in frames[1:]:
        assert frame.equals(frames[0])


@every_strategy
@pytest.mark.parametrize("answer", [babble, lambda request: [1] * 15 + [END]], ids=["unlike", "all alike"])
def test_nothing_is_asked_twice(strategy, answer, grow):
    engine = Shuffled(answer)
    draft, _ = grow(strategy, engine)
    drawn = Counter(piece.entry.completion.key for piece in draft.pieces if piece.entry)
    assert drawn == Counter(request.key for request in engine.seen)
    assert max(drawn.values()) == 1


@every_strategy
@pytest.mark.parametrize("share", [2, 3, 1])
def test_failures_end_the_tree_all_the_same(strategy, share, grow):
    engine = Shuffled(fails=lambda request: request.seed % share == 0)
    draft, lost = grow(strategy, engine)
    assert lost == sum(request.seed % share == 0 for request in engine.seen) > 0
    assert nodes_of(draft, strategy).filter("sampled").is_empty() == (share == 1)


@every_strategy
def test_empty_answers(strategy, grow):
    draft, lost = grow(strategy, Shuffled(lambda request: babble(request) if request.seed % 2 else []))
    assert lost == 0
    assert any(not len(piece.token_ids) for piece in draft.pieces)
    nodes_of(draft, strategy)


@pytest.mark.parametrize("interval", [1, 3, 100])
def test_spo_chain_asks_once_a_prefix(interval, grow):
    strategy, engine = SpoChain(group=6, continuations=3, cutpoint_interval=interval), Shuffled()
    draft, _ = grow(strategy, engine)
    wanted = []
    for answer in draft.attempts():
        piece = draft.pieces[answer]
        params = SpoChainParams(cutpoint_interval=interval)
        for token in cut_points(piece.logprobs.astype(float), np.array([0, len(piece.token_ids)]), params).tokens:
            wanted.append(tuple(piece.token_ids[: token + 1].tolist()))
    prefixes = [tuple(request.prompt[len(PROMPT) :].tolist()) for request in engine.seen[6:]]
    assert Counter(prefixes) == dict.fromkeys(wanted, 3)
    assert len(set(wanted)) < len(wanted), "some are shared"
    assert {piece.origin for piece in draft.pieces[7:]} == {"continuation"}
    assert all(request.sampling.max_tokens + len(request.prompt) == 24 + 3 for request in engine.seen)


def drafted(*answers: str, rewards: Iterable[float | None] = (), logprobs: Iterable[float] = ()) -> Draft:
    """A tree of samples of the prompt."""
    draft = new_draft("q", "q@r0", PROMPT, text="?", max_tokens=24, reading=READING)
    for sample, text in enumerate(answers):
        ids = np.append(encode(text), END).astype(np.int32)
        given = np.array(list(logprobs) or [-0.5] * len(ids), np.float32)[: len(ids)]
        draft.pieces.append(Piece(draft.root, ids, given, "stop", "sample", "step", sample))
    for piece, reward in zip(draft.pieces[1:], rewards, strict=False):
        piece.reward = reward
    return draft


def asked(strategy: Strategy, draft: Draft) -> list[Spot]:
    """Where a strategy asks at first."""
    return [ask.at for ask in next(strategy.grow(draft), [])]


def test_entropy_forks_before_the_least_likely_tokens():
    draft = drafted("abcdef", logprobs=[-9, -0.1, -3, -0.2, -2, float("nan"), -2.5])
    assert asked(Forks(top=3, branches=1), draft) == [Spot(1, 2), Spot(1, 6), Spot(1, 4)]
    assert asked(Forks(top=1, branches=2), draft) == [Spot(1, 2)] * 2
    assert len(asked(Forks(top=99, branches=1), draft)) == 5, "not the first token, not the unknown one"


def test_forks_of_equal_prefixes_are_one():
    draft = drafted("abcd", "abce", logprobs=[-1, -2, -3, -1, -1])
    assert asked(Forks(top=1, branches=1), draft) == [Spot(1, 2)]


def test_forks_move_back_to_one_past_the_edge_of_a_block():
    draft = drafted("abcdefgh", logprobs=[-0.1, -0.1, -3, -0.1, -0.1, -0.1, -2, -1, -0.1])
    for spot in asked(Forks(top=2, branches=1, cache_block=4), draft):
        assert draft.length(spot) % 4 == 1
    assert asked(Forks(top=2, branches=1, cache_block=4), draft) == [Spot(1, 2), Spot(1, 6)]
    assert asked(Forks(top=1, branches=1, cache_block=16), draft) == [Spot(1, 2)], "the edge lies in the prompt"


def test_forks_move_back_to_the_end_of_a_step():
    draft = drafted("ab\ncd\nef", logprobs=[-1, -9, -1, -1, -8, -1, -1, -7, -1])
    assert asked(Forks(top=3, branches=1, at_steps=True), draft) == [Spot(1, 3), Spot(1, 6)]
    draft.pieces[1].nodes = {2: 1, 6: 2, 9: 3}
    assert asked(Forks(top=3, branches=1), draft) == [Spot(1, 2), Spot(1, 6)], "not within a node that there is"


@pytest.mark.parametrize(
    ("answers", "rewards", "spots"),
    [
        pytest.param(["abc", "abd"], [1, 0], [Spot(1, 2)], id="where they part"),
        pytest.param(["abc", "abd"], [1, 1], [], id="of one mind"),
        pytest.param(["abc", "abd"], [1, None], [], id="not judged"),
        pytest.param(["abc", "dbc"], [1, 0], [], id="from the first token"),
        pytest.param(["abc", "abc"], [1, 0], [], id="the same answer"),
        pytest.param(["abc", "abd", "abe", "ag"], [1, 0, 0, 0], [Spot(1, 2), Spot(1, 1)], id="most pairs first"),
        pytest.param(["ab", "abcd"], [1, 0], [Spot(1, 2)], id="where one ends and the other goes on"),
        pytest.param(["ab\nc", "ab\nd"], [1, 0], [Spot(1, 3)], id="after a step"),
    ],
)
def test_disagreement_forks(answers, rewards, spots):
    assert asked(Forks("disagreement", branches=1), drafted(*answers, rewards=rewards)) == spots


def test_a_fork_draws_what_was_not_drawn():
    draft = drafted("abcd", logprobs=[-1, -2, -1, -1, -1])
    draft.pieces.append(Piece(Spot(1, 1), encode("b"), np.zeros(1, np.float32), "stop", "branch", "step", 4))
    assert [ask.sample for ask in next(Forks(top=1).grow(draft))] == [5, 6]


def traces(*answers: str) -> Callable[[Request], list[int]]:
    """Answers the prompt in turn, and a forced header with `!`."""
    rest = iter(answers)
    return lambda request: [*encode("!" if len(request.prompt) > len(PROMPT) else next(rest)).tolist(), END]


@pytest.mark.parametrize(
    ("trace", "prefixes"),
    [
        pytest.param("abcdefgh", ["ab..>#", "abcd..>#", "abcdef..>#"], id="cut at each budget"),
        pytest.param("abc>a", ["ab..>#", "abc>#", "abc>#"], id="closed: the header alone, and anew for later budgets"),
        pytest.param("a>", ["a>#", "a>#", "a>#"], id="closed before the first"),
        pytest.param("ab>", ["ab..>#", "ab>#", "ab>#"], id="closed by the token after a budget"),
        pytest.param("abc", ["ab..>#"], id="ended without closing"),
    ],
)
def test_brpo_cuts_at_budgets(trace, prefixes, grow):
    strategy = Brpo((2, 4, 6), traces=1, summaries=2, summary_tokens=5, end_marker=">", cut="..", header="#")
    engine = Shuffled(traces(trace))
    draft, _ = grow(strategy, engine)
    assert Counter(decode(request.prompt[len(PROMPT) :]) for request in engine.seen[1:]) == Counter(prefixes * 2)
    assert {request.sampling.max_tokens for request in engine.seen[1:]} <= {5}
    frame = nodes_of(draft, strategy)
    forced = frame.filter(~pl.col("sampled") & (pl.col("node") > 0))
    assert set(forced["text"]) == {"..>#" if ".." in prefix else "#" for prefix in prefixes}
    assert frame["context"].unique().to_list() == [0]
    thought = frame.filter(pl.col("origin") == "sample")["token_count"].sum()
    assert thought == min(len(trace) + 1, 6), "later budgets add no thinking"


@pytest.mark.parametrize(
    ("trace", "budgets"),
    [
        pytest.param("abcdefgh", {2: 0, 4: 1, 6: 2}, id="cut at each budget"),
        pytest.param("abc>a", {2: 0, 4: 1}, id="closed: the first budget that is not reached"),
        pytest.param("a>", {2: 0}, id="closed before the first"),
        pytest.param("abc", {2: 0, 4: 1}, id="ended without closing: so is its last stretch"),
    ],
)
def test_brpo_says_of_which_budget_thinking_and_answers_are(trace, budgets, grow):
    strategy = Brpo((2, 4, 6), traces=1, summaries=2, summary_tokens=5, end_marker=">", cut="..", header="#")
    draft, _ = grow(strategy, Shuffled(traces(trace)))
    tree = Tree(draft.task, draft.tree)
    lay_out(draft, tree, by_step=False)
    said = {row["node"]: row["value"] for row in tree.scores}
    thought = {node: place for node, place in said.items() if tree[node]["origin"] == "sample"}
    assert {len(tree.tokens(node)) - len(PROMPT): place for node, place in thought.items()} == budgets
    drawn = Counter(place for node, place in said.items() if tree[node]["origin"] == "branch")
    assert drawn == dict.fromkeys(range(1 if trace == "abc" else 3), 2)
    assert scores_frame([tree], "budget").height == len(thought) + drawn.total()


def test_brpo_without_a_marker_answers_before_the_end_token(grow):
    strategy = Brpo((4, 8), traces=1, summaries=1, end_marker="", cut="..", header="#")
    engine = Shuffled(traces("abcdef"))
    grow(strategy, engine)
    assert sorted(decode(request.prompt[len(PROMPT) :]) for request in engine.seen[1:]) == ["abcd..#", "abcdef#"]


def test_pppo_continues_the_first_share(grow):
    strategy, engine = Pppo(group=6, continuations=3, eta=0.29), Shuffled(seed=3)
    draft, _ = grow(strategy, engine)
    frame = nodes_of(draft, strategy)
    hung = Counter(piece.at for piece in draft.pieces if piece.origin == "branch")
    lengths = {answer: int(0.29 * len(draft.pieces[answer].token_ids) + 1e-9) for answer in draft.attempts()}
    assert hung == {Spot(answer, share): 3 for answer, share in lengths.items() if share}
    prefixes = frame.filter((pl.col("depth") == 1) & pl.col("finish").is_null())
    assert prefixes["token_count"].sum() == sum(lengths.values())
    assert frame["depth"].max() == 2


def wordy(request: Request) -> list[int]:
    """Lines of a letter or two; ends in one draw of three."""
    rng = np.random.default_rng(request.seed)
    lines = ["abcdefgh"[rng.integers(8)] * rng.integers(1, 3) + "\n" for _ in range(9)]
    ends = request.seed % 3 == 0
    return [*encode("".join(lines[: 2 if ends else 9])).tolist(), *[END] * ends]


def alphabetical(trees: list[Paths]) -> list[list[float]]:
    return [[float(np.mean(draft.prefix(spot)[len(PROMPT) :])) for spot in spots] for draft, spots in trees]


def test_guided_keeps_the_best_paths_until_they_have_ended(grow):
    rules, engine = Guided(beam=2, branching=3, segment=7), Shuffled(wordy)
    draft, _ = grow(Informed(rules, alphabetical), engine)
    kept, rounds, known = [(0.0, (), False)], 0, {}
    for piece in draft.pieces[1:]:
        known.setdefault(tuple(draft.prefix(piece.at)[len(PROMPT) :].tolist()), []).append(piece)
    while open_ := [path for _, path, ended in kept if not ended]:
        rounds += 1
        paths = [one for one in kept if one[2]]
        for path in open_:
            drawn = sorted(known.pop(path), key=lambda piece: piece.sample)
            assert [piece.sample for piece in drawn] == list(range(6 if not path else 3))
            for piece in drawn:
                ids = piece.token_ids.tolist()
                ended = ids[-1] == END or len(path) + len(ids) == 24
                whole = [place + 1 for place, one in enumerate(ids[:-1]) if LETTERS[one] == "\n"]
                ids = ids if ended or not whole else ids[: whole[-1]]
                assert (piece.finish is None) == (not ended), "what may go on is no end"
                paths.append((float(np.mean([*path, *ids])), (*path, *ids), ended))
        distinct = {path: (score, path, ended) for score, path, ended in reversed(paths)}
        kept = sorted(distinct.values(), key=lambda one: -one[0])[:2]
    assert not known, "nothing else was gone on from"
    assert rounds > 2
    nodes_of(draft, rules)


def test_guided_without_a_model_keeps_what_is_likely():
    draft = drafted("abc", "de", logprobs=[-1, -3, -2, -1])
    (found,) = likelihood([Paths(draft, [Spot(1, 2), Spot(1, 4), Spot(2, 3)])])
    assert found == pytest.approx([-2, -7 / 4, -2])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: SpoChain(group=0), "spo_chain group is 0"),
        (lambda: SpoChain(rho=2.0), "rho"),
        (lambda: Forks("chance"), "'chance' does not exist"),
        (lambda: Forks(cache_block=0), "forks cache_block is 0"),
        (lambda: Brpo((4, 4)), "do not rise"),
        (lambda: Pppo(eta=1.5), "no share"),
    ],
)
def test_what_cannot_be_is_refused(make, said):
    with pytest.raises(BadConfig, match=said):
        make()


def paths(draft: Draft) -> set[tuple[int, ...]]:
    """Paths to the ends of pieces, and to wherever one stands within."""
    return {
        tuple(draft.prefix(Spot(number, end)).tolist())
        for number, piece in enumerate(draft.pieces)
        for end in range(1, len(piece.token_ids) + 1)
    }


@st.composite
def tangled(draw) -> Draft:
    """A tree of sampled pieces of two letters, hung anywhere."""
    draft = drafted()
    for sample in range(draw(st.integers(0, 8))):
        host = draw(st.integers(0, len(draft.pieces) - 1))
        end = len(PROMPT) if host == 0 else draw(st.integers(0, len(draft.pieces[host].token_ids)))
        ids = np.array(draw(st.lists(st.sampled_from([1, 2]), max_size=6)), np.int32)
        logprobs = -np.arange(len(ids), dtype=np.float32)
        draft.pieces.append(Piece(Spot(host, end), ids, logprobs, "stop", "sample", "step", sample))
    return draft


@settings(deadline=None)
@given(tangled())
def test_merged_tokens_stand_once(draft):
    merged = merge_prefixes(draft)
    assert paths(merged) == paths(draft)
    assert sum(len(piece.token_ids) for piece in merged.pieces) == len(paths(draft))
    assert all(piece.at.end or not piece.at.piece for piece in merged.pieces[1:])
    assert all(len(piece.token_ids) == len(piece.logprobs) > 0 for piece in merged.pieces[1:])
    assert token_counts(draft).unique == len(paths(draft))
    lay_out(merged, Tree("q", "q@r0"), by_step=False)


@settings(deadline=None)
@given(tangled())
def test_places_are_one_where_the_same_tokens_are_before(draft):
    prefixes, places = Prefixes(draft), {}
    for number in range(1, len(draft.pieces)):
        prefixes.add(number)
    for number, piece in enumerate(draft.pieces):
        for end in range(0 if number else len(PROMPT), len(piece.token_ids) + 1):
            before = tuple(draft.prefix(Spot(number, end)).tolist())
            assert places.setdefault(before, prefixes.place(Spot(number, end))) == prefixes.place(Spot(number, end))
    assert len(set(places.values())) == len(places)


def test_merged_group():
    draft = drafted("abcd", "abce", "abcd", "f")
    merged = merge_prefixes(draft)
    assert [(piece.at, decode(piece.token_ids), piece.sample) for piece in merged.pieces[1:]] == [
        (Spot(0, 3), "abcd", 0),
        (Spot(1, 3), "e", 1),
        (Spot(0, 3), "f", 3),
    ]
    assert len(draft.pieces) == 5
    assert token_counts(draft) == (3 * 4 + 5 + 5 + 5 + 2, 3 + 5 + 5 + 5 + 2, 3 + 5 + 2 + 2)


def test_p2t_is_the_flat_group_merged(grow):
    engine = Shuffled()
    flat, merged = grow(Flat(group=8), engine)[0], grow(P2t(group=8), engine)[0]
    assert paths(merged) == paths(flat)
    stored, unique = (sum(len(piece.token_ids) for piece in draft.pieces[1:]) for draft in (flat, merged))
    assert unique == len(paths(flat)) - len(PROMPT) < stored
    assert len({request.key for request in engine.seen}) == 8


def test_written_tokens_are_not_merged_with_sampled_ones():
    draft = drafted("abcd")
    for text in ("abc", "abd"):
        draft.write(draft.root, encode(text), origin="prompt", kind="step", sample=len(draft.pieces))
    assert [decode(piece.token_ids) for piece in merge_prefixes(draft).pieces[1:]] == ["abc", "d", "abcd"]


def test_nodes_of_earlier_stages_are_not_merged():
    draft = drafted("ab")
    draft.pieces[1].nodes = {3: 1}
    with pytest.raises(ValueError, match="earlier stages"):
        merge_prefixes(draft)


@pytest.mark.parametrize("common", [0, 1, 63, 64, 65, 200, 1000])
def test_common_tokens(common):
    one = np.zeros(1000, np.int32)
    other = np.append(one[:common], np.ones(1000 - common, np.int32))
    assert common_tokens(one, other) == common_tokens(other[: common + 5], one) == common


def test_sampling_is_that_of_the_strategy(grow):
    engine = Shuffled()
    grow(Pppo(group=2, continuations=1, temperature=0.7, top_p=0.9), engine)
    assert engine.seen[0].sampling == Sampling(0.7, 0.9, 24)
