"""What people look at.

ecg_paper    a recording on ECG paper, with its clusters and their uncertainty
page         millimetres, seconds and millivolts
paper_strips what stands under the traces: cluster ribbon, entropy, legend
explained    a recording with its published explanation, ready to draw
colours      one colour a cluster id, the same in every figure
"""

from __future__ import annotations

from ecgscale.report.colours import colour_of, tint_of
from ecgscale.report.ecg_paper import draw_recording
from ecgscale.report.page import Band

__all__ = ["Band", "colour_of", "draw_recording", "tint_of"]
