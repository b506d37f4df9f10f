"""Sparse autoencoders (SAEs) by name, and those that a model is looked at with.

Weights are read from safetensors or NumPy arrays only; releases that come as pickles are refused.
"""

import re
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from numpy.typing import NDArray
from safetensors import SafetensorError

from personalib.base.data import DataError, cut, data_dir, exists
from personalib.models.hub import Presence
from personalib.models.load import LanguageModel, weights_digest
from personalib.models.loaded import note_loaded
from personalib.models.parts import Site
from personalib.models.registry import ORGANISM

# sae-lens takes ten seconds to import, and most who import this module load no SAE.
if TYPE_CHECKING:
    from sae_lens import SAE
    from sae_lens.loading.pretrained_saes_directory import PretrainedSAELookup

# The organism's SAE that the book looks at first.
DEFAULT_SAE = "resid_post.1/width_1024"
# Loaders of sae-lens that read safetensors or NumPy arrays; the others unpickle.
_LOADERS = ("sae_lens", "gemma_2", "gemma_3", "llama_scope", "sparsify")
_WEIGHTS = ("sae_weights.safetensors", "params.npz", "params.safetensors", "checkpoints/final.safetensors")
# Normalisations that need nothing but the activation itself.
_KEPT = ("none", "layer_norm", "constant_norm_rescale")
_HOOK = re.compile(r"blocks\.(\d+)\.hook_(resid_pre|resid_post)")
# What sae-lens raises where a file is missing, broken or of another kind.
_UNREADABLE = (
    OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, EOFError, BadZipFile, zlib.error,
    SafetensorError, HfHubHTTPError,
)  # fmt: skip
_NEURONPEDIA = "https://www.neuronpedia.org"


