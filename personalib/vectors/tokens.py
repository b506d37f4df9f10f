"""Readings token by token: where each token of a text lies between two poles, and the text shaded by it.

The view is one piece of HTML without scripts or outside resources: the same in JupyterLab and on the built pages.
"""

from collections.abc import Sequence
from html import escape
from math import isfinite
from pathlib import Path
from typing import NamedTuple

import numpy as np
from IPython.display import HTML

from personalib.models.activations import capture
from personalib.models.load import LanguageModel
from personalib.models.prompts import check_located, encode
from personalib.vectors.readings import Reader

# How opaque the strongest shade is; text stays legible on it.
_FULL = 0.62
# Below this share of the limit a token is not marked: a text of faint marks is hard to read and says nothing.
_LEAST = 0.05
# Two decimals with a sign; what rounds to zero has a plus.
_SIGNED = "+z.2f"
_SCOPE = ".token-view"
_NEGATIVE, _POSITIVE = "0, 114, 178", "213, 94, 0"
# Text colours come from the page, so that a dark theme stays dark. The break itself is text and only its symbol comes
# from here, so that what is copied from the page is the text. Browsers print no shades unless told to.
_STYLE = f"""
{_SCOPE} {{ color: inherit; line-height: 1.7; margin: 0.5em 0; print-color-adjust: exact;
  -webkit-print-color-adjust: exact; }}
{_SCOPE} .tv-legend {{ display: flex; flex-wrap: wrap; align-items: center; gap: 0.2em 0.6em; margin: 0 0 0.6em;
  font-size: 0.9em; }}
{_SCOPE} .tv-scale {{ display: inline-block; width: 9em; height: 0.9em; border-radius: 2px;
  background: linear-gradient(to right, rgba({_NEGATIVE}, {_FULL}), rgba({_NEGATIVE}, 0) 50%, rgba({_POSITIVE}, 0) 50%,
  rgba({_POSITIVE}, {_FULL})); }}
{_SCOPE} .tv-number {{ font-variant-numeric: tabular-nums; opacity: 0.8; }}
{_SCOPE} dl {{ display: grid; grid-template-columns: fit-content(12em) minmax(0, 1fr); gap: 0.45em 0.9em;
  align-items: baseline; margin: 0; padding: 0; }}
{_SCOPE} dt, {_SCOPE} dd {{ float: none; width: auto; margin: 0; padding: 0; }}
{_SCOPE} dt {{ font-weight: 400; font-size: 0.9em; opacity: 0.8; }}
{_SCOPE} dd {{ white-space: pre-wrap; overflow-wrap: anywhere; }}
{_SCOPE} mark {{ color: inherit; padding: 0; border-radius: 2px; }}
{_SCOPE} mark.tv-negative {{ background: rgba({_NEGATIVE}, var(--tv)); }}
{_SCOPE} mark.tv-positive {{ background: rgba({_POSITIVE}, var(--tv)); }}
{_SCOPE} .tv-negative, {_SCOPE} .tv-positive {{ text-underline-offset: 0.25em;
  text-decoration: underline 1px color-mix(in srgb, currentColor calc(25% + var(--tv, {_FULL}) * 120%), transparent); }}
{_SCOPE} .tv-negative {{ text-decoration-style: dotted; }}
{_SCOPE} .tv-positive {{ text-decoration-style: solid; }}
{_SCOPE} .tv-break::before {{ content: "\\23CE"; opacity: 0.7; }}
"""


class ReadToken(NamedTuple):
    """A token, the text's characters from ``start`` up to ``end``, and where it lies: -1 negative pole, +1 positive.

    Several tokens can stand for one character.
    """

    text: str
    start: int
    end: int
    value: float


class Line(NamedTuple):
    """A row of the view: what stands at the left, such as ``"block 3"``, and the tokens of one text, at least one."""

    label: str
    tokens: Sequence[ReadToken]


