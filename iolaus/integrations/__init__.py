"""Callbacks for training frameworks: one line in an app, and its trials report, prune and go on.

`lightning`, `transformers`, `keras` and `skorch`, each a module that imports its framework and is
imported by nobody else. Outside a sweep a callback does nothing. docs/integrations.md has a whole
example of each.
"""
