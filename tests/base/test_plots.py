"""Charts draw what they are given, refuse what they cannot draw, and leave their numbers behind."""

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex

from personalib.base import plots

SCORES = pd.DataFrame(
    {
        "category": ["calm", "calm", "tense"],
        "value": [50.0, 60.0, 40.0],
        "low": [45.0, 55.0, 30.0],
        "high": [55.0, 65.0, 45.0],
        "kind": ["baseline", "steered", "steered"],
        "collapsed": [False, False, True],
    }
)
PAIRS = pd.DataFrame({"truth": [0.1, 0.5, 0.9], "estimate": [0.2, 0.4, 1.0]})
STEPS = pd.DataFrame({"step": [0, 10, 20], "value": [0.1, 0.6, 0.9], "stage": ["letters", "letters", "words"]})
DOSES = pd.DataFrame({"coefficient": [0, 10, 100], "value": [1, 0.5, 0.1], "collapsed": [False, False, True]})
AWKWARD = pd.DataFrame(
    {"value": [-2.0, 9.0, np.nan, 0.5], "low": [-4.0, 1.0, -1.0, 0.4], "high": [-1.9, 5.0, 2.0, 0.5]}, dtype=float
)

CHARTS = [
    (plots.interval_dots, SCORES, ("category", "value", "low", "high")),
    (plots.bars, SCORES, ("category", "value")),
    (plots.scatter_truth, PAIRS, ("truth", "estimate")),
    (plots.training_curve, STEPS, ("step", "value")),
    (plots.dose_curve, DOSES, ("coefficient", "value")),
]


@pytest.fixture(params=[1, 4, 40], ids="{} rows".format)
def awkward(request):
    """Negative numbers, intervals to one side of their value or beside it, and a missing value."""
    return pd.concat([AWKWARD] * 10, ignore_index=True).head(request.param).rename_axis("place").reset_index()


@pytest.fixture(autouse=True)
def closed_figures():
    plots.set_theme()
    yield
    plt.close("all")


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """What `show_figure` displays, with the results going to a folder of the test's own."""
    displayed = []
    monkeypatch.setenv("PERSONALIB_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(plots, "display", displayed.append)
    return displayed


@pytest.mark.parametrize(("chart", "data", "needed"), CHARTS)
def test_data_stay_as_they_were_and_what_they_lack_is_named(chart, data, needed):
    before = data.copy()
    chart(data)
    pd.testing.assert_frame_equal(data, before)
    for column in needed:
        with pytest.raises(ValueError, match=f"{chart.__name__}: the data lack the column '{column}'"):
            chart(data.drop(columns=column))
    with pytest.raises(ValueError, match="no rows"):
        chart(data.iloc[:0])


def test_chart_draws_on_the_given_axes():
    _, (left, right) = plots.new_figure(columns=2)
    assert plots.scatter_truth(PAIRS, right) is right
    assert not left.collections
    assert right.collections


def test_dots_and_intervals_stand_where_the_numbers_say(awkward):
    axes = plots.interval_dots(awkward.assign(category=awkward.index.astype(str)))
    for column, line in zip(("low", "high", "value"), axes.lines, strict=True):
        np.testing.assert_array_equal(line.get_xydata(), awkward[[column, "place"]])
    segments = axes.collections[0].get_segments()
    np.testing.assert_array_equal([segment[:, 0] for segment in segments], awkward[["low", "high"]])


def test_bars_cells_and_curves_show_the_numbers(awkward):
    widths = [bar.get_width() for bar in plots.bars(awkward.assign(category=awkward.index.astype(str))).patches]
    np.testing.assert_array_equal(widths, awkward["value"])
    cells = plots.heatmap(awkward).collections[0].get_array()
    np.testing.assert_array_equal(cells.filled(np.nan), awkward)
    curve = plots.training_curve(awkward.rename(columns={"place": "step"})).lines[0]
    np.testing.assert_array_equal(curve.get_xydata(), awkward[["place", "value"]])
    axes = plots.dose_curve(awkward.rename(columns={"place": "coefficient"}))
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), awkward[["place", "value"]])
    band = {tuple(point) for path in axes.collections[0].get_paths() for point in path.vertices}
    assert band >= {(place, end) for column in ("low", "high") for place, end in awkward[["place", column]].to_numpy()}


@pytest.mark.parametrize("chart", [chart for chart, data, _ in CHARTS if "low" in data])
def test_ends_of_an_interval_that_are_swapped_are_refused(chart):
    with pytest.raises(ValueError, match="`low` is above `high` in 3 of 3 rows"):
        chart(SCORES.rename(columns={"low": "high", "high": "low"}))


