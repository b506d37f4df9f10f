"""Answers in free words, steered or not."""

from collections.abc import Sequence

from tqdm.auto import tqdm

from personalib.block_hooks import Inputs
from personalib.interventions import Intervention
from personalib.models import LanguageModel
from personalib.questionnaires import encode_prompts, inference, left_padded
from personalib.steering import steer

# Where an answer ends, beside the model's own end: of a turn in the templates that are known here, and of a line.
_STOPS = ("<end_of_turn>", "<|im_end|>", "<|eot_id|>")
# Whatever a model's own configuration says: the likeliest token each time, and a cache, by which steering tells the
# answer from the prompt.
_GREEDY = {
    "do_sample": False,
    "num_beams": 1,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "use_cache": True,
}


def generate(
    language_model: LanguageModel,
    prompts: Sequence[str],
    interventions: Sequence[Intervention] = (),
    *,
    tokens: int = 40,
    one_line: bool = True,
    batch_size: int = 64,
    progress: str | None = None,
) -> list[str]:
    """Greedy answers to prompts. Every token is steered as the positions of each intervention say.

    Args:
        language_model: the model.
        prompts: texts up to the answer.
        interventions: what is done to the residual stream; none for the model as it is.
        tokens: how many tokens an answer has at the most.
        one_line: whether an answer ends with its first line.
        batch_size: prompts that are answered at a time.
        progress: text of a progress bar; None shows none.

    Returns:
        The answers without special tokens, cut at the end of the turn.

    Raises:
        ValueError: answers or batches would have no room for a token or prompt, a prompt has no token, or an
            intervention was made for another model.

    Example:
        >>> generate(model, prompts, [Add(vector, 1.0, "all")])  # doctest: +SKIP
        ['I would gladly keep to the plan.']
    """
    if tokens < 1 or batch_size < 1:
        raise ValueError(f"tokens={tokens}, batch_size={batch_size}; take at least one of each")
    rows = encode_prompts(language_model.tokenizer, prompts)
    if not all(rows):
        raise ValueError(
            f"prompt {rows.index([])} has no token; write something, or use a tokenizer with a start token"
        )
    queue = sorted(range(len(rows)), key=lambda number: len(rows[number]), reverse=True)
    texts, stops = [""] * len(rows), _stop_tokens(language_model, one_line)
    with (
        inference(language_model.model),
        steer(language_model, interventions),
        tqdm(total=len(rows), desc=progress, disable=progress is None, unit="answer") as bar,
    ):
        for start in range(0, len(queue), batch_size):
            batch = queue[start : start + batch_size]
            made = _continued(language_model, [rows[number] for number in batch], stops, tokens)
            for number, row in zip(batch, made, strict=True):
                text = language_model.tokenizer.decode(_until(row, stops), skip_special_tokens=True)
                texts[number] = _cut(text, one_line)
            bar.update(len(batch))
    return texts


def _continued(
    language_model: LanguageModel, rows: Sequence[list[int]], stops: Sequence[int], tokens: int
) -> list[list[int]]:
    """The tokens that follow each row, with whatever comes after the end of a row that has ended."""
    inputs: Inputs = left_padded(language_model.model, rows)
    padding = next((each for each in (language_model.tokenizer.pad_token_id, *stops) if each is not None), 0)
    made = language_model.model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        max_new_tokens=tokens,
        eos_token_id=list(stops) or None,
        pad_token_id=padding,
        **_GREEDY,
    )
    found: list[list[int]] = made[:, inputs["input_ids"].shape[1] :].tolist()
    return found


def _stop_tokens(language_model: LanguageModel, one_line: bool) -> list[int]:
    tokenizer = language_model.tokenizer
    known = tokenizer.get_vocab()
    own = language_model.model.generation_config.eos_token_id
    ends = own if isinstance(own, list) else [own]
    marks = [known[mark] for mark in (*_STOPS, *(["\n"] if one_line else [])) if mark in known]
    return list(dict.fromkeys(each for each in (*ends, tokenizer.eos_token_id, *marks) if each is not None))


def _until(row: list[int], stops: Sequence[int]) -> list[int]:
    """The tokens before the first one that ends an answer."""
    return row[: next((place for place, token in enumerate(row) if token in stops), len(row))]


def _cut(text: str, one_line: bool) -> str:
    return (text.split("\n")[0] if one_line else text).strip()
