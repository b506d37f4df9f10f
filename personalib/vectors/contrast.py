"""Contrast vectors: the activations of contrast pairs, and the steering vector between their poles.

RepE as arXiv 2410.10863 uses it (section 3.3): an instruction before a question, the last token, one direction a layer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from personalib.base.data import choose
from personalib.models.activations import Tokens, capture
from personalib.models.load import LanguageModel
from personalib.models.parts import Site, blocks
from personalib.models.prompts import format_prompt
from personalib.stimuli.contrast_pairs import Contrast, ContrastPair, contrast_set
from personalib.stimuli.grammar import SPLITS
from personalib.vectors.methods import DEFAULT_METHOD, Position, direction
from personalib.vectors.vector import SteeringVector, texts_hash

POSITIONS: Mapping[str, Tokens] = {"last": "last", "sentence_last": "last", "sentence_mean": "mean"}


@dataclass(frozen=True)
class PairActivations:
    """The residual stream of a model on contrast pairs.

    ``positive`` and ``negative`` hold by site the activations of each pair's two texts, shape ``(pairs, d_model)``;
    ``position`` is the token that was read, and ``texts`` a hash of the texts.
    """

    name: str
    pairs: tuple[ContrastPair, ...]
    positive: Mapping[Site, NDArray[np.float32]]
    negative: Mapping[Site, NDArray[np.float32]]
    model: str
    revision: str
    position: str
    texts: str

    @property
    def sites(self) -> tuple[Site, ...]:
        """Where activations were read, in order of depth."""
        return tuple(sorted(self.positive))

    def at(self, site: Site) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The activations of the positive and the negative texts at a site; a KeyError if nothing was read there."""
        if site not in self.positive:
            raise KeyError(f"nothing was read at {site}, only at {', '.join(map(str, self.sites))}")
        return self.positive[site], self.negative[site]

    @property
    def phrases(self) -> NDArray[np.str_]:
        """The phrases of each pair's positive and negative sentence, shape ``(pairs, 2)``."""
        return np.array([[pair.positive.phrase, pair.negative.phrase] for pair in self.pairs])


Halves = Mapping[str, PairActivations]


def all_sites(language_model: LanguageModel) -> list[Site]:
    """What every block of a model leaves in the residual stream."""
    return [Site(layer) for layer in range(len(blocks(language_model.model)))]


def spread(sites: Sequence[Site], at_most: int) -> list[Site]:
    """At most so many of the sites of a deep model, evenly over its depth with both ends; or the middle one."""
    if at_most < 1:
        raise ValueError(f"at_most={at_most}; keep at least one site")
    if at_most == 1:
        return [sites[len(sites) // 2]]
    places = np.linspace(0, len(sites) - 1, min(at_most, len(sites))).round().astype(int)
    return [sites[place] for place in places]


def prompts(
    language_model: LanguageModel, pair: ContrastPair, form: str = "chat"
) -> tuple[list[str], list[tuple[int, int]]]:
    """The two texts of a pair, positive first, and where its sentence stands in each, in characters."""
    sentences = pair.positive.text, pair.negative.text
    texts = [format_prompt(language_model.tokenizer, pair.question, form=form, context=each) for each in sentences]
    starts = [text.index(each) for text, each in zip(texts, sentences, strict=True)]
    return texts, [(start, start + len(each)) for start, each in zip(starts, sentences, strict=True)]


def read_pairs(
    language_model: LanguageModel,
    contrast: Contrast,
    pairs: Sequence[ContrastPair],
    sites: Sequence[Site],
    folder: Path,
    *,
    position: Position = "last",
    form: str = "chat",
) -> PairActivations:
    """Let a model read contrast pairs at some sites; the activations are kept in a folder.

    The ``position`` is ``"last"``, the last token of the prompt, as in the paper; ``"sentence_last"``, the last token
    of the sentence that the poles differ in; or ``"sentence_mean"``, the mean over its tokens. A ``form`` of ``"base"``
    is for models without a chat template.

    An unknown position, no pairs, and a site or chat template that the model has not are a ValueError.
    """
    choose(position, POSITIONS, "position")
    written = [prompts(language_model, pair, form) for pair in pairs]
    texts = [text for both, _ in written for text in both]
    spans = None if position == "last" else [span for _, both in written for span in both]
    tokens = POSITIONS[position]
    activations = capture(language_model, texts, sites, folder, spans=spans, tokens=tokens)
    values = {site: np.array(activations.values(site)) for site in activations.sites}
    return PairActivations(
        name=f"{contrast.family}.{contrast.key}",
        pairs=tuple(pairs),
        positive={site: rows[::2] for site, rows in values.items()},
        negative={site: rows[1::2] for site, rows in values.items()},
        model=language_model.name,
        revision=language_model.revision or language_model.digest(),
        position=position,
        texts=texts_hash(texts),
    )


def read_contrasts(
    language_model: LanguageModel,
    contrasts: Sequence[Contrast],
    sites: Sequence[Site],
    folder: Path,
    *,
    count: int = 128,
    seed: int = 0,
    progress: str | None = None,
    **choices: Any,
) -> dict[str, dict[str, PairActivations]]:
    """Let a model read ``count`` pairs of each contrast, by its key and by split, ``"train"`` and ``"held_out"``.

    The ``choices`` are those of :func:`read_pairs`.
    """
    readings: dict[str, dict[str, PairActivations]] = {contrast.key: {} for contrast in contrasts}
    steps = list(product(contrasts, SPLITS))
    for contrast, split in tqdm(steps, desc=progress, disable=progress is None, unit="set"):
        pairs, place = contrast_set(contrast, count, seed, split), folder / contrast.family / contrast.key / split
        readings[contrast.key][split] = read_pairs(language_model, contrast, pairs, sites, place, **choices)
    return readings


def fit_vector(read: PairActivations, site: Site, method: str = DEFAULT_METHOD) -> SteeringVector:
    """The :func:`~personalib.vectors.methods.direction` to the positive pole; a KeyError if a site was not read."""
    values = torch.from_numpy(direction(*read.at(site), method))
    return SteeringVector(values, site, read.name, method, read.model, read.revision, texts=read.texts)
