"""What the sections of the page are made of, as HTML in which everything that comes from the data is escaped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from ecgscale.report.page import PALETTE, ink_on
from ecgscale.report.relations import Correlations
from ecgscale.tables import Table, percent, tag


@dataclass
class Section:
    """One section of the page; `template` draws it where blocks do not suffice, from `content`."""

    id: str
    title: str
    intro: str
    blocks: list[Markup] = field(default_factory=list)
    template: str = ""
    content: object = None


def heading(text: str) -> Markup:
    """A heading within a section."""
    return tag("h3", text)


def remark(text: str, warn: bool = False) -> Markup:
    """Something that a reader has to know before believing a number; `warn` for what weakens it."""
    return tag("p", text, class_="remark warn" if warn else "remark")


def remarks_of(facts: Mapping[str, Any]) -> list[Markup]:
    """The remarks of an evaluation."""
    return [remark(str(text)) for text in facts.get("remarks") or []]


def missing(text: str, command: str = "") -> Markup:
    """What is not there, and the command that makes it."""
    return tag("p", text, *((" ", tag("code", command)) if command else ()), class_="missing")


def boxed(table: Table) -> Markup:
    """A table, in a box that scrolls where the page is narrow."""
    return tag("div", table.html(), class_="scroll")


def chart(title: str, svg: Markup, caption: str) -> Markup:
    """A chart, with what to see in it."""
    return tag("figure", tag("h3", title), svg, tag("figcaption", caption, class_="small"))


def columns(blocks: Sequence[Markup]) -> Markup:
    """Blocks alongside each other where the page is wide enough."""
    return tag("div", *(tag("div", block) for block in blocks), class_="columns")


def folded(title: str, blocks: Sequence[Markup]) -> Markup:
    """Blocks behind a line that opens them."""
    return tag("details", tag("summary", title), *blocks)


def swatch(cluster: int) -> Markup:
    """The number of a cluster on its colour."""
    style = f"background:{PALETTE[cluster % len(PALETTE)]};color:{ink_on(cluster)}"
    return tag("span", cluster, class_="swatch", style=style)


def correlation_matrix(found: Correlations, caption: str) -> Markup:
    """Correlations as a matrix whose strongest tint is the strongest correlation, at least 0.3."""
    full = max(float(np.abs(found.r[np.isfinite(found.r)]).max(initial=0.0)), 0.3)
    scale = tag("span", f"\N{EM SPACE}−{full:.2f}", tag("span", class_="scale"), f"+{full:.2f}", aria_hidden="true")
    rows = [
        (
            name,
            f"{records:,}",
            [_tinted(r, full, hundredths, f"{name}, cluster {k}: r = {r:+.2f}") for k, r in enumerate(row)],
        )
        for name, records, row in zip(found.variables, found.records, found.r.tolist(), strict=True)
    ]
    return _matrix((caption, scale), rows, found.r.shape[1])


def share_matrix(shares: NDArray[np.float64], names: Sequence[str], counts: Sequence[str], caption: str) -> Markup:
    """Shares (n_rows, K), each row adding up to 1, as a matrix."""
    full = max(float(np.nanmax(shares, initial=0.0)), 0.05)

    def written(share: float) -> str:
        return f"{100 * share:.0f}" if share >= 0.005 else ""

    rows = [
        (
            name,
            count,
            [_tinted(s, full, written, f"{percent(s, 1)} of {name} in cluster {k}") for k, s in enumerate(row)],
        )
        for name, count, row in zip(names, counts, shares.tolist(), strict=True)
    ]
    return _matrix((caption,), rows, shares.shape[1])


def hundredths(r: float) -> str:
    """0.416 → "42", −0.07 → "−7"; nothing has a sign without a size."""
    return str(round(100 * r)).replace("-", "−")


def _tinted(value: float, full: float, written: Callable[[float], str], summary: str) -> Markup:
    """A cell on the tint of its sign, the stronger the nearer the value is to `full`; deep tints have light ink."""
    if value != value:
        return tag("td", title=summary.split(":")[0] + ": cannot be computed")
    strength = min(abs(value / full), 1.0)
    tint = f"background:rgba(var(--{'plus' if value > 0 else 'minus'}), {strength * 0.95:.2f})"
    return tag("td", written(value), style=tint, class_="deep" if strength > 0.55 else None, title=summary)


def _matrix(caption: Sequence[object], rows: Sequence[tuple[str, str, Sequence[Markup]]], clusters: int) -> Markup:
    """Rows of tinted cells, one column a cluster, a count behind each."""
    heads = (tag("th", swatch(cluster), scope="col") for cluster in range(clusters))
    lines = (
        tag("tr", tag("th", name, scope="row"), *cells, tag("td", count, class_="soft count"))
        for name, count, cells in rows
    )
    unseen = tag("span", ", one column a cluster", class_="unseen")
    head = tag("thead", tag("tr", tag("td"), *heads, tag("td")))
    table = tag("table", tag("caption", caption[0], unseen, *caption[1:]), head, tag("tbody", *lines), class_="matrix")
    return tag("div", table, class_="scroll")
