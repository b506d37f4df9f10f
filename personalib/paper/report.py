"""Reports of reproductions: every cell as CSV, tables to read as Markdown and LaTeX, a page, and a figure."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from personalib.base.markdown import escaped
from personalib.base.plots import COLOURS, new_figure, scatter_truth, set_theme
from personalib.base.storage import write_whole
from personalib.base.tables import to_csv, to_latex, to_markdown
from personalib.evaluation.plan import ModelPlan, parse_plan
from personalib.evaluation.runs import EvaluationRun
from personalib.features.published import bare_name
from personalib.paper.cells import CELL, CHANGE, measured_cells, reference_cells, used_questionnaires
from personalib.paper.deviations import deviations
from personalib.paper.protocol import Protocol
from personalib.paper.reproduction import COLLAPSED, MISSING, RULE, VERDICTS, WIDTH, compare, summary
from personalib.steering.settings import Guard

_INTERVALS = (
    ("published", "published_low", "published_high"),
    ("measured", "measured_low", "measured_high"),
    ("difference", "low", "high"),
)
# Points or percent, with room for marks at the ends.
_SHARES = (-5.0, 105.0)


@dataclass(frozen=True)
class Reproduction:
    """A run compared with what was published of its model, by a protocol's scoring and a width of agreement.

    ``cells`` are those of :func:`personalib.paper.reproduction.compare`, ``deviations`` where the run's plan leaves the
    protocol, ``sources`` the templates that were read, by the compared questionnaire.
    """

    model: str
    cells: pd.DataFrame
    summary: pd.DataFrame
    deviations: pd.DataFrame
    sources: dict[str, str]
    protocol: Protocol
    width: float

    @property
    def page(self) -> str:
        """The report as one page of Markdown: what was done, by which rule, what came out, and every measured cell."""
        count = self.cells["verdict"].value_counts()
        counts = ", ".join(f"{int(count.get(verdict, 0))} {verdict}" for verdict in VERDICTS)
        compared = ", ".join(f"{escaped(name)} (template {escaped(text)})" for name, text in self.sources.items())
        there = self.cells[self.cells["verdict"] != MISSING]
        parts = [
            f"# Does {escaped(bare_name(self.model))} reproduce what was published of it?",
            f"{len(self.cells)} published numbers: {counts}.",
            f"Scoring: {escaped(self.protocol.title)}. Compared: {compared or 'nothing'}. Prompts: {self._prompts()}.",
            "![Measured against published numbers](reproduction.png)" if there["measured"].notna().any() else "",
            "## The rule",
            RULE.format(width=self.width),
            "The two numbers are taken as independent. On the very same items they are not, and a difference is then "
            "surer than its interval says.",
            "## Summary",
            to_markdown(self.summary),
            "## Where the run leaves the protocol",
            to_markdown(self.deviations) if len(self.deviations) else "Nowhere.",
            "## Cells that were measured",
            to_markdown(readable_cells(there)) if len(there) else "None.",
        ]
        return "\n\n".join(part.strip() for part in parts if part) + "\n"

    def _prompts(self) -> str:
        wording = "the book's own wording"
        if self.protocol.prompts is None:
            return wording
        file = f"of {escaped(self.protocol.prompts)}"
        sections = {name: file if self.protocol.supplies(name) else wording for name in ("templates", "contrasts")}
        return "; ".join(map(" ".join, sections.items()))


def reproduce(run: EvaluationRun, protocol: Protocol, width: float = WIDTH, guard: Guard | None = None) -> Reproduction:
    """Compare a finished run with what was published of its model, by a protocol's scoring, a width and a guard.

    A model that nothing was published of, and a run that is not whole, are a DataError.
    """
    cells = compare(reference_cells(run.model), measured_cells(run, protocol.scoring, guard), width)
    plan = parse_plan(run.manifest["plan"], f"{run.model}: the manifest's plan")
    models = tuple(each for each in plan.models if each.name == run.model)[:1]
    left = deviations(protocol, plan.model_copy(update={"models": models}))
    return Reproduction(run.model, cells, summary(cells), left, used_questionnaires(run), protocol, width)


def write_reproduction(found: Reproduction, folder: Path) -> list[Path]:
    """Write a reproduction into its model's own folder within another one.

    The files are ``reproduction.md``, the page, its figure as PNG and SVG, and the tables ``reproduction_cells``,
    ``_summary`` and ``_deviations`` as CSV, Markdown and LaTeX.
    """
    place = folder / ModelPlan(name=found.model).folder
    place.mkdir(parents=True, exist_ok=True)
    files = {"reproduction.md": found.page}
    for name, table in (("cells", found.cells), ("summary", found.summary), ("deviations", found.deviations)):
        shown = readable_cells(table) if name == "cells" else table
        forms = {"csv": to_csv(table), "md": to_markdown(shown), "tex": to_latex(shown)}
        files |= {f"reproduction_{name}.{suffix}": text for suffix, text in forms.items()}
    for name, text in files.items():
        write_whole(place / name, text)
    return [place / name for name in files] + _write_figure(found.cells, place)


def readable_cells(cells: pd.DataFrame) -> pd.DataFrame:
    """Cells as a reader wants them: ``published``, ``measured`` and ``difference`` each as a text with its bounds."""
    shown = cells[list(CELL)].assign(coefficient=cells["coefficient"].map("{:g}".format))
    for name, low, high in _INTERVALS:
        sign = "+" if name == "difference" else ""
        values = cells[[name, low, high]].astype(float).to_numpy().tolist()
        shown[name] = [_bounded(value, lowest, highest, sign) for value, lowest, highest in values]
    return shown.assign(
        n=["" if pd.isna(count) else f"{count:.0f}" for count in cells["n"]],
        p_holm=["" if pd.isna(p) else f"{p:.3f}" for p in cells["p_holm"]],
        verdict=cells["verdict"],
    )


def draw_reproduction(cells: pd.DataFrame) -> Figure:
    """Measured against published numbers, one panel a quantity, with the intervals of both and the diagonal."""
    there = cells[cells["measured"].notna()]
    set_theme()
    quantities = list(there["quantity"].unique())
    figure, panels = new_figure(rows=(len(quantities) + 1) // 2, columns=2, height=4.2 * ((len(quantities) + 1) // 2))
    for axes, quantity in zip(panels, quantities, strict=False):
        own = there[there["quantity"] == quantity].sort_values("without_guard")
        bounds = own["published_low"], own["published_high"]
        axes.hlines(own["measured"], *bounds, color=COLOURS["chance"], alpha=0.25, lw=1)
        ends = {"low": own["measured_low"], "high": own["measured_high"]}
        names = {"truth": own["published"], "estimate": own["measured"].astype(float), "kind": own["without_guard"]}
        scatter_truth(pd.DataFrame(names | ends | {"collapsed": own["verdict"] == COLLAPSED}), axes)
        axes.set(title=f"{quantity}: {axes.get_title(loc='left')}", xlabel="published", ylabel="measured")
        if quantity != CHANGE:  # nothing else goes beyond what a share can be
            axes.set_aspect("equal", adjustable="box")
            axes.set(xlim=_SHARES, ylim=_SHARES)
    for axes in panels[len(quantities) :]:
        axes.remove()
    return figure


def _write_figure(cells: pd.DataFrame, place: Path) -> list[Path]:
    """The figure as PNG and SVG; none where nothing was measured."""
    if cells["measured"].isna().all():
        return []
    figure = draw_reproduction(cells)
    paths = [place / "reproduction.png", place / "reproduction.svg"]
    figure.savefig(paths[0], metadata={"Software": None})
    figure.savefig(paths[1], metadata={"Date": None})
    plt.close(figure)
    return paths


def _bounded(value: float, low: float, high: float, sign: str) -> str:
    if pd.isna(value):
        return ""
    bounds = "" if pd.isna(low) else f" [{low:{sign}.1f}, {high:{sign}.1f}]"
    return f"{value:{sign}.1f}{bounds}"
