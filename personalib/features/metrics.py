"""How faithful an SAE is: explained variance, features a token, dead features, and what a model loses by reading it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from personalib.features.saes import SparseAutoencoder
from personalib.models.batches import check_rows, length_batches, right_padded
from personalib.models.hooks import changing
from personalib.models.load import LanguageModel
from personalib.models.parts import Site
from personalib.models.prompts import Encoded, encode

_ROWS = 4096


class Reconstruction(NamedTuple):
    """How an SAE does on some tokens x, whose reconstructions are x̂.

    ``explained_variance`` is 1 − Σ‖x − x̂‖² / Σ‖x − mean x‖², ``l0`` the mean number of features above zero at a token,
    and ``dead_fraction`` the share of features that are above zero at none.
    """

    explained_variance: float
    l0: float
    dead_fraction: float
    tokens: int


class CrossEntropy(NamedTuple):
    """The mean cross-entropy of the next token, in nats, with the residual stream at a site as it is or replaced.

    It is replaced by its reconstruction (``spliced``), by nothing (``zero``) or by its ``mean`` over all tokens.
    """

    clean: float
    spliced: float
    zero: float
    mean: float

    @property
    def recovered(self) -> float:
        """The share of what is lost without the stream that the reconstruction keeps (Gao et al. 2024, section 4)."""
        return (self.zero - self.spliced) / (self.zero - self.clean)

    @property
    def recovered_from_mean(self) -> float:
        """The same against the mean stream instead of none, which is the stricter comparison."""
        return (self.mean - self.spliced) / (self.mean - self.clean)


def reconstruction(sae: SparseAutoencoder, values: NDArray[Any], progress: str | None = None) -> Reconstruction:
    """How an SAE reconstructs activations at its site, shape ``(tokens, d_model)``, in batches; at least two tokens."""
    if len(values) < 2:
        raise ValueError(f"{len(values)} tokens have no variance to explain; pass at least two")
    total, squares, error, fired = np.zeros(values.shape[1]), 0.0, 0.0, 0.0
    alive = torch.zeros(sae.width, dtype=torch.bool)
    starts = range(0, len(values), _ROWS)
    for start in tqdm(starts, desc=progress, disable=progress is None, unit="batch"):
        rows = torch.from_numpy(np.array(values[start : start + _ROWS], dtype=np.float32))
        features = sae.encode(rows).cpu()
        error += float((sae.reconstruct(rows).float().cpu() - rows).double().pow(2).sum())
        total += rows.double().sum(0).numpy()
        squares += float(rows.double().pow(2).sum())
        fired += float((features > 0).sum())
        alive |= (features > 0).any(0)
    variance = squares - float(total @ total) / len(values)
    dead = 1 - float(alive.float().mean())
    return Reconstruction(1 - error / variance, fired / len(values), dead, len(values))


def cross_entropy(
    language_model: LanguageModel,
    sae: SparseAutoencoder,
    texts: Sequence[str],
    *,
    batch_tokens: int = 2048,
    progress: str | None = None,
) -> CrossEntropy:
    """What a model loses when it goes on from an SAE's reconstruction of its residual stream.

    Special tokens keep their own stream: SAEs are not trained on it. A forward pass has at most ``batch_tokens`` tokens
    with their padding. No texts are a ValueError, too long ones an ItemError.
    """
    if not texts:
        raise ValueError("there are no texts to measure on; pass at least one")
    encoded = encode(language_model.tokenizer, texts)
    check_rows(language_model.model, texts, [one.ids for one in encoded])
    batches = list(length_batches([one.ids for one in encoded], batch_tokens))
    sums, count = torch.zeros(sae.directions.shape[1], dtype=torch.float64), 0

    def keep(stream: torch.Tensor) -> torch.Tensor:
        nonlocal sums, count
        sums, count = sums + stream.double().sum(0).cpu(), count + len(stream)
        return stream

    with tqdm(total=4 * len(batches), desc=progress, disable=progress is None, unit="batch") as bar:

        def loss(replace: Callable[[torch.Tensor], torch.Tensor]) -> float:
            summed = tokens = 0.0
            for batch in batches:
                more, predicted = _replaced(language_model, sae.site, [encoded[index] for index in batch], replace)
                summed, tokens = summed + more, tokens + predicted
                bar.update()
            if not tokens:
                raise ValueError("no text has a second token to predict; pass longer texts")
            return summed / tokens

        clean = loss(keep)
        mean = (sums / count).float()
        return CrossEntropy(
            clean,
            spliced=loss(lambda stream: sae.reconstruct(stream).to(stream)),
            zero=loss(torch.zeros_like),
            mean=loss(lambda stream: mean.to(stream).expand_as(stream)),
        )


@torch.inference_mode()
def _replaced(
    language_model: LanguageModel, site: Site, batch: Sequence[Encoded], replace: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[float, int]:
    """Summed cross-entropy and number of predicted tokens of a batch whose stream at a site is replaced."""
    model = language_model.model
    inputs = {name: values.to(model.device) for name, values in right_padded([each.ids for each in batch]).items()}
    rows, columns = torch.tensor([(row, place) for row, each in enumerate(batch) for place in each.places]).T

    def change(stream: torch.Tensor) -> torch.Tensor:
        changed = stream.clone()
        changed[rows, columns] = replace(stream[rows, columns])
        return changed

    with changing(model, site, change):
        logits = model(**inputs, use_cache=False).logits
    counted = inputs["attention_mask"][:, 1:].bool().to(logits.device)
    targets = inputs["input_ids"][:, 1:].to(logits.device)[counted]
    losses = torch.nn.functional.cross_entropy(logits[:, :-1][counted].float(), targets, reduction="sum")
    return float(losses), len(targets)
