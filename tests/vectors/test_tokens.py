"""Tokens are read as a plain forward pass reads them, and shown as HTML that says sign and size and alters no text."""

import re
from html import escape

import numpy as np
import pytest
import torch
from pages import Page

from personalib.models.parts import Site
from personalib.vectors.readings import Reader
from personalib.vectors.tokens import Line, ReadToken, read_tokens, token_view
from personalib.vectors.vector import SteeringVector

CHAT = "<bos><start_of_turn>user\nYou trust people. Who is it?<end_of_turn>\n<start_of_turn>model\n"
TEXTS = [CHAT, "The bus is late.", "A naïve one — 🙂 — sits."]
EVIL = '<b title="x">&amp; \'you\' & "I"</b>\n<script>alert(1)</script>'
# Text and ground of the pages that the view stands on.
PAGES = {"book light": ("222832", "ffffff"), "book dark": ("ced6dd", "121212"), "plain dark": ("cccccc", "121212")}


def pieces(text, *values, pattern=r"\s?\S+"):
    """A token a word, with the space or line break in front of it."""
    found = [(one.start(), one.end()) for one in re.finditer(pattern, text)]
    return [ReadToken(text, *span, value) for span, value in zip(found, values, strict=True)]


def page(*values, text="one two three four five", **how):
    words = text.split()[: len(values)]
    return Page(token_view([Line("row", pieces(" ".join(words), *values))], **how).data)


# The page


@pytest.fixture
def lines():
    return [
        Line("block 3", pieces("You trust people.", 0.5, -1.0, 2.0)),
        Line("block 5", pieces("Is it\nlate?", 0.0, 1.5, -0.25)),
    ]


def test_it_is_well_formed_and_needs_nothing_from_outside(lines):
    html = token_view(lines).data
    found = Page(html)
    assert not found.open and not found.amiss
    assert [tag for tag, _ in found.elements].count("style") == 1
    assert not re.search(r"https?:|url\(|@import|<script|<link|<img|\bon[a-z]+=", html)


def test_every_rule_is_for_this_view_alone(lines):
    style = re.search(r"<style>(.*)</style>", token_view(lines).data, re.S)[1]
    selectors = [part.strip() for rule in re.findall(r"([^{}]+)\{[^{}]*\}", style) for part in rule.split(",")]
    assert len(selectors) > 10 and all(each.split()[0] == ".token-view" for each in selectors)


def test_text_colours_come_from_the_page(lines):
    style = token_view(lines).data.partition("</style>")[0]
    colours = re.findall(r"[ {]color:([^;]*);", style)
    assert colours and all(colour.strip() == "inherit" for colour in colours)


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("value", [1.0, -1.0])
def test_text_stays_legible_on_the_strongest_shade(value, name):
    html = token_view([Line("x", pieces("word", value))]).data
    [sign], [alpha] = Page(html).signs, Page(html).shades
    shade = np.array(re.search(rf"mark\.tv-{sign} {{ background: rgba\((\d+), (\d+), (\d+),", html).groups(), float)
    text, ground = (np.array(list(bytes.fromhex(colour)), float) for colour in PAGES[name])
    light = sorted(luminance(colour) for colour in (text, alpha * shade + (1 - alpha) * ground))
    assert (light[1] + 0.05) / (light[0] + 0.05) >= 4.5, "what WCAG asks of text"


def luminance(colour):
    part = colour / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def test_nothing_is_hidden_and_paper_keeps_the_shades(lines):
    html = token_view(lines).data
    assert not re.search(r"display: none|visibility: hidden|hidden>|@media", html)
    assert re.search(r"\.token-view \{[^}]*; print-color-adjust: exact;", html)


def test_the_whole_has_a_name_and_each_row_its_label(lines):
    found = Page(token_view(lines, ("wary", "trusting")).data)
    [whole] = found.all("div")
    assert whole["role"] == "group" and whole["aria-label"] == "texts with each token shaded from wary to trusting"
    assert found.rows["dt"] == ["block 3", "block 5"]
    assert [tag for tag, _ in found.elements if tag in ("dt", "dd")] == ["dt", "dd"] * 2


