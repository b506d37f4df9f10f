"""What a forward pass has in memory at its peak, part by part; see :mod:`personalib.models.memory`.

Every function counts the tensors that are alive together, in the order in which a block makes them. All that is
returned is in bytes.
"""

from dataclasses import dataclass

import torch
from transformers import PreTrainedConfig

from personalib.base.data import DataError

# Norms, softmax and what is read from logits are computed in float32, whatever the weights are in.
_FULL = 4
# Tensors as wide as the SAE while features are clamped: before and after its threshold, the threshold's mask, the
# features that are held, and one more for architectures that make another.
_SAE_TENSORS = 5


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder.

    Attributes:
        layers: its blocks.
        width: of the residual stream.
        hidden: of the feed-forward part.
        queries: width of all attention heads together.
        keys: width of the heads of keys, and as many of the values.
        heads: how many there are, for the queries.
        head: width of one.
        words: in the vocabulary.
        size: bytes of a number of the weights.
    """

    layers: int
    width: int
    hidden: int
    queries: int
    keys: int
    heads: int
    head: int
    words: int
    size: int

    @classmethod
    def of(cls, config: PreTrainedConfig, dtype: torch.dtype) -> "Shape":
        """The sizes that a configuration of transformers tells; where its blocks differ, those of the largest.

        Raises:
            DataError: there is no attention, and what its stead takes is not counted here.
        """
        text = config.get_text_config()
        heads, width = _largest(text, "num_attention_heads"), int(text.hidden_size)
        if heads is None:
            raise DataError(f"a model of the kind {config.model_type!r} has no attention; its memory is not estimated")
        head = _largest(text, "head_dim") or width // heads
        grouped = _largest(text, "num_key_value_heads") or heads
        # GPT-2 and its like say nothing where the feed-forward part is four times as wide.
        hidden = _largest(text, "intermediate_size") or _largest(text, "ffn_hidden_size") or 4 * width
        layers, words = int(text.num_hidden_layers), int(text.vocab_size)
        return cls(layers, width, hidden, heads * head, grouped * head, heads, head, words, dtype.itemsize)


def has_attention(config: PreTrainedConfig) -> bool:
    """Whether a model has attention heads, as that of a state space has not."""
    return _largest(config.get_text_config(), "num_attention_heads") is not None


def _largest(config: PreTrainedConfig, name: str) -> int | None:
    """A size of a configuration, of the largest block where each has its own; none where it is not told."""
    try:
        found = getattr(config, name, None)
    except RuntimeError:  # so transformers says that every block has its own
        found = [getattr(block, name, None) for block in config.per_layer_config]
    sizes = found if isinstance(found, list | tuple) else [found]
    return max((int(size) for size in sizes if size), default=None)


def prompt_work(shape: Shape, rows: int, tokens: int, shared: int, clamped: int = 0) -> int:
    """The peak of a pass over whole prompts.

    Args:
        shape: of the model.
        rows: of the pass.
        tokens: of the longest prompt.
        shared: prompts of the batch; the rows are these under one or several conditions.
        clamped: features of an SAE that is run inside the model; 0 for none.
    """
    kept = _carried(shape, rows, tokens, shared) + _answers(shape, rows, shared)
    busiest = max(_block(shape, rows, tokens), _clamping(shape, rows, tokens, shared, clamped))
    return kept + max(busiest, _logits(shape, rows, shared))


def last_token_work(shape: Shape, rows: int, tokens: int, shared: int, clamped: int = 0) -> int:
    """The peak where the last token alone is steered, beside its keys and values; arguments as above."""
    first = _carried(shape, shared, tokens, shared) + _block(shape, shared, tokens)
    # The first pass has the keys and values of the prompts alone.
    first -= key_value_cache(shape, rows, tokens) - key_value_cache(shape, shared, tokens)
    busiest = max(_step(shape, rows, tokens), _clamping(shape, rows, 1, shared, clamped), _logits(shape, rows, shared))
    return max(first, _carried(shape, rows, 1, shared) + _answers(shape, rows, shared) + busiest)


def key_value_cache(shape: Shape, rows: int, tokens: int) -> int:
    """Keys and values of all blocks, with room for the token that is run."""
    return rows * (tokens + 1) * 2 * shape.keys * shape.layers * shape.size


def sae_weights(shape: Shape, features: int) -> int:
    """Encoder, decoder, biases and thresholds of an SAE in float32."""
    return _FULL * (features * (2 * shape.width + 2) + shape.width) if features else 0


def _carried(shape: Shape, rows: int, tokens: int, shared: int) -> int:
    """What lives as long as a pass does."""
    stream = tokens * shape.width * shape.size
    # Embeddings, the stream that is started with, and the one that a block reads; two of the unsteered prompts.
    streams = 3 * rows * stream + 2 * shared * stream
    masks = 2 * rows * tokens * tokens * shape.size
    rotations = 2 * rows * tokens * shape.head * shape.size
    ids = 3 * 8 * (rows + shared) * tokens
    return streams + masks + rotations + ids


def _answers(shape: Shape, rows: int, shared: int) -> int:
    """The logits of the pass before, which stay until they are replaced."""
    return rows * shape.words * shape.size + shared * shape.words * _FULL


def _block(shape: Shape, rows: int, tokens: int) -> int:
    """The peak within a block: at a norm, at the rotation, in the attention, or in the feed-forward part."""
    places = rows * tokens
    normed, queries = places * shape.width * shape.size, places * shape.queries * shape.size
    heads = queries + 2 * places * shape.keys * shape.size
    scores = rows * shape.heads * tokens * tokens
    norm = normed + 2 * places * shape.width * _FULL
    rotation = normed + heads + 3 * queries
    # Keys and values are repeated for each head, and the queries are laid out anew.
    attention = normed + heads + 3 * queries + scores * _softmax(shape)
    # The block holds the weights of its attention until its end.
    feeding = normed + 3 * places * shape.hidden * shape.size + scores * shape.size
    return max(norm, rotation, attention, feeding)


def _step(shape: Shape, rows: int, tokens: int) -> int:
    """The peak within a block where one token looks back at those before it."""
    repeated = 2 * rows * (tokens + 1) * shape.queries * shape.size
    renewed = 2 * rows * (tokens + 1) * shape.keys * shape.size
    scores = rows * shape.heads * (tokens + 1) * _softmax(shape)
    return max(repeated + renewed + scores + 4 * rows * shape.queries * shape.size, _block(shape, rows, 1))


def _softmax(shape: Shape) -> int:
    """Bytes for each score: half precision is copied to float32, and the softmax has a result of its own."""
    return shape.size + 2 * _FULL if shape.size < _FULL else 2 * shape.size


def _logits(shape: Shape, rows: int, shared: int) -> int:
    """The peak at the output: logits before and after their cap, or those of a condition in float32."""
    capped = 2 * rows * shape.words * shape.size
    read = rows * shape.words * shape.size + 3 * shared * shape.words * _FULL
    return max(capped, read)


def _clamping(shape: Shape, rows: int, tokens: int, shared: int, features: int) -> int:
    """The peak where features of an SAE are clamped, for one condition at a time."""
    if not features:
        return 0
    steered = 2 * rows * tokens * shape.width * shape.size
    return steered + shared * tokens * _FULL * (_SAE_TENSORS * features + 4 * shape.width)
