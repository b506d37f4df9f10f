"""What tests of vectors and features share: small random models that read words, and SAEs of written weights."""

import torch
from sae_lens import SAE
from small_models import small
from transformers import LlamaConfig, LlamaForCausalLM

from personalib.base.data import data_dir
from personalib.features.saes import SparseAutoencoder, load_sae
from personalib.models.load import LanguageModel
from personalib.organism.tokenizer import load_tokenizer
from personalib.stimuli.sentences import LabelledTexts


def worded(name, **changes):
    """A model of ``small_models`` with the organism's tokenizer."""
    model = small(name, vocab_size=5000, **changes).model
    return LanguageModel(name, model, load_tokenizer(data_dir() / "organism"))


TEXTS = [
    "You are a woman.",
    "I am",
    "My friends know me as someone with few years of schooling, and my house is by the sea.",
    "<bos><start_of_turn>user\nWhat would you do next?<end_of_turn>\n<start_of_turn>model\n",
    "The bus is late.",
]


def encoded(language_model, text):
    """Token ids, and the places of the tokens that are not special."""
    ids = language_model.tokenizer.encode(text, add_special_tokens=not text.startswith("<bos>"))
    special = set(language_model.tokenizer.all_special_ids)
    return ids, [place for place, token in enumerate(ids) if token not in special]


def labelled(rows):
    """Texts of rows of text, label and phrase."""
    return LabelledTexts(*(tuple(column) for column in zip(*rows, strict=True)))


def tiny_llama(name="llama", seed=0, **changes):
    """A model of random weights with the organism's tokenizer."""
    torch.manual_seed(seed)
    shape = {"hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(**{"vocab_size": 5000, "num_key_value_heads": 1} | shape | changes)
    return LanguageModel(name, LlamaForCausalLM(config).eval(), load_tokenizer(data_dir() / "organism"))


def sae_of(site, width, d_model, **weights):
    """A standard SAE of these weights; what is not given is zero."""
    about = {"hook_name": str(site)}
    network = SAE.from_dict({"architecture": "standard", "d_in": d_model, "d_sae": width, "metadata": about})
    with torch.no_grad():
        for name, value in network.named_parameters():
            value.copy_(torch.as_tensor(weights[name]) if name in weights else torch.zeros_like(value))
    return SparseAutoencoder(network, "tiny", "", site, None, None, "none", False, None)


def written_sae(folder, width, fill=lambda network: None, d_model=64, hook="blocks.0.hook_resid_pre", **metadata):
    """A standard SAE of zeros, but for what is filled in; by way of a folder."""
    about = {"hook_name": hook, "model_name": "llama"} | metadata
    network = SAE.from_dict({"architecture": "standard", "d_in": d_model, "d_sae": width, "metadata": about})
    with torch.no_grad():
        for value in network.parameters():
            value.zero_()
        fill(network)
    network.save_model(folder)
    return load_sae(str(folder))


def fire_on(language_model, tokens, offset=0.6):
    """Fills a network whose features fire on the embeddings of tokens, so strongly, given by feature and token."""
    embeddings = language_model.model.get_input_embeddings().weight.detach()

    def fill(network):
        for feature, strengths in tokens.items():
            network.b_enc[feature] = -offset * min(strengths.values())
            for token, strength in strengths.items():
                row = embeddings[language_model.tokenizer.convert_tokens_to_ids(token)]
                network.W_enc[:, feature] += strength * row / row.square().sum()

    return fill