# The text


@pytest.mark.parametrize("text", [*TEXTS, EVIL, " led by a space", "ends in breaks\n\n", "a\n\n  b\tc"])
def test_every_character_is_there_once_and_in_order(text):
    rng = np.random.default_rng(0)
    tokens = pieces(text, *rng.normal(size=len(re.findall(r"\s?\S+", text))))
    for some in (tokens, tokens[1:-1] or tokens, tokens[::2]):
        assert Page(token_view([Line("x", some)]).data).rows["dd"] == [text]


def test_text_that_no_token_covers_is_plain():
    words = pieces("one two three four five", 1, 2, 3, 4, 5)
    found = Page(token_view([Line("x", [words[1], words[3]])]).data)
    assert found.marked == [" two", " four"] and len(found.titles) == 2
    assert found.rows["dd"] == ["one two three four five"]
    assert token_view([Line("x", words[::-1])]).data == token_view([Line("x", words)]).data, "in any order"


def test_texts_labels_and_poles_are_escaped():
    found = Page(token_view([Line(EVIL, pieces(EVIL, 1, pattern="(?s).+"))], (EVIL, EVIL)).data)
    assert not found.amiss and not {"b", "script"} & {tag for tag, _ in found.elements}
    assert found.rows == {"dt": [EVIL], "dd": [EVIL]} and found.around.count(EVIL) == 2
    assert found.all("div")[0]["aria-label"].count(EVIL) == 2
    assert escape("<script>") in token_view([Line("x", pieces("<script>", 1))]).data


def test_line_breaks_break_and_have_a_symbol_that_is_not_part_of_the_text():
    text = "a\nb"
    html = token_view([Line("x", [ReadToken(text, 0, 1, 1.0), ReadToken(text, 1, 2, -1.0)])]).data
    assert 'title="-1.00"><span class="tv-break">\n</span></mark>b' in html
    assert '.tv-break::before { content: "\\23CE"' in html and re.search(r"dd \{ white-space: pre-wrap", html)
    assert "⏎" not in html


# Values


def test_shade_is_proportional_to_the_value_and_the_sign_has_its_own_colour_and_line():
    found = page(0.5, -1.0, 2.0, -0.25)
    assert found.signs == ["positive", "negative", "positive", "negative"]
    np.testing.assert_allclose(np.array(found.shades) / found.shades[2], [0.25, 0.5, 1, 0.125], atol=2e-3)
    html = token_view([Line("x", pieces("word", 1.0))]).data
    for sign, colour, line in (("negative", "0, 114, 178", "dotted"), ("positive", "213, 94, 0", "solid")):
        assert f"mark.tv-{sign} {{ background: rgba({colour}, var(--tv)); }}" in html
        assert f".tv-{sign} {{ text-decoration-style: {line}; }}" in html


def test_the_largest_value_of_all_rows_is_the_limit():
    rows = [Line("weak", pieces("one two", 0.5, -1.0)), Line("strong", pieces("three", -4.0))]
    found = Page(token_view(rows).data)
    np.testing.assert_allclose(np.array(found.shades) / found.shades[2], [0.125, 0.25, 1], atol=2e-3)
    assert "-4.00" in found.around and "+4.00" in found.around


def test_values_beyond_the_limit_have_the_full_shade_and_their_own_number():
    found = page(1.0, 2.0, -7.0, limit=2)
    full = page(1.0).shades[0]
    np.testing.assert_allclose(found.shades, [full / 2, full, full], atol=1e-3)
    assert found.titles == ["+1.00", "+2.00", "-7.00"]


