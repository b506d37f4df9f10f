"""The arithmetic of a grid of steered answers that cannot be left out, as bare calls of torch on a Gemma 2's weights.

The batches are those of the grid. The blocks below the site are run once for each batch, those above it for each
condition. Of the last block, all tokens have keys and values, and the last token alone the rest. There are no modules,
no hooks, no masks built anew and no copies of keys for heads that share them.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from steering_case import Array, Batch, Case, chunks
from transformers import PreTrainedModel

Rope = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Block:
    """The weights of a block: attention, feed-forward part, and the norms before and after both, their one added."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    out: torch.Tensor
    gate: torch.Tensor
    up: torch.Tensor
    down: torch.Tensor
    norms: list[torch.Tensor]


class Floor:
    """The floor of one case of a Gemma 2; what does not depend on the prompts is prepared here."""

    def __init__(self, case: Case) -> None:
        model = case.language_model.model
        self.case, self.config, self.device = case, model.config, model.device
        if model.config.model_type != "gemma2":
            raise ValueError(f"a floor of {model.config.model_type!r}; there is one of 'gemma2' only")
        self.embedding, self.unembedding = model.model.embed_tokens.weight, model.lm_head.weight
        self.blocks = _weights(model)
        self.final = 1 + model.model.norm.weight
        self.vectors = [each.direction.to(model.device, model.dtype) for each in case.vectors]

    @torch.inference_mode()
    def run(self, count: int) -> Array:
        """The answers under the first so many vectors."""
        found = self.case.empty(count)
        for batch in self.case.batches():
            together = max(1, self.case.batch_size // len(batch.numbers))
            stream, rope, mask, steered = self._start(batch)
            for block in self.blocks[: self.case.layer + 1]:
                stream = self._block(block, stream, rope, mask, False)
            for chunk in chunks(range(count), together):
                times = len(chunk)
                parts = torch.cat([stream + steered * self.vectors[number] for number in chunk])
                logits = self._upper(parts, tuple(each.repeat(times, 1, 1, 1) for each in rope), mask, times)
                wanted = batch.options.repeat(times, 1)
                chosen = (logits.gather(1, wanted) - logits.logsumexp(1, keepdim=True)).exp()
                found[chunk[0] : chunk[-1] + 1, batch.numbers] = chosen.view(times, -1, wanted.shape[1]).cpu().numpy()
        return found

    def _start(self, batch: Batch) -> tuple[torch.Tensor, Rope, torch.Tensor, torch.Tensor]:
        """Embeddings, rotary positions ``(rows, 1, tokens, half)``, the mask of attention and that of what is steered.

        Prompts are shorter than a window, so that all blocks have the same mask.
        """
        ids, real = batch.inputs["input_ids"], batch.inputs["attention_mask"].bool()
        rows, tokens = ids.shape
        assert tokens <= self.config.sliding_window, "the floor has no windows"
        dtype, half = self.embedding.dtype, torch.arange(0, self.config.head_dim, 2, device=self.device)
        speeds = self.config.rope_parameters["rope_theta"] ** -(half.float() / self.config.head_dim)
        angles = batch.inputs["position_ids"][:, None, :, None].float() * speeds
        seen = real[:, None, :] & torch.ones(tokens, tokens, dtype=torch.bool, device=self.device).tril()
        mask = torch.zeros(rows, 1, 1, tokens, tokens, dtype=dtype, device=self.device)
        mask.masked_fill_(~seen[:, None, None], torch.finfo(dtype).min)
        steered = real.clone()
        steered[:, -1] = False
        stream = F.embedding(ids, self.embedding) * torch.tensor(self.config.hidden_size**0.5, dtype=dtype)
        return stream, (angles.cos().to(dtype), angles.sin().to(dtype)), mask, steered[..., None].to(dtype)

    def _upper(self, stream: torch.Tensor, rope: Rope, mask: torch.Tensor, times: int) -> torch.Tensor:
        """The logits after the last token, float32."""
        mask = mask.repeat(times, 1, 1, 1, 1)
        above = self.blocks[self.case.layer + 1 :]
        for number, block in enumerate(above):
            stream = self._block(block, stream, rope, mask, number == len(above) - 1)
        last = self._norm(stream[:, -1], self.final)
        return _capped(F.linear(last, self.unembedding), self.config.final_logit_softcapping).float()

    def _block(self, block: Block, stream: torch.Tensor, rope: Rope, mask: torch.Tensor, last: bool) -> torch.Tensor:
        """What a block leaves, of all tokens or of the last one."""
        read = self._norm(stream, block.norms[0])
        asking = read[:, -1:] if last else read
        asked_mask = mask[..., -1:, :] if last else mask
        attended = self._attend(block, read, asking, rope, asked_mask)
        stream = self._norm(attended, block.norms[1]).add_(stream[:, -1:] if last else stream)
        read = self._norm(stream, block.norms[2])
        gated = F.gelu(F.linear(read, block.gate), approximate="tanh").mul_(F.linear(read, block.up))
        return self._norm(F.linear(gated, block.down), block.norms[3]).add_(stream)

    def _attend(
        self, block: Block, read: torch.Tensor, asking: torch.Tensor, rope: Rope, mask: torch.Tensor
    ) -> torch.Tensor:
        """Attention of groups of heads that share keys and values, which are not copied for it."""
        config, (rows, tokens, _) = self.config, read.shape
        groups, size, asked = config.num_key_value_heads, config.head_dim, asking.shape[1]
        each = config.num_attention_heads // groups
        query = F.linear(asking, block.query).view(rows, asked, groups * each, size).transpose(1, 2)
        key = F.linear(read, block.key).view(rows, tokens, groups, size).transpose(1, 2)
        value = F.linear(read, block.value).view(rows, tokens, groups, size).transpose(1, 2)
        query = _turned(query, tuple(part[:, :, -asked:] for part in rope)).mul_(config.query_pre_attn_scalar**-0.5)
        query = query.view(rows, groups, each * asked, size)
        scores = _capped(query @ _turned(key, rope).transpose(2, 3), config.attn_logit_softcapping)
        scores = scores.view(rows, groups, each, asked, tokens).add_(mask).softmax(-1)
        mixed = scores.view(rows, groups, each * asked, tokens) @ value
        mixed = mixed.view(rows, groups * each, asked, size).transpose(1, 2).reshape(rows, asked, -1)
        return F.linear(mixed, block.out)

    def _norm(self, stream: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(stream, weight.shape, weight, self.config.rms_norm_eps)


def _weights(model: PreTrainedModel) -> list[Block]:
    made = []
    for layer in model.model.layers:
        weights = dict(layer.named_parameters())
        norms = ("input", "post_attention", "pre_feedforward", "post_feedforward")
        modules = [f"self_attn.{name}_proj" for name in "qkvo"]
        modules += [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
        made.append(
            Block(
                *(weights[f"{name}.weight"].detach() for name in modules),
                [1 + weights[f"{name}_layernorm.weight"].detach() for name in norms],
            )
        )
    return made


def _turned(heads: torch.Tensor, rope: Rope) -> torch.Tensor:
    """Heads of shape ``(rows, heads, tokens, size)`` with their rotary positions, as a tensor of its own."""
    (first, second), (cos, sin) = heads.chunk(2, dim=-1), rope
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def _capped(values: torch.Tensor, cap: float | None) -> torch.Tensor:
    """Values under a soft cap, in their own place; they are those of a product and nobody else's."""
    return values if cap is None else values.div_(cap).tanh_().mul_(cap)
