"""What a card says, as values. Knows neither how it is found out nor how it is worded."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.hygiene.report import HygieneFacts


@dataclass(frozen=True, slots=True)
class SplitFacts:
    """A split of a config; bytes are those of its rows in Arrow."""

    name: str
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class ConfigFacts:
    """A config, which is one table; file_bytes are those of its Parquet files."""

    name: str
    digest: str
    splits: tuple[SplitFacts, ...]
    file_bytes: int

    @property
    def rows(self) -> int:
        return sum(split.rows for split in self.splits)

    @property
    def bytes(self) -> int:
        return sum(split.bytes for split in self.splits)


@dataclass(frozen=True, slots=True)
class StageFacts:
    """What a stage left in the store: rows by table, and what these tables were made from."""

    name: str
    rows: dict[str, int]
    inputs: dict[str, str]


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """Requests of one stage to one policy under one sampling."""

    stage: str
    engine: str
    policy: str
    sampling: str
    requests: int
    failed: int
    prompt_tokens: int
    decoded_tokens: int


@dataclass(frozen=True, slots=True)
class CostFacts:
    """What a stage had the engine do; answers that another stage or round paid for are counted in `reused` alone.

    computed_tokens: prompt tokens that no cache had. None, as of seconds: the engine does not tell.
    seconds:         of all requests, which overlap.
    """

    stage: str
    paid: int
    reused: int
    prompt_tokens: int
    computed_tokens: int | None
    decoded_tokens: int
    seconds: float | None


@dataclass(frozen=True, slots=True)
class VerifierFacts:
    """A verifier and its verdicts; failed: those without a reward."""

    name: str
    version: str
    verdicts: int
    failed: int


@dataclass(frozen=True, slots=True)
class MethodFacts:
    """A credit method or labeller: what it does and where it is from, in the words of its docstring."""

    name: str
    config: str
    summary: str
    source: str


@dataclass(frozen=True, slots=True)
class OriginFacts:
    """Leaves that came about in one way. pass_rate: mean reward of the judged ones; None without any."""

    origin: str
    leaves: int
    judged: int
    truncated: int
    pass_rate: float | None


@dataclass(frozen=True, slots=True)
class RepeatFacts:
    """What stands in a round more than once.

    pairs, distinct_pairs: rows of pairs, and how many are distinct in their tokens.
    leaves, answers:       leaves that were sampled where they stand, and the engine's answers they are of.
    copies, copied_tokens: nodes that repeat the tokens of another one, and these tokens.
    """

    pairs: int = 0
    distinct_pairs: int = 0
    leaves: int = 0
    answers: int = 0
    copies: int = 0
    copied_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ExampleStep:
    """A node on the way to the example's leaf; notes: what credit and labels say of it."""

    node: int
    origin: str
    text: str
    token_ids: tuple[int, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Example:
    """One answer as it lies in the data. reward and parsed_answer: None where the verdict has none."""

    task: str
    tree: str
    question: str
    answer: str
    steps: tuple[ExampleStep, ...]
    reward: float | None
    parsed_answer: str | None


@dataclass(frozen=True, slots=True)
class LeftFacts:
    """Rows of a table: left out, and of those released, with texts redacted and without their tokens."""

    table: str
    withheld: int
    redacted: int
    tokens_withheld: int


@dataclass(frozen=True, slots=True)
class AccountFacts:
    """What only the store knows of a round: what was asked, what it cost, what each stage was made from.

    hygiene: what was found; None: it was not run.
    policy:  what was done about it; empty: nothing.
    left:    tables of which not every row is released as it was.
    """

    requests: tuple[RequestFacts, ...] = ()
    costs: tuple[CostFacts, ...] = ()
    stages: tuple[StageFacts, ...] = ()
    hygiene: HygieneFacts | None = None
    policy: str = ""
    left: tuple[LeftFacts, ...] = ()


@dataclass(frozen=True, slots=True)
class ReleaseFacts:
    """All that a card says. tokens: in all nodes; sampled_tokens: in sampled ones."""

    suite: str
    round: str
    licence: str
    language: str
    configs: tuple[ConfigFacts, ...]
    tasks: dict[str, int]
    trees: int = 0
    nodes: int = 0
    tokens: int = 0
    sampled_tokens: int = 0
    origins: tuple[OriginFacts, ...] = ()
    repeats: RepeatFacts = RepeatFacts()
    verifiers: tuple[VerifierFacts, ...] = ()
    methods: tuple[MethodFacts, ...] = ()
    account: AccountFacts = AccountFacts()
    example: Example | None = None

    @property
    def names(self) -> set[str]:
        return {config.name for config in self.configs}

    @property
    def leaves(self) -> int:
        return sum(origin.leaves for origin in self.origins)

    @property
    def judged(self) -> int:
        return sum(origin.judged for origin in self.origins)
