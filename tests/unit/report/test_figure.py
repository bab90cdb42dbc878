"""The figure of a run: every kind of variable becomes the right kind of panel, well labelled."""

import logging
import threading

import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import Normalize
from matplotlib.image import imread

from ips_components.report import _style as style
from ips_components.report._labels import units_of
from ips_components.report.figure import compose, figure_of, png_of, run_figure
from ips_components.report.panels import read_panels, write_panels


@pytest.fixture
def results():
    """What an incremental PCA of a field leaves behind."""
    rng = np.random.default_rng(7)
    time = ("time", np.arange(9) * 0.5, {"units": "s"})
    x = ("x", (np.arange(8) + 0.5) / 8, {"units": "m"})
    y = ("y", (np.arange(6) + 0.5) / 8, {"units": "m"})
    ratio = np.sort(rng.random((9, 3)) / 3)[:, ::-1]
    return xr.Dataset(
        {
            "temperature": (("time", "y", "x"), rng.random((9, 6, 8)), {"units": "K"}),
            "components": (("component", "y", "x"), rng.normal(size=(3, 6, 8))),
            "mean": (("y", "x"), rng.random((6, 8)), {"units": "K", "long_name": "mean field"}),
            "explained_variance_ratio": (("time", "component"), ratio),
            "singular_values": (("component",), [3.0, 2.0, 1.0], {"units": "K"}),
            "noise_variance": ((), 0.125, {"units": "K2"}),
        },
        coords={"time": time, "x": x, "y": y},
        attrs={"title": "a run"},
    )


def panels(figure):
    """Visible axes that hold data, in order, as (title, x label, y label)."""
    axes = [ax for ax in figure.get_axes() if ax.get_visible() and not is_bar(ax)]
    return [(ax.get_title(), ax.get_xlabel(), ax.get_ylabel()) for ax in axes]


def is_bar(ax):
    return ax.get_label() == "<colorbar>"


def axes_titled(figure, title):
    (found,) = [ax for ax in figure.get_axes() if ax.get_title() == title]
    return found


def test_groups_follow_each_other_below_their_names(results):
    stats = xr.Dataset({"spread": (("y", "x"), np.ones((3, 4))), "n": ((), 7.0)})
    groups = {"/": results[["mean"]], "/stats": stats, "/empty": xr.Dataset()}
    figure = compose(groups)
    assert [title for title, *_ in panels(figure)] == ["mean field", "spread"]
    assert texts(figure) == ["stats", "n = 7"]
    assert figure.get_suptitle() == "a run"
    assert [title for title, *_ in panels(compose({"/": xr.Dataset(), "/stats": stats}))] == [
        "spread"
    ]


def texts(figure):
    return [text.get_text() for strip in figure.subfigs for text in strip.texts]


def test_panels_and_labels_of_a_pca_run(results):
    last = results.explained_variance_ratio.values[-1]
    assert panels(compose(results)) == [
        ("time = 0.5 s", "x (m)", "y (m)"),
        ("time = 1.5 s", "x (m)", ""),
        ("time = 2.5 s", "x (m)", ""),
        ("time = 4 s", "x (m)", ""),
        (f"component 1 ({last[0]:.1%})", "x (m)", "y (m)"),
        (f"component 2 ({last[1]:.1%})", "x (m)", ""),
        (f"component 3 ({last[2]:.1%})", "x (m)", ""),
        ("mean field", "x (m)", "y (m)"),
        ("explained variance ratio", "time (s)", ""),
        ("singular values", "component", "K"),
    ]


def test_colour_bars_name_the_units(results):
    bars = [ax for ax in compose(results).get_axes() if is_bar(ax)]
    assert [bar.get_ylabel() for bar in bars] == ["K", "", "K"]


def test_title_by_argument_or_attribute(results):
    assert compose(results).get_suptitle() == "a run"
    assert compose(results, "another").get_suptitle() == "another"


def test_snapshots_share_one_scale_and_components_one_about_zero(results):
    figure = compose(results)
    meshes = [ax.collections[0] for ax in figure.get_axes() if ax.collections and not is_bar(ax)]
    snapshots, components = meshes[:4], meshes[4:7]
    assert len({(m.norm.vmin, m.norm.vmax) for m in snapshots}) == 1
    assert {m.norm.vmin + m.norm.vmax for m in components} == {0.0}
    shown = results.temperature.values[[1, 3, 5, 8]]
    assert (snapshots[0].norm.vmin, snapshots[0].norm.vmax) == (shown.min(), shown.max())


