"""What of a config counts as a fixed setting, and what must not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iolaus.sweeps.search.composing import Composer
from iolaus.sweeps.search.fixed import fixed_settings
from iolaus.sweeps.search.parsing import parse_space

Fixed = Callable[..., dict[str, str]]
CONFIG = {
    "defaults": [{"optim": "sgd"}, "_self_"],
    "epochs": 5,
    "lr": 0.1,
    "data": {"path": "/data/v1", "sizes": [1, 2]},
    "tied": "${epochs}",
}
OPTIM = {
    "sgd": {"name": "sgd", "momentum": 0.9, "nesterov": False},
    "adam": {"name": "adam", "momentum": 0.9},
}


@pytest.fixture
def fixed(tmp_path: Path) -> Fixed:
    """The fixed settings of a command line and changed keys of the config, as in a folder."""

    def read(
        *line: str, folder: Path = tmp_path / "sweep", optim: object = OPTIM, **changed: object
    ) -> dict[str, str]:
        (tmp_path / "optim").mkdir(exist_ok=True)
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({**CONFIG, **changed}))
        assert isinstance(optim, dict)
        for name, content in optim.items():
            (tmp_path / "optim" / f"{name}.yaml").write_text(yaml.safe_dump(content))
        with initialize_config_dir(str(tmp_path), version_base=None, job_name="app"):
            loader = GlobalHydra.instance().config_loader()
            composer = Composer(loader, loader.load_configuration("config", [], RunMode.MULTIRUN))
            space = parse_space({}, line, composer.parse, composer.is_group)
            folders = {"SWEEP": folder, "": folder.parent}
            return fixed_settings(space, composer, folders)

    return read


def test_what_is_not_searched_is_fixed(fixed: Fixed) -> None:
    """Each key of the task's config with its value, ties as they are written; no searched key."""
    assert fixed("lr=interval(0.1, 1)", "epochs=40", "+new=1") == {
        "data.path": "/data/v1",
        "data.sizes": "[1, 2]",
        "epochs": "40",
        "new": "1",
        "optim.momentum": "0.9",
        "optim.name": "sgd",
        "optim.nesterov": "false",
        "tied": "${epochs}",
    }
    assert "data.sizes" not in fixed("data=choice({path:a}, {path:b})")


def test_what_a_searched_group_fixes_counts(fixed: Fixed) -> None:
    """All values that the choices give a key; a change in one of the choices is a difference."""
    line = "optim=choice(sgd, adam)"
    known = fixed(line)
    assert known["optim.name"] == "sgd or adam"
    assert known["optim.momentum"] == "0.9"
    other = {**OPTIM, "adam": {"name": "adam", "momentum": 0.8}}
    assert fixed(line, optim=other)["optim.momentum"] == "0.9 or 0.8"


secrets = st.sampled_from(
    ["password", "api_key", "db_password", "WANDB_API_KEY", "hf_token", "token", "secret"]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=8)
@given(secret=secrets, value=st.text("abc12", min_size=4, max_size=9), n=st.integers(0, 99))
def test_what_differs_at_every_start_does_not_count(
    fixed: Fixed, tmp_path: Path, secret: str, value: str, n: int
) -> None:
    """The sweep's folders, times, Hydra's own and secrets change nothing; no secret is kept."""

    def session(value: str, folder: Path) -> dict[str, str]:
        return fixed(
            f"hydra.sweep.dir={folder}",
            "hydra.job.name=other" if value.startswith("a") else "hydra.job.name=app",
            folder=folder,
            run="${now:%H-%M-%S}_${hydra:job.num}",
            out=str(folder / "out"),
            cache=str(folder.parent / "cache"),
            url=f"postgresql://me:{value}@host/db",
            inner={secret: value},
        )

    one, two = session(value, tmp_path / str(n)), session("zz", tmp_path / "x" / "y")
    assert one == two
    assert one["run"] == "${now:%H-%M-%S}_${hydra:job.num}"
    assert one["out"] == "SWEEP/out"
    assert value not in str({k: v for k, v in one.items() if k in ("url", f"inner.{secret}")})


@pytest.mark.parametrize("key", ["n_tokens", "tokenizer", "max_tokens", "key_size", "pad_token_id"])
def test_a_setting_is_no_secret_by_half_its_name(fixed: Fixed, key: str) -> None:
    """Words of a language model are settings."""
    assert fixed(**{key: 7})[key] == "7"
