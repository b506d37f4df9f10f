"""Interventions: what steering does to the residual stream, where, and at which tokens.

A *condition* of an experiment is a sequence of them, applied in their order where several stand at one site; the empty
sequence is the model as it is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from personalib.features.saes import SparseAutoencoder
from personalib.features.vectors import feature_vector
from personalib.models.load import LanguageModel
from personalib.models.parts import Site, blocks
from personalib.steering.settings import Positions
from personalib.vectors.vector import SteeringVector

# What is done to the residual stream, of any shape (..., d_model). Each is a function within a function, of torch and
# tensors alone, so that a service that has nothing of this library can run it from its source.
Change = Callable[[torch.Tensor], torch.Tensor]
# By name of the positions which tokens they mean, shape (rows, tokens), boolean.
Where = Mapping[str, torch.Tensor]
# By name: which tokens of the prompt, and which of the answer once they are read back in.
POSITIONS: dict[str, tuple[str, str]] = {
    "last": ("last", "all"),
    "prompt": ("all", "none"),
    "prompt_except_last": ("all but last", "none"),
    "before_options": ("before options", "none"),
    "response": ("none", "all"),
    "all": ("all", "all"),
}
# How many of the last blocks the paper's code release steers, where it steers several.
REPOSITORY_BLOCKS = 9


@dataclass(frozen=True)
class _AlongVector:
    """What interventions along a vector have in common: the vector, how much, where and at which tokens."""

    vector: SteeringVector
    coefficient: float = 1.0
    positions: Positions = "prompt"

    def __post_init__(self) -> None:
        _check(self.positions, "coefficient", self.coefficient)

    @property
    def site(self) -> Site:
        """Where."""
        return self.vector.site

    def check_fits(self, language_model: LanguageModel) -> None:
        """Notice a vector of another model; see :func:`check_site`."""
        vector = self.vector
        check_site(language_model, vector.site, len(vector.direction), vector.name, vector.model)


@dataclass(frozen=True)
class Add(_AlongVector):
    """A vector is added, so many times: h ← h + c · v.

    Unknown positions, or a coefficient that is no finite number, are a ValueError, here and for the others.

    Attributes:
        vector: what is added, at its own site.
        coefficient: how often.
        positions: at which tokens, one of ``POSITIONS``: ``"last"``, the last of the prompt, and each of the answer;
            ``"prompt"``; ``"prompt_except_last"``; ``"before_options"``, the prompt up to the options that are scored,
            or all of it where there are none; ``"response"``, each of the answer; or ``"all"``.
    """

    def change(self) -> Change:
        """What is done to the residual stream."""
        vector = self.coefficient * self.vector.direction

        def added(stream: torch.Tensor) -> torch.Tensor:
            return stream + vector.to(stream.device, stream.dtype)

        return added


@dataclass(frozen=True)
class Ablate(_AlongVector):
    """What the residual stream has of a vector's direction u is taken out: h ← h - c · (h · u) u.

    Attributes:
        vector: the direction; its length does not count, but zero is a ValueError.
        coefficient: the share that is taken out; 1 is all of it.
        positions: as for :class:`Add`.

    Source:
        Arditi et al. (arXiv 2406.11717), section 2.4.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.vector.unit()

    def change(self) -> Change:
        """What is done to the residual stream."""
        direction, share = self.vector.unit().direction, self.coefficient

        def ablated(stream: torch.Tensor) -> torch.Tensor:
            unit = direction.to(stream.device, stream.dtype)
            return stream - share * (stream @ unit)[..., None] * unit

        return ablated


