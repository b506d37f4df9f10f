"""How faithful an SAE is: explained variance, features a token, dead features, and what a model loses by reading it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import nnsight
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from personalib.features.saes import SparseAutoencoder
from personalib.models.batches import check_rows
from personalib.models.encoding import Encoded, encode, length_batches, padded
from personalib.models.load import LanguageModel
from personalib.models.parts import Site, blocks_path
from personalib.models.remote import traceable

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
    with their padding.

    Raises:
        ValueError: there are no texts.
        ItemError: see :func:`personalib.models.batches.check_rows`.
    """
    if not texts:
        raise ValueError("there are no texts to measure on; pass at least one")
    encoded = encode(language_model.tokenizer, texts)
    check_rows(language_model.model, texts, [one.ids for one in encoded])
    batches = list(length_batches(encoded, batch_tokens))
    network = traceable(language_model)
    sums, count = torch.zeros(sae.directions.shape[1], dtype=torch.float64), 0

    def keep(stream: torch.Tensor) -> torch.Tensor:
        nonlocal sums, count
        sums, count = sums + stream.double().sum(0).cpu(), count + len(stream)
        return stream

    with tqdm(total=4 * len(batches), desc=progress, disable=progress is None, unit="batch") as bar:

        def loss(replace: Callable[[torch.Tensor], torch.Tensor]) -> float:
            sums_of_batches = [_replaced(network, sae.site, encoded, batch, replace, bar) for batch in batches]
            summed, tokens = np.sum(sums_of_batches, axis=0)
            return float(summed / tokens)

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
    network: Any,
    site: Site,
    encoded: Sequence[Encoded],
    batch: Sequence[int],
    replace: Callable[[torch.Tensor], torch.Tensor],
    bar: Any,
) -> tuple[float, int]:
    """Summed cross-entropy and number of predicted tokens of a batch whose stream at a site is replaced."""
    inputs = padded([encoded[index].ids for index in batch])
    rows = torch.tensor([row for row, index in enumerate(batch) for _ in encoded[index].places])
    columns = torch.tensor([place for index in batch for place in encoded[index].places])
    path = blocks_path(network._module)
    with network.trace(inputs, use_cache=False):
        block = network.get(f"{path}.{site.layer}")
        value = block.input if site.stream == "resid_pre" else block.output
        stream = value[0] if isinstance(value, tuple) else value
        stream[rows, columns] = replace(stream[rows, columns])
        logits = nnsight.save(network.output.logits)
    bar.update()
    targets = inputs["input_ids"][:, 1:].to(logits.device)
    counted = inputs["attention_mask"][:, 1:].bool().to(logits.device)
    losses = torch.nn.functional.cross_entropy(logits[:, :-1][counted].float(), targets[counted], reduction="sum")
    return float(losses), int(counted.sum())
