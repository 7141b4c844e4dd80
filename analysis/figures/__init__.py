"""Figures of a sweep, one file each. They draw on an Axes (or Figure) given, name units, and read in grey too."""

from analysis.figures.audit import draw_audit
from analysis.figures.curves import draw_by_shape, draw_curves
from analysis.figures.gradients import draw_gradients
from analysis.figures.map import draw_map
from analysis.figures.ranking import draw_ranking
from analysis.figures.schedules import draw_schedules, planned_rates
from analysis.figures.timeline import draw_timeline
from analysis.figures.trial import draw_trial

__all__ = [
    "draw_audit",
    "draw_by_shape",
    "draw_curves",
    "draw_gradients",
    "draw_map",
    "draw_ranking",
    "draw_schedules",
    "draw_timeline",
    "draw_trial",
    "planned_rates",
]
