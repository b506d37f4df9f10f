"""Labels of features: the words that they fire on, the tokens that they promote, and where Neuronpedia has them."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from personalib.features.saes import SparseAutoencoder
from personalib.models.activations import Activations
from personalib.models.encoding import Encoded, check_located, encode
from personalib.models.load import LanguageModel
from personalib.models.parts import final_norm
from personalib.stimuli.sentences import LabelledTexts

_BLOCK = 2**23
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

    Attributes:
        feature: its number.
        words: what it fires on, with the mean activation there; lower case.
        tells: the labels whose texts have most of it, as a share of the label that has most.
        firings: the words in their texts where it is strongest, one of each text.
        promoted, suppressed: output tokens that it raises and lowers most (logit lens).
        address: its page on Neuronpedia, where it has one.
    """

    feature: int
    words: tuple[tuple[str, float], ...]
    tells: tuple[tuple[tuple[str, str], float], ...]
    firings: tuple[Firing, ...]
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
    """How strongly some features fire on each token, shape ``(tokens, len(features))``.

    Args:
        sae: the SAE.
        activations: captured with ``tokens="all"`` at its site.
        features: which.
    """
    values = activations.values(sae.site)
    rows = max(1, _BLOCK // sae.width)
    found = [
        sae.encode(torch.from_numpy(np.array(values[start : start + rows], dtype=np.float32)))[:, list(features)]
        for start in range(0, len(values), rows)
    ]
    return torch.cat(found).float().cpu().numpy()


def word_firings(
    language_model: LanguageModel,
    texts: Sequence[str],
    strengths: NDArray[np.float32],
    offsets: NDArray[np.int64],
    encoded: Sequence[Encoded] | None = None,
) -> list[list[Firing]]:
    """For each text all its words with how strongly one feature fires on them.

    Args:
        language_model: whose tokenizer cut the texts.
        texts: what was read.
        strengths: the feature's activation on each token that counts, shape ``(tokens,)``.
        offsets: where the tokens of each text begin, as in :class:`~personalib.models.activations.Activations`.
        encoded: the texts' tokens, where they are at hand.
    """
    check_located(language_model.tokenizer)
    encoded = encode(language_model.tokenizer, texts) if encoded is None else encoded
    found = []
    for text, one, begin, end in zip(texts, encoded, offsets, offsets[1:], strict=False):
        own = strengths[begin:end]
        # A word is as strong as its strongest token; a token's space in front belongs to no word.
        words = [
            Firing(
                text,
                word.start(),
                word.end(),
                max((float(s) for s, (a, b) in zip(own, one.spans, strict=True) if _overlap(word, a, b)), default=0.0),
            )
            for word in _WORD.finditer(text)
        ]
        found.append(words)
    return found


def label_features(
    language_model: LanguageModel,
    sae: SparseAutoencoder,
    features: Sequence[int],
    texts: LabelledTexts,
    activations: Activations,
    words: int = 3,
    count: int = 5,
) -> dict[int, FeatureLabel]:
    """Label features by what they fire on in some texts and by what they write to the output.

    Args:
        language_model: the model.
        sae: the SAE.
        features: which features.
        texts: texts to look at.
        activations: of the texts, captured with ``tokens="all"`` at the SAE's site.
        words: how many words, and how many elements, make a label.
        count: how many firings, and promoted and suppressed tokens.
    """
    different = list(dict.fromkeys(features))
    if not different:
        return {}
    strengths = token_activations(sae, activations, different)
    logits = logit_lens(language_model, sae.directions[different])
    encoded = encode(language_model.tokenizer, texts.texts)
    found = {}
    for column, feature in enumerate(different):
        by_text = word_firings(language_model, texts.texts, strengths[:, column], activations.offsets, encoded)
        strongest = [max(each, key=lambda one: one.activation) for each in by_text if each]
        top = sorted(strongest, key=lambda one: -one.activation)[:count]
        promoted, suppressed = _extremes(language_model, logits[column], count)
        found[feature] = FeatureLabel(
            feature,
            _favourites(by_text, words),
            _told(texts, np.maximum.reduceat(strengths[:, column], activations.offsets[:-1]), words),
            tuple(one for one in top if one.activation > 0),
            promoted,
            suppressed,
            sae.address(feature),
        )
    return found


@torch.inference_mode()
def logit_lens(language_model: LanguageModel, directions: torch.Tensor) -> torch.Tensor:
    """What directions write to the output if nothing in between changes them, shape ``(directions, vocabulary)``.

    Each goes through the last norm, so only its direction counts and not its length; the norm's own bias is taken off.

    Source:
        nostalgebraist, *interpreting GPT: the logit lens* (2020).

    Raises:
        ValueError: the norm before the output is not found.
    """
    model = language_model.model
    norm = final_norm(model)
    given = directions.to(model.device, model.dtype)
    head = model.get_output_embeddings()
    logits = head(norm(given)) - head(norm(torch.zeros_like(given[:1])))
    return logits.float().cpu()


def _overlap(word: re.Match[str], start: int, end: int) -> bool:
    return start < word.end() and end > word.start()


def _favourites(by_text: Sequence[Sequence[Firing]], words: int) -> tuple[tuple[str, float], ...]:
    """The words that a feature fires on, with the mean activation on each.

    A word counts by its mean and the logarithm of how often it is there: by the sum, "a" and "the" would win, and by
    the mean a word that is there once.
    """
    strengths: dict[str, list[float]] = defaultdict(list)
    for firing in (one for each in by_text for one in each):
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


def _extremes(
    language_model: LanguageModel, logits: torch.Tensor, count: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The tokens with the highest and the lowest logits."""
    order = logits.argsort().tolist()
    decode = language_model.tokenizer.decode
    return tuple(decode([i]) for i in order[::-1][:count]), tuple(decode([i]) for i in order[:count])