@dataclass(frozen=True)
class Clamp:
    """Features of an SAE are held at a value, whatever they were: h ← h + decode(f with the value) - decode(f).

    What the SAE does not explain of the residual stream is left as it is.

    Attributes:
        sae: the SAE, at its own site.
        features: which features; one that there is not is a ValueError.
        value: of each of them, in the SAE's own unit; 0 switches them off.
        positions: as for :class:`Add`.
    """

    sae: SparseAutoencoder
    features: tuple[int, ...]
    value: float
    positions: Positions = "prompt"

    def __post_init__(self) -> None:
        _check(self.positions, "value", self.value)
        if not self.features or not all(0 <= each < self.sae.width for each in self.features):
            raise ValueError(f"features {list(self.features)}; {self.sae.name} has features 0 to {self.sae.width - 1}")

    @property
    def site(self) -> Site:
        """Where."""
        return self.sae.site

    @property
    def separable(self) -> bool:
        """Whether each feature depends on its own row of the encoder alone, so that these few rows are enough."""
        return self.sae.network.cfg.architecture() in ("standard", "jumprelu")

    def change(self) -> Change:
        """What is done to the residual stream."""
        return _clamped_apart(self) if self.separable else self._clamped

    def _clamped(self, stream: torch.Tensor) -> torch.Tensor:
        rows = stream.reshape(-1, stream.shape[-1])
        # The SAE may be on another device than the model.
        return stream + self.sae.written(rows, self.features, self.value).to(stream).reshape(stream.shape)

    def check_fits(self, language_model: LanguageModel) -> None:
        """Notice an SAE of another model; see :func:`check_site`."""
        width = self.sae.directions.shape[1]
        check_site(language_model, self.sae.site, width, self.sae.name, self.sae.model or "another model")


Intervention = Add | Ablate | Clamp
Condition = Sequence[Intervention]


def sae_rule(
    sae: SparseAutoencoder, features: Sequence[int], coefficient: float, language_model: LanguageModel
) -> tuple[Add, ...]:
    """The paper's rule for SAE features: the sum of their rows of the decoder, at every prompt token but the last.

    A ``ValueError`` says that there is no such feature, or that the SAE is of another model.

    Source:
        arXiv 2410.10863, section 3.2 and its code release.
    """
    name = f"features {', '.join(map(str, features))}"
    return (Add(feature_vector(sae, features, language_model, name), coefficient, "prompt_except_last"),)


def repe_rule(vector: SteeringVector, coefficient: float) -> tuple[Add, ...]:
    """The paper's rule for contrast vectors: the unit vector, at the last token.

    Source:
        arXiv 2410.10863, section 3.3.
    """
    return (Add(vector.unit(), coefficient, "last"),)


def repository_rule(
    vectors: Sequence[SteeringVector], coefficient: float, language_model: LanguageModel
) -> tuple[Add, ...]:
    """The variant of the paper's code release: unit vectors at the last nine blocks, at all tokens.

    Vectors of earlier blocks are left out, and a model of fewer blocks is steered at each of them. A ``ValueError``
    says which blocks have no vector, or more than one.
    """
    depth = len(blocks(language_model.model))
    wanted = range(max(0, depth - REPOSITORY_BLOCKS), depth)
    chosen = [one for one in vectors if one.site.stream == "resid_post" and one.site.layer in wanted]
    chosen.sort(key=lambda vector: vector.site.layer)
    found = [vector.site.layer for vector in chosen]
    if found != list(wanted):
        raise ValueError(
            f"the rule steers what blocks {wanted[0]} to {depth - 1} leave; there are vectors of blocks {found}"
        )
    return tuple(Add(vector.unit(), coefficient, "all") for vector in chosen)


def check_site(language_model: LanguageModel, site: Site, width: int, name: str, made_for: str) -> None:
    """Notice what was made for another model: a ``ValueError`` where width or block do not fit this one."""
    own, depth = language_model.model.config.get_text_config().hidden_size, len(blocks(language_model.model))
    known = site.stream in ("resid_pre", "resid_post")
    if width != own or not known or not 0 <= site.layer < depth:
        raise ValueError(
            f"{name} has {width} coordinates at {site}, and {language_model.name} has {own} and blocks 0 to "
            f"{depth - 1}; it was made for {made_for}"
        )


