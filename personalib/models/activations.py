"""Activations: the residual stream of a model at some sites, for many texts, kept on disk.

The values go into memory-mapped files batch by batch: memory stays flat, and a killed run goes on where it stopped.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm
from transformers import PreTrainedModel

from personalib.base.data import DataError, choose, read_json
from personalib.base.provenance import digest, file_hash
from personalib.base.records import ItemError
from personalib.base.storage import Journal, reserve, write_whole, writing
from personalib.models.batches import check_finite, check_rows, length_batches, right_padded
from personalib.models.load import LanguageModel
from personalib.models.parts import Site as Site
from personalib.models.parts import blocks, blocks_path
from personalib.models.prompts import Encoded, encode
from personalib.models.remote import RemoteModel, running
from personalib.models.remote import traceable as traceable

logger = logging.getLogger(__name__)

Tokens = Literal["last", "mean", "all"]


@dataclass(frozen=True)
class Activations:
    """Captured activations: the rows of text ``i`` are ``offsets[i]`` to ``offsets[i + 1]`` of each site's."""

    folder: Path
    offsets: NDArray[np.int64]
    sites: tuple[Site, ...]

    @property
    def files(self) -> list[Path]:
        """The file of each site."""
        return [self.folder / f"{site}.npy" for site in self.sites]

    def values(self, site: Site) -> NDArray[Any]:
        """The activations at a site, memory-mapped, shape ``(rows, width)``; a ``KeyError`` if there are none."""
        if site not in self.sites:
            raise KeyError(f"nothing was captured at {site}, only at {', '.join(map(str, self.sites))}")
        return np.load(self.files[self.sites.index(site)], mmap_mode="r")

    def text(self, site: Site, number: int) -> NDArray[Any]:
        """The activations of one text at a site, shape ``(rows of the text, width)``."""
        return self.values(site)[self.offsets[number] : self.offsets[number + 1]]


def capture(  # noqa: PLR0913 - each argument is one choice in what is captured and how
    language_model: LanguageModel,
    texts: Sequence[str],
    sites: Sequence[Site],
    folder: Path,
    *,
    spans: Sequence[tuple[int, int]] | None = None,
    tokens: Tokens = "last",
    batch_tokens: int = 8192,
    dtype: str = "float32",
    progress: str | None = None,
) -> Activations:
    """Run a model over texts and keep the residual stream at some sites.

    Tokens that count are those of the text, or of a span of it, without the tokenizer's special tokens: at a
    beginning-of-sequence token the residual stream is many times larger than anywhere else.

    Args:
        language_model: the model and its tokenizer; of one that a service runs, the tokens that count come back.
        texts: what it reads; a beginning-of-sequence token is added unless a text has one.
        sites: where to look.
        folder: where the activations go; what is there for the same inputs, as it was written, is used, and else
            replaced.
        spans: for each text the characters that count, from and up to; all by default.
        tokens: the ``"last"`` that counts or the ``"mean"`` of all, one row a text; or ``"all"``, one row a token.
        batch_tokens: tokens of a forward pass with their padding, at the most, but for a text that is longer.
        dtype: number format on disk, such as ``"float16"``.
        progress: text of a progress bar; None shows none.

    Raises:
        ValueError: there is no such site or selection, there are no texts, not one span a text, or a text without a
            token that counts.
        DataError: there is no room for the activations, which is found before the model is run; a text is longer than
            the model reads; a value is NaN or infinite, or too large for the number format; or a service does not
            answer, see :func:`personalib.models.remote.running`.
    """
    _check(language_model.model, sites, tokens, len(texts))
    encoded = encode(language_model.tokenizer, texts, spans)
    check_rows(language_model.model, texts, [one.ids for one in encoded])
    offsets = np.cumsum([0, *(len(one.places) if tokens == "all" else 1 for one in encoded)])
    found = Activations(folder, offsets, tuple(sites))
    width = language_model.model.config.get_text_config().hidden_size
    key = _key(language_model, encoded, sites, tokens, dtype)
    if _finished(found, key):
        return found
    folder.mkdir(parents=True, exist_ok=True)
    with closing(Journal(folder / "batches.jsonl")) as journal:
        # Other batches are other numbers in the journal, so they are part of what an unfinished run is known by.
        files = _open(found, f"{key} {batch_tokens}", width, dtype, journal)
        network = traceable(language_model)
        done = {entry.get("batch"): entry.get("rows") for entry in journal.entries}
        with tqdm(total=len(texts), desc=progress, disable=progress is None, unit="text") as bar:
            for number, batch in enumerate(length_batches([one.ids for one in encoded], batch_tokens)):
                # Only what is still as it was written counts as done.
                if number not in done or done[number] != _rows_hash(files, found, batch):
                    _capture_batch(language_model, network, texts, encoded, batch, tokens, found, files)
                    journal.add({"batch": number, "rows": _rows_hash(files, found, batch)})
                bar.update(len(batch))
        hashes = {path.name: file_hash(path) for path in found.files}
        write_whole(folder / "activations.json", json.dumps({"key": key, "hashes": hashes}))
    return found


