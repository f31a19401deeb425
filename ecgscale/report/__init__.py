"""What people look at.

A recording on paper:
    ecg_paper     a recording on ECG paper, with its clusters and their uncertainty (page, paper_strips)
    explained     a recording with its published explanation, ready to draw
    colours       one colour a cluster id, the same in every figure

The report, one HTML page (templates, styles and scripts are in web/):
    subject       a dataset with all that is known about it
    choice        which recordings it shows, and why; signals and embedded bring them onto the page
    atlas         what every cluster looks like; averages where no beats were aligned
    relations     proportions against labels, outputs, age and sex; entropy by group
    sections, further, browsing     what stands on the page; evaluated, surrogate_tables, sweeps, lineage fill it
    blocks, tables, any_facts, charts, svg     what it is made of
    html          all of it put together and written

For papers and studies:
    figures       publication figures (plates draws them)
    reader_study  the same cases with clusters, with Grad-CAM, with neither
"""

from __future__ import annotations

from ecgscale.report.ecg_paper import draw_recording
from ecgscale.report.page import Band, colour_of, tint_of

__all__ = ["Band", "colour_of", "draw_recording", "tint_of"]
