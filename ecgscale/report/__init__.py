"""What people look at.

A recording on paper:
    ecg_paper     a recording on ECG paper, with its clusters and their uncertainty (page, paper)
    page          its scale, and one colour a cluster id, the same in every figure
    explained     a recording with its published explanation, ready to draw

The report, one HTML page (templates, styles and scripts are in web/):
    subject       a dataset with all that is known about it
    recordings    which recordings it shows, why, and their signals
    atlas         what every cluster looks like; averages where no beats were aligned
    relations     proportions against labels, outputs, age and sex; entropy by group
    sections      what explanations alone can fill; surrogate, evaluated (sweeps, facts) show what was evaluated
    blocks, charts    what sections are made of, with `ecgscale.tables`
    html          all of it put together and written

For papers and studies:
    figures       publication figures
    reader_study  the same cases with clusters, with Grad-CAM, with neither
"""

from __future__ import annotations

from ecgscale.report.ecg_paper import draw_recording
from ecgscale.report.page import Band, colour_of, tint_of

__all__ = ["Band", "colour_of", "draw_recording", "tint_of"]
