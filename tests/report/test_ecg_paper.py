"""ECG paper: true to scale, every lead where it belongs, clusters where the segments are."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ecgscale.errors import UsageError
from ecgscale.leads import CANONICAL_LEADS
from ecgscale.report import Band, draw_recording, tint_of

RATE = 500.0


def recording(seconds: float = 10.0, leads: tuple[str, ...] = CANONICAL_LEADS) -> np.ndarray:
    t = np.arange(int(seconds * RATE)) / RATE
    return np.stack([0.5 * np.sin(2 * np.pi * (1 + 0.1 * i) * t) for i in range(len(leads))])


def bands(seconds: float = 10.0, k: int = 3) -> list[Band]:
    edges = np.linspace(0, seconds, 21)
    return [Band(a, b, i % k, 0.1 + 0.04 * i) for i, (a, b) in enumerate(pairwise(edges.tolist()))]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def traces(figure: Figure, least: int = 200) -> list[np.ndarray]:
    lines = (np.asarray(line.get_xydata()) for line in figure.axes[0].lines)
    return [line for line in lines if len(line) > least]


def filled(figure: Figure, cluster: int) -> list[Rectangle]:
    wanted = to_hex(tint_of(cluster))
    return [p for p in figure.axes[0].patches if isinstance(p, Rectangle) and to_hex(p.get_facecolor()) == wanted]


def test_a_millimetre_is_a_millimetre() -> None:
    figure = draw_recording(recording(), CANONICAL_LEADS, RATE)
    axes = figure.axes[0]
    for inches, (low, high) in zip(figure.get_size_inches(), (axes.get_xlim(), axes.get_ylim()), strict=True):
        assert inches * 25.4 == pytest.approx(high - low)
    rhythm = next(line for line in traces(figure) if len(line) == 5000)
    assert rhythm[-1, 0] - rhythm[0, 0] == pytest.approx(25 * 4999 / 500)
    assert np.ptp(rhythm[:, 1]) == pytest.approx(10, rel=0.01), "a sine of 1 mV from trough to crest is 10 mm"


def test_three_by_four_shows_each_lead_in_its_quarter() -> None:
    figure = draw_recording(recording(), CANONICAL_LEADS, RATE)
    assert [text for text in texts(figure) if text in CANONICAL_LEADS] == [
        *("I", "aVR", "V1", "V4", "II", "aVL", "V2", "V5", "III", "aVF", "V3", "V6", "II")
    ]
    quarters = [line for line in traces(figure) if len(line) < 2000]
    assert sorted(round(line[0, 0]) for line in quarters) == [0] * 3 + [62] * 3 + [125] * 3 + [188] * 3


def test_stacked_shows_all_leads_whole() -> None:
    figure = draw_recording(recording(), CANONICAL_LEADS, RATE, layout="stacked")
    assert len([line for line in traces(figure) if len(line) == 5000]) == 12


def test_missing_limb_leads_are_derived_and_others_are_told() -> None:
    figure = draw_recording(recording(leads=("I", "II", "V2")), ("I", "II", "V2"), RATE)
    assert texts(figure).count("not recorded") == 5
    assert len(traces(figure)) == 8
    unknown = draw_recording(recording(leads=("X", "Y")), ("X", "Y"), RATE, layout="stacked")
    assert {"X", "Y"} <= set(texts(unknown))


def test_bands_lie_where_the_segments_are() -> None:
    figure = draw_recording(recording(), CANONICAL_LEADS, RATE, [Band(1.0, 1.5, 4, 0.2)], layout="stacked")
    behind = filled(figure, 4)
    assert len(behind) == 12
    assert {(p.get_x(), p.get_width()) for p in behind} == {(25.0, 12.5)}
    across = filled(draw_recording(recording(), CANONICAL_LEADS, RATE, [Band(2.0, 3.0, 4, 0.2)]), 4)
    assert sorted(p.get_width() for p in across) == [12.5] * 6 + [25.0], "cut where the columns of leads change"


def test_legend_tells_shares_and_the_rest() -> None:
    drawn = texts(draw_recording(recording(), CANONICAL_LEADS, RATE, bands(k=2)))
    assert drawn.count("50.0%") == 2
    many = [Band(i * 0.2, (i + 1) * 0.2, i, 0.5) for i in range(50)]
    assert any("more" in text for text in texts(draw_recording(recording(), CANONICAL_LEADS, RATE, many)))


def test_entropy_is_a_curve_where_known_and_steps_otherwise() -> None:
    times = np.arange(4000) / 400
    curve = draw_recording(recording(), CANONICAL_LEADS, RATE, bands(), (times, np.full(4000, 0.5)))
    assert any(len(line) == 4000 and np.ptp(line[:, 1]) < 1e-9 for line in traces(curve))
    steps = draw_recording(recording(), CANONICAL_LEADS, RATE, bands())
    assert not any(len(line) == 4000 for line in traces(steps))
    assert "entropy" in texts(steps)
    assert "entropy" not in texts(draw_recording(recording(), CANONICAL_LEADS, RATE))


def test_long_recordings_show_ten_seconds_or_the_window() -> None:
    long = recording(60)
    shown = draw_recording(long, CANONICAL_LEADS, RATE)
    assert "0 to 10 s of 60 s" in texts(shown)
    part = draw_recording(long, CANONICAL_LEADS, RATE, bands(60), window=(20, 24), layout="stacked")
    assert max(len(line) for line in traces(part)) == 2001
    assert filled(part, 1)[0].get_x() == pytest.approx(25.0), "the segment that starts at 21 s"


def test_samples_that_are_not_numbers_leave_a_gap() -> None:
    signal = recording()
    signal[0, 100:200] = np.nan
    signal[5] = np.nan
    figure = draw_recording(signal, CANONICAL_LEADS, RATE, bands(), layout="stacked")
    figure.canvas.draw()
    missing = [int(np.isnan(line).any(axis=1).sum()) for line in traces(figure)]
    assert sorted(missing)[-2:] == [100, signal.shape[1]]
    assert missing.count(0) == len(missing) - 2


@pytest.mark.parametrize("seconds", [0.5, 2.5, 5.0, 10.0])
@pytest.mark.parametrize("layout", ["3x4", "stacked"])
def test_texts_fit_the_page_however_narrow(seconds: float, layout: str) -> None:
    figure = draw_recording(
        recording(seconds),
        CANONICAL_LEADS,
        RATE,
        bands(seconds),
        title="sim8-0000012     CD 0.61   MI 0.42   HYP 0.31   STTC 0.20   NORM 0.04",
        subtitle="superclasses: CD, MI   age: 61   sex: male   site: north   device: handheld-C   short",
        footer="explanations 560d33f381a644a4 (held, not published)   mean entropy 0.312   distortion 1.204",
        layout="3x4" if layout == "3x4" else "stacked",
        window=(0.0, seconds - 0.1) if seconds > 1 else None,
    )
    figure.canvas.draw()
    page = figure.bbox
    boxes = [(text.get_text(), text.get_window_extent()) for text in figure.axes[0].texts if text.get_text()]
    for text, box in boxes:
        assert (box.x0 >= page.x0, box.y0 >= page.y0, box.x1 <= page.x1, box.y1 <= page.y1) == (True,) * 4, text
    words = [(text, box) for text, box in boxes if len(text) > 6 and text != "entropy" and text != "cluster"]
    for (one, first), (other, second) in combinations(words, 2):
        assert not first.overlaps(second), f"{one!r} lies over {other!r}"
    drawn = " ".join(text for text, _ in boxes)
    for wanted in ("sim8-0000012", "MI 0.42", "NORM 0.04", "handheld-C", "mm/mV", "500 Hz", "distortion 1.204"):
        assert wanted in drawn


def test_a_wide_page_has_two_lines_above_the_traces() -> None:
    figure = draw_recording(recording(), CANONICAL_LEADS, RATE, title="a     CD 0.61   MI 0.42", subtitle="age: 61")
    plain = draw_recording(recording(), CANONICAL_LEADS, RATE)
    assert tuple(figure.get_size_inches()) == tuple(plain.get_size_inches())
    assert "a   CD 0.61   MI 0.42" in texts(figure)


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_saves_in_every_format(tmp_path, suffix: str) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / f"ecg.{suffix}"
    draw_recording(recording(2), CANONICAL_LEADS, RATE, bands(2), title="a", subtitle="b").savefig(file, dpi=60)
    assert file.stat().st_size > 5000


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"layout": "6x2"}, "3x4, stacked"),
        ({"window": (12.0, 14.0)}, "lasts 10 s"),
        ({"leads": ("I", "II")}, "2 leads"),
        ({"rate": 0.0}, "0 Hz"),
    ],
)
def test_what_cannot_be_drawn_is_told(change: dict, said: str) -> None:
    arguments = {"leads": CANONICAL_LEADS, "rate": RATE, **change}
    with pytest.raises(UsageError, match=said):
        draw_recording(recording(), **arguments)
