from __future__ import annotations

import hypothesis

# The first example pays for imports, so a deadline per example would say nothing about our code.
hypothesis.settings.register_profile("sweeps", deadline=None)
hypothesis.settings.load_profile("sweeps")
