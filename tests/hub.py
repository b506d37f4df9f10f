"""The hub's cache, laid out as the hub's own client leaves it, with models and SAEs that are small enough for a test.

The stand-in for Gemma-2-9B has that model's module tree, depth, tokenizer files, sharded index and commit. Its stream
is narrow. Six of its 42 blocks are the organism's, and the others are of chance and add little: with chance alone no
answer could be read, and most of what a chapter does would never be done.
"""

import hashlib
import io
import shutil
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, Gemma2ForCausalLM

from personalib.data import data_dir
from personalib.registry import find_entry
from personalib.saes import DEFAULT_SAE, load_sae

SAE_COMMIT = "0" * 40
# The block of the stand-in behind which the organism's block of DEFAULT_SAE lies.
LAYER = 31
DEPTH = 42

# What Python runs when it starts. The width of a released SAE stands in a table of sae-lens; as published, it would be
# gigabytes.
NARROW = """
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder

TABLE, WIDTHS = "sae_lens.loading.pretrained_saes_directory", {widths!r}


class Narrow(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != TABLE:
            return None
        spec = PathFinder.find_spec(name, path)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            whole = module.get_pretrained_saes_directory
            for release, widths in WIDTHS.items():
                whole()[release].config_overrides = widths

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Narrow())
"""


def put(cache: Path, repository: str, commit: str, files: dict[str, bytes]) -> None:
    """Files of a repository as the hub's client keeps them: blobs by hash, and links to them by commit."""
    base = cache / f"models--{repository.replace('/', '--')}"
    for folder in ("refs", "blobs"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    (base / "refs" / "main").write_text(commit)
    for name, content in files.items():
        blob = base / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        link = base / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path(*[".."] * len(link.relative_to(base).parent.parts)) / "blobs" / blob.name)


def put_gemma_9b(cache: Path, scratch: Path) -> None:
    """The stand-in for Gemma-2-9B, instructed, and its SAEs of Gemma Scope."""
    entry = find_entry("gemma-2-9b-it")
    spread_organism(DEPTH, LAYER).save_pretrained(scratch / "model", max_shard_size="2MB")
    AutoTokenizer.from_pretrained(data_dir() / "organism").save_pretrained(scratch / "model")
    put(cache, entry.hub, entry.revision, {path.name: path.read_bytes() for path in (scratch / "model").iterdir()})
    scope = gemma_scope_weights()
    names = {"layer_31/width_131k/average_l0_109": scope, "layer_20/width_131k/average_l0_81": scope}
    put(cache, "google/gemma-scope-9b-it-res", SAE_COMMIT, {f"{name}/params.npz": own for name, own in names.items()})


def spread_organism(depth: int, layer: int) -> Gemma2ForCausalLM:
    """A deep Gemma 2 that computes what the organism does: its blocks lie around a layer, and the rest add nothing."""
    organism = Gemma2ForCausalLM.from_pretrained(data_dir() / "organism", dtype=torch.float32)
    config = organism.config
    # What the organism does up to DEFAULT_SAE's site is done when the layer is.
    start = layer - int(DEFAULT_SAE.split("/")[0].rpartition(".")[2])
    torch.manual_seed(0)
    config.num_hidden_layers, config.layer_types = depth, ["sliding_attention", "full_attention"] * (depth // 2)
    model = Gemma2ForCausalLM(config)
    with torch.no_grad():
        for block in model.model.layers:
            # Gemma multiplies by one plus these weights: a hundredth of what a block of chance would add.
            block.post_attention_layernorm.weight.fill_(-0.99)
            block.post_feedforward_layernorm.weight.fill_(-0.99)
        for number, block in enumerate(organism.model.layers):
            model.model.layers[start + number].load_state_dict(block.state_dict())
        model.model.embed_tokens.load_state_dict(organism.model.embed_tokens.state_dict())
        model.model.norm.load_state_dict(organism.model.norm.state_dict())
    return model.to(torch.bfloat16).eval()


def gemma_scope_weights() -> bytes:
    """The organism's SAE as a file of Gemma Scope."""
    state = load_sae(sae_id=DEFAULT_SAE).network.state_dict()
    names = {"W_enc": "w_enc", "W_dec": "w_dec", "b_enc": "b_enc", "b_dec": "b_dec", "threshold": "threshold"}
    content = io.BytesIO()
    np.savez(content, **{new: state[old].numpy() for old, new in names.items()})
    return content.getvalue()


def narrow(folder: Path) -> None:
    """Let Python processes that find this folder first take Gemma Scope's SAEs for as narrow as ours are."""
    sae = load_sae(sae_id=DEFAULT_SAE)
    widths = {"gemma-scope-9b-it-res-canonical": {"d_in": sae.directions.shape[1], "d_sae": sae.width}}
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "sitecustomize.py").write_text(NARROW.format(widths=widths))
