"""Figures of a sweep, one file each.

They draw on an Axes (or Figure) given, name units, and read in grey too.
"""

from iolaus.analysis.figures.batches import draw_batches
from iolaus.analysis.figures.curves import draw_by_shape, draw_curves
from iolaus.analysis.figures.decays import draw_decays
from iolaus.analysis.figures.devices import draw_devices
from iolaus.analysis.figures.explosions import draw_explosions
from iolaus.analysis.figures.gradients import draw_gradients
from iolaus.analysis.figures.holdout import draw_holdout
from iolaus.analysis.figures.map import draw_map
from iolaus.analysis.figures.ranking import draw_ranking
from iolaus.analysis.figures.schedules import draw_schedules
from iolaus.analysis.figures.scores import draw_scores
from iolaus.analysis.figures.timeline import draw_timeline
from iolaus.analysis.figures.trial import draw_trial
from iolaus.analysis.figures.tried_fixes import choice_to_show, draw_fixes, draw_shapes_by

__all__ = [
    "choice_to_show",
    "draw_batches",
    "draw_by_shape",
    "draw_curves",
    "draw_decays",
    "draw_devices",
    "draw_explosions",
    "draw_fixes",
    "draw_gradients",
    "draw_holdout",
    "draw_map",
    "draw_ranking",
    "draw_schedules",
    "draw_scores",
    "draw_shapes_by",
    "draw_timeline",
    "draw_trial",
]
