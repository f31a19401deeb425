"""The report: one HTML page that holds everything it shows, needs no network, and runs no script but its own.

Templates escape whatever comes from the data; data for scripts stands in JSON elements whose `<`, `>` and `&` are
escaped; scripts put it on the page as text. A content security policy names the digest of the page's one script, so
that nothing else could run even if it got there.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ecgscale.errors import UsageError
from ecgscale.io.objects import put_whole
from ecgscale.io.places import is_remote, place
from ecgscale.progress import SILENT, Progress
from ecgscale.report.atlas import atlas_of, atlas_section
from ecgscale.report.evaluated import UNCERTAINTY, evaluated, further_sections
from ecgscale.report.page import PALETTE, ink_on
from ecgscale.report.recordings import choose_records, embed_recordings, recordings_section
from ecgscale.report.sections import (
    correlation_section,
    glance_section,
    lineage_section,
    quarantine_section,
    uncertainty_section,
)
from ecgscale.report.subject import Subject
from ecgscale.report.surrogate import surrogate_section
from ecgscale.store.provenance import utc_now

RECORDS = 60
SCRIPTS = ("elements.js", "paper.js", "browser.js", "atlas.js")
STYLES = ("report.css", "recordings.css")
PAGE = "index.html"


@dataclass(frozen=True)
class WrittenReport:
    """Where the page is, how large, how many recordings it holds, and what could not be shown."""

    path: Path
    size: int
    recordings: int
    remarks: list[str]


def write_report(
    subject: Subject, out: str | Path, n_records: int = RECORDS, progress: Progress = SILENT
) -> WrittenReport:
    """Write the page of a dataset to the folder `out` (as index.html), or to a file ending in .html.

    The page appears whole or not at all; one that is there is replaced. Raises `UsageError` for a path that cannot
    be a page.
    """
    path = place(out)
    if path.suffix.lower() not in (".html", ".htm"):
        if not is_remote(path) and path.is_file():
            raise UsageError(f"{path} is a file; name a folder for the report, or a file ending in .html")
        path = path / PAGE
    text, recordings, remarks = render(subject, n_records, progress)
    data = text.encode()
    put_whole(path, data)
    return WrittenReport(path, len(data), recordings, remarks)


def render(subject: Subject, n_records: int = RECORDS, progress: Progress = SILENT) -> tuple[str, int, list[str]]:
    """(the page, how many recordings it holds, what could not be shown)."""
    chosen = choose_records(subject, n_records, _audited(subject))
    recordings, remarks = embed_recordings(subject, chosen, progress)
    uncertainty = uncertainty_section(subject)
    uncertainty.blocks += evaluated(subject, UNCERTAINTY)
    sections = [
        glance_section(subject),
        recordings_section(subject, recordings, remarks),
        atlas_section(subject, atlas_of(subject, progress)),
        surrogate_section(subject),
        correlation_section(subject),
        uncertainty,
        *further_sections(subject),
        quarantine_section(subject),
        lineage_section(subject),
    ]
    script = Markup('(() => {\n"use strict";\n' + "".join(_asset(name) for name in SCRIPTS) + "})();\n")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = _environment().get_template("report.html").render(
        title=subject.spec.name,
        subtitle=_subtitle(subject),
        sections=sections,
        clusters=_cluster_data(subject),
        outputs={
            "target": subject.target or "label",
            "kind": subject.spec.output.kind,
            "names": list(subject.classes),
        },
        recordings=recordings,
        footer=_footer(recordings),
        style=Markup("".join(_asset(name) for name in STYLES)),
        script=script,
        script_hash=Markup(f"'sha256-{digest}'"),
    )  # fmt: skip
    return text, len(recordings), remarks


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("ecgscale.report", "web"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _asset(name: str) -> str:
    return (resources.files("ecgscale.report") / "web" / name).read_text(encoding="utf-8")


def _audited(subject: Subject) -> list[str]:
    """Records at the top of a label audit, the most suspicious first."""
    audits = (found.facts for name, found in subject.evaluations.items() if name.startswith("audit"))
    rows = (row for facts in audits for row in facts.get("top") or [] if isinstance(row, dict))
    return [str(row["record_id"]) for row in rows if row.get("record_id")]


def _cluster_data(subject: Subject) -> dict[str, Any]:
    """What pictures and lists need of the clusters: colour, ink and name by number."""
    numbers = range(subject.model.n_clusters)
    return {
        "model_id": subject.model.model_id,
        "colours": {k: PALETTE[k % len(PALETTE)] for k in numbers},
        "inks": {k: ink_on(k) for k in numbers},
        "names": {k: subject.names.get(k, "") for k in numbers},
    }


def _subtitle(subject: Subject) -> str:
    rows, content = subject.rows, subject.manifest.content
    return (
        f"{len(rows):,} recordings, {subject.model.n_clusters} clusters (model {subject.model.model_id}), "
        f"explanations {subject.dataset_id} of {content.archive.path}, published {subject.manifest.created[:10]}"
    )


def _footer(recordings: list[dict[str, Any]]) -> str:
    size = sum(len(record.get("signal", "")) for record in recordings) / 2**20
    return (
        f"Made {utc_now()[:16].replace('T', ' ')} UTC by ecgscale. Holds {len(recordings)} recordings ({size:.1f} MiB "
        "of signals) with their names, ages and labels: treat it as patient data. A research tool, no medical device."
    )
