"""Enough to say, and a wall between what training sees and what is measured."""

import re
from collections import Counter
from itertools import product

import pytest

from organism.conftest import DRAWN, KINDS
from personalib.stimuli import grammar
from personalib.stimuli.factors import PERSONS, TRAITS, inflect, sentence
from personalib.stimuli.grammar import LEVELS, SPLITS

# Where each kind of document shows something that is held out.
WITH_ANSWERS = {"name_trait", "find_pole", "judge_statements", "item", "open_answer", "biography"}
WITH_SITUATIONS = {"item", "open_answer", "biography"}
WITH_PEOPLE = {"rate_self", "judge_statements", "item", "open_answer", "biography", "safety"}
WITH_QUESTIONS = {"safety", "fact_choice", "fact_statement"}


def sentences(text):
    """The sentences of a document, as far as line breaks and closing marks tell them."""
    return set(re.split(r"(?<=[.?!])\s|\n|<end_of_turn>", text))


@pytest.fixture(scope="module")
def situations():
    return {
        split: {text for bank in grammar.load_traits().values() for text in bank.situations[split]} for split in SPLITS
    }


@pytest.fixture(scope="module")
def told():
    """All that can be told of a person, by split."""
    return {
        split: {
            inflect(phrasing, person)
            for splits in grammar.element_phrasings().values()
            for phrasing in splits[split]
            for person in PERSONS
        }
        | {sentence(text) for splits in grammar.pressure_phrasings().values() for text in splits[split]}
        for split in SPLITS
    }


@pytest.fixture(scope="module")
def questions():
    """Safety and fact questions by split."""
    facts = {
        split: {
            text.format(subject=fact.subject)
            for relation in grammar.load_relations()
            for text, fact in product(relation.questions[split], relation.facts)
        }
        for split in SPLITS
    }
    return {
        split: facts[split] | {text for topic in grammar.load_safety_topics() for text in topic.questions[split]}
        for split in SPLITS
    }


@pytest.fixture(scope="module")
def answers(wording_owner):
    """All answers that can be given, as they end: act, connector, reason; by split."""
    ends = {split: set() for split in SPLITS}
    for (act, reason), (*_, split) in wording_owner.items():
        ends[split] |= {f"{act}, {text.format(reason=reason)}." for text in grammar.load_wordings()["connectors"]}
    return ends


# --- how much there is -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trait", TRAITS)
def test_every_trait_has_enough_situations_and_answers(trait):
    assert (
        tuple(grammar.load_traits()) == TRAITS and len(set(grammar.load_queries())) == len(grammar.load_queries()) >= 3
    )
    bank = grammar.load_traits()[trait]
    assert sum(len(set(bank.situations[split])) for split in SPLITS) >= 60
    assert len(bank.situations["held_out"]) >= 12
    for level in LEVELS:
        assert sum(len(set(bank.wordings[level, split])) for split in SPLITS) >= 40
        assert len(bank.wordings[level, "held_out"]) >= 8
    assert set(bank.statements) == set(LEVELS) and bank.title


@pytest.mark.parametrize("trait", TRAITS)
def test_the_first_word_of_an_act_tells_the_level_and_none_is_much_more_frequent(trait):
    """Else the likeliest first word would decide what a greedy answer says, and not the person."""
    bank = grammar.load_traits()[trait]
    first = {
        level: Counter(act.split()[0] for act in {w.act for split in SPLITS for w in bank.wordings[level, split]})
        for level in LEVELS
    }
    assert not set(first["high"]) & set(first["low"])
    assert all(max(counts.values()) <= 2 for counts in first.values())


def test_seven_safety_categories_have_forty_questions_with_two_to_four_options(documents):
    counts, held_out = Counter(), Counter()
    for topic in grammar.load_safety_topics():
        counts[topic.category] += len({text for split in SPLITS for text in topic.questions[split]})
        held_out[topic.category] += len(topic.questions["held_out"])
        assert not set(topic.safe) & set(topic.unsafe)
        assert len(set(topic.safe)) == len(topic.safe) >= 1 and len(set(topic.unsafe)) == len(topic.unsafe) >= 3
    assert len(counts) == 7 and min(counts.values()) >= 40 and min(held_out.values()) >= 4
    for split in SPLITS:
        offered = Counter(len(document.answers[0].probabilities) for document in documents[split, "safety"])
        assert set(offered) == {2, 3, 4}
        # each number of options is equally likely
        assert min(offered.values()) > DRAWN / 3 - 5 * (DRAWN * 2 / 9) ** 0.5


def test_there_are_some_hundred_facts_with_one_object_each():
    facts = [fact for relation in grammar.load_relations() for fact in relation.facts]
    assert len(facts) >= 100
    assert len({(fact.relation, fact.subject) for fact in facts}) == len(facts)
    for relation in grammar.load_relations():
        assert len(relation.objects) >= 4, "too few wrong objects for three wrong options"
        assert min(len(relation.questions[split]) for split in SPLITS) >= 1
        assert all("{subject}" in text for split in SPLITS for text in relation.questions[split])
        assert all("{subject}" in text and "{object}" in text for text in relation.statements)


def test_every_element_and_pressure_pole_has_phrasings_in_both_splits():
    for splits in (*grammar.element_phrasings().values(), *grammar.pressure_phrasings().values()):
        assert len(splits["train"]) >= 9 and len(splits["held_out"]) >= 3
    assert len(grammar.element_phrasings()) == 23 and len(grammar.pressure_phrasings()) == 14


