"""The chat writer: a chat model on this machine, asked as an endpoint is."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from pydantic import BaseModel

from personalib.models.batches import context
from personalib.models.chat_templates import ANSWER_AT_ONCE, spoken
from personalib.models.load import LanguageModel
from personalib.models.prompts import encode_prompts, format_prompt
from personalib.models.sampling import Sampling
from personalib.steering.generation import written_tokens
from personalib.stimuli.assignments import Assignment
from personalib.stimuli.backgrounds import Background
from personalib.stimuli.writers import Unusable, WriterError, read_draft


@dataclass(frozen=True)
class ChatWriter:
    """Writes with a chat model in this process, one draft at a time.

    Seed, background and attempt determine the draft. A temperature of 0 takes the likeliest token each time, and the
    limit of an answer is lower where the model's context ends before.
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

    def write(self, assignment: Assignment, background: Background, attempt: int, problems: Sequence[str]) -> BaseModel:
        """A draft from the model.

        Raises:
            Unusable: the answer is cut off, or not in the form that was asked for.
            WriterError: the model's tokenizer has no chat template.
        """
        if not self.language_model.tokenizer.chat_template:
            raise WriterError(f"{self.language_model.name} has no chat template; choose a model made for chats")
        prompt = format_prompt(self.language_model.tokenizer, assignment.request(background, problems))
        seed = int(np.random.SeedSequence([self.seed, background.idx, attempt]).generate_state(1)[0])
        sampling = Sampling(temperature=self.temperature, seed=seed)
        [row], most = encode_prompts(self.language_model.tokenizer, [prompt]), context(self.language_model.model)
        # A prompt that leaves no room is refused there.
        tokens = max(1, min(self.max_tokens, most + 1 - len(row)) if most else self.max_tokens)
        [new] = written_tokens(self.language_model, [prompt], tokens=tokens, one_line=False, sampling=sampling)
        written = spoken(self.language_model.tokenizer, new, prompt)
        if written is None:
            raise Unusable(f"reasoning without an end; {ANSWER_AT_ONCE}", self.language_model.tokenizer.decode(new))
        if len(new) == tokens:
            raise Unusable(f"cut off after {tokens} tokens; be brief", written)
        return read_draft(written, assignment, background)
