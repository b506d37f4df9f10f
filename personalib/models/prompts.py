"""Prompts as a model expects them, and the tokens by which it names an option right after one."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from personalib.base.records import ItemError
from personalib.models.chat_templates import chat_prompt
from personalib.models.encoding import encode_prompts
from personalib.stimuli.templates import wrap


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

    Args:
        tokenizer: of the model that will be asked.
        prompts: texts up to the answer.
        labels: for each prompt, what its options are called, as they would be written right after it.
        rows: the prompts' token ids, from :func:`personalib.models.encoding.encode_prompts`.

    Raises:
        ItemError: a label melts into the prompt's last token, or two labels start with the same token.
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