def test_kinds_stand_side_by_side_only_where_they_share_a_category():
    def heights(scores):
        return sorted(line.get_ydata()[0] for line in plots.interval_dots(scores).lines if line.get_marker() != "|")

    assert heights(SCORES.iloc[[0, 2]]) == [0, 1]
    assert heights(SCORES.head(2)) == pytest.approx([-0.15, 0.15])


def test_kinds_keep_their_colour_and_collapsed_is_grey():
    axes = plots.interval_dots(SCORES)
    colours = {line.get_label(): to_hex(line.get_color()).upper() for line in axes.get_legend_handles_labels()[0]}
    wanted = {"steered": "steered", "baseline": "baseline", "steered (collapsed)": "collapsed"}
    assert colours == {kind: plots.COLOURS[name] for kind, name in wanted.items()}


def test_colours_can_be_told_apart_in_grey_by_their_markers():
    assert len(set(plots.MARKERS.values())) == len(plots.MARKERS)
    assert len(set(plots.COLOURS.values())) == len(plots.COLOURS)
    assert set(plots.MARKERS) <= set(plots.COLOURS)


def test_kinds_without_a_meaning_take_no_colour_that_has_one():
    axes = plots.training_curve(pd.concat([STEPS.assign(kind=f"kind {number}") for number in range(8)]))
    taken = {to_hex(line.get_color()).upper() for line in axes.lines if line.get_label().startswith("kind")}
    assert len(taken) == 8
    assert not taken & set(plots.COLOURS.values())


def test_bars_are_as_long_as_their_values_and_say_so():
    axes = plots.bars(pd.DataFrame({"category": ["A", "B"], "value": [0.75, 0.25], "kind": ["high", "low"]}))
    assert [bar.get_width() for bar in axes.patches] == [0.75, 0.25]
    assert [text.get_text() for text in axes.texts] == ["0.75", "0.25"]
    colours = [to_hex(bar.get_facecolor()).upper() for bar in axes.patches]
    assert colours == [plots.COLOURS["high"], plots.COLOURS["low"]]


def test_small_heatmap_shows_its_numbers_and_hatches_collapsed_cells():
    table = pd.DataFrame([[1.0, -2.0], [3.0, 4.0]], index=["a", "b"], columns=["x", "y"])
    collapsed = pd.DataFrame([[False, True], [False, False]], index=["a", "b"], columns=["x", "y"])
    axes = plots.heatmap(table, collapsed=collapsed)
    assert sorted(text.get_text() for text in axes.texts) == ["1", "3", "4"]
    assert [patch.get_xy() for patch in axes.patches] == [(1, 0)]
    assert axes.patches[0].get_hatch()


def test_heatmap_colours_are_symmetric_about_the_centre_and_a_large_one_has_no_numbers():
    mesh = plots.heatmap(pd.DataFrame({"x": [45.0, 70.0]}), centre=50).collections[0]
    assert mesh.get_clim() == (30, 70)
    assert not plots.heatmap(pd.DataFrame(np.ones((30, 10)))).texts


def test_heatmap_refuses_text_and_foreign_masks():
    with pytest.raises(ValueError, match="column 'name' holds no numbers"):
        plots.heatmap(pd.DataFrame({"name": ["a"], "x": [1.0]}))
    with pytest.raises(ValueError, match="rows and columns"):
        plots.heatmap(pd.DataFrame({"x": [1.0]}), collapsed=pd.DataFrame({"y": [True]}))


def test_scatter_states_the_correlation():
    expected = np.corrcoef(PAIRS["truth"], PAIRS["estimate"])[0, 1]
    assert plots.scatter_truth(PAIRS).get_title(loc="left") == f"r = {expected:.2f}, n = 3"
    constant = PAIRS.assign(estimate=1.0)
    assert plots.scatter_truth(constant).get_title(loc="left") == "n = 3", "with a constant there is none"


def test_scatter_draws_intervals_where_there_are_any():
    ends = PAIRS.assign(low=[0.1, 0.35, 0.7], high=[0.4, 0.6, 1.1])
    axes = plots.scatter_truth(ends)
    lines, points = axes.collections
    found = np.array(lines.get_segments())
    np.testing.assert_allclose(found[:, :, 0], ends[["truth", "truth"]])
    np.testing.assert_allclose(found[:, :, 1], ends[["low", "high"]])
    np.testing.assert_allclose(points.get_offsets(), ends[["truth", "estimate"]])
    for column in ("low", "high"):
        assert len(plots.scatter_truth(ends.drop(columns=column)).collections) == 1, "points alone"


def test_intervals_of_a_scatter_have_the_colour_of_their_kind():
    kinds = ["baseline", "steered", "steered"]
    axes = plots.scatter_truth(PAIRS.assign(low=0.1, high=0.9, kind=kinds, collapsed=[False, False, True]))
    lines = axes.collections[::2]
    found = [to_hex(line.get_color()[0]).upper() for line in lines]
    assert sorted(found) == sorted(plots.COLOURS[name] for name in ("baseline", "steered", "collapsed"))
    assert [len(line.get_segments()) for line in lines] == [1, 1, 1]


