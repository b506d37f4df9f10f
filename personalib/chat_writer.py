"""The chat writer: a chat model on this machine, asked as an endpoint is."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from pydantic import BaseModel
from transformers import PreTrainedModel

from personalib.assignments import Assignment
from personalib.backgrounds import Background
from personalib.models import LanguageModel
from personalib.writers import Unusable, WriterError, read_draft


@dataclass(frozen=True)
class ChatWriter:
    """Writes with a chat model in this process, one draft at a time.

    Sampling follows the model's own generation settings (such as top-p), but for the temperature.

    Args:
        language_model: a model whose tokenizer has a chat template.
        seed: with a background and an attempt it determines the draft.
        temperature: sampling temperature; 0 takes the likeliest token each time.
        max_tokens: limit of an answer.
    """

    language_model: LanguageModel = field(repr=False)
    seed: int = 0
    temperature: float = 1.0
    max_tokens: int = 1000

    @property
    def identity(self) -> str:
        """What determines what it writes."""
        version = self.language_model.revision or self.language_model.digest()
        return f"{self.language_model.name}@{version}, temperature {self.temperature:g}, seed {self.seed}"

    @torch.inference_mode()
    def write(self, assignment: Assignment, background: Background, attempt: int, problems: Sequence[str]) -> BaseModel:
        """A draft from the model.

        Raises:
            Unusable: the answer is cut off, or not in the form that was asked for.
            WriterError: the model's tokenizer has no chat template.
        """
        model, tokenizer = self.language_model.model, self.language_model.tokenizer
        if not tokenizer.chat_template:
            raise WriterError(f"{self.language_model.name} has no chat template; choose a model made for chats")
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": assignment.request(background, problems)}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        ).to(model.device)
        sampling = {"do_sample": True, "temperature": self.temperature} if self.temperature else {"do_sample": False}
        with torch.random.fork_rng():
            torch.manual_seed(int(np.random.SeedSequence([self.seed, background.idx, attempt]).generate_state(1)[0]))
            made = model.generate(
                **inputs, max_new_tokens=self.max_tokens, pad_token_id=tokenizer.pad_token_id, **sampling
            )
        new = made[0, inputs["input_ids"].shape[1] :]
        written = tokenizer.decode(new, skip_special_tokens=True)
        if len(new) == self.max_tokens and int(new[-1]) not in _ends(model):
            raise Unusable(f"cut off after {self.max_tokens} tokens; be brief", written)
        return read_draft(written, assignment, background)


def _ends(model: PreTrainedModel) -> Sequence[int]:
    """The tokens that end an answer."""
    ends = model.generation_config.eos_token_id if model.generation_config else None
    return ends if isinstance(ends, list) else [] if ends is None else [ends]
