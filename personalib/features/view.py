"""Features to look at: one of several is picked, and texts are shown with their words shaded by how it fires.

The page is one piece of HTML without scripts or outside resources. Picking works by CSS alone, so it does in
JupyterLab and on the built pages; where style sheets are taken away, all features are shown one below the other.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from IPython.display import HTML

from personalib.features.labels import FeatureLabel, Firing
from personalib.stimuli.sentences import NEUTRAL

Words = Sequence[Firing]
# How opaque the shade of a word is: faintest and at the strongest word of a feature. Text stays legible on it.
_FAINT, _FULL = 0.12, 0.62
# Words that are shown of a long text on each side of its strongest one.
_AROUND = 25
_SCOPE = ".feature-view"
# Colours come from the page, so that a dark theme stays dark.
_STYLE = f"""
{_SCOPE} {{ position: relative; color: inherit; line-height: 1.5; margin: 0.5em 0; }}
{_SCOPE} > input {{ position: absolute; opacity: 0; width: 1px; height: 1px; margin: 0; }}
{_SCOPE} > label {{ display: inline-block; cursor: pointer; margin: 0 0.3em 0.4em 0; padding: 0.15em 0.6em;
  border: 1px solid rgba(128, 128, 128, 0.6); border-radius: 4px; font-size: 0.9em; }}
{_SCOPE} > input:checked + label {{ font-weight: 600; border-color: currentColor;
  background: rgba(0, 114, 178, 0.22); }}
{_SCOPE} > input:focus-visible + label {{ outline: 2px solid currentColor; outline-offset: 1px; }}
{_SCOPE} > section {{ border: 1px solid rgba(128, 128, 128, 0.35); border-radius: 4px; padding: 0.6em 0.9em;
  margin-bottom: 0.6em; }}
{_SCOPE} .fv-title {{ font-weight: 600; margin: 0 0 0.4em; }}
{_SCOPE} dl {{ display: grid; grid-template-columns: max-content 1fr; gap: 0.1em 0.9em; margin: 0 0 0.7em;
  font-size: 0.9em; }}
{_SCOPE} dt, {_SCOPE} dd {{ float: none; width: auto; margin: 0; padding: 0; }}
{_SCOPE} dt {{ font-weight: 400; opacity: 0.8; white-space: nowrap; }}
{_SCOPE} code {{ color: inherit; background: rgba(128, 128, 128, 0.16); border: 0; border-radius: 3px;
  padding: 0 0.25em; white-space: pre-wrap; }}
{_SCOPE} ol {{ list-style: none; margin: 0; padding: 0; }}
{_SCOPE} li {{ display: grid; grid-template-columns: 3.4em 1fr; margin: 0 0 0.45em; font-size: 0.93em; }}
{_SCOPE} .fv-most {{ font-variant-numeric: tabular-nums; opacity: 0.8; }}
{_SCOPE} .fv-text {{ white-space: pre-wrap; }}
{_SCOPE} mark {{ color: inherit; background: rgba(213, 94, 0, var(--fv)); border-radius: 3px; padding: 0 0.1em; }}
{_SCOPE} .fv-top {{ font-weight: 700; text-decoration: underline; }}
"""


@dataclass(frozen=True)
class FeatureCard:
    """What is shown of one feature: its tab's title, its label, texts with its firings, and more facts by name."""

    title: str
    label: FeatureLabel
    texts: Sequence[Words]
    facts: Mapping[str, str] = field(default_factory=dict)


