"""The hub's cache, laid out as the hub's own client leaves it, with models and SAEs that are small enough for a test.

The stand-ins for Gemma-2-9B and Gemma-2B have those models' module trees, sharded indices and commits, and as many
blocks as the deepest of their SAEs needs. Their stream is narrow, their tokenizer the organism's, and their weights are
of chance, but for a leaning toward the labels of options: without it no answer could be read, and most of what a
chapter does would never be done.
"""

import hashlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from transformers import (
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    GemmaConfig,
    GemmaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from personalib.base.data import data_dir, read_yaml
from personalib.models.registry import find_entry

SAE_COMMIT = "0" * 40
# Gemma-2-9B has 42 blocks; ten above the SAE of block 31 would show nothing more, in a third of the time on top.
DEPTH, D_MODEL, D_SAE = 32, 32, 256
SIZES = {"d_in": D_MODEL, "d_sae": D_SAE}
# As many features as the SAE of Gemma-2B has: the published ones are told by their number.
D_SAE_2B = 16384

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
    tokenizer = AutoTokenizer.from_pretrained(data_dir() / "organism")
    put_model(cache, "gemma-2-9b-it", answering_gemma(tokenizer, DEPTH), tokenizer, scratch)
    names = ("layer_31/width_131k/average_l0_109", "layer_20/width_131k/average_l0_81")
    files = {f"{name}/params.npz": gemma_scope_weights(seed) for seed, name in enumerate(names)}
    put(cache, "google/gemma-scope-9b-it-res", SAE_COMMIT, files)


def put_gemma_2b(cache: Path, scratch: Path) -> None:
    """The stand-in for Gemma-2B, instructed, and its SAE, with as many features as the published one."""
    tokenizer = AutoTokenizer.from_pretrained(data_dir() / "organism")
    put_model(cache, "gemma-2b-it", first_gemma(tokenizer), tokenizer, scratch)
    folder = "gemma_2b_it_blocks.12.hook_resid_post_16384"
    files = {f"{folder}/{name}": content for name, content in res_jb().items()}
    put(cache, "jbloom/Gemma-2b-IT-Residual-Stream-SAEs", SAE_COMMIT, files)


def put_model(
    cache: Path, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, scratch: Path
) -> None:
    """A model in several files with an index, at the commit that the table of models has."""
    entry, folder = find_entry(name), scratch / name
    model.save_pretrained(folder, max_shard_size="300KB")
    tokenizer.save_pretrained(folder)
    put(cache, entry.hub, entry.revision, {path.name: path.read_bytes() for path in folder.iterdir()})


def answering_gemma(tokenizer: PreTrainedTokenizerBase, depth: int) -> PreTrainedModel:
    """A Gemma 2 of chance that mostly answers with the label of an option."""
    # Without caps, which take a third of the time.
    own = {"query_pre_attn_scalar": 16, "final_logit_softcapping": None, "attn_logit_softcapping": None}
    # By chance of weights the labels get a fifth of the probability or more; under most seeds they get too little.
    torch.manual_seed(44)
    model = Gemma2ForCausalLM(Gemma2Config(**sizes(tokenizer, depth), **own))
    for block in model.model.layers:
        # No block changes much of the stream.
        torch.nn.init.constant_(block.post_attention_layernorm.weight, -0.8)
        torch.nn.init.constant_(block.post_feedforward_layernorm.weight, -0.8)
    return answering(model, tokenizer, leaning=4.0)


def first_gemma(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A Gemma of the first generation, of chance, that mostly answers with the label of an option."""
    torch.manual_seed(0)
    model = GemmaForCausalLM(GemmaConfig(**sizes(tokenizer, 18)))
    answering(model, tokenizer, leaning=10.0)
    # A stream as long as the real one's, of which no block changes much; it is read as if it were short.
    model.get_input_embeddings().weight.data *= 10.0
    model.model.norm.weight.data -= 0.95
    return model


def sizes(tokenizer: PreTrainedTokenizerBase, depth: int) -> dict[str, object]:
    """What is narrow about a stand-in, and its depth."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": D_MODEL,
        "intermediate_size": D_MODEL,
        "num_hidden_layers": depth,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "initializer_range": 0.3,
    }


def answering(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, leaning: float) -> PreTrainedModel:
    """A model that leans to the labels of options: one coordinate is in every token, and so much more of it in them."""
    templates = read_yaml(data_dir() / "stimuli" / "templates.yaml")
    labels = {str(label) for template in labelled(templates) for label in template["labels"]}
    options = [place for place in range(len(tokenizer)) if tokenizer.decode([place]).strip() in labels]
    embedding = model.get_input_embeddings().weight.data
    embedding[:, 0] = 2.0
    embedding[options, 0] *= leaning
    return model.to(torch.bfloat16).eval()


def labelled(content: object) -> list[dict]:
    """The parts of a file that have labels."""
    if isinstance(content, dict):
        own = [content] if "labels" in content else []
        return own + [found for value in content.values() for found in labelled(value)]
    return [found for value in content for found in labelled(value)] if isinstance(content, list) else []


def gemma_scope_weights(seed: int) -> bytes:
    """An SAE of chance as a file of Gemma Scope; a few dozen features fire at a token."""
    rng = np.random.default_rng(seed)
    decoder = rng.normal(size=(D_SAE, D_MODEL))
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
    arrays = {
        "w_enc": decoder.T,
        "w_dec": decoder,
        "b_enc": np.zeros(D_SAE),
        "b_dec": np.zeros(D_MODEL),
        "threshold": np.full(D_SAE, 3.5),
    }
    content = io.BytesIO()
    np.savez(content, **{name: own.astype("f4") for name, own in arrays.items()})
    return content.getvalue()


def res_jb() -> dict[str, bytes]:
    """An SAE of chance as the files of the first public ones; a few hundred features fire at a token."""
    generator = torch.Generator().manual_seed(0)
    decoder = torch.nn.functional.normalize(torch.randn(D_SAE_2B, D_MODEL, generator=generator), dim=1)
    weights = {
        "W_enc": decoder.T.contiguous(),
        "W_dec": decoder,
        "b_enc": torch.full((D_SAE_2B,), -60.0),
        "b_dec": torch.zeros(D_MODEL),
        "scaling_factor": torch.ones(D_SAE_2B),
    }
    config = {
        "model_name": "gemma-2b-it",
        "hook_point": "blocks.12.hook_resid_post",
        "hook_point_layer": 12,
        "d_in": D_MODEL,
        "d_sae": D_SAE_2B,
        "dtype": "torch.float32",
        "device": "cpu",
    }
    return {"cfg.json": json.dumps(config).encode(), "sae_weights.safetensors": save(weights)}


def narrow(folder: Path) -> None:
    """Let Python processes that find this folder first take Gemma Scope's SAEs for as narrow as ours are."""
    widths = {"gemma-scope-9b-it-res-canonical": SIZES}
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "sitecustomize.py").write_text(NARROW.format(widths=widths))