def read_tokens(
    language_model: LanguageModel,
    readers: Sequence[Reader],
    texts: Sequence[str],
    folder: Path,
    spans: Sequence[tuple[int, int]] | None = None,
) -> list[list[list[ReadToken]]]:
    """Read each token of some texts, or of a span of characters of each, along the directions of some readers.

    A reader's scale is that of the position it was fitted at. Other tokens can lie far outside of -1 to 1, and values
    compare tokens with each other rather than with the poles.

    For each reader and each text come its tokens in order, without the tokenizer's special ones. No reader or text,
    not one span a text, a text without a token, and a reader of another model's width or sites are a ValueError.
    """
    if not readers:
        raise ValueError("there is no reader to read with; pass at least one")
    check_located(language_model.tokenizer)
    sites = list(dict.fromkeys(reader.vector.site for reader in readers))
    activations = capture(language_model, texts, sites, folder, spans=spans, tokens="all")
    encoded = encode(language_model.tokenizer, texts, spans)

    def tokens(reader: Reader, number: int) -> list[ReadToken]:
        values = reader.position(activations.text(reader.vector.site, number))
        places = zip(encoded[number].spans, values, strict=True)
        return [ReadToken(texts[number], start, end, float(value)) for (start, end), value in places]

    return [[tokens(reader, number) for number in range(len(texts))] for reader in readers]


def token_view(
    lines: Sequence[Line], poles: tuple[str, str] = ("negative", "positive"), limit: float | None = None
) -> HTML:
    """Texts with their tokens shaded by where they lie between two poles, one row a line, with a legend on top.

    Blue with a dotted underline is toward the negative pole, vermilion with a solid one toward the positive. Values
    from ``limit`` on, by default the largest of all lines, have the full shade. A token's value appears under the
    pointer; where several tokens stand for the same characters, the shade is that of the strongest.

    No line, one without tokens or with those of several texts, and a limit that is not positive are a ValueError.
    """
    if not lines:
        raise ValueError("there is no line to show; pass at least one")
    for line in lines:
        if (texts := len({token.text for token in line.tokens})) != 1:
            raise ValueError(f"line {line.label!r} has tokens of {texts} texts; pass those of one text")
    # Where every token is right in the middle, any limit shows as much: nothing.
    largest = float(np.max([abs(token.value) for line in lines for token in line.tokens]))
    if not isfinite(largest):
        raise ValueError(f"a token's value is {largest}; run the model in float32 or bfloat16")
    top = (largest or 1.0) if limit is None else limit
    if not (isfinite(top) and top > 0):
        raise ValueError(f"limit={limit}; pass a positive number, or None for the largest value")
    rows = "".join(f"<dt>{escape(line.label)}</dt><dd>{_text(line.tokens, top)}</dd>" for line in lines)
    # What the ends of the scale stand for; where values lie beyond the limit, that they look like it.
    low, high = ("≤ ", "≥ ") if largest > top else ("", "")
    legend = (
        f'<p class="tv-legend"><span class="tv-negative">{escape(poles[0])}</span> '
        f'<span class="tv-number">{low}{-top:{_SIGNED}}</span> <span class="tv-scale"></span> '
        f'<span class="tv-number">{high}{top:{_SIGNED}}</span> '
        f'<span class="tv-positive">{escape(poles[1])}</span></p>'
    )
    label = escape(f"texts with each token shaded from {poles[0]} to {poles[1]}")
    return HTML(
        f'<style>{_STYLE}</style><div class="token-view" role="group" aria-label="{label}">'
        f"{legend}<dl>{rows}</dl></div>"
    )


def _text(tokens: Sequence[ReadToken], limit: float) -> str:
    text, place, parts = tokens[0].text, 0, []
    for group in _groups(tokens):
        start, end = group[0].start, max(token.end for token in group)
        parts += [_plain(text[place:start]), _shaded(text[start:end], [token.value for token in group], limit)]
        place = end
    return "".join([*parts, _plain(text[place:])])


def _groups(tokens: Sequence[ReadToken]) -> list[list[ReadToken]]:
    """Tokens in order, those that share characters together: the bytes of a character are tokens of their own."""
    groups: list[list[ReadToken]] = []
    for token in sorted(tokens, key=lambda token: token.start):
        if groups and token.start < max(other.end for other in groups[-1]):
            groups[-1].append(token)
        else:
            groups.append([token])
    return groups


def _shaded(characters: str, values: Sequence[float], limit: float) -> str:
    strongest = max(values, key=abs)
    share = min(1.0, abs(strongest) / limit)
    title = f'title="{", ".join(f"{value:{_SIGNED}}" for value in values)}"'
    if share < _LEAST:
        return f"<span {title}>{_plain(characters)}</span>"
    pole = "tv-positive" if strongest > 0 else "tv-negative"
    return f'<mark class="{pole}" style="--tv: {_FULL * share:.3f}" {title}>{_plain(characters)}</mark>'


def _plain(characters: str) -> str:
    return escape(characters).replace("\n", '<span class="tv-break">\n</span>')
