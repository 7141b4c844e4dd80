"""Lanes: many trials of equal shapes trained as one stacked model, refilled in place.

kind.py      what trials must have in common to share a stack, and what cannot run in lanes at all
rules.py     SGD, Adam and AdamW on stacked weights
stack.py     the stacked weights, optimizer states and settings; one update of all lanes
stepper.py   one update as plain calls, as a traced graph, compiled, or as a CUDA graph
lane_run.py  one run in a lane: what the solo loop has in local variables
group.py     the runs in a stack, trained in blocks of steps
serve.py     what a worker process does with the trials it is given
width.py     how many lanes pay on this device
remembered.py  the same, from an earlier sweep
check.py     can a task be trained in lanes? `iolaus lanes-check`
"""