def test_cells_lie_where_the_coordinates_say(results):
    ax = axes_titled(compose(results), "mean field")
    assert ax.get_xlim() == pytest.approx((0.0, 1.0))
    assert ax.get_ylim() == pytest.approx((0.0, 0.75))
    assert ax.get_box_aspect() == pytest.approx(0.75)


def test_ratio_is_drawn_in_percent_with_a_line_per_component(results):
    ax = axes_titled(compose(results), "explained variance ratio")
    assert [line.get_label() for line in ax.get_lines()] == ["1", "2", "3"]
    assert len({(line.get_color(), line.get_linestyle()) for line in ax.get_lines()}) == 3
    assert ax.yaxis.get_major_formatter()(0.25) == "25%"
    np.testing.assert_array_equal(
        ax.get_lines()[2].get_ydata(), results.explained_variance_ratio.values[:, 2]
    )


def test_numbers_are_written_out(results):
    figure = compose(results[["noise_variance"]])
    assert [text.get_text() for strip in figure.subfigs for text in strip.texts] == [
        "noise variance = 0.125 K²"
    ]


@pytest.mark.parametrize(
    ("dims", "shape", "expected"),
    [
        (("x",), (9,), [("v", "x", "")]),
        (("step",), (9,), [("v", "step", "")]),
        (("step", "x"), (9, 5), [("v", "step", "x")]),
        (("x", "step"), (5, 9), [("v", "step", "x")]),
        (("z", "y", "x"), (4, 5, 6), [("v, z 2", "x", "y")]),
        (("component", "z"), (2, 9), [("v", "z", "")]),
        (("step", "z", "y", "x"), (1, 3, 4, 5), [("step 0", "x", "y")]),
    ],
)
def test_any_shape_finds_its_panel(dims, shape, expected):
    figure = compose(xr.Dataset({"v": (dims, np.random.default_rng(0).random(shape))}))
    assert panels(figure) == expected


@pytest.mark.parametrize(
    "variable",
    [
        (("a", "b", "c", "d"), np.zeros((2, 2, 2, 2))),
        (("x",), np.array(["p", "q"])),
        (("x",), np.zeros(0)),
        (("step", "component", "y", "x"), np.zeros((2, 2, 2, 2))),
    ],
)
def test_what_cannot_be_drawn_is_said_and_skipped(variable, caplog):
    with caplog.at_level(logging.INFO, logger="ips_components.report.panels"):
        figure = compose(xr.Dataset({"odd": variable}))
    assert "odd is not drawn" in caplog.text
    assert panels(figure) == []
    assert figure.subfigs[0].texts[0].get_text() == "The results hold nothing that can be drawn."


@pytest.mark.parametrize("n_maps", [1, 2, 4])
@pytest.mark.parametrize("scale", [1.0, 1e6, 1e-9])
def test_no_labels_leave_the_figure_or_cover_a_neighbour(results, n_maps, scale):
    long = "energy of everything in the domain and beyond"
    few = results.drop_vars("explained_variance_ratio").isel(time=slice(n_maps)) * scale
    few["energy"] = ("time", scale * (1e4 + np.arange(n_maps)), {"long_name": long, "units": "J"})
    few["space"] = (("time", "x"), scale * np.ones((n_maps, 8)))
    figure = compose({"/": few, "/alone": few[["mean"]]})
    figure.draw(figure.canvas.get_renderer())
    width, height = figure.bbox.size
    for row in figure.subfigs:
        boxes = [ax.get_tightbbox() for ax in row.axes]
        for box in boxes:
            assert min(box.x0, box.y0, width - box.x1, height - box.y1) >= 0.0
        for ax, one in zip(row.axes, boxes, strict=True):
            if is_bar(ax):  # the power of ten above it may begin above the map
                one.x0 = ax.bbox.x0
            for other in row.axes:
                assert other is ax or not other.get_window_extent().overlaps(one)


@pytest.mark.parametrize("fill", [np.nan, np.inf, 0.0, -3.0, 1e300])
def test_degenerate_values_are_drawn_without_warning(tmp_path, fill):
    values = {"map": (("y", "x"), np.full((3, 4), fill)), "curve": (("time",), np.full(5, fill))}
    run_figure(xr.Dataset(values), tmp_path / "figure.png")


def test_values_over_many_decades_get_a_logarithm():
    figure = compose(xr.Dataset({"v": (("time",), [1e-6, 1.0, 10.0])}))
    assert axes_titled(figure, "v").get_yscale() == "log"