@dataclass(frozen=True)
class SparseAutoencoder:
    """An SAE with what has to be known to use it as it was trained.

    ``network`` is that of sae-lens, of a ``release`` or folder, in which it is called ``sae_id``. ``model`` is what it
    was trained on, where it says so, and ``revision`` the commit of a release; ``neuronpedia`` is its name there.
    ``normalisation`` is done to each token before it is encoded: ``"layer_norm"``, ``"constant_norm_rescale"`` or
    ``"none"``, also where a constant factor is part of the weights. Where it is ``centred``, each activation's mean
    over its coordinates is taken off first: so the residual stream of a model with LayerNorm looks in transformer-lens.
    """

    network: "SAE"
    release: str
    sae_id: str
    site: Site
    model: str | None
    revision: str | None
    normalisation: str
    centred: bool
    neuronpedia: str | None

    @property
    def name(self) -> str:
        """Release and id in one, as :func:`load_sae` takes them apart."""
        return f"{self.release}/{self.sae_id}" if self.sae_id else self.release

    @property
    def width(self) -> int:
        """The number of features."""
        return int(self.network.cfg.d_sae)

    @property
    def directions(self) -> torch.Tensor:
        """What each feature writes to the residual stream, the rows of the decoder, shape ``(width, d_model)``."""
        return self.network.W_dec.detach()

    @torch.inference_mode()
    def encode(self, activations: torch.Tensor) -> torch.Tensor:
        """The features of activations, from shape ``(rows, d_model)`` to ``(rows, width)``."""
        encoded: torch.Tensor = self.network.encode(self._centre(activations)[0])
        return encoded

    def features(self, activations: NDArray[np.floating]) -> NDArray[np.float32]:
        """The same of an array, which may be memory-mapped and of half precision."""
        rows = torch.from_numpy(np.array(activations, dtype=np.float32))
        encoded: NDArray[np.float32] = self.encode(rows).float().cpu().numpy()
        return encoded

    @torch.inference_mode()
    def reconstruct(self, activations: torch.Tensor) -> torch.Tensor:
        """Encode and decode activations of shape ``(rows, d_model)``."""
        centred, mean = self._centre(activations)
        # Encoded and decoded at once, since what a token is normalised by is kept between the two.
        return self.network.decode(self.network.encode(centred)) + mean

    @torch.inference_mode()
    def written(self, activations: torch.Tensor, features: Sequence[int], value: float) -> torch.Tensor:
        """The difference to activations of shape ``(rows, d_model)`` when features are held at a value."""
        centred = self._centre(activations)[0]
        held = self.network.encode(centred).clone()
        held[:, list(features)] = value
        changed = self.network.decode(held)
        # Encoded anew, since what a token is normalised by is kept for one decoding only.
        return changed - self.network.decode(self.network.encode(centred))

    def check_fits(self, language_model: LanguageModel) -> None:
        """Refuse a model whose residual stream has another width by a ValueError."""
        own, width = self.directions.shape[1], language_model.model.config.get_text_config().hidden_size
        if own != width:
            widths = f"{self.name} reads {own} coordinates and {language_model.name} has {width}"
            raise ValueError(f"{widths}; it was trained on {self.model or 'another model'}")

    def address(self, feature: int) -> str | None:
        """The page of a feature on Neuronpedia, where the SAE is there."""
        return f"{_NEURONPEDIA}/{self.neuronpedia}/{feature}" if self.neuronpedia else None

    def digest(self) -> str:
        """A hash of the weights."""
        return weights_digest(self.network)

    def record(self) -> dict[str, str | int | bool | None]:
        """Everything that says which SAE this is, for files with results."""
        return {
            "release": self.release,
            "id": self.sae_id,
            "site": str(self.site),
            "width": self.width,
            "model": self.model,
            "revision": self.revision,
            "digest": self.digest(),
            "architecture": self.network.cfg.architecture(),
            "normalisation": self.normalisation,
            "centred": self.centred,
        }

    def _centre(self, activations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Activations as the SAE takes them, and what was taken off."""
        wanted = activations.to(self.network.W_dec.device, self.network.W_dec.dtype)
        mean = wanted.mean(-1, keepdim=True) if self.centred else wanted.new_zeros(())
        return wanted - mean, mean


class Saes(NamedTuple):
    """SAEs of one model: a release as :func:`load_sae` takes it, and ids."""

    release: str
    ids: tuple[str, ...]


def usual_saes(language_model: LanguageModel, release: str = "", ids: Sequence[str] = (), device: str = "cpu") -> Saes:
    """The SAEs to look at a model with: those named, or known for it, or one that is trained now or was before.

    SAEs of a release have to be named where none of it is known, or it is a DataError.
    """
    known = language_model.entry.saes
    if known and release in ("", known.release):
        return Saes(known.release, tuple(ids) or known.ids)
    if release:
        if not ids and not (exists(release) and Path(release).is_dir()):
            raise DataError(f"{release}: say which SAEs of it are meant, such as blocks.12.hook_resid_post")
        return Saes(release, tuple(ids) or ("",))
    if ids:
        raise DataError(f"no SAEs are known for {language_model.name}; say of which release {', '.join(ids)} are")
    from personalib.features.training import trained_sae

    return Saes(str(trained_sae(language_model, device)), ("",))


def organism_saes() -> list[str]:
    """The ids of the organism's SAEs, such as ``resid_post.3/width_512``."""
    folder = data_dir() / "organism" / "saes"
    return sorted(str(path.parent.relative_to(folder)) for path in folder.glob("*/*/cfg.json"))


def load_sae(
    release: str = ORGANISM, sae_id: str = "", device: str = "cpu", dtype: str = "float32"
) -> SparseAutoencoder:
    """Load an SAE.

    The release is ``"organism"``, one in the table of sae-lens such as ``gemma-2b-it-res-jb``, or a folder that
    sae-lens has written; the id is that within the release, such as ``blocks.12.hook_resid_post``, and none for a
    folder.

    Raises:
        DataError: there is no such SAE, it would have to be unpickled, access was not granted, its weights are not all
            finite, or it reads something else than the residual stream.

    Example:
        >>> load_sae("organism", "resid_post.3/width_512").site
        Site(layer=3, stream='resid_post')
    """
    if release == ORGANISM:
        if sae_id not in organism_saes():
            raise DataError(f"the organism has no SAE {sae_id!r}; choose one of {', '.join(organism_saes())}")
        return _from_folder(data_dir() / "organism" / "saes" / sae_id, release, sae_id, device, dtype)
    if not (exists(release) and Path(release).is_dir()):
        return _from_release(release, sae_id, device, dtype)
    if sae_id:
        raise DataError(f"{release} is a folder, which holds one SAE; leave out the id {sae_id!r}")
    return _from_folder(Path(release), release, "", device, dtype)


def sae_presence(release: str, sae_id: str) -> Presence:
    """Whether an SAE of a release of the hub is on this machine."""
    return Presence.WHOLE if _revision(*release_files(release, sae_id)) else Presence.NONE


def release_files(release: str, sae_id: str) -> tuple[str, tuple[str, ...]]:
    """The repository of an SAE on the hub, and the files that its weights may be in, or a DataError."""
    entry = _table_entry(release, sae_id)
    return entry.repo_id, tuple(f"{entry.saes_map[sae_id]}/{name}" for name in _WEIGHTS)


def _from_folder(folder: Path, release: str, sae_id: str, device: str, dtype: str) -> SparseAutoencoder:
    from sae_lens import SAE

    try:
        # Of the model's conventions, which are kept to here.
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            network = SAE.load_from_disk(folder, device, dtype)
    except _UNREADABLE as error:
        raise DataError(f"{folder}: cannot be loaded as an SAE of sae-lens ({_message(error)})") from None
    return _wrap(network, release, sae_id)


def _table_entry(release: str, sae_id: str) -> "PretrainedSAELookup":
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    table = get_pretrained_saes_directory()
    if release not in table:
        near = get_close_matches(release, table, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "see the table of pretrained SAEs of sae-lens"
        raise DataError(f"{release}: neither a folder nor a release of SAEs; {hint}")
    entry = table[release]
    if sae_id not in entry.saes_map:
        some = list(entry.saes_map)[:6]
        more = " and others" if len(entry.saes_map) > len(some) else ""
        raise DataError(f"{release} has no SAE {sae_id!r}; there are {', '.join(some)}{more}")
    return entry


def _from_release(release: str, sae_id: str, device: str, dtype: str) -> SparseAutoencoder:
    from sae_lens import SAE
    from sae_lens.loading.pretrained_sae_loaders import get_conversion_loader_name

    entry = _table_entry(release, sae_id)
    if (loader := get_conversion_loader_name(release)) not in _LOADERS:
        raise DataError(
            f"{release}: its weights are not in safetensors or NumPy arrays ({loader}); they are not loaded"
        )
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            network, config, _ = SAE.from_pretrained_with_cfg_and_sparsity(release, sae_id, device, dtype)
    except _UNREADABLE as error:
        fetch = f"if it is not on this machine, run: hf download {entry.repo_id} --include '{entry.saes_map[sae_id]}/*'"
        raise DataError(f"{release}, {sae_id}: cannot be loaded ({_message(error)}); {fetch}") from None
    revision = _revision(*release_files(release, sae_id))
    return _wrap(network, release, sae_id, revision, config.get("neuronpedia_id"), entry.model)


def _wrap(
    network: "SAE", release: str, sae_id: str, revision: str | None = None, page: str | None = None, model: str = ""
) -> SparseAutoencoder:
    """An SAE that was read, if it can be used here; the release's table knows its page on Neuronpedia and its model."""
    metadata, name = network.cfg.metadata, f"{release} {sae_id}".strip()
    hook = _HOOK.fullmatch(str(metadata.hook_name))
    if not hook:
        raise DataError(f"{name}: reads {cut(str(metadata.hook_name))}; only the residual stream is known here")
    normalisation = network.cfg.normalize_activations or "none"
    if normalisation not in _KEPT:
        trained = f"was trained with {cut(str(normalisation))}, whose numbers are not in its weights"
        raise DataError(f"{name}: {trained}; fold them in with sae-lens and save it anew")
    dtype, device = str(network.W_dec.dtype).removeprefix("torch."), str(network.W_dec.device)
    if strange := [part for part, values in network.state_dict().items() if not values.isfinite().all()]:
        problem = f"{strange[0]} holds NaN or infinity in {dtype}"
        raise DataError(f"{name}: {problem}; load it in float32, or fetch or train it again")
    note_loaded("sae", name=name, revision=revision, dtype=dtype, device=device)
    return SparseAutoencoder(
        network=network.eval().requires_grad_(False),
        release=release,
        sae_id=sae_id,
        site=Site(int(hook[1]), hook[2]),
        model=metadata.model_name or model or None,
        revision=revision,
        normalisation=normalisation,
        centred=bool((metadata.model_from_pretrained_kwargs or {}).get("center_writing_weights")),
        neuronpedia=metadata.neuronpedia_id or page,
    )


def _revision(repository: str, names: Sequence[str]) -> str | None:
    """The commit of the first of some files that is in the hub's cache: the name of the snapshot that it stands in."""
    for name in names:
        path = try_to_load_from_cache(repository, name)
        if isinstance(path, str):
            return Path(path).parts[-len(Path(name).parts) - 1]
    return None


def _message(error: Exception) -> str:
    return cut(" ".join(str(error).split()), 400) or type(error).__name__