def by_site(condition: Condition) -> dict[Site, list[Intervention]]:
    """The interventions at each site, in the order in which a model comes by."""
    sites: dict[Site, list[Intervention]] = {one.site: [] for one in sorted(condition, key=lambda one: one.site.order)}
    for one in condition:
        sites[one.site].append(one)
    return sites


def masks(real: torch.Tensor, answer: torch.Tensor, options: torch.Tensor | None = None) -> Where:
    """By name of the positions, which tokens each means: of those that are no padding, and those of the answer.

    All are boolean, of shape ``(rows, tokens)``; ``options`` tells before how many tokens of each row they stand.
    """
    prompt, answer = real & ~answer, real & answer
    # The last of the prompt has as many prompt tokens up to it as there are.
    last = prompt & (prompt.cumsum(1) == prompt.sum(1, keepdim=True))
    of_prompt = {"all": prompt, "last": last, "all but last": prompt & ~last, "none": torch.zeros_like(prompt)}
    of_prompt["before options"] = prompt if options is None else prompt & (prompt.cumsum(1) <= options[:, None])
    of_answer = {"all": answer, "none": torch.zeros_like(answer)}
    return {name: of_prompt[one] | of_answer[other] for name, (one, other) in POSITIONS.items()}


def at_positions(one: Intervention, where: Where) -> Change:
    """What an intervention does to a residual stream of shape ``(rows, tokens, d_model)``, at its positions alone."""
    change, chosen = one.change(), where[one.positions][..., None]

    def intervened(stream: torch.Tensor) -> torch.Tensor:
        # The block may be on another device than the inputs, by which the tokens are told.
        return torch.where(chosen.to(stream.device), change(stream), stream)

    return intervened


def _clamped_apart(clamp: Clamp) -> Change:
    """A clamp of features that stand apart, with the part of the SAE that they need, which is small enough to send."""
    sae, value = clamp.sae, float(clamp.value)
    network: Any = sae.network
    # A feature that is named twice is held once.
    features = list(dict.fromkeys(clamp.features))
    read, bias, write = network.W_enc.detach()[:, features], network.b_enc.detach()[features], sae.directions[features]
    centred, normalisation, floor = sae.centred, sae.normalisation, torch.zeros_like(bias)
    if network.cfg.apply_b_dec_to_input:
        bias = bias - network.b_dec.detach() @ read
    if network.cfg.architecture() == "jumprelu":
        # What ReLU has set to zero stays there, whatever the threshold.
        floor = network.threshold.detach()[features].clamp(min=0.0)

    def clamped(stream: torch.Tensor) -> torch.Tensor:
        encoder, start, least, decoder = (part.to(stream.device) for part in (read, bias, floor, write))
        seen = stream.to(torch.promote_types(stream.dtype, encoder.dtype))
        scale = torch.ones_like(seen[..., :1])
        if centred:
            seen = seen - seen.mean(-1, keepdim=True)
        if normalisation == "constant_norm_rescale":
            scale = seen.norm(dim=-1, keepdim=True) / seen.shape[-1] ** 0.5
            seen = seen / scale
        if normalisation == "layer_norm":
            seen = seen - seen.mean(-1, keepdim=True)
            scale = seen.std(-1, keepdim=True)
            # The constant of sae-lens, which it leaves out on the way back.
            seen = seen / (scale + 1e-5)
        active = seen @ encoder.to(seen.dtype) + start
        active = torch.where(active > least, active, 0.0)
        change = ((value - active) @ decoder.to(seen.dtype)) * scale
        return stream + change.to(stream.dtype)

    return clamped


def _check(positions: str, name: str, value: float) -> None:
    if positions not in POSITIONS:
        raise ValueError(f"unknown positions {positions!r}; choose one of {', '.join(POSITIONS)}")
    # In the format of a vector: one that is infinite there would make every model overflow.
    if not torch.isfinite(torch.tensor(float(value))):
        raise ValueError(f"{name} {value}; pass a finite number")