def test_the_legend_tells_poles_and_limit_and_whether_values_lie_beyond_it():
    told = [
        " ".join(page(1.0, -3.0, limit=limit, poles=("wary", "trusting")).around.split()) for limit in (None, 4, 2.5)
    ]
    assert told == ["wary -3.00 +3.00 trusting", "wary -4.00 +4.00 trusting", "wary ≤ -2.50 ≥ +2.50 trusting"]
    html = token_view([Line("x", pieces("word", 1.0))], ("wary", "trusting")).data
    assert '<span class="tv-negative">wary</span>' in html and '<span class="tv-positive">trusting</span>' in html


def test_what_is_near_the_middle_has_no_mark_but_its_number():
    found = page(10.0, 0.49, -0.49, 0.51, -0.51)
    assert found.marked == ["one", " four", " five"]
    assert found.titles == ["+10.00", "+0.49", "-0.49", "+0.51", "-0.51"]


@pytest.mark.parametrize(
    ("value", "title"), [(0.125, "+0.12"), (-1.999, "-2.00"), (123.456, "+123.46"), (-0.001, "+0.00"), (0.0, "+0.00")]
)
def test_numbers_have_two_decimals_and_a_sign(value, title):
    assert page(value, limit=200).titles == [title]


def test_a_text_all_in_the_middle_has_no_mark():
    found = page(0.0, -0.0, 0.0)
    assert not found.marked and found.rows["dd"] == ["one two three"] and "+1.00" in found.around


def test_tokens_that_share_characters_are_one_mark_with_all_their_numbers():
    text = "a 🙂 b"
    spans = [(0, 1), (1, 2), (2, 3), (2, 3), (2, 3), (3, 5)]
    values = [0.5, 0.25, 0.75, -1.0, 0.25, 0.5]
    found = Page(token_view([Line("x", [ReadToken(text, *s, v) for s, v in zip(spans, values, strict=True)])]).data)
    assert found.marked == ["a", " ", "🙂", " b"] and found.rows["dd"] == [text]
    assert found.titles == ["+0.50", "+0.25", "+0.75, -1.00, +0.25", "+0.50"]
    assert found.signs[2] == "negative" and found.shades[2] == max(found.shades)
    # A byte-level tokenizer's first piece of a character can hold the space in front of it.
    part = Page(token_view([Line("x", [ReadToken(text, 1, 3, 1.0), ReadToken(text, 2, 3, 0.5)])]).data)
    assert part.marked == [" 🙂"] and part.titles == ["+1.00, +0.50"] and part.rows["dd"] == [text]


@pytest.mark.parametrize(
    ("rows", "limit", "problem"),
    [
        ([], None, "there is no line to show; pass at least one"),
        ([Line("trust", [])], None, "line 'trust' has tokens of 0 texts; pass those of one text"),
        ([Line("a", pieces("a", 1)), Line("b", [*pieces("a", 1), *pieces("b", 1)])], None, "line 'b' .* of 2 texts"),
        ([Line("a", pieces("a", 1))], 0, "limit=0; pass a positive number"),
        ([Line("a", pieces("a", 1))], -1.5, "limit=-1.5; pass a positive number"),
        ([Line("a", pieces("a", 1))], float("nan"), "limit=nan; pass a positive number"),
        ([Line("a", pieces("a", 1))], float("inf"), "limit=inf; pass a positive number"),
        ([Line("a", pieces("a b", 1, float("nan")))], 2.0, "a token's value is nan; run the model"),
    ],
)
def test_what_cannot_be_shown_is_one_error(rows, limit, problem):
    with pytest.raises(ValueError, match=problem):
        token_view(rows, limit=limit)


# Readings of the organism


def reader(site, seed, middle=0.3, half=0.7, width=128):
    direction = torch.randn(width, generator=torch.Generator().manual_seed(seed))
    vector = SteeringVector(direction, site, f"random.{seed}", "difference_of_means", "organism", "1")
    return Reader(vector, middle, half, 1.0, 0.0)


