"""What test modules about running models share: tiny random models, and steering written out token by token."""

from copy import deepcopy

import torch
from sae_lens import SAE
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from personalib.features.saes import SparseAutoencoder
from personalib.models.load import LanguageModel
from personalib.models.parts import Site, blocks
from personalib.steering.interventions import Ablate, Add, Clamp
from personalib.vectors.vector import SteeringVector

LABELS = ("A", "B", "C", "D")
VOCABULARY = ["<pad>", "<bos>", "<unk>", *LABELS, *(f"w{number}" for number in range(25))]
WIDTH, WINDOW, DEPTH = 24, 8, 3
SMALL = {"vocab_size": len(VOCABULARY), "bos_token_id": 1, "eos_token_id": 0, "initializer_range": 0.4}
FALCON = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": 2}
NEOX = FALCON | {"intermediate_size": 32}
LLAMA = NEOX | {"num_key_value_heads": 1}
CONFIGS = {
    "gemma2": Gemma2Config(**SMALL, **LLAMA, head_dim=12, sliding_window=WINDOW, attn_implementation="eager"),
    "llama": LlamaConfig(**SMALL, **LLAMA),
    "qwen2": Qwen2Config(**SMALL, **LLAMA),
    "gpt2": GPT2Config(**SMALL, n_embd=WIDTH, n_layer=DEPTH, n_head=2),
    "gpt-neox": GPTNeoXConfig(**SMALL, **NEOX),
    # Their blocks return the residual stream in a tuple; the first knows positions from its attention mask alone.
    "bloom": BloomConfig(**SMALL, hidden_size=WIDTH, n_layer=DEPTH, n_head=2),
    "falcon": FalconConfig(**SMALL, **FALCON),
}
SITES = [Site(layer, stream) for layer in range(DEPTH) for stream in ("resid_pre", "resid_post")]


def words(bos=True, known=VOCABULARY):
    """A tokenizer of whole words, with a token at the beginning."""
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(known)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>")


MARKS = ["<pad>", "<bos>", "<eos>", "[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<think>", "</think>"]
TURNS = (
    "{% for m in messages %}<|user|>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def letters(before=(), after=(), template=TURNS, special=True, merges=()):
    """A tokenizer of bytes, and of pairs of them, that puts some of its marks before and after every text."""
    signs = [*MARKS, *sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges)]
    known = {sign: place for place, sign in enumerate(signs)}
    made = Tokenizer(models.BPE(vocab=known, merges=list(merges)))
    made.add_special_tokens(MARKS[: None if special else -2])
    if not special:
        made.add_tokens(MARKS[-2:])
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    used = [(mark, known[mark]) for mark in {*before, *after}]
    made.post_processor = processors.TemplateProcessing(single=[*before, "$A", *after], special_tokens=used)
    found = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")
    found.chat_template = template
    return found


def small(name, **changes):
    """A model of one of the configurations, with random weights that are always the same."""
    torch.manual_seed(0)
    config = deepcopy(CONFIGS[name])
    for key, value in changes.items():
        setattr(config, key, value)
    return LanguageModel(name, AutoModelForCausalLM.from_config(config).eval(), words())


def save_like(model, folder):
    """Writes a random Gemma 2 with another model's tokenizer and chat template into a folder, and returns that."""
    torch.manual_seed(0)
    ids = {name: getattr(model.tokenizer, name) for name in ("bos_token_id", "pad_token_id")}
    size = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 3, "head_dim": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.3}
    config = Gemma2Config(vocab_size=len(model.tokenizer), **size, **heads, **ids)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


def vector(site, seed=0, width=WIDTH, size=3.0):
    values = size * torch.randn(width, generator=torch.Generator().manual_seed(seed))
    return SteeringVector(values, site, f"v{seed}", "random", "another model", "1")


