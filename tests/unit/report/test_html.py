"""The report: one file that stands alone, true to its record, after every kind of run."""

from __future__ import annotations

import re
import struct
import zlib
from html.parser import HTMLParser

import pytest
import run_records

from ips_components.report import _numbers as numbers
from ips_components.report._charts import charts
from ips_components.report._series import covered, rates
from ips_components.report._svg import Axis
from ips_components.report.html import render, write_report
from ips_components.report.ledger import summary_table
from ips_components.report.record import make_record, write_record

VOID = {"meta", "link", "img", "br", "hr", "wbr"}


class Page(HTMLParser):
    """Checks nesting while it collects text, references and the number of drawings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.words: list[str] = []
        self.tags: dict[str, int] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.references += [value for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0\x80")
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("name", run_records.RECORDS)
def test_every_report_is_well_formed_and_stands_alone(name):
    text = render(run_records.RECORDS[name]())
    page = Page(text)
    assert page.open == []
    assert all(reference.startswith("data:") for reference in page.references)
    assert "script" not in page.tags
    assert "None" not in page.text
    assert "nan" not in re.findall(r"[a-z]+", page.text.lower())
    assert "{{" not in text


def test_a_good_run_shows_verdict_numbers_and_figures():
    text = render(run_records.ok_record())
    page = Page(text)
    assert "Succeeded" in page.text
    assert "4 ranks put 100 steps in" in page.text
    assert "800 MiB (25 %) went to the analytics" in page.text
    assert "The account closes" in page.text
    assert "Explained variance: 84.1 %, 10.2 %, 2.1 %; together 96.4 %" in page.text
    assert page.tags["svg"] == 5 * 3  # five figures, each for three widths
    for name in ("phases", "timeline", "throughput", "memory", "waiting"):
        assert f'id="chart-{name}"' in text
    for label in ("resident memory, MiB", "delivered to the analytics, MiB/s"):
        assert label in page.text


def test_a_dead_rank_is_told_with_its_cause_and_its_losses():
    page = Page(render(run_records.rank_death_record()))
    assert "Failed" in page.text
    assert "First cause rank 2 lost: connection reset by node1 (process 9002)" in page.text
    assert "8.00 MiB were lost on the way" in page.text
    assert "mismatch in core dimension 0" in page.text
    assert "will never arrive; its consumers failed" in page.text


def test_a_run_without_a_step_says_so_instead_of_empty_figures():
    page = Page(render(run_records.before_first_step_record()))
    assert "svg" not in page.tags
    assert "executable 'heat3d' not found in PATH of node1" in page.text
    assert "The run ended before a contract was signed." in page.text
    assert "No rank has reported anything." in page.text


def test_an_open_ledger_is_shown_as_such():
    record = run_records.ok_record()
    record["ledger"]["closed"] = False
    account = record["ledger"]["arrays"]["temperature"]["blocks"]
    account["delivered"] -= 3
    assert "The account does not close: 3 of 400 blocks of array" in render(record)


def test_figures_are_embedded_and_absent_ones_are_explained(tmp_path):
    (tmp_path / "explained_variance.png").write_bytes(png())
    record = make_record(
        "r", status="ok", figures=["explained_variance.png", "gone.png", "notes.txt"]
    )
    write_record(record, tmp_path)
    path = write_report(tmp_path)
    text = path.read_text(encoding="utf-8")
    assert path == tmp_path / "report.html"
    assert 'src="data:image/png;base64,' in text
    assert "Explained variance" in text
    assert "gone.png: No such file or directory" in text
    assert "notes.txt is no picture" in text


def test_what_users_write_cannot_break_the_page():
    record = make_record(
        "<script>alert(1)</script>",
        status="failed",
        cause='</pre><img src="http://evil/x">',
        config={"A": "<b>&"},
    )
    page = Page(render(record))
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert "<b>&" in page.text


@pytest.mark.parametrize("step", [0, 10**7])
def test_runs_without_times_or_with_one_step_are_drawn(step):
    record = make_record(
        "r",
        status="ok",
        steps=[{"step": step, "complete": 5.0, "analysed": 5.0, "delivered": 0}],
        samples=[{"t": 5.0, "worker": "w", "rss": 0}],
    )
    assert "Succeeded" in render(record)


def test_axes_have_round_ticks_inside():
    assert Axis(0, 99, 0, 1).ticks(5) == [0, 20, 40, 60, 80]
    assert Axis(-1.0, 1.0, 0, 1).ticks(4) == [-1, -0.5, 0, 0.5, 1]
    assert Axis(0, 3, 0, 1).ticks(10, whole=True) == [0, 1, 2, 3]
    assert Axis(2, 2, 0, 1).ticks(5) == [2]


def test_shares_and_rates_conserve_what_they_show():
    intervals = [(0.1, 0.7), (0.5, 2.25), (3.0, 9.0)]
    shares = covered(intervals, 0.0, 4.0, 16)
    assert sum(shares) * 0.25 == pytest.approx(2.15 + 1.0)
    points = [(0.0, 0.0), (1.0, 10.0), (4.0, 11.0)]
    assert sum(
        rates(points, [0.0, 0.5, 1.5, 2.5, 4.5])[i] * w for i, w in enumerate((0.5, 1, 1, 2))
    ) == (pytest.approx(11.0))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (1023, "1,023 B"), (1536, "1.50 KiB"), (2**30, "1.00 GiB"), (None, "–")],  # noqa: RUF001
)
def test_sizes(value, text):
    assert numbers.size(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 s"),
        (3e-5, "30.0 µs"),
        (0.25, "250 ms"),
        (2.5, "2.50 s"),
        (75, "1 min 15 s"),
        (7500, "2 h 05 min"),
    ],
)
def test_durations(value, text):
    assert numbers.duration(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 %"),
        (1e-5, "< 0.1 %"),
        (0.25, "25 %"),
        (0.1234, "12.3 %"),
        (0.99999, "> 99.9 %"),
        (1, "100 %"),
    ],
)
def test_percentages_never_round_to_all_or_nothing(value, text):
    assert numbers.percent(value) == text


def test_dimensions_are_named_from_the_last_one_and_types_as_numpy_does():
    array = {"name": "atoms", "shape": [-1, 3], "dims": ["time", "row", "x"], "dtype": "<f8"}
    page = Page(render(make_record("r", status="ok", contract={"arrays": [array]})))
    assert "row varies, x 3 float64" in page.text


def test_reports_that_come_late_do_not_turn_the_timeline_round():
    steps = [
        {"step": i, "first_put": i, "complete": 9.0, "analysed": 2.0 + (i % 3), "delivered": 9}
        for i in range(6)
    ]
    (chart,) = [c for c in charts(make_record("r", status="ok", steps=steps)) if "time" in c.name]
    for points in re.findall(r'polyline points="([^"]+)"', chart.svg):
        pairs = [tuple(map(float, point.split(","))) for point in points.split()]
        assert pairs == sorted(pairs, key=lambda p: (p[0], -p[1]))


def test_a_replay_shows_its_source_and_nothing_of_a_simulation():
    page = Page(render(run_records.replay_record()))
    assert "Replayed from /scratch/ada/field.zarr: no simulation ran." in page.text
    assert "Nothing else is read." in page.text
    for word in ("Ledger", "Timeline", "Exit status", "Produced"):
        assert word not in page.text


def test_attached_clients_are_shown_with_their_account():
    account = {"t": {"bytes": {"delivered": 4096, "dropped": 1024}, "blocks": {}}}
    contract = {"steps": [3, 9], "ledger": {"arrays": account}, "notes": []}
    note = {"who": "worker w", "what": "chunk lost", "cause": "step 4 has passed"}
    record = make_record(
        "r",
        status="ok",
        started=100.0,
        attached=[
            {"name": "vm-1", "since": 101.0, "until": 103.0, "why": "detached", "n_contracts": 2,
             "contracts": [contract, {**contract, "steps": [20, 20], "notes": [note]}]},
            {"name": "vm-2", "since": 102.0, "until": 104.0, "why": "lost: no sign of life",
             "n_contracts": 0, "contracts": []},
        ],
    )  # fmt: skip
    text = render(record)
    row = text[text.index("vm-1") : text.index("vm-2")]
    for words in ("3 to 20", "8.00 KiB", "2.00 KiB", "detached", "step 4 has passed"):
        assert words in row
    assert "lost: no sign of life" in text[text.index("vm-2") :]
    assert "2 clients, 8.00 KiB delivered to them, 2.00 KiB dropped, 1 lost" in summary_table(
        record
    )


def test_the_title_says_what_ran():
    record = run_records.ok_record()
    record = {**record, "run": "20261126-x", "config": {**record["config"], "SIM_NAME": "plate"}}
    text = render(record)
    assert "<title>plate succeeded (20261126-x)</title>" in text
    assert "<h1>plate</h1>" in text
    assert "Run 20261126-x, started" in Page(text).text
    assert record["comment"] in text


def test_alike_faults_are_listed_once_with_a_count():
    lost = [
        {"t": 10.0 + n, "who": f"rank {n}", "what": "lost", "cause": f"reset by port {9000 + n}"}
        for n in range(6)
    ]
    failed = [
        {"t": 20.0, "who": "analysis", "what": "failed", "cause": "Traceback\nValueError: x"},
        {"t": 21.0, "who": "analysis", "what": "failed", "cause": "ValueError: x; at a.py, line 1"},
    ]
    record = {**run_records.ok_record(), "status": "failed", "faults": lost + failed}
    page = Page(render(record))
    assert page.text.count("reset by port") == 1 + 1  # in the list and as the first cause
    assert "rank 0, rank 1, rank 2, rank 3 and 2 more lost" in page.text
    assert "6 times" in page.text and "2 times" in page.text
    assert page.text.count("ValueError: x") == 1


def test_no_sentence_explains_what_did_not_happen():
    record = run_records.ok_record()
    for account in record["ledger"]["arrays"].values():
        for unit in ("bytes", "blocks"):
            account[unit] |= {"delivered": account[unit]["produced"], "skipped": 0}
    text = Page(render(record)).text
    assert "that they produced went to the analytics." in text
    assert "stayed in the ranks" not in text.split("Contract")[0]


def test_start_up_and_end_are_drawn():
    record = run_records.ok_record()
    (phases,) = [chart for chart in charts(record) if chart.name == "phases"]
    assert "start-up" in phases.svg and "end" in phases.svg
    assert "not drawn" not in "".join(chart.caption for chart in charts(record))


def test_colours_follow_the_reader_and_missing_values_are_counted():
    record = run_records.ok_record()
    record["results"]["variables"]["mean"]["missing"] = 12
    text = render(record)
    assert "prefers-color-scheme: dark" in text
    assert "0 to 41.7, 12 missing" in Page(text).text
    # Every colour is a variable, or would stay as it is in the dark.
    style = text.split("<style>")[1].split("</style>")[0].partition("* { box-sizing")[2]
    assert not re.findall(r"(?:fill|stroke|color): #", style)


def launched(count, port="sim", failed=(), origin=1.7e9):
    return {
        "port": port,
        "launches": [
            {
                "launch": i,
                "first_step": 4 * i,
                "time": i + 1.0,
                "nproc": 2,
                "started": origin + 3.0 * i + 1,
                "ended": origin + 3.0 * i + 3,
                "ok": i not in failed,
            }
            for i in range(count)
        ],
    }


def drawn(name, **parts):
    record = make_record("r", status="ok", started=1.7e9, ended=1.7e9 + 20, **parts)
    found = [chart for chart in charts(record) if chart.name == name]
    return found[0] if found else None


def test_a_run_of_many_launches_has_a_bar_for_each_with_the_time_of_the_loop():
    chart = drawn("launches", simulation=launched(4, failed=[2]))
    wide = chart.svg.partition("</svg>")[0]
    lane = wide.partition('class="idle"')[2]
    assert lane.count('class="sim"') == 3
    assert lane.count('class="bad"') == 1
    assert all(f"t = {i}" in wide for i in (1, 2, 3, 4))
    assert "4 launches" in chart.caption and "1 of them failed" in chart.caption


def test_each_of_several_simulations_has_a_lane():
    parts = [launched(4, "TRANSPORT"), launched(1, "HEATING")]
    chart = drawn("launches", simulation=parts[0], simulations=parts)
    wide = chart.svg.partition("</svg>")[0]
    assert wide.count('class="idle"') == 2
    assert "TRANSPORT" in wide and "HEATING" in wide


def test_a_run_that_is_launched_once_has_no_lane():
    assert drawn("launches", simulation=launched(1)) is None
    assert drawn("launches") is None


def test_hundreds_of_launches_and_one_under_way_are_drawn():
    many = launched(500)
    many["launches"][-1] |= {"ended": None, "ok": None}
    chart = drawn("launches", simulation=many)
    assert "500 launches" in chart.caption