@torch.inference_mode()
def by_hand(organism, text, one):
    """Spans and positions of a text's own tokens, from the hidden states of a forward pass of it alone."""
    made = organism.tokenizer(text, return_offsets_mapping=True, add_special_tokens=not text.startswith("<bos>"))
    site, special = one.vector.site, set(organism.tokenizer.all_special_ids)
    states = organism.model(torch.tensor([made["input_ids"]]), output_hidden_states=True).hidden_states
    stream = states[site.layer + (site.stream == "resid_post")][0].double().numpy()
    direction = one.vector.direction.double().numpy()
    positions = (stream @ direction / np.sqrt(direction @ direction) - one.middle) / one.half
    kept = [place for place, token in enumerate(made["input_ids"]) if token not in special]
    return [made["offset_mapping"][place] for place in kept], positions[kept]


READERS = [reader(Site(3), 0), reader(Site(1), 1, -0.5, 2.0), reader(Site(2, "resid_pre"), 2), reader(Site(3), 3)]


@pytest.fixture(scope="module")
def read(organism, tmp_path_factory):
    return read_tokens(organism, READERS, TEXTS, tmp_path_factory.mktemp("read"))


def test_tokens_are_read_as_a_plain_forward_pass_reads_them(organism, read):
    """Two readers share a site, and stand in another order than the model meets their sites in."""
    assert len(read) == len(READERS) and all(len(by_text) == len(TEXTS) for by_text in read)
    for one, by_text in zip(READERS, read, strict=True):
        for text, tokens in zip(TEXTS, by_text, strict=True):
            spans, positions = by_hand(organism, text, one)
            assert [(token.start, token.end) for token in tokens] == spans
            assert {token.text for token in tokens} == {text}
            np.testing.assert_allclose([token.value for token in tokens], positions, atol=1e-4)
    first, second = ([token.value for token in read[place][0]] for place in (0, 3))
    assert not np.allclose(first, second, atol=0.1)


def test_special_tokens_are_not_read_and_words_keep_the_space_in_front(read):
    tokens = [CHAT[token.start : token.end] for token in read[0][0]]
    assert "".join(tokens) == "user\nYou trust people. Who is it?\nmodel\n" and " trust" in tokens


def test_bytes_of_a_character_are_read_each_and_shown_once(read):
    tokens = read[0][2]
    smile = TEXTS[2].index("🙂")
    own = [token.value for token in tokens if token.start == smile]
    assert len(own) == 4 == len(set(own))
    found = Page(token_view([Line("x", tokens)], limit=0.001).data)
    assert found.rows["dd"] == [TEXTS[2]] == ["".join(found.marked)]
    assert ", ".join(f"{value:+.2f}" for value in own) in found.titles


def test_only_the_tokens_of_a_span_are_read_and_as_in_the_whole_text(organism, read, tmp_path):
    start = CHAT.index("You trust")
    spans = [(start, start + len("You trust")), (0, 7), (0, 1)]
    part = read_tokens(organism, READERS, TEXTS, tmp_path, spans)
    assert [TEXTS[0][token.start : token.end] for token in part[0][0]] == ["You", " trust"]
    for by_text, whole in zip(part, read, strict=True):
        for (begin, end), tokens, every in zip(spans, by_text, whole, strict=True):
            expected = [token.value for token in every if token.start < end and token.end > begin]
            np.testing.assert_allclose([token.value for token in tokens], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("readers", "texts", "spans", "problem"),
    [
        ([], TEXTS, None, "there is no reader to read with; pass at least one"),
        (READERS, [], None, "no texts to capture; pass at least one"),
        (READERS, TEXTS, [(0, 5)], "3 texts and 1 spans; pass one span a text"),
        (READERS, ["<bos>"], None, "text 0 has no token between characters 0 and 5"),
        ([reader(Site(99), 0)], TEXTS, None, "resid_post.99 is no site of this model"),
        ([reader(Site(1), 0, width=5)], TEXTS, None, r"random\.0 has 5 coordinates"),
    ],
)
def test_what_cannot_be_read_is_one_error(readers, texts, spans, problem, organism, tmp_path):
    with pytest.raises(ValueError, match=problem):
        read_tokens(organism, readers, texts, tmp_path, spans)