@pytest.mark.parametrize("top", [1.0, 0.2, 0.04, 0.004, 0.0004])
def test_ticks_of_small_ratios_differ(top):
    data = {"ratio": (("time",), [0.0, top])}
    ax = axes_titled(compose(xr.Dataset(data)), "ratio")
    low, high = ax.get_ylim()
    ticks = [t for t in ax.yaxis.get_major_locator()() if low <= t <= high]
    labels = ax.yaxis.get_major_formatter().format_ticks(ticks)
    assert len(set(labels)) == len(labels) > 1


def test_long_names_stay_above_their_panel():
    name = "mean temperature above ambient over all of the steps"
    data = {"v": (("time",), [1.0, 2.0], {"long_name": name})}
    titles = [title for title, *_ in panels(compose(xr.Dataset(data)))]
    assert max(map(len, titles[0].split("\n"))) <= 28


def test_a_huge_lazy_field_is_thinned_before_it_is_loaded():
    import dask.array as da

    field = da.zeros((1000, 2000, 2000), chunks=(1, 2000, 2000))
    figure = compose(xr.Dataset({"v": (("time", "y", "x"), field)}))
    assert max(ax.collections[0].get_array().size for ax in figure.get_axes()[:4]) <= 600 * 600


@pytest.mark.parametrize(
    ("values", "cmap"),
    [([0.0, 5.0], "viridis"), ([-0.1, 5.0], "viridis"), ([-2.0, 5.0], "RdBu_r")],
)
def test_colours_diverge_only_where_both_signs_matter(values, cmap):
    colours, norm = style.colour_scale(np.array(values))
    assert colours.name == cmap
    assert isinstance(norm, Normalize)


def test_picture_is_written_whole_and_fits_a_page(results, tmp_path):
    path = run_figure(results, tmp_path / "figure.png")
    height, width, _ = imread(path).shape
    assert [p.name for p in tmp_path.iterdir()] == ["figure.png"]
    assert (width, height / 150 < 11) == (1140, True)


