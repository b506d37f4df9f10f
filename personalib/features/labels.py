"""Labels of features: the words that they fire on, the tokens that they promote, and where Neuronpedia has them."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray

from personalib.features.saes import SparseAutoencoder
from personalib.models.activations import Activations
from personalib.models.load import LanguageModel
from personalib.models.parts import final_norm
from personalib.models.prompts import Encoded, check_located, encode
from personalib.stimuli.sentences import LabelledTexts

_BLOCK = 2**23
# Output tokens of a label at either end.
_TOKENS = 5
_WORD = re.compile(r"[\w']+|[^\w\s]")


@dataclass(frozen=True)
class Firing:
    """A word of a text and how strongly a feature fires on it, the most over the word's tokens."""

    text: str
    start: int
    end: int
    activation: float

    @property
    def word(self) -> str:
        """The word."""
        return self.text[self.start : self.end]


@dataclass(frozen=True)
class FeatureLabel:
    """What a feature is about, as far as texts and weights tell.

    ``words`` are those it fires on, in lower case, with the mean activation there; ``tells`` the labels whose texts
    have most of it, as a share of the label that has most; ``promoted`` and ``suppressed`` the output tokens that it
    raises and lowers most (logit lens); and ``address`` its page on Neuronpedia.
    """

    feature: int
    words: tuple[tuple[str, float], ...]
    tells: tuple[tuple[tuple[str, str], float], ...]
    promoted: tuple[str, ...]
    suppressed: tuple[str, ...]
    address: str | None

    def line(self) -> str:
        """The label in one line: what it fires on, and in texts of which elements."""
        if not self.words:
            return "silent"
        told = ", ".join(f"{element or 'neutral'} {share:.2f}" for (_, element), share in self.tells)
        return f"{', '.join(word for word, _ in self.words)} ({told})"


def token_activations(sae: SparseAutoencoder, activations: Activations, features: Sequence[int]) -> NDArray[np.float32]:
    """How strongly some features fire on each token captured with ``tokens="all"``, shape ``(tokens, features)``."""
    values, rows = activations.values(sae.site), max(1, _BLOCK // sae.width)
    starts = range(0, len(values), rows)
    return np.concatenate([sae.features(values[start : start + rows])[:, list(features)] for start in starts])


def word_firings(
    language_model: LanguageModel,
    texts: Sequence[str],
    strengths: NDArray[np.float32],
    offsets: NDArray[np.int64],
    encoded: Sequence[Encoded] | None = None,
) -> list[list[Firing]]:
    """For each text all its words with how strongly one feature fires on them.

    ``strengths`` are the feature's activations on the tokens, shape ``(tokens,)``, and ``offsets`` say where those of
    each text begin, as in :class:`~personalib.models.activations.Activations`.
    """
    check_located(language_model.tokenizer)
    encoded = encode(language_model.tokenizer, texts) if encoded is None else encoded
    words = []
    for text, tokens, begin, end in zip(texts, encoded, offsets, offsets[1:], strict=False):
        fired = list(zip(tokens.spans, strengths[begin:end].tolist(), strict=True))
        # A word is as strong as its strongest token; a token's space in front belongs to no word.
        words.append([_firing(text, word, fired) for word in _WORD.finditer(text)])
    return words


def _firing(text: str, word: re.Match[str], fired: Sequence[tuple[tuple[int, int], float]]) -> Firing:
    on_word = (strength for (start, end), strength in fired if start < word.end() and end > word.start())
    return Firing(text, *word.span(), max(on_word, default=0.0))


def label_features(
    language_model: LanguageModel,
    sae: SparseAutoencoder,
    features: Sequence[int],
    texts: LabelledTexts,
    activations: Activations,
    words: int = 3,
) -> dict[int, FeatureLabel]:
    """Label features by what they fire on in some texts and by what they write to the output.

    The texts' activations are captured with ``tokens="all"``. A label has so many ``words`` and elements.
    """
    different = list(dict.fromkeys(features))
    if not different:
        return {}
    strengths = token_activations(sae, activations, different)
    logits = logit_lens(language_model, sae.directions[different])
    encoded = encode(language_model.tokenizer, texts.texts)
    labels = {}
    for column, feature in enumerate(different):
        by_text = word_firings(language_model, texts.texts, strengths[:, column], activations.offsets, encoded)
        order = logits[column].argsort().tolist()
        labels[feature] = FeatureLabel(
            feature,
            words=_favourites(by_text, words),
            tells=_told(texts, np.maximum.reduceat(strengths[:, column], activations.offsets[:-1]), words),
            promoted=tuple(language_model.tokenizer.decode([token]) for token in order[::-1][:_TOKENS]),
            suppressed=tuple(language_model.tokenizer.decode([token]) for token in order[:_TOKENS]),
            address=sae.address(feature),
        )
    return labels


@torch.inference_mode()
def logit_lens(language_model: LanguageModel, directions: torch.Tensor) -> torch.Tensor:
    """What directions write to the output if nothing in between changes them, shape ``(directions, vocabulary)``.

    Each goes through the last norm, so only its direction counts and not its length; the norm's own bias is taken off.
    A model whose last norm is not found is a ValueError.

    Source:
        nostalgebraist, *interpreting GPT: the logit lens* (2020).
    """
    model = language_model.model
    norm, head = final_norm(model), model.get_output_embeddings()
    given = directions.to(model.device, model.dtype)
    logits = head(norm(given)) - head(norm(torch.zeros_like(given[:1])))
    return logits.float().cpu()


def _favourites(by_text: Sequence[Sequence[Firing]], words: int) -> tuple[tuple[str, float], ...]:
    """The words that a feature fires on, with the mean activation on each.

    A word counts by its mean and the logarithm of how often it is there: by the sum, "a" and "the" would win, and by
    the mean a word that is there once.
    """
    strengths: dict[str, list[float]] = defaultdict(list)
    for firing in chain.from_iterable(by_text):
        strengths[firing.word.lower()].append(firing.activation)
    means = {word: float(np.mean(values)) for word, values in strengths.items() if max(values) > 0}
    best = sorted(means, key=lambda word: -means[word] * np.log1p(len(strengths[word])))[:words]
    return tuple((word, means[word]) for word in best)


def _told(
    texts: LabelledTexts, strongest: NDArray[np.float32], count: int
) -> tuple[tuple[tuple[str, str], float], ...]:
    """The labels whose texts have most of a feature on average, as a share of the first."""
    means = np.bincount(texts.codes, strongest) / np.bincount(texts.codes)
    order = np.argsort(-means)[:count]
    if means[order[0]] == 0:
        return ()
    return tuple((texts.classes[place], float(means[place] / means[order[0]])) for place in order if means[place] > 0)
