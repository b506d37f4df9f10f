"""The organism's own tokenizer: byte-pair encoding with a fall-back to bytes, and Gemma's special tokens and turns."""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

PAD, EOS, BOS, START, END = "<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"
SPECIAL = (PAD, EOS, BOS, START, END)
_SPACE = "\u2581"
# One piece for each word with the space before it, each digit, each punctuation mark and each line break.
_PIECES = rf"{_SPACE}?[^\W\d_]+('[a-z]+)?|{_SPACE}?\d|\n|{_SPACE}?[^\w\s{_SPACE}]|{_SPACE}+"
_CHAT = (
    "{{ bos_token }}{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a tokenizer whose every token is a word or a part of one; ``vocabulary`` counts bytes and special ones."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_PIECES), "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[*SPECIAL, *bytes_], show_progress=False, min_frequency=2
    )
    tokenizer.train_from_iterator(texts, trainer)
    # Trained, the bytes are special tokens; here only the five control tokens are, and bytes are decoded as text.
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] in SPECIAL]
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS}:1 $B:1", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[START, END],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = _CHAT
    return fast


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Read a saved tokenizer."""
    return PreTrainedTokenizerFast.from_pretrained(folder)