def _capture_batch(
    language_model: LanguageModel,
    network: Any,
    texts: Sequence[str],
    encoded: Sequence[Encoded],
    batch: Sequence[int],
    tokens: str,
    found: Activations,
    files: Sequence[NDArray[Any]],
) -> None:
    """Run a batch and write what it gives to disk before it counts as done."""
    counted = [encoded[index].places[-1:] if tokens == "last" else encoded[index].places for index in batch]
    streams = _streams(language_model, network, found.sites, [encoded[index].ids for index in batch], counted)
    for file, stream in zip(files, streams, strict=True):
        for index, own in zip(batch, stream.split([len(places) for places in counted]), strict=True):
            chosen = (own.mean(0, keepdim=True) if tokens == "mean" else own).numpy()
            check_finite(language_model.model, texts, [index], [chosen])
            with np.errstate(over="ignore"):
                kept = chosen.astype(file.dtype)
            if not np.isfinite(kept).all():
                raise ItemError(
                    f"text {index + 1} of {len(texts)} ({texts[index][:60]!r}): an activation of "
                    f"{np.abs(chosen).max():.3g} does not fit into {file.dtype} on disk; keep float32 (dtype)"
                )
            file[found.offsets[index] : found.offsets[index + 1]] = kept
        file.flush()  # type: ignore[attr-defined]


def _rows_hash(files: Sequence[NDArray[Any]], found: Activations, batch: Sequence[int]) -> str:
    """A hash of a batch's activations at all sites."""
    rows = [file[found.offsets[index] : found.offsets[index + 1]] for file in files for index in batch]
    return digest(*(own.tobytes() for own in rows))


@torch.inference_mode()
def _streams(
    language_model: LanguageModel,
    network: Any,
    sites: Sequence[Site],
    rows: Sequence[list[int]],
    counted: Sequence[Sequence[int]],
) -> list[torch.Tensor]:
    """The residual stream at each site, each of shape (tokens that count, width), one text's after another's."""
    inputs = right_padded(rows)
    # The run meets the sites in this order, and stops after the last.
    order = sorted(set(sites), key=lambda site: site.order)
    path = blocks_path(network._module)
    # In words and tensors, since a service knows no class of this library.
    parts = [(f"{path}.{site.layer}", site.stream) for site in order]
    row = torch.tensor([number for number, places in enumerate(counted) for _ in places])
    place = torch.tensor([each for places in counted for each in places])
    with running(language_model) as backend, network.trace(inputs, use_cache=False, backend=backend) as tracer:
        met = [].save()  # type: ignore[attr-defined]
        for part, stream in parts:
            block = network.get(part)
            value = block.input if stream == "resid_pre" else block.output
            met.append((value[0] if isinstance(value, tuple) else value)[row, place].detach())
        tracer.stop()
    return [met[order.index(site)].float().cpu() for site in sites]


def _check(model: PreTrainedModel, sites: Sequence[Site], tokens: str, count: int) -> None:
    depth = len(blocks(model))
    if not sites or not count:
        raise ValueError("there are no sites or no texts to capture; pass at least one of each")
    for site in sites:
        if site.stream not in ("resid_pre", "resid_post") or not 0 <= site.layer < depth:
            raise ValueError(f"{site} is no site of this model; it has blocks 0 to {depth - 1}, each with pre and post")
    choose(tokens, get_args(Tokens), "selection of tokens")


def _key(
    language_model: LanguageModel, encoded: Sequence[Encoded], sites: Sequence[Site], tokens: str, dtype: str
) -> str:
    """A hash of everything that determines the activations."""
    model = language_model.revision or language_model.digest()
    chosen = [model, str(language_model.model.dtype), [str(site) for site in sites], tokens, dtype]
    found = hashlib.sha256(json.dumps(chosen).encode())
    for one in encoded:
        found.update(json.dumps(one).encode())
    return found.hexdigest()[:16] + (f" {language_model.runner}" if isinstance(language_model, RemoteModel) else "")


def _finished(found: Activations, key: str) -> bool:
    """Whether all was captured before and is as it was written."""
    path = found.folder / "activations.json"
    if not path.exists():
        return False
    about = read_json(path)
    if not isinstance(about, dict) or "key" not in about or not isinstance(about.get("hashes", {}), dict):
        raise DataError(f"{path}: not written by this program; choose another folder")
    if about["key"] != key:
        return False
    hashes = about.get("hashes", {})
    changed = [file for file in found.files if not file.is_file() or file_hash(file) != hashes.get(file.name)]
    for file in changed:
        logger.warning("%s: missing or damaged; it is captured anew", file)
    return not changed


def _open(found: Activations, key: str, width: int, dtype: str, journal: Journal) -> list[NDArray[Any]]:
    """The files to write to: those of a run whose journal begins with this key, or new ones, if there is room."""
    shape = (int(found.offsets[-1]), width)
    if journal.entries and journal.entries[0].get("key") == key:
        with suppress(OSError, ValueError, EOFError):  # missing, or cut off
            left = [np.load(path, mmap_mode="r") for path in found.files]
            if all(file.shape == shape and file.dtype == dtype for file in left):
                return [np.load(path, mmap_mode="r+") for path in found.files]
    (found.folder / "activations.json").unlink(missing_ok=True)
    journal.cut(0)
    try:
        files = [_new(path, dtype, shape) for path in found.files]
    except DataError:
        for path in found.files:  # what was set aside for the first of them
            path.unlink(missing_ok=True)
        raise
    journal.add({"key": key})
    return files


def _new(path: Path, dtype: str, shape: tuple[int, int]) -> NDArray[Any]:
    """A memory-mapped file for which there is room: otherwise writing to it would end the process by a signal."""
    path.unlink(missing_ok=True)
    with writing(path):
        file: NDArray[Any] = np.lib.format.open_memmap(path, "w+", dtype, shape)
    reserve(path)
    return file
