"""Directions of AxBench: a weight matrix with a concept a row, and the files beside it that say what the rows are."""

from pathlib import Path

from personalib.base.data import DataError, cut, parse_json, read_json
from personalib.models.load import LanguageModel
from personalib.models.parts import Site
from personalib.vectors.contents import matrix, unpickled
from personalib.vectors.origin import UNKNOWN, Origin, Row
from personalib.vectors.vector import SteeringVector


def read_axbench(
    path: Path,
    language_model: LanguageModel | None = None,
    *,
    site: Site | None = None,
    concepts: Path | None = None,
) -> list[SteeringVector]:
    """Read the weights of AxBench's rank-one methods: a ``.pt`` tensor of shape ``(concepts, d_model)``.

    Args:
        path: the file.
        language_model: the model, to check against.
        site: where the directions belong; by default the ``layer`` of the ``config.json`` beside, as ``resid_post``.
        concepts: the ``metadata.jsonl`` that names each row's concept; by default the one beside or in ``../generate``.

    Raises:
        DataError: it is no such tensor, has not one concept a row, no site is known, it is not of this model, or a line
            of the concepts is none.

    Source:
        Wu et al., *AxBench* (arXiv 2501.17148), and its code: weights are added to the output of ``model.layers[N]``.
    """
    values = matrix(path, unpickled(path))
    layer, model = _trained(path.with_name("config.json"))
    place = site or layer
    if place is None:
        raise DataError(f"{path}: no config.json beside it tells its layer; pass a site, such as resid_post.20")
    names = _concepts(concepts or concepts_of(path) or path.with_name("metadata.jsonl"))
    if len(names) != len(values):
        raise DataError(
            f"{path}: {len(values)} rows and {len(names)} concepts; pass the metadata.jsonl of its training"
        )
    rows = [Row(name, place, own) for name, own in zip(names, values, strict=True)]
    return Origin(path, "axbench", f"row N is concept N, at {place}", model).vectors(rows, language_model)


def concepts_of(path: Path) -> Path | None:
    """The ``metadata.jsonl`` that belongs to weights of AxBench; None where there is none."""
    # The folder's place and not the file's: a bare name has no folder above, and a hub's cache keeps links to files.
    above = path.parent.resolve().parent
    places = (path.with_name("metadata.jsonl"), above / "generate" / "metadata.jsonl")
    return next((each for each in places if each.is_file()), None)


def _trained(path: Path) -> tuple[Site | None, str]:
    """Site and model that a ``config.json`` names."""
    if not path.is_file():
        return None, UNKNOWN
    try:
        found = read_json(path)
    except DataError as error:
        raise DataError(f"{path}: no JSON object ({cut(str(error))}); write layer and model_name") from None
    if not isinstance(found, dict):
        raise DataError(f"{path}: no JSON object; write layer and model_name, or remove it")
    layer, model = found.get("layer"), found.get("model_name") or UNKNOWN
    return (Site(layer) if type(layer) is int and layer >= 0 else None), str(model)


def _concepts(path: Path) -> list[str]:
    """The names of concepts, in the order of their rows."""
    try:
        lines = enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; pass the metadata.jsonl that names the concepts") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error}); pass the metadata.jsonl of its training") from None
    written = [(f"{path}, line {number}", line) for number, line in lines if line.strip()]
    numbered = [_concept(place, line, row) for row, (place, line) in enumerate(written)]
    if sorted(number for number, _ in numbered) != list(range(len(numbered))):
        raise DataError(f"{path}: concept_id does not number the rows from 0; give each row one concept")
    return [name for _, name in sorted(numbered)]


def _concept(place: str, line: str, row: int) -> tuple[int, str]:
    """The row and the name of a line's concept; lines without ``concept_id`` are in the order of the rows."""
    try:
        found = parse_json(line, place)
    except DataError as error:
        raise DataError(f"{place}: no JSON ({cut(str(error))}); write one object a line") from None
    kept = found if isinstance(found, dict) else {}
    number, name = kept.get("concept_id", row), kept.get("concept")
    if type(number) is not int or not isinstance(name, str):
        raise DataError(
            f"{place}: no JSON object with a concept, as text, and a concept_id, as a whole number; write both so"
        )
    return number, name