def test_stages_are_named_where_they_begin():
    axes = plots.training_curve(STEPS)
    assert {text.get_text(): text.get_position()[0] for text in axes.texts} == {"letters": 0, "words": 20}


def test_steps_of_a_logarithmic_axis_are_written_out():
    axes = plots.training_curve(STEPS.assign(step=STEPS["step"] + 100), log=True)
    axes.set_xlim(90, 25_000)
    axes.figure.canvas.draw()
    assert axes.get_xscale() == "log"
    assert {"200", "1,000", "20,000"} <= {text.get_text() for text in axes.get_xticklabels()}


def test_reference_line_is_named():
    _, (axes,) = plots.new_figure()
    plots.reference_line(axes, 50, "chance")
    plots.reference_line(axes, 0.5, "half", vertical=False)
    assert [text.get_text() for text in axes.texts] == ["chance", "half"]


def test_shown_figure_leaves_picture_and_numbers_and_is_closed(tmp_path, shown):
    figure = plots.dose_curve(DOSES).get_figure()
    plots.show_figure(figure, "dose-curve", DOSES)
    folder = tmp_path / "results"
    assert {path.name for path in folder.iterdir()} == {"dose-curve.png", "dose-curve.svg", "dose-curve.csv"}
    pd.testing.assert_frame_equal(pd.read_csv(folder / "dose-curve.csv"), DOSES)
    assert len(shown) == 1
    assert not plt.get_fignums()


def test_labels_in_the_index_are_saved(tmp_path, shown):
    table = pd.DataFrame({"x": [1.0]}, index=pd.Index(["poor"], name="element"))
    plots.show_figure(plots.new_figure()[0], "table", table)
    assert (tmp_path / "results" / "table.csv").read_text(encoding="utf-8") == "element,x\npoor,1.0\n"


def test_same_figure_gives_the_same_bytes(tmp_path, shown):
    for name in ("one", "two"):
        plots.show_figure(plots.dose_curve(DOSES).get_figure(), name, DOSES)
    for ending in ("png", "svg"):
        one, two = (tmp_path / "results" / f"{name}.{ending}" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize(
    ("chart", "data", "column"),
    [(chart, data, needed[1]) for chart, data, needed in CHARTS if chart is not plots.training_curve]
    + [(plots.interval_dots, SCORES, "low"), (plots.heatmap, PAIRS, "truth")],
)
def test_a_figure_that_shows_other_numbers_than_its_table_is_refused(chart, data, column, tmp_path, shown):
    axes = chart(data)
    with pytest.raises(ValueError, match=r"figure 'other' draws -?[\d.]+, which its numbers lack"):
        plots.show_figure(axes.figure, "other", data.assign(**{column: data[column] + 0.07}))
    assert not (tmp_path / "results").exists()
    plots.show_figure(axes.figure, "own", data)


@pytest.mark.parametrize(
    ("name", "numbers", "problem"),
    [
        *((name, DOSES, "hyphens") for name in ("Trait change", "../escape", "", "a--b")),
        ("empty", pd.DataFrame(), "without numbers"),
    ],
)
def test_a_bad_name_and_a_figure_without_numbers_are_refused(name, numbers, problem, shown):
    with pytest.raises(ValueError, match=problem):
        plots.show_figure(plots.new_figure()[0], name, numbers)


def test_what_has_collapsed_is_hollow_above_the_lines_of_all_kinds():
    doses = pd.concat([DOSES.assign(kind=kind, collapsed=DOSES["coefficient"] > 0) for kind in ("steered", "low")])
    drawn = plots.dose_curve(doses).lines
    hollow = [line.get_zorder() for line in drawn if line.get_linestyle() == "None"]
    lines = [line.get_zorder() for line in drawn if line.get_linestyle() != "None"]
    assert len(hollow) == len(lines) == 2 and max(lines) < min(hollow)


def test_a_dose_curve_is_hatched_beyond_the_first_collapse_on_either_side():
    doses = pd.DataFrame({"coefficient": [-2.0, -1.0, 0.0, 1.0, 2.0], "value": [0.0, 1.0, 0.0, 1.0, 0.0]})
    doses["collapsed"] = [True, True, False, False, True]
    axes = plots.dose_curve(doses, log=True)
    assert axes.get_xscale() == "symlog"
    spans = sorted((patch.get_x(), patch.get_x() + patch.get_width()) for patch in axes.patches)
    assert spans[0][1] == -1.0 and spans[0][0] < -2.0, "from the first one to beyond the last"
    assert spans[1][0] == 2.0 and spans[1][1] > 2.0, "one alone shows, too"
    assert len(axes.get_legend().get_texts()) == 1
