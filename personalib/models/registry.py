"""The models that the book knows by name: where they come from, what they need, and which SAEs read them."""

import datetime
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from personalib.base.data import DataError, Strict, data_dir, exists, parse, read_yaml

NumberFormat = Literal["float32", "bfloat16", "float16"]
ORGANISM = "organism"
# A variable of a chat template.
_Argument = Annotated[str, Field(pattern=r"^[A-Za-z]\w*$")]
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class KnownSaes(Strict):
    """SAEs of a model: a release in the table of sae-lens, or a folder, and ids in it, the usual one in front."""

    release: str
    ids: Annotated[tuple[str, ...], Field(min_length=1)] = ("",)


class KnownParts(Strict):
    """Where a model has its parts, see :class:`personalib.models.parts.Parts`."""

    blocks: str
    norm: str


class Entry(Strict):
    """A model of the table.

    Attributes:
        hub: its name on the hub, or a folder; none for the organism.
        revision: the commit that the entry was written for.
        parameters: how many numbers its weights are, in the format ``dtype``.
        device_map: where its weights go if nothing is said: ``"balanced"`` for all GPUs that there are, or devices by
            name of module, such as ``{"model.embed_tokens": 0, "model.layers": 1, …}``, with ``"cpu"`` and ``"disk"``
            for what no GPU holds. Without it one GPU, unless only several hold it.
        form: ``"chat"``, or ``"base"`` for a model that was not instructed.
        template: arguments for its chat template, such as ``{"enable_thinking": False}`` for a model that would think
            before it answers.
        date: the day that its chat template writes, where it writes one; that of Llama 3.2 for a day that is not told.
        gated: whether the licence has to be accepted on the hub before anything can be fetched.
        coefficients: by which the paper multiplies its features.
        saes: its SAEs; trained on the spot where there are none.
        parts: where its blocks and its last norm are, if in no usual place.
    """

    name: str
    title: str = ""
    hub: str | None = None
    revision: str | None = None
    parameters: int | None = None
    dtype: NumberFormat | None = None
    device_map: Literal["balanced"] | dict[str, int | str] | None = None
    form: Literal["chat", "base"] = "chat"
    template: dict[_Argument, bool | int | float | str] = Field(default_factory=dict)
    date: datetime.date = datetime.date(2024, 7, 26)
    licence: str = ""
    gated: bool = False
    coefficients: tuple[float, ...] = ()
    saes: KnownSaes | None = None
    parts: KnownParts | None = None

    @property
    def source(self) -> str:
        """What transformers loads it by."""
        return self.hub or str(data_dir() / "organism")

    @property
    def gigabytes(self) -> float | None:
        """The size of its weights, in units of 10^9 bytes."""
        if self.parameters is None:
            return None
        return self.parameters * _BYTES[self.dtype or "float32"] / 1e9

    def fetching(self) -> str:
        """What to do to have it on this machine."""
        size = f" ({self.gigabytes:.1f} GB)" if self.gigabytes else ""
        pin = f" --revision {self.revision}" if self.revision else ""
        download = f"hf download {self.hub}{pin}"
        if self.gated:
            page = f"https://huggingface.co/{self.hub}"
            return f"accept the licence on {page}, then run: hf auth login && {download}{size}"
        return f"run: {download}{size}"


@cache
def load_registry() -> dict[str, Entry]:
    """The table of models, by name, from ``data/models.yaml``; a DataError if the file is missing or wrong."""
    path = data_dir() / "models.yaml"
    content = parse(dict[str, dict[str, Any]], read_yaml(path), str(path))
    return {name: parse(Entry, {"name": name, **entry}, f"{path}, {name}") for name, entry in content.items()}


def find_entry(name: str) -> Entry:
    """What is known of a model; of one that is in no table, its name alone.

    Args:
        name: a name of the table or of the hub; a folder; or a YAML file with an entry of one's own. What that leaves
            out is as in the table, if it has the same model of the hub; a relative path in it is that of something
            beside it, if there is something.

    Raises:
        DataError: the name is empty, or the YAML file is missing or no entry.

    >>> find_entry("google/gemma-2-9b-it").name
    'gemma-2-9b-it'
    """
    if not name:
        raise DataError("the model's name is empty; pass a name, a folder, or a YAML file with an entry")
    if name.endswith((".yaml", ".yml")):
        return _own_entry(Path(name))
    if name in load_registry():
        return load_registry()[name]
    # A folder is what it holds, whatever its name.
    known = None if exists(name) and Path(name).is_dir() else by_hub(name)
    return known or Entry(name=name, hub=name)


def by_hub(name: str) -> Entry | None:
    """The entry of the table that has this model of the hub, which tells no letter's case apart."""
    return next((one for one in load_registry().values() if one.hub and one.hub.lower() == name.lower()), None)


def _own_entry(path: Path) -> Entry:
    """The entry in a YAML file."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; pass a YAML file with an entry, a folder, or a model's name")
    content = read_yaml(path)
    content = content if isinstance(content, dict) else {"entry": content}
    hub, saes = content.get("hub"), content.get("saes")
    known = by_hub(hub) if isinstance(hub, str) else None
    inherited = known.model_dump(exclude_unset=True) if known else {}
    if isinstance(hub, str):
        content["hub"] = _beside(path, hub)
    if isinstance(saes, dict) and isinstance(saes.get("release"), str):
        content["saes"] = saes | {"release": _beside(path, saes["release"])}
    found = parse(Entry, inherited | {"name": path.stem} | content, str(path))
    if not found.hub:
        raise DataError(f"{path}: hub: missing; write a folder, or a name on the hub, after it")
    return found


def _beside(path: Path, name: str) -> str:
    """What a file names, from the root of the file system if it is beside the file."""
    found = path.parent / name
    return str(found.resolve()) if name and exists(found) else name
