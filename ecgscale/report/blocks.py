"""What a section of the page is made of. The template knows how each kind of block looks; nothing here is markup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from ecgscale.report.relations import Correlations
from ecgscale.tables import Table, percent


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True)
class Paragraph:
    """Words."""

    kind: ClassVar[str] = "paragraph"
    text: str


@dataclass(frozen=True)
class Remark:
    """Something that a reader has to know before believing a number; `warn` for what weakens it."""

    kind: ClassVar[str] = "remark"
    text: str
    warn: bool = False


@dataclass(frozen=True)
class Missing:
    """What is not there, and the command that makes it."""

    kind: ClassVar[str] = "missing"
    text: str
    command: str = ""


@dataclass(frozen=True)
class TableBlock:
    """A table."""

    kind: ClassVar[str] = "table"
    table: Table


@dataclass(frozen=True)
class Chart:
    """An SVG of ours, with what to see in it."""

    kind: ClassVar[str] = "chart"
    title: str
    svg: Markup
    caption: str


@dataclass(frozen=True)
class Tinted:
    """A cell of a matrix: what it says, how strongly it is tinted (−1 … 1), and what it is about in words."""

    text: str
    strength: float
    told: str

    @property
    def tint(self) -> str:
        """As CSS."""
        side = "plus" if self.strength > 0 else "minus"
        return f"rgba(var(--{side}), {min(abs(self.strength), 1.0) * 0.95:.2f})"

    @property
    def deep(self) -> bool:
        """Whether the tint asks for light ink."""
        return abs(self.strength) > 0.55


@dataclass(frozen=True)
class Matrix:
    """Rows of tinted cells, one column a cluster; `scale` names what full tint on either side means."""

    kind: ClassVar[str] = "matrix"
    caption: str
    rows: Sequence[tuple[str, str, Sequence[Tinted]]]
    clusters: int
    scale: tuple[str, str]


@dataclass(frozen=True)
class Folded:
    """Blocks behind a line that opens them."""

    kind: ClassVar[str] = "folded"
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Columns:
    """Blocks beside each other where the page is wide enough."""

    kind: ClassVar[str] = "columns"
    blocks: Sequence[Block]


Block = Columns | Heading | Paragraph | Remark | Missing | TableBlock | Chart | Matrix | Folded


@dataclass
class Section:
    """One section of the page; `template` draws it where blocks do not suffice, from `content`."""

    id: str
    title: str
    intro: str
    blocks: list[Block] = field(default_factory=list)
    template: str = ""
    content: object = None


def correlation_matrix(found: Correlations, caption: str) -> Matrix:
    """Correlations as a matrix whose strongest tint is the strongest correlation, at least 0.3."""
    finite = np.abs(found.r[np.isfinite(found.r)])
    full = max(float(finite.max(initial=0.0)), 0.3)
    rows = [
        (name, f"{records:,}", [_correlated(name, cluster, float(r), full) for cluster, r in enumerate(row)])
        for name, records, row in zip(found.variables, found.records, found.r, strict=True)
    ]
    return Matrix(caption, rows, found.r.shape[1], (f"−{full:.2f}", f"+{full:.2f}"))


def share_matrix(shares: NDArray[np.float64], names: Sequence[str], counts: Sequence[str], caption: str) -> Matrix:
    """Shares (n_rows, K), each row adding up to 1, as a matrix."""
    full = max(float(np.nanmax(shares, initial=0.0)), 0.05)
    rows = [
        (name, count, [_share(name, cluster, float(share), full) for cluster, share in enumerate(row)])
        for name, count, row in zip(names, counts, shares, strict=True)
    ]
    return Matrix(caption, rows, shares.shape[1], ("", percent(full)))


def _correlated(name: str, cluster: int, r: float, full: float) -> Tinted:
    if r != r:
        return Tinted("", 0.0, f"{name}, cluster {cluster}: cannot be computed")
    return Tinted(hundredths(r), r / full, f"{name}, cluster {cluster}: r = {r:+.2f}")


def hundredths(r: float) -> str:
    """0.416 → "42", −0.07 → "−7"; nothing has a sign without a size."""
    return str(round(100 * r)).replace("-", "−")


def _share(name: str, cluster: int, share: float, full: float) -> Tinted:
    if share != share:
        return Tinted("", 0.0, f"{name}, cluster {cluster}: cannot be computed")
    shown = f"{100 * share:.0f}" if share >= 0.005 else ""
    return Tinted(shown, share / full, f"{percent(share, 1)} of {name} in cluster {cluster}")
