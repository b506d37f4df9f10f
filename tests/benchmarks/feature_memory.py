"""What a search on an SAE of 131,072 features and 10,000 texts takes in memory and time: ``make bench``.

The SAE is random, with a threshold at which about sixty features fire at a token, and a feature planted for each of 23
elements. The dense matrix of texts and features would be 5 GiB, and that of tokens and features twelve times as much;
neither is ever built.
"""

import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import numpy as np
import torch
from sae_lens import SAE
from scipy.stats import norm

from personalib.features.discovery import FeatureTexts, Settings, discover, pool_features
from personalib.features.saes import SparseAutoencoder
from personalib.models.activations import Activations
from personalib.models.parts import Site
from personalib.stimuli.factors import elements
from personalib.stimuli.sentences import NEUTRAL, LabelledTexts

SITE, TOKENS, FIRING = Site(12), 12, 60
LABELS = [(each.factor, each.key) for each in elements()]
GIB = 2**30


def make_sae(width: int, d_model: int) -> SparseAutoencoder:
    """An SAE of random directions of length one; their product with noise is above the threshold as often as wanted."""
    config = {"architecture": "jumprelu", "d_in": d_model, "d_sae": width, "metadata": {"hook_name": "none"}}
    network = SAE.from_dict(config).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    network.W_enc.normal_(generator=generator).div_(network.W_enc.norm(dim=0))
    network.W_dec.copy_(network.W_enc.T)
    network.threshold.fill_(float(norm.isf(FIRING / width)))
    return SparseAutoencoder(network, "synthetic", "", SITE, None, None, "none", False, None)


def planted(sae: SparseAutoencoder) -> list[int]:
    """The feature of each element."""
    return [number * (sae.width // len(LABELS)) for number in range(len(LABELS))]


def make_texts(split: str, count: int) -> LabelledTexts:
    """Texts of all elements and neutral ones in turn, three of each phrase."""
    cycle = [*LABELS, NEUTRAL]
    labels = tuple(cycle[number % len(cycle)] for number in range(count))
    phrases = tuple(f"{'.'.join(label)} {split} {number // (3 * len(cycle))}" for number, label in enumerate(labels))
    return LabelledTexts(tuple(f"{split} {number}" for number in range(count)), labels, phrases)


def store(sae: SparseAutoencoder, texts: LabelledTexts, folder: Path, seed: int) -> Activations:
    """Activations on disk: noise, with the direction of a text's element at one of its tokens."""
    folder.mkdir()
    d_model = sae.directions.shape[1]
    offsets = np.arange(len(texts.texts) + 1) * TOKENS
    values = np.lib.format.open_memmap(folder / f"{SITE}.npy", "w+", np.float32, (int(offsets[-1]), d_model))
    features, rng = dict(zip(LABELS, planted(sae), strict=True)), np.random.default_rng(seed)
    for start, label in zip(offsets, texts.labels, strict=False):
        values[start : start + TOKENS] = rng.standard_normal((TOKENS, d_model))
        if label != NEUTRAL:
            values[start + rng.integers(TOKENS)] += 6 * sae.directions[features[label]].numpy()
    values.flush()
    return Activations(folder, offsets, (SITE,))


@contextmanager
def part(name: str) -> Iterator[None]:
    """Tells how long a part takes, and the most memory that was in use until its end."""
    start = time.perf_counter()
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
    click.echo(f"{name:<44} {time.perf_counter() - start:7.1f} s   peak resident memory so far {peak:5.2f} GiB")


@click.command()
@click.option("--width", default=131_072, show_default=True, help="Features of the SAE.")
@click.option("--d-model", default=256, show_default=True, help="Coordinates of the residual stream.")
@click.option("--texts", default=10_000, show_default=True, help="Texts of the search.")
@click.option("--held-out", default=2_000, show_default=True, help="Texts for the scores.")
@click.option("--shuffles", default=19, show_default=True, help="Searches with shuffled labels.")
def main(width: int, d_model: int, texts: int, held_out: int, shuffles: int) -> None:
    """Measure a search for features."""
    with part("imports and the SAE"):
        sae = make_sae(width, d_model)
    told = {"search": make_texts("search", texts), "held out": make_texts("held out", held_out)}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        with part("activations on disk"):
            stored = {name: store(sae, own, Path(folder) / name, seed) for seed, (name, own) in enumerate(told.items())}
        for name, own in told.items():
            with part(f"features of {len(own.texts):,} texts ({name})"):
                found[name] = FeatureTexts(own, pool_features(sae, stored[name]))
    with part(f"search with {shuffles} shuffles"):
        discovery = discover(found["search"], found["held out"], Settings(shuffles=shuffles), "shuffles")
    right = sum(each.features[:1] == (one,) for each, one in zip(discovery.findings, planted(sae), strict=True))
    weights = sum(value.numel() * value.element_size() for value in sae.network.parameters())
    pooled = found["search"].pooled
    sparse = pooled.data.nbytes + pooled.indices.nbytes + pooled.indptr.nbytes
    click.echo(f"planted features found: {right} of {len(LABELS)}")
    click.echo(f"entries above zero: {pooled.nnz / texts:.0f} a text, {sparse / GIB:.2f} GiB in all")
    click.echo(f"weights of the SAE: {weights / GIB:.2f} GiB")
    click.echo(f"dense matrix of texts and features, never built: {texts * width * 4 / GIB:.2f} GiB")
    click.echo(f"dense matrix of tokens and features, never built: {texts * TOKENS * width * 4 / GIB:.2f} GiB")


if __name__ == "__main__":
    main()
