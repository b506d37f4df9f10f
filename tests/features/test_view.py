"""A view of features is HTML that needs nothing from outside, hides nothing without style, and lets no text through."""

import re
from collections.abc import Sequence

import pytest
from pages import Page

from personalib.features import view as feature_views
from personalib.features.labels import FeatureLabel, Firing
from personalib.features.view import FeatureCard, examples, feature_view
from personalib.stimuli.sentences import NEUTRAL

MALE = ("gender", "male")
LABEL = FeatureLabel(
    139, (("man", 2.5), ("son", 1.25)), ((MALE, 1.0), (NEUTRAL, 0.125)), (" man", "\n"), (" <b>",), None
)
SILENT = FeatureLabel(7, (), (), (), (), None)


def words(text: str, *strengths: float) -> list[Firing]:
    """The words of a text with their activations; the last are silent."""
    found = list(re.finditer(r"\S+", text))
    padded = [*strengths, *[0.0] * len(found)]
    return [Firing(text, word.start(), word.end(), padded[number]) for number, word in enumerate(found)]


def page(cards: Sequence[FeatureCard]) -> Page:
    return Page(feature_view(cards).data)


@pytest.fixture
def cards() -> list[FeatureCard]:
    return [
        FeatureCard("gender: male", LABEL, [words("I am a man.", 0, 0, 0, 2.5)], {"AUROC": "0.99"}),
        FeatureCard("silent", SILENT, []),
    ]


def test_it_is_well_formed_and_needs_nothing_from_outside(cards):
    html = feature_view(cards).data
    assert not Page(html).open and not Page(html).amiss
    assert not re.search(r"https?:|url\(|@import|<script|<link|<img|\bon[a-z]+=", html)


def test_a_tab_for_each_feature_of_which_the_first_is_picked(cards):
    found = page(cards)
    tabs, labels = found.all("input"), found.all("label")
    assert len(tabs) == len(labels) == len(found.all("section")) == 2
    assert ["checked" in tab for tab in tabs] == [True, False]
    assert [label["for"] for label in labels] == [tab["id"] for tab in tabs]
    assert len({tab["name"] for tab in tabs}) == 1, "one group, so that the arrow keys go from tab to tab"


def test_tabs_can_be_reached_by_the_keyboard(cards):
    html = feature_view(cards).data
    assert "focus-visible" in html
    assert not re.search(r"input \{[^}]*(display: none|visibility: hidden)", html), "hidden inputs get no focus"


def test_only_the_style_sheet_hides_what_is_not_picked(cards):
    found = page(cards)
    assert not any("hidden" in attributes or "style" in attributes for attributes in found.all("section"))
    assert all(card.title in found.text for card in cards)


def test_every_feature_has_a_rule_that_shows_it(cards):
    html = feature_view(cards * 3).data
    for number in range(1, 7):
        assert f"input:nth-of-type({number}):checked ~ section:nth-of-type({number})" in html
    assert "nth-of-type(7)" not in html


def test_two_views_on_a_page_do_not_share_their_tabs(cards):
    assert page(cards).all("input")[0]["name"] != page(cards[:1]).all("input")[0]["name"]
    assert feature_view(cards).data == feature_view(cards).data


def test_colours_come_from_the_page(cards):
    style = feature_view(cards).data.partition("</style>")[0]
    assert all(colour.strip() in ("inherit", "currentColor") for colour in re.findall(r"[ {]color:([^;]*);", style))


def test_a_label_is_told_in_full(cards):
    text = page(cards).text
    for part in ("feature 139", "man (2.50), son (1.25)", "male 1.00, neutral 0.12", "AUROC", "0.99", "nothing here"):
        assert part in text


def test_texts_that_tell_no_element_are_not_said_to_be_neutral():
    label = FeatureLabel(1, (("a", 1.0),), ((NEUTRAL, 1.0),), (), (), None)
    assert "neutral" not in page([FeatureCard("letter", label, [])]).text


def test_spaces_and_line_breaks_of_tokens_can_be_seen(cards):
    text = page(cards).text
    assert "␣man" in text and "⏎" in text


def test_texts_titles_tokens_and_facts_are_escaped():
    evil = '<img src=x onerror="alert(1)">&'
    label = FeatureLabel(0, ((evil, 1.0),), (((evil, evil), 1.0),), (evil,), (evil,), None)
    found = page([FeatureCard(evil, label, [words(f"{evil} {evil}", 1.0, 0.5)], {evil: evil})])
    assert not found.all("img") and not found.amiss
    # the text itself, and in title, heading, words, elements, raised and lowered tokens, name and value of the fact
    assert found.text.count("onerror") == 10


def test_shades_follow_the_activation_and_the_number_is_in_the_title():
    card = FeatureCard("x", LABEL, [words("one two three four", 1.0, 4.0, 2.0), words("five", 0.5)])
    marks = page([card]).all("mark")
    assert [mark["title"] for mark in marks] == ["1.00", "4.00", "2.00", "0.50"]
    shades = [float(str(mark["style"]).split(":")[1]) for mark in marks]
    assert shades[3] < shades[0] < shades[2] < shades[1] < 0.7
    assert [mark.get("class") for mark in marks] == [None, "fv-top", None, "fv-top"]


def test_a_text_is_shown_as_it_is_with_its_strength():
    text = page([FeatureCard("x", LABEL, [words("One,  two\nthree", 0, 1.5)])]).text
    assert "1.50One,  two\nthree" in text


@pytest.mark.parametrize(
    ("peak", "shown"), [(50, "… w48 w49 w50 w51 w52 …"), (0, "1.00w0 w1 w2 …"), (99, "… w97 w98 w99")]
)
def test_a_long_text_is_cut_around_its_strongest_word_but_not_where_it_begins_or_ends(peak, shown, monkeypatch):
    monkeypatch.setattr(feature_views, "_AROUND", 2)
    strengths = [float(number == peak) for number in range(100)]
    text = page([FeatureCard("x", LABEL, [words(" ".join(f"w{number}" for number in range(100)), *strengths)])]).text
    assert shown in text and f"w{peak - 3}" not in text and f"w{peak + 3}" not in text


def test_a_page_on_neuronpedia_is_linked():
    label = FeatureLabel(1, (), (), (), (), "https://www.neuronpedia.org/gemma-2b/12-res/1")
    assert page([FeatureCard("x", label, [])]).all("a") == [{"href": label.address}]


def test_nothing_to_show_is_refused():
    with pytest.raises(ValueError, match="at least one card"):
        feature_view([])


def test_examples_are_the_strongest_and_then_a_way_down_to_the_weakest():
    by_text = [words(f"text{number}", float(number)) for number in range(21)]
    found = [each[0].activation for each in examples(by_text, 6)]
    assert found[:3] == [20, 19, 18]
    assert found == sorted(found, reverse=True) and len(set(found)) == 6 and found[-1] == 1


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_examples_are_as_many_as_asked_for(count):
    assert len(examples([words(f"t{number}", 1.0 + number) for number in range(8)], count)) == count


def test_examples_leave_out_silence_and_repetitions():
    by_text = [words("same", 1.0), words("same", 1.0), words("silent"), [], words("other", 2.0)]
    assert [each[0].text for each in examples(by_text)] == ["other", "same"]