def random_sae(site, seed, width=WIDTH, features=2 * WIDTH, **about):
    """A network of sae-lens with weights and biases of chance."""
    hook = {"hook_name": f"blocks.{site.layer}.hook_{site.stream}"}
    made = SAE.from_dict({"d_in": width, "d_sae": features, "metadata": hook} | about).eval()
    generator = torch.Generator().manual_seed(seed)
    for values in made.parameters():
        values.requires_grad_(False).normal_(generator=generator)
    return made


def small_sae(site, seed=0, width=WIDTH, normalisation="none", centred=False):
    """An SAE of ReLU features with weights and biases of chance."""
    made = random_sae(site, seed, width, 2 * width, architecture="standard", normalize_activations=normalisation)
    return SparseAutoencoder(made, f"sae{seed}", "", site, None, None, normalisation, centred, None)


def other_sae(kind, site):
    """An SAE of another architecture than the usual one: ``jumprelu``, ``jumprelu, shifted``, ``topk`` or ``gated``."""
    architecture, shifted = kind.partition(", ")[::2]
    more = {"k": 4} if architecture == "topk" else {"apply_b_dec_to_input": bool(shifted)}
    made = random_sae(site, 3, architecture=architecture, **more)
    return SparseAutoencoder(made, architecture, "", site, None, None, "none", False, None)


# Steering by hand


def named_tokens(positions, prompt, tokens):
    """The places that a rule names in a sequence of so many tokens, of which the first belong to the prompt."""
    return {
        "last": [prompt - 1, *range(prompt, tokens)],
        "prompt": list(range(prompt)),
        "prompt_except_last": list(range(prompt - 1)),
        "before_options": list(range(prompt)),  # where none are given
        "response": list(range(prompt, tokens)),
        "all": list(range(tokens)),
    }[positions]


def clamped(sae, stream, features, value):
    """What a standard SAE without normalisation makes of one token when features are set."""
    weights = sae.network
    found = torch.relu((stream - weights.b_dec) @ weights.W_enc + weights.b_enc)
    held = found.clone()
    for feature in features:
        held[feature] = value
    return stream + (held - found) @ weights.W_dec


def by_hand(stream, one):
    """An intervention on the residual stream of one token."""
    if isinstance(one, Add):
        return stream + one.coefficient * one.vector.direction.to(stream.dtype)
    if isinstance(one, Ablate):
        v = one.vector.direction.to(stream.dtype)
        return stream - one.coefficient * (stream @ v) / (v @ v) * v
    assert isinstance(one, Clamp)
    return clamped(one.sae, stream, one.features, one.value)


def hooked(model, site, change):
    """A hook, written out for it, that puts the residual stream at a site through a function."""
    block = blocks(model)[site.layer]

    def after(module, inputs, output):
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    def before(module, inputs, keywords):
        if inputs:
            return (change(inputs[0]), *inputs[1:]), keywords
        return inputs, keywords | {"hidden_states": change(keywords["hidden_states"])}

    if site.stream == "resid_post":
        return block.register_forward_hook(after)
    return block.register_forward_pre_hook(before, with_kwargs=True)


@torch.inference_mode()
def steered_alone(model, ids, prompt, condition):
    """The logits of one sequence by itself, without padding and without a cache, shape (tokens, vocabulary).

    The first so many token ids are those of the prompt.
    """
    own = {}
    for one in condition:
        own.setdefault(one.site, []).append(one)

    def change(stream, interventions):
        stream = stream.clone()
        for one in interventions:
            for token in named_tokens(one.positions, prompt, len(ids)):
                stream[0, token] = by_hand(stream[0, token], one)
        return stream

    handles = [hooked(model, site, lambda x, some=some: change(x, some)) for site, some in own.items()]
    logits = model(torch.tensor([ids]), use_cache=False).logits[0].float()
    for handle in handles:
        handle.remove()
    return logits


def untouched(model):
    """Whether no module has a hook or another forward than its class's."""
    return all(
        not (module._forward_hooks or module._forward_pre_hooks)
        and getattr(module.forward, "__func__", None) is type(module).forward
        for module in model.modules()
    )
