"""Lanes: many trials of equal shapes trained as one stacked model, refilled in place.

kind.py      what trials must have in common to share a stack, and what cannot run in lanes at all
rules.py     SGD, Adam and AdamW on stacked weights
stack.py     the stacked weights, optimizer states and settings; one update of all; one lane in or out
stepper.py   one update as plain calls, as a traced graph, compiled, or as a CUDA graph
group.py     the trials in a stack, trained in blocks of steps
serve.py     what a worker process does with the trials it is given
width.py     how many lanes pay on this device
check.py     `iolaus lanes-check`
"""
