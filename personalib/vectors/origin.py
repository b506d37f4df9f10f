"""Where imported directions come from, and what has to hold of them before they become steering vectors."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from personalib.base.data import DataError
from personalib.base.provenance import file_hash
from personalib.models.load import LanguageModel
from personalib.models.parts import Site, blocks
from personalib.vectors.vector import SteeringVector

UNKNOWN = "unknown"


class Row(NamedTuple):
    """A direction as it stands in a file."""

    name: str
    site: Site
    values: torch.Tensor


@dataclass(frozen=True)
class Origin:
    """Where directions come from.

    Attributes:
        path: the file.
        form: how it is written.
        convention: what its numbers of layers mean.
        model: the model that the file names.
    """

    path: Path
    form: str
    convention: str
    model: str = UNKNOWN

    def __str__(self) -> str:
        return f"read from {self.path.name} ({self.form}, sha256 {file_hash(self.path)[:12]}): {self.convention}"

    def vectors(self, rows: list[Row], language_model: LanguageModel | None) -> list[SteeringVector]:
        """The rows as vectors that carry this record.

        Raises:
            DataError: there is none, one is no vector of finite numbers, they differ in width, or do not fit the model.
        """
        if not rows:
            raise DataError(f"{self.path}: holds no direction; fetch or write it again")
        for row in rows:
            self._check(row, rows[0].values.shape)
        name, revision, method = self.model, UNKNOWN, str(self)
        if language_model:
            check_fits(self.path, [(row.site, len(row.values)) for row in rows], language_model)
            name, revision = language_model.name, language_model.revision or language_model.digest()
        return [SteeringVector(row.values, row.site, row.name, method, name, revision) for row in rows]

    def _check(self, row: Row, shape: torch.Size) -> None:
        place = f"{self.path}: {row.name} at {row.site}"
        if row.values.ndim != 1 or not row.values.numel():
            raise DataError(f"{place} has shape {tuple(row.values.shape)}; give each layer one vector (d_model,)")
        if row.values.shape != shape:
            raise DataError(f"{place} has {len(row.values)} coordinates, others {shape[0]}; keep one model's in a file")
        # As float32, which they become: torch tells it of no smaller than 16 bits, and 64 may be too large.
        if not row.values.float().isfinite().all():
            raise DataError(f"{place} holds numbers that are not finite as float32; make the direction again")


def check_fits(path: Path, places: list[tuple[Site, int]], language_model: LanguageModel) -> None:
    """Notice directions of another model.

    Args:
        path: the file.
        places: site and width of each.
        language_model: the model.

    Raises:
        DataError: a width or a block is not the model's.
    """
    width, depth = language_model.model.config.get_text_config().hidden_size, len(blocks(language_model.model))
    for site, own in places:
        if own != width or site.layer >= depth:
            raise DataError(
                f"{path}: {own} coordinates at {site}, and {language_model.name} has {width} and blocks 0 to "
                f"{depth - 1}; name the model that it was made for"
            )