def examples(by_text: Sequence[Words], count: int = 6) -> list[Words]:
    """Texts that a feature fires on: half of them the strongest, the others from there on down to the weakest.

    The strongest texts alone make a feature look purer than it is. A text that comes again is left out.
    """
    different = {words[0].text: words for words in by_text if words}
    firing = [words for words in different.values() if _most(words) > 0]
    order = sorted(firing, key=lambda words: -_most(words))
    if len(order) <= count:
        return order
    best = -(-count // 2)
    others, last = count - best, len(order) - 1
    return order[:best] + [order[round(best + (last - best) * (n + 1) / others)] for n in range(others)]


def feature_view(cards: Sequence[FeatureCard]) -> HTML:
    """Features of which the reader picks one, by mouse or by the arrow keys; a ValueError for none."""
    if not cards:
        raise ValueError("there is no feature to show; pass at least one card")
    sections = [_section(card) for card in cards]
    # Names have to be unique on a page, and the same for the same content.
    name = "fv-" + hashlib.sha256("".join(sections).encode()).hexdigest()[:8]
    tabs = [
        f'<input type="radio" name="{name}" id="{name}-{number}"{" checked" if number == 0 else ""}>'
        f'<label for="{name}-{number}">{escape(card.title)}</label>'
        for number, card in enumerate(cards)
    ]
    # Every section but that of the picked tab is hidden; on paper all are shown.
    picked = f"{_SCOPE} > input:nth-of-type({{0}}):checked ~ section:nth-of-type({{0}})"
    shown = ", ".join(picked.format(number) for number in range(1, len(cards) + 1))
    picking = f"@media screen {{ {_SCOPE} > section {{ display: none; }} {shown} {{ display: block; }} }}\n"
    return HTML(
        f"<style>{_STYLE}{picking}</style>"
        f'<div class="feature-view" role="group" aria-label="features, pick one">{"".join(tabs + sections)}</div>'
    )


def _section(card: FeatureCard) -> str:
    strongest = max((_most(words) for words in card.texts), default=0.0)
    texts = "".join(
        f'<li><span class="fv-most">{_most(words):.2f}</span>'
        f'<span class="fv-text">{_text(words, strongest)}</span></li>'
        for words in card.texts
        if words
    )
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{value}</dd>" for name, value in _facts(card))
    return (
        f'<section aria-label="{escape(card.title)}"><p class="fv-title">{escape(card.title)}: '
        f"feature {card.label.feature}</p><dl>{facts}</dl><ol>{texts}</ol></section>"
    )


def _facts(card: FeatureCard) -> list[tuple[str, str]]:
    """What is said of a feature, a name and HTML each; what there is nothing to say about is left out."""
    label = card.label
    names_elements = any(told != NEUTRAL for told, _ in label.tells)
    told = [f"{escape(element or 'neutral')} {share:.2f}" for (_, element), share in label.tells if names_elements]
    page = f'<a href="{escape(label.address)}">Neuronpedia</a>' if label.address else ""
    facts = [
        ("fires on", ", ".join(f"{escape(word)} ({mean:.2f})" for word, mean in label.words) or "nothing here"),
        ("in texts of", ", ".join(told)),
        ("raises", _tokens(label.promoted)),
        ("lowers", _tokens(label.suppressed)),
        *((name, escape(value)) for name, value in card.facts.items()),
        ("page", page),
    ]
    return [(name, value) for name, value in facts if value]


def _tokens(tokens: Sequence[str]) -> str:
    """Tokens with the spaces and line breaks in them made visible."""
    visible = str.maketrans({"\n": "\N{RETURN SYMBOL}", " ": "\N{OPEN BOX}"})
    return " ".join(f"<code>{escape(token.translate(visible))}</code>" for token in tokens)


def _text(words: Words, strongest: float) -> str:
    """A text, or the stretch of it around the strongest word, with its words shaded."""
    text, peak = words[0].text, max(range(len(words)), key=lambda number: words[number].activation)
    first, last = max(0, peak - _AROUND), min(len(words), peak + _AROUND + 1)
    begin = 0 if first == 0 else words[first].start
    end = len(text) if last == len(words) else words[last - 1].end
    parts, place = ["… " if begin else ""], begin
    for number, word in enumerate(words[first:last], start=first):
        parts += [escape(text[place : word.start]), _word(word, strongest, number == peak)]
        place = word.end
    parts += [escape(text[place:end]), " …" if end < len(text) else ""]
    return "".join(parts).strip("\n")


def _word(word: Firing, strongest: float, top: bool) -> str:
    if word.activation <= 0:
        return escape(word.word)
    shade = _FAINT + (_FULL - _FAINT) * min(1.0, word.activation / strongest)
    kind = ' class="fv-top"' if top else ""
    return f'<mark{kind} style="--fv: {shade:.2f}" title="{word.activation:.2f}">{escape(word.word)}</mark>'


def _most(words: Words) -> float:
    return max((word.activation for word in words), default=0.0)
