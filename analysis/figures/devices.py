"""How the GPUs of a sweep were used over its time."""

from __future__ import annotations

from matplotlib.axes import Axes

from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.figures._style import BLUE, VERMILION, say_nothing
from iolaus.analysis.figures.timeline import UNITS
from iolaus.analysis.memory import card_bytes

__all__ = ["draw_devices"]

# More rows than this are drawn as means over neighbours.
N_POINTS = 400
STYLES = ("-", "--", ":", "-.")


def draw_devices(ax: Axes, sweep: Sweep) -> None:
    """The share of each GPU's memory in use (thick) and of time it was busy (thin), over time.

    From `Sweep.slots`: rows of every few seconds while a slot had a trial. GPUs are told apart by
    the style of their lines, four at a time. Without a GPU that was read there is nothing to draw.
    """
    rows = sweep.slots.dropna(subset=["device_used_bytes"]) if len(sweep.slots) else sweep.slots
    card = card_bytes(sweep)
    if rows.empty or card is None:
        say_nothing(ax, "no GPU was read while the sweep ran")
        return
    end_s = float(rows["at_s"].max())
    unit_s, unit = next((u for u in UNITS if end_s >= 2 * u[0]), UNITS[-1])
    for k, (device, own) in enumerate(rows.groupby("device")):
        own = own.drop_duplicates("at_s").sort_values("at_s")
        width = -(-len(own) // N_POINTS)
        means = own[["at_s", "device_used_bytes", "utilisation"]].rolling(width).mean()[width - 1 :]
        at, style = means["at_s"] / unit_s, STYLES[k % len(STYLES)]
        memory = means["device_used_bytes"] / card
        ax.plot(at, memory, style, color=BLUE, linewidth=1.8, label=f"GPU {device}: memory in use")
        busy = means["utilisation"]
        if busy.notna().any():
            ax.plot(at, busy, style, color=VERMILION, linewidth=0.8, label=f"GPU {device}: busy")
    ax.set_ylim(0, 1.02)
    ax.set_ylabel("share")
    ax.set_xlabel(f"time since the sweep began ({unit})")
    ax.set_xlim(0, end_s / unit_s * 1.01 or 1)
    ax.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
