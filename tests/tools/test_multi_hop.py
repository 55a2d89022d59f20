"""The made-up world and its questions: one answer each, which only a chain of passages gives; splits share nothing."""

import json
import re
from collections import Counter

import pytest

from pipeline.errors import BadConfig
from pipeline.tasks.answers import find_answer
from pipeline.tasks.sources import multi_hop
from pipeline.tasks.suites import load_suite, suite_tasks
from pipeline.tasks.verifiers import Question, verify
from pipeline.tools.corpus.questions import ASKED, LINKS, draw_chains
from pipeline.tools.corpus.world import MOST_TOWNS, WorldOptions, make_world
from pipeline.tools.search import Index
from schemas import Tasks
from schemas.words import SPLITS

WORLD = make_world(WorldOptions())
PASSAGES = {passage.id: passage for passage in WORLD.passages}
NAMES = {entity.name: entity for entity in WORLD.entities.values()}


@pytest.fixture(scope="module", params=[(hops, split) for hops in (2, 3) for split in SPLITS], ids=str)
def chains(request):
    hops, split = request.param
    found = draw_chains(WORLD, hops=hops, split=split, size=10**6, seed=0)
    assert len(found) > 300
    return found, hops, split


class TestWorld:
    def test_the_same_seed_gives_the_same(self):
        made = make_world.__wrapped__(WorldOptions())
        assert made == WORLD
        assert make_world(WorldOptions(seed=2)).passages != WORLD.passages

    def test_a_passage_each_of_a_name_of_its_own(self):
        assert PASSAGES.keys() == WORLD.entities.keys()
        assert len(NAMES) == len(PASSAGES) == 259
        letters = Counter(
            "".join(sorted(word.lower())) for name in NAMES for word in name.split() if "Guild" not in name
        )
        assert set(letters.values()) == {1}

    def test_a_passage_says_its_facts_and_names_nothing_else(self):
        for entity in WORLD.entities.values():
            passage = PASSAGES[entity.id]
            facts = {WORLD.text(entity, relation) for relation in entity.facts}
            named = {name for name in NAMES if re.search(rf"\b{name}\b", passage.text)}
            assert named == (facts & NAMES.keys()) | {entity.name}
            assert set(re.findall(r"\d+", passage.text)) == {fact for fact in facts if fact.isdigit()}
            assert all(fact in passage.text for fact in facts)

    def test_no_fact_crosses_the_splits(self):
        for entity in WORLD.entities.values():
            for found in entity.facts.values():
                if found in WORLD.entities:
                    assert WORLD.entities[found].split == entity.split
        counts = Counter(entity.split for entity in WORLD.entities.values())
        assert counts == {"train": 173, "held_out": 86}

    def test_time_makes_sense(self):
        for entity in WORLD.entities.values():
            facts = {key: WORLD.entities.get(value, value) for key, value in entity.facts.items()}
            if entity.kind == "person":
                assert int(facts["birthplace"].facts["founded"]) < int(facts["born"])
                if "teacher" in facts:
                    assert int(facts["teacher"].facts["born"]) <= int(facts["born"]) - 15
                    assert int(facts["guild"].facts["founded"]) <= int(facts["born"]) + 25
            if entity.kind == "guild":
                assert 28 <= int(facts["founded"]) - int(facts["founder"].facts["born"]) < 55

    @pytest.mark.parametrize("options", [{"towns": 7}, {"towns": MOST_TOWNS + 1}, {"seed": -1}])
    def test_options(self, options):
        with pytest.raises(BadConfig, match="world"):
            WorldOptions(**options)

    @pytest.mark.parametrize(("towns", "passages"), [(8, 51), (MOST_TOWNS, 1950)])
    def test_of_any_size(self, towns, passages):
        made = make_world(WorldOptions(towns=towns)).passages
        assert len(made) == len({passage.title for passage in made}) == passages


