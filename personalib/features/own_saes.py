"""The SAEs that a model is looked at with: those that are known for it, or one that is trained on the spot.

What is trained here has read little and narrow text: the sentences and questions of this book. It serves to run every
chapter on any model; an SAE that was trained on a corpus is better wherever there is one.
"""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from personalib.base.data import DataError, Strict, data_dir, exists, parse, read_yaml
from personalib.base.provenance import repository_root
from personalib.base.storage import alone
from personalib.features.training import Dictionary, Recipe, train_saes
from personalib.models.load import LanguageModel
from personalib.models.parts import Site
from personalib.stimuli.contrast_pairs import contrast_set, contrasts
from personalib.stimuli.sentences import element_texts
from personalib.vectors.contrast import all_sites, prompts


class Saes(NamedTuple):
    """SAEs of one model: a release as :func:`~personalib.features.saes.load_sae` takes it, and ids."""

    release: str
    ids: tuple[str, ...]


class OwnRecipe(Strict):
    """How an SAE is trained on the spot, read from ``data/own_saes.yaml``; the file explains the fields."""

    seed: int
    per_element: int
    pairs: int
    expansion: int
    widest: int
    k: int
    samples: int
    batch: int
    learning_rate: float
    checkpoint_every: int
    dtype: Literal["float16", "float32"]


def usual_saes(language_model: LanguageModel, release: str = "", ids: Sequence[str] = (), device: str = "cpu") -> Saes:
    """The SAEs to look at a model with: those named, or known for it, or one that is trained now or was before.

    SAEs of a release have to be named where none of it is known, or it is a DataError.
    """
    known = language_model.entry.saes
    if not release:
        return _known_or_trained(language_model, ids, device)
    if ids or (exists(release) and Path(release).is_dir()):
        return Saes(release, tuple(ids) or ("",))
    if known and known.release == release:
        return Saes(release, known.ids)
    raise DataError(f"{release}: say which SAEs of it are meant, such as blocks.12.hook_resid_post")


def _known_or_trained(language_model: LanguageModel, ids: Sequence[str], device: str) -> Saes:
    known = language_model.entry.saes
    if known:
        return Saes(known.release, tuple(ids) or known.ids)
    if ids:
        raise DataError(f"no SAEs are known for {language_model.name}; say of which release {', '.join(ids)} are")
    return Saes(str(trained_sae(language_model, device)), ("",))


def trained_sae(language_model: LanguageModel, device: str = "cpu") -> Path:
    """The folder of an SAE of a model's middle block; it is trained first where it is not there.

    It is kept under a hash of the model and of all that determines the training, in ``$PERSONALIB_CACHE`` or in
    ``results/saes`` beside the library; a training that was killed goes on.
    """
    recipe = _own_recipe()
    texts = _texts(language_model, recipe)
    model = language_model.revision or language_model.digest()
    about = json.dumps([model, str(language_model.model.dtype), recipe.model_dump(), texts])
    name = re.sub(r"[^\w.-]+", "-", Path(language_model.name).name)
    saes_dir = Path(os.environ.get("PERSONALIB_CACHE") or repository_root() / "results" / "saes")
    place = saes_dir / f"{name}-{hashlib.sha256(about.encode()).hexdigest()[:12]}"
    sites = all_sites(language_model)
    dictionary = _dictionary(language_model, recipe, sites[len(sites) // 2])
    # The fields that are not about the texts are those of every recipe.
    shared = recipe.model_dump(include=set(Recipe.__dataclass_fields__))
    whole = Recipe(**shared, documents=len(texts), mix={}, saes=(dictionary,))
    # The manifest is written last. Chapters that run side by side want the same SAE: one of them trains it.
    if not (place / "manifest.json").is_file():
        with alone(place, doing="trains an SAE", wait=True):
            if not (place / "manifest.json").is_file():
                train_saes(whole, language_model, texts, place / "work", place, device)
    return place / dictionary.sae_id


def _own_recipe() -> OwnRecipe:
    path = data_dir() / "own_saes.yaml"
    return parse(OwnRecipe, read_yaml(path), str(path))


def _dictionary(language_model: LanguageModel, recipe: OwnRecipe, site: Site) -> Dictionary:
    width = language_model.model.config.get_text_config().hidden_size
    features = min(recipe.expansion * width, recipe.widest)
    return Dictionary(site, features, min(recipe.k, features // 4))


def _texts(language_model: LanguageModel, recipe: OwnRecipe) -> list[str]:
    """Sentences that tell an element, and neutral questions after sentences that tell an element or press."""
    texts = list(element_texts("train", recipe.per_element, recipe.seed).texts)
    for contrast in (*contrasts("elements"), *contrasts("pressures")):
        for pair in contrast_set(contrast, recipe.pairs, recipe.seed, "train"):
            texts += prompts(language_model, pair, language_model.form)[0]
    return texts
