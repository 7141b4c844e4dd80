"""The search space: Hydra's overrides in, Optuna's distributions and configs out.

parsing      from overrides to a space
space        the space itself: parameters, grids, override text of a setting
conditions   when a parameter exists
branches     every combination of config groups, composed before the first trial
composing    the config of a trial from its overrides
fixed        the settings that are not searched, as they are kept and compared
"""
