"""From a checkpoint's config and the user's options to the dimensions and the plan that a bundle records."""

from fastv_export.plan.making import decoder_dimensions, make_plan, plan_lines
from fastv_export.plan.options import CutOption, Options
from fastv_export.plan.room import check_positions, position_note

__all__ = [
    "CutOption",
    "Options",
    "check_positions",
    "decoder_dimensions",
    "make_plan",
    "plan_lines",
    "position_note",
]
