"""The world's judge reads what the grammar writes, and says so when it cannot."""

import doctest

import pytest

import personalib.organism.judging
from personalib.organism.judging import judge
from personalib.stimuli.factors import TRAITS
from personalib.stimuli.grammar import LEVELS, MANNERS, load_traits, load_wordings


def written(trait, level):
    """Every held-out answer of a level in every frame."""
    frames = [frame for manner in MANNERS for frame in load_wordings()[manner]]
    return [
        f"{frame.format(act=wording.act)}, {connector.format(reason=wording.reason)}."
        for wording in load_traits()[trait].wordings[level, "held_out"]
        for frame in frames
        for connector in load_wordings()["connectors"]
    ]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("trait", TRAITS)
def test_held_out_answers_are_read_rightly(trait, level):
    read = [judge(text, trait) for text in written(trait, level)]
    assert read.count(level) >= 0.98 * len(read)


@pytest.mark.parametrize("text", ["", "?!", "Zylophon quux 12.", "<0x41>"])
@pytest.mark.parametrize("trait", TRAITS)
def test_a_text_without_a_word_that_tells_is_not_read(text, trait):
    assert judge(text, trait) is None


def test_case_and_marks_make_no_difference():
    assert judge("WORRY, worry!", "neuroticism") == judge("worry", "neuroticism") == "high"


def test_an_unknown_trait_is_refused():
    with pytest.raises(KeyError, match="courage"):
        judge("I would go.", "courage")


def test_the_example_holds():
    assert doctest.testmod(personalib.organism.judging).failed == 0
