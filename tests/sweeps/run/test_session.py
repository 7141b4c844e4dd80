"""What a session notes in the study, beside others that begin at the same moment."""

from __future__ import annotations

from typing import Any

import optuna

from iolaus.sweeps.run._session import _add_session


class Overwritten(optuna.Study):
    """A study to which another driver writes its session over that of this one, once."""

    n_writes = 0

    def set_user_attr(self, key: str, value: Any) -> None:
        super().set_user_attr(key, value)
        self.n_writes += 1
        if self.n_writes == 1:
            super().set_user_attr(key, [{"id": "of another"}])


def test_no_session_is_lost_where_drivers_begin_together() -> None:
    """Each finds its number, by which its trials name it."""
    storage = optuna.storages.InMemoryStorage()
    optuna.create_study(storage=storage, study_name="s")
    study = Overwritten("s", storage)
    sessions, number = _add_session(study, {"started": "now"}, 0.0)
    assert [session.get("started") for session in sessions] == [None, "now"]
    assert number == 1
    assert study.user_attrs["provenance"] == sessions