def test_failure_leaves_no_file_behind(results, tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("ips_components.report.figure.FigureCanvasAgg.print_png", broken)
    with pytest.raises(OSError, match="disk full"):
        run_figure(results, tmp_path / "figure.png")
    assert list(tmp_path.iterdir()) == []


def test_pyplot_stays_untouched_also_from_a_thread(results, tmp_path):
    import matplotlib
    from matplotlib import _pylab_helpers

    before = dict(matplotlib.rcParams)
    thread = threading.Thread(target=run_figure, args=(results, tmp_path / "figure.png"))
    thread.start()
    thread.join(60)
    assert (tmp_path / "figure.png").exists()
    assert dict(matplotlib.rcParams) == before
    assert _pylab_helpers.Gcf.figs == {}


@pytest.mark.parametrize(
    ("units", "printed"),
    [
        ("K", "K"),
        ("K2", "K²"),
        ("m s-1", "m s⁻¹"),
        ("kg m^-3", "kg m⁻³"),
        ("kg m**-3", "kg m⁻³"),
        ("1e20 m-3", "1e20 m⁻³"),
        ("seconds since 2000-01-01", "seconds since 2000-01-01"),
        ("1", "1"),
        ("1e-3", "1e-3"),
        ("H2O", "H2O"),
        ("", ""),
    ],
)
def test_units_are_printed_with_superscripts(units, printed):
    assert units_of(xr.DataArray(0.0, attrs={"units": units})) == printed


def test_shares_that_round_to_more_than_one_are_still_shares():
    values = np.array([[1.0 + 1e-12, 1e-32], [0.8, 0.2]])
    ratio = xr.DataArray(values, dims=("time", "component"), name="explained_variance_ratio")
    axes = compose(xr.Dataset({"explained_variance_ratio": ratio})).subfigs[0].axes[0]
    assert axes.get_yscale() == "linear"
    assert axes.get_ylim() == (0.0, 1.0)


def test_a_logarithmic_scale_ends_where_rounding_begins():
    values = xr.DataArray([1e-30, 1e-3, 1.0, 2.0], dims="time", name="residual")
    axes = compose(xr.Dataset({"residual": values})).subfigs[0].axes[0]
    assert axes.get_yscale() == "log"
    assert axes.get_ylim()[0] > 1e-7


def test_the_legend_of_modes_along_space_lies_above_their_lines():
    x = np.linspace(0.0, 1.0, 50)
    modes = np.array([np.sin(np.pi * (k + 1) * x) for k in range(5)])
    axes = axes_titled(compose(xr.Dataset({"modes": (("component", "x"), modes)})), "modes")
    low, high = axes.get_ylim()
    assert (1.0 - low) / (high - low) < 0.7


# ---- many results that are alike -------------------------------------------------------------


def test_many_alike_curves_share_a_panel_in_the_order_of_their_numbers():
    time = np.arange(6)
    data = {
        f"probe_{n}": (("time",), n + time * 1.0, {"units": "K"}) for n in (*range(2, 50), 0, 1)
    }
    figure = compose(xr.Dataset({**data, "total": ("time", time * 2.0)}, {"time": time}))
    assert panels(figure) == [("probe 0 to 49", "time", "K"), ("total", "time", "")]
    lines = axes_titled(figure, "probe 0 to 49").get_lines()
    assert [line.get_ydata()[0] for line in lines] == list(range(50))


def test_many_alike_numbers_are_a_curve():
    figure = compose(xr.Dataset({f"mean_{n}": ((), n**2.0) for n in range(12)}))
    (line,) = axes_titled(figure, "mean 0 to 11").get_lines()
    np.testing.assert_array_equal(line.get_xdata(), np.arange(12))
    np.testing.assert_array_equal(line.get_ydata(), np.arange(12) ** 2)


def test_curves_over_other_coordinates_keep_their_panels():
    data = {f"p_{n}": xr.DataArray([1.0, 2.0], dims=f"x{n}") for n in range(6)}
    assert len(panels(compose(xr.Dataset(data)))) == 6


def test_an_inherited_long_name_is_no_title():
    attrs = {"long_name": "temperature of the plate", "units": "K"}
    data = {name: (("time",), [1.0, 2.0], attrs) for name in ("largest", "least")}
    assert [title for title, *_ in panels(compose(xr.Dataset(data)))] == ["largest", "least"]


def test_axes_are_called_by_their_dims():
    assert panels(compose(xr.Dataset({"v": (("bin_edge",), [1.0, 2.0])})))[0][1] == "bin_edge"


@pytest.mark.parametrize(("n", "columns"), [(1, 1), (2, 2), (3, 3), (4, 3)])
def test_few_curves_share_the_width_of_the_page(n, columns):
    """One result had a third of the page, beside white paper."""
    data = {f"v{chr(65 + i)}": (("time",), [1.0, 2.0]) for i in range(n)}
    axes = axes_titled(compose(xr.Dataset(data)), "vA")
    assert axes.get_gridspec().ncols == columns


def test_the_plane_that_a_map_shows_of_more_dimensions_is_named():
    field = xr.DataArray(np.ones((4, 5, 6)), dims=("layer", "y", "x"))
    figure = compose(xr.Dataset({"density": field}))
    assert [title for title, *_ in panels(figure)][:1] == ["density, layer 2"]


def test_panels_beyond_a_page_are_named():
    data = {f"v{chr(65 + n)}": (("time",), [1.0, 2.0]) for n in range(26)}
    figure = compose(xr.Dataset(data))
    assert len(panels(figure)) == 24
    assert any("2 more: vY, vZ" in text.get_text() for sub in figure.subfigs for text in sub.texts)


# ---- the way to the process that draws -------------------------------------------------------


def test_the_figure_of_a_file_is_that_of_the_results(results, tmp_path):
    groups = {"/": results, "/stats": results[["mean"]]}
    write_panels(groups, tmp_path / "panels")
    assert [each.name for each in tmp_path.iterdir()] == ["panels"]
    there = png_of(figure_of(*read_panels(tmp_path / "panels")))
    assert there == run_figure(groups, tmp_path / "here.png").read_bytes()


@pytest.mark.parametrize(
    "where",
    [
        np.array(["2026-01-01", "2026-06-01"], dtype="datetime64[ns]"),
        np.array(["inner", "outer"]),
        np.array(["inner", "outer"], dtype=object),
    ],
)
def test_coordinates_of_any_kind_travel_with_their_panels(where, tmp_path):
    dims = ("step", "y", "x")
    variables = {"v": ("step", [1.0, 2.0]), "maps": (dims, np.ones((2, 3, 4)))}
    write_panels(xr.Dataset(variables, {"step": where}), tmp_path / "panels")
    figure = figure_of(*read_panels(tmp_path / "panels"))
    png_of(figure)
    assert panels(figure)[0][0] == f"step {str(where[0])[:19]}"