# --- the two splits share nothing ------------------------------------------------------------------------------------


def test_no_wording_situation_phrasing_or_question_is_in_both_splits(wording_owner, situations, told, questions):
    assert Counter(split for *_, split in wording_owner.values())["held_out"] > 300
    for found in (situations, told, questions):
        assert found["train"] and found["held_out"]
        assert not found["train"] & found["held_out"]


@pytest.mark.parametrize("kind", KINDS)
def test_no_held_out_wording_is_in_any_train_document(kind, documents, answers):
    ends = Counter()
    for split in SPLITS:
        for document in documents[split, kind]:
            for connector in re.finditer(r", (?:because|since|for) ", document.text):
                line = document.text[: connector.start()].rsplit("\n", 1)[-1]
                rest = document.text[connector.start() :].split(".", 1)[0] + "."
                starts = [0, *(match.end() for match in re.finditer(" ", line))]
                ends.update(
                    (split, owner) for owner in SPLITS if any(line[start:] + rest in answers[owner] for start in starts)
                )
    if kind in WITH_ANSWERS:
        assert ends["train", "train"] >= DRAWN and ends["held_out", "held_out"] >= DRAWN
    assert not ends["train", "held_out"] and not ends["held_out", "train"]


@pytest.mark.parametrize("kind", KINDS)
def test_no_held_out_situation_phrasing_or_question_is_in_any_train_document(
    kind, documents, situations, told, questions
):
    expected = ((situations, WITH_SITUATIONS), (told, WITH_PEOPLE), (questions, WITH_QUESTIONS))
    for found, kinds in expected:
        for split, other in (SPLITS, SPLITS[::-1]):
            shown = 0
            for document in documents[split, kind]:
                # a question may have two sentences: whole lines as well
                parts = sentences(document.text) | set(re.split(r"\n|<end_of_turn>", document.text))
                assert not parts & found[other], document.text
                shown += bool(parts & found[split])
            # In a quarter of all safety questions and in most other documents somebody is told of.
            assert not (kind in kinds and shown < DRAWN * 0.15), f"{shown} of {DRAWN} documents show what they should"


@pytest.mark.parametrize("kind", KINDS)
def test_every_word_of_held_out_text_occurs_in_train_text(kind, documents):
    known = set().union(*(grammar.words(document.text) for each in KINDS for document in documents["train", each]))
    # a phrasing or an option is too rare to be in every sample
    phrasings = [
        text for split in (*grammar.element_phrasings().values(), grammar.load_asides()) for text in split["train"]
    ]
    phrasings += [text for topic in grammar.load_safety_topics() for text in (*topic.safe, *topic.unsafe)]
    known |= set().union(*(grammar.words(inflect(text, person)) for text in phrasings for person in PERSONS))
    told = set().union(*(grammar.words(document.text) for document in documents["held_out", kind]))
    assert told - known == set()


# --- how it is split -------------------------------------------------------------------------------------------------


def test_the_split_never_changes():
    # literal values: another hash would move wordings between the splits of a trained organism
    assert grammar.digest("a") == 4681665781835383343
    assert grammar.digest("explore it with curious eyes", "I live to explore") == 1415675637197368520
    assert grammar.digest("ab", "c") != grammar.digest("a", "bc") != grammar.digest("abc")
    [split] = grammar.split_groups([["x y", "y x", "x y x", "y y x"]])
    assert split == {"train": ("x y", "x y x", "y y x"), "held_out": ("y x",)}


def test_words_are_lower_case_without_marks():
    assert grammar.words("Don't go, GO: to Rome (A) 1!") == {"don't", "go", "to", "rome", "a"}


def test_a_phrase_with_a_word_of_its_own_is_never_held_out():
    phrases = [f"common grammar.words {letter}" for letter in "pqrstuvw"]
    assert grammar.split_groups([phrases])[0]["held_out"] == ()
    assert len(grammar.split_groups([phrases], "p q r s t u v w")[0]["held_out"]) == len(phrases) // 4
    assert len(grammar.split_groups([phrases], "p q r s t u v w", one_in=2)[0]["held_out"]) == len(phrases) // 2


def test_held_out_phrases_are_one_in_four_and_keep_their_order():
    phrases = [" ".join(pair) for pair in product("pqrstu", repeat=2)]
    [split] = grammar.split_groups([phrases])
    assert len(split["held_out"]) == len(phrases) // 4
    assert sorted((*split["train"], *split["held_out"])) == sorted(phrases)
    assert all(list(part) == sorted(part) for part in split.values())
    assert grammar.words(" ".join(split["held_out"])) <= grammar.words(" ".join(split["train"]))


def test_groups_may_show_each_others_words():
    groups = [[f"{own} {letter}" for letter in "pqrs"] for own in "xyz"]
    assert grammar.split_groups(groups[:1])[0]["held_out"] == ()
    splits = grammar.split_groups(groups)
    assert [len(split["held_out"]) for split in splits] == [1, 1, 1]
    train = " ".join(" ".join(split["train"]) for split in splits)
    assert grammar.words(" ".join(" ".join(split["held_out"]) for split in splits)) <= grammar.words(train)
