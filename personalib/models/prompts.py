"""Prompts as a model expects them, as text and as token ids, and the tokens by which it names an option after one."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from personalib.base.data import DataError
from personalib.base.records import ItemError
from personalib.models.chat_templates import ChatPrompt, chat_prompt
from personalib.stimuli.templates import wrap


class Encoded(NamedTuple):
    """A text's token ids, the ``places`` of those that count, and the characters that each of these stands for."""

    ids: list[int]
    places: list[int]
    spans: list[tuple[int, int]]


def format_prompt(tokenizer: PreTrainedTokenizerBase, text: str, *, form: str = "chat", context: str = "") -> str:
    r"""A request as the model expects it: a turn in the model's own chat template, or plain text.

    Args:
        tokenizer: whose chat template is used.
        text: the user's request.
        form: ``"chat"``, or another form of ``data/stimuli/templates.yaml`` such as ``"base"``.
        context: sentences that come first, such as a background; a line break is added where one is missing.

    Returns:
        Plain text, or a :class:`~personalib.models.chat_templates.ChatPrompt`, which has its special tokens already.

    Raises:
        ValueError: the form is ``"chat"`` and the tokenizer has no chat template, or one that cannot be used.

    Example:
        >>> from tokenizers import Tokenizer, models
        >>> from transformers import PreTrainedTokenizerFast
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
        >>> format_prompt(tokenizer, "What now?", form="base", context="I am a woman.")
        'I am a woman.\nWhat now?\nAnswer:\n'
    """
    if form != "chat":
        return wrap(text, form, context)
    if tokenizer.chat_template is None:
        raise ValueError(f"{tokenizer.name_or_path!r} has no chat template; use form='base' with a base model")
    lead = context if not context or context.endswith("\n") else context + "\n"
    return chat_prompt(tokenizer, lead + text)


def option_tokens(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    labels: Sequence[Sequence[str]],
    rows: Sequence[list[int]],
) -> list[list[int]]:
    """The first token of each label after its prompt, found by encoding the prompt with and without the label.

    Prompts are texts up to the answer, and ``rows`` their token ids, from :func:`encode_prompts`; labels are, for each
    prompt, what its options are called, as they would be written right after it. A label that melts into the prompt's
    last token, and two labels that start with the same token, are an ItemError.
    """
    written = [prompt + label for prompt, options in zip(prompts, labels, strict=True) for label in options]
    continued = iter(encode_prompts(tokenizer, written))
    return [
        _first_tokens(prompt, row, [(label, next(continued)) for label in options])
        for prompt, options, row in zip(prompts, labels, rows, strict=True)
    ]


def _first_tokens(prompt: str, row: list[int], continued: Sequence[tuple[str, list[int]]]) -> list[int]:
    """The first token of each label after a prompt, given the tokens of both together."""
    labels: dict[int, str] = {}
    for label, longer in continued:
        if not row or len(longer) <= len(row) or longer[: len(row)] != row:
            raise ItemError(
                f"label {label!r} is not a token of its own after the prompt ending in {prompt[-24:]!r}; "
                "end the prompt with a line break, or choose labels that the tokenizer keeps apart"
            )
        token = longer[len(row)]
        if token in labels:
            raise ItemError(
                f"labels {labels[token]!r} and {label!r} both start with token {token} after the prompt ending "
                f"in {prompt[-24:]!r}; choose labels that differ in their first token"
            )
        labels[token] = label
    return list(labels)


def encode_prompts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """The token ids of texts that a model goes on from; a ``DataError`` where a text has half of a character.

    A chat has those of ``apply_chat_template(tokenize=True)``. Any other text begins with the special tokens that the
    tokenizer puts before a text, unless it begins with them already; none come after it.
    """
    return [[*before, *row] for before, row, _ in _tokenised(tokenizer, texts, located=False)]


def encode(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], spans: Sequence[tuple[int, int]] | None = None
) -> list[Encoded]:
    """Texts as token ids, as in :func:`encode_prompts`, and which of them count.

    ``spans`` says of each text which characters count, from and up to; all by default. A ValueError where there is not
    one span a text, or a text has no token that counts; a DataError where a text has half of a character, and as
    :func:`check_located` says where there are spans.
    """
    if spans is not None:
        check_located(tokenizer)
        if len(spans) != len(texts):
            raise ValueError(f"{len(texts)} texts and {len(spans)} spans; pass one span a text")
    special = set(tokenizer.all_special_ids)
    encoded = []
    for number, (before, row, offsets) in enumerate(_tokenised(tokenizer, texts, located=tokenizer.is_fast)):
        text = texts[number]
        start, end = spans[number] if spans is not None else (0, len(text))
        inside = [i for i, (a, b) in enumerate(offsets) if a < end and b > start] if start < end else []
        counted = [i for i in (inside if tokenizer.is_fast else range(len(row))) if row[i] not in special]
        if not counted:
            raise ValueError(f"text {number} has no token between characters {start} and {end}: {text[:60]!r}")
        places = [len(before) + i for i in counted]
        encoded.append(Encoded([*before, *row], places, [offsets[i] for i in counted] if offsets else []))
    return encoded


def check_located(tokenizer: PreTrainedTokenizerBase) -> None:
    """Notice a tokenizer written in Python, which does not tell the characters of a token, with a ``DataError``."""
    if not tokenizer.is_fast:
        raise DataError(
            f"{tokenizer.name_or_path}: its tokenizer ({type(tokenizer).__name__}) is written in Python, and does not "
            "tell which characters a token stands for; read whole prompts (position last), or take a model with a "
            "tokenizer.json"
        )


def _tokenised(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], located: bool
) -> Iterator[tuple[list[int], list[int], list[tuple[int, int]]]]:
    """For each text the special tokens before it, its own token ids, and their characters if they are asked for."""
    for number, text in enumerate(texts):
        _check_characters(number, text)
    # Masks of ones would take as long to make as the ids.
    how = {"add_special_tokens": False, "return_attention_mask": False, "return_token_type_ids": False}
    made = tokenizer(list(texts), **how, return_offsets_mapping=located) if texts else {}
    usual = _beginning(tokenizer, texts)
    for number, text in enumerate(texts):
        row = made["input_ids"][number]
        begun = isinstance(text, ChatPrompt) or row[: len(usual)] == usual
        yield [] if begun else usual, row, made["offset_mapping"][number] if located else []


def _beginning(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[int]:
    """The special tokens that a tokenizer puts before a text, such as the one for its beginning."""
    for text in ("a", *texts):
        whole, own = tokenizer(text)["input_ids"], tokenizer(text, add_special_tokens=False)["input_ids"]
        if own:
            starts = range(len(whole) - len(own) + 1)
            return next((whole[:start] for start in starts if whole[start : start + len(own)] == own), [])
    return []


def _check_characters(number: int, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        around = ascii(text[max(0, error.start - 20) : error.start + 20])
        raise DataError(
            f"text {number} has half of a character (a lone surrogate) at character {error.start}: {around}; write the "
            "whole character, or leave it out"
        ) from None