class TestQuestions:
    def test_each_passage_names_the_next_and_the_last_the_answer(self, chains):
        for chain in chains[0]:
            assert len(chain.passages) == len(set(chain.passages)) == len(chain.relations) == chains[1]
            wanted = [*(WORLD.entities[one].name for one in chain.passages[1:]), chain.answer]
            assert all(name in PASSAGES[one].text for one, name in zip(chain.passages, wanted, strict=True))

    def test_no_passage_has_both_ends(self, chains):
        """Whoever reads what the question names does not see the answer there, and no other passage joins the two."""
        for chain in chains[0]:
            start = WORLD.entities[chain.passages[0]].name
            assert start in chain.question
            assert chain.answer not in chain.question
            for passage in PASSAGES.values():
                if re.search(rf"\b{start}\b", passage.text):
                    assert not re.search(rf"\b{chain.answer}\b", passage.text)

    def test_the_question_names_its_first_entity_alone(self, chains):
        for chain in chains[0]:
            named = [name for name in NAMES if re.search(rf"\b{name}\b", chain.question)]
            assert named == [WORLD.entities[chain.passages[0]].name]

    def test_one_question_one_answer(self, chains):
        assert len({chain.question for chain in chains[0]}) == len(chains[0])

    def test_words_of_the_question_lead_to_the_answer(self, chains):
        """Read from the text alone: the question is taken apart by its wordings, and each relation followed."""
        for chain in chains[0]:
            rest, relations = chain.question, []
            for wordings in (ASKED, *[LINKS] * (chains[1] - 1)):
                fits = [
                    (relation, found[1])
                    for relation, wording in wordings.items()
                    if (found := re.fullmatch(re.escape(wording).replace(r"\{\}", "(.+)"), rest))
                ]
                relation, rest = max(fits, key=lambda fit: -len(fit[1]) if len(fits) == 1 else len(fit[1]))
                relations.insert(0, relation)
            entity = NAMES[rest.removeprefix("the ")]
            for relation in relations[:-1]:
                entity = WORLD.entities[entity.facts[relation]]
            assert WORLD.text(entity, relations[-1]) == chain.answer

    def test_split(self, chains):
        for chain in chains[0]:
            assert {WORLD.entities[one].split for one in chain.passages} == {chains[2]}

    def test_the_solution_ends_in_the_answer(self, chains):
        for chain in chains[0]:
            assert find_answer(chain.solution) == chain.answer
            assert chain.solution.count("\n") == chains[1]

    def test_search_by_name_finds_each_passage(self, chains):
        with Index(WORLD.passages) as index:
            for chain in chains[0][:100]:
                for one in chain.passages:
                    assert one in [hit.passage.id for hit in index.search(WORLD.entities[one].name, 1)]

    def test_ways_of_asking_are_even(self):
        drawn = draw_chains(WORLD, hops=2, split="train", size=30, seed=0)
        assert set(Counter(chain.relations for chain in drawn).values()) == {2, 3}


class TestSource:
    def test_the_suite(self):
        tasks = Tasks.validate(suite_tasks(load_suite("multi_hop")))
        assert tasks.group_by("band", "split").len().sort("band", "split").rows() == [
            ("2-hop", "held_out", 96),
            ("2-hop", "train", 192),
            ("3-hop", "held_out", 96),
            ("3-hop", "train", 192),
        ]
        passages = {split: set() for split in SPLITS}
        for split, info in tasks.select("split", "info").iter_rows():
            passages[split].update(json.loads(info)["passages"])
        assert not passages["train"] & passages["held_out"]

    def test_verdicts(self):
        row = next(multi_hop.read(multi_hop.Options(hops=2, sizes={"train": 1})))
        question = Question(row.answer, row.info)
        assert verify(multi_hop.VERIFIER, question, row.reference_solution).reward == 1
        other = next(name for name, entity in NAMES.items() if name != row.answer and entity.kind == "town")
        assert verify(multi_hop.VERIFIER, question, f"#### {other}").reward == 0

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"hops": 0}, "hops is 0"),
            ({"hops": 5}, "hops is 5"),
            ({"sizes": {"test": 1}}, "sizes name a split 'test'"),
            ({"world": {"size": 1}}, "world: "),
            ({"sizes": {"train": 10**6}}, "the world has 843 train questions of 2 hops, not 1000000"),
        ],
    )
    def test_refusals(self, options, message):
        with pytest.raises(BadConfig, match=message):
            list(multi_hop.read(multi_hop.Options(**({"hops": 2, "sizes": {}} | options))))
