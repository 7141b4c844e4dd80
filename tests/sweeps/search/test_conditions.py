"""Conditions, ties, and what config groups bring with them: composed and checked before the first
trial.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from hypothesis import given
from hypothesis import strategies as st

from iolaus.sweeps.errors import BadInputError
from iolaus.sweeps.search.branches import settled
from iolaus.sweeps.search.composing import Composer
from iolaus.sweeps.search.parsing import checked_setting, parse_space, with_ties
from iolaus.sweeps.search.space import Space

Settle = Callable[..., Space]


@pytest.fixture
def composer(tmp_path: Path) -> Composer:
    """An app with two groups: only some of their choices have a threshold, a rate or a length."""
    files = {
        "config": "defaults: [{schedule: exponential}, {clip: norm}, _self_]\n"
        "lr: 0.1\nbatch_size: 64\n",
        "schedule/exponential": "rate: 0.5\nlength: 10\n",
        "schedule/cosine": "end: 0.0\nlength: 10\n",
        "schedule/constant": "{}\n",
        "clip/none": "{}\n",
        "clip/norm": "threshold: 1.0\n",
        "clip/value": "threshold: 1.0\n",
    }
    for name, text in files.items():
        path = tmp_path / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    with initialize_config_dir(str(tmp_path), version_base=None, job_name="app"):
        loader = GlobalHydra.instance().config_loader()
        return Composer(loader, loader.load_configuration("config", [], RunMode.MULTIRUN))


@pytest.fixture
def settle(composer: Composer) -> Settle:
    """The space of params and a command line, settled against the app."""

    def settle(
        params: Mapping[str, Any], *line: str, when: Mapping[str, Any] | None = None
    ) -> Space:
        space = parse_space(params, line, composer.parse, composer.is_group, when)
        return settled(space, composer)

    return settle


def test_a_group_brings_its_parameters(settle: Settle) -> None:
    """A parameter that only some choices of a group have exists beside those choices, with no
    `when` written.
    """
    space = settle(
        {
            "clip": "choice(none, norm, value)",
            "clip.threshold": "interval(1, 2)",
            "lr": "interval(0, 1)",
        }
    )
    assert space.parameters["clip.threshold"].when == {"clip": ("norm", "value")}
    assert list(space.unconditional) == ["clip", "lr"]
    assert space.active({"clip": "none", "clip.threshold": 1.5, "lr": 0.5}) == {
        "clip": "none",
        "lr": 0.5,
    }


def test_parameters_of_several_groups(settle: Settle) -> None:
    """Each parameter depends on its own group only, and every branch composes with exactly what it
    has.
    """
    space = settle(
        {
            "clip": "choice(none, norm)",
            "schedule": "choice(exponential, cosine, constant)",
            "schedule.rate": "interval(0.1, 0.9)",
            "schedule.length": "range(5, 50)",
            "clip.threshold": "interval(1, 2)",
        }
    )
    assert space.parameters["schedule.rate"].when == {"schedule": ("exponential",)}
    assert space.parameters["schedule.length"].when == {"schedule": ("exponential", "cosine")}
    assert space.parameters["clip.threshold"].when == {"clip": ("norm",)}


def test_a_tie_goes_where_its_key_exists(settle: Settle, composer: Composer) -> None:
    """A tie is resolved by each trial for itself, and set only in branches that have its key."""
    written = {
        "schedule.length": "${sweep.round:${sweep.div:${batch_size},4}}",
        "batch_size": "choice(32, 64)",
    }
    resolved = {"schedule.length": 16, "batch_size": "choice(32, 64)"}
    space = settle(with_ties(resolved, written) | {"schedule": "choice(cosine, constant)"})
    for batch_size, length in ((32, 8), (64, 16)):
        config = composer.compose(space.overrides({"batch_size": batch_size, "schedule": "cosine"}))
        assert config.schedule.length == length
    assert (
        "length"
        not in composer.compose(
            space.overrides({"batch_size": 32, "schedule": "constant"})
        ).schedule
    )


def test_what_only_a_job_knows_is_left_to_it(settle: Settle) -> None:
    """A fixed value of `${hydra:...}`, itself or by way of another, has none before there is a job:
    it is no error, and stays as it was written.
    """
    lines = ["schedule.length='${hydra:job.num}'", "batch_size='${schedule.length}'"]
    space = settle({"lr": "interval(0, 1)"}, *lines)
    assert sorted(space.overrides({"lr": 0.5})) == sorted([*lines, "lr=0.5"])


def test_the_command_line_narrows(settle: Settle) -> None:
    """Fixing a group on the command line drops what only its other choices have, with settings
    known in advance.
    """
    params = {
        "schedule": "choice(exponential, cosine)",
        "schedule.rate": "interval(0.1, 0.9)",
        "lr": "interval(0, 1)",
    }
    space = settle(params, "schedule=cosine")
    assert list(space.parameters) == ["lr"]
    assert space.overrides({"lr": 0.5}) == ("lr=0.5", "schedule=cosine")
    assert checked_setting(
        space, {"schedule": "exponential", "schedule.rate": 0.5, "lr": 0.1}, "it"
    ) == {"lr": 0.1}


def test_when_is_a_conjunction_in_any_order(settle: Settle) -> None:
    """A parameter with several conditions needs all of them, and comes after what it depends on."""
    space = settle(
        {"lr": "interval(0, 1)", "batch_size": "choice(32, 64)", "clip": "choice(norm, value)"},
        when={
            "lr": {"batch_size": [64], "clip": "norm"},
            "batch_size": {"clip": ["norm", "value"]},
        },
    )
    assert list(space.parameters).index("lr") == 2
    assert space.parameters["lr"].is_active({"batch_size": 64, "clip": "norm"})
    assert not space.parameters["lr"].is_active({"batch_size": 32, "clip": "norm"})
    assert not space.parameters["lr"].is_active({"clip": "norm"})


@pytest.mark.parametrize(
    ("params", "line", "when", "said"),
    [
        ({"clip": "choice(none, norm)"}, [], {"clip": {"clip": "none"}}, "circle: clip needs clip"),
        (
            {"lr": "choice(1, 2)", "batch_size": "choice(1, 2)"},
            [],
            {"lr": {"batch_size": 1}, "batch_size": {"lr": 1}},
            "circle: lr needs batch_size needs lr",
        ),
        (
            {"lr": "choice(1, 2)", "clip": "choice(none, norm)"},
            [],
            {"lr": {"clip": "nrm"}},
            "never is",
        ),
        (
            {"lr": "choice(1, 2)", "batch_size": "interval(0, 1)"},
            [],
            {"lr": {"batch_size": 0.5}},
            "continuous",
        ),
        ({"lr": "choice(1, 2)"}, [], {"lr": {"batch_size": 64}}, "not searched"),
        ({"lr": "choice(1, 2)"}, [], {"momentum": {"lr": 1}}, "when names momentum"),
        (
            {"lr": "choice(1, 2)", "batch_size": "choice(1, 2)", "clip": "choice(none, norm)"},
            [],
            {"batch_size": {"clip": "none"}, "lr": {"batch_size": 1, "clip": "norm"}},
            "lr can never exist",
        ),
        ({"schedule.rat": "interval(0, 1)"}, [], {}, "did you mean schedule.rate?"),
        (
            {},
            ["lr=interval(0, 1)", "schedule.rate=0.5", "schedule=cosine"],
            {},
            "unknown parameter schedule.rate",
        ),
        ({"batch_size": "'${lr}'", "lr": "'${batch_size}'"}, [], {}, "tie"),
        ({"clip": "choice(none, nrm)"}, [], {}, "clip=choice(none, nrm)"),
    ],
)
def test_refusals(settle: Settle, params: Any, line: list[str], when: Any, said: str) -> None:
    """Dead dimensions, cycles, unknown keys and branches that do not compose are refused by
    name.
    """
    with pytest.raises(BadInputError) as error:
        settle(params, *line, when=when)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"lr": 3.0}, "lr=3.0 lies outside"),
        ({"momentum": 0.9}, "momentum is not searched"),
        ({"clip": "x"}, "clip=x"),
    ],
)
def test_known_settings_are_checked(settle: Settle, setting: dict[str, Any], said: str) -> None:
    """A setting known in advance is refused if the space does not contain it."""
    space = settle({"clip": "choice(none, norm)", "lr": "interval(0, 1)"})
    with pytest.raises(BadInputError, match="enqueue") as error:
        checked_setting(space, setting, "enqueue[0]")
    assert said in str(error.value)


@given(st.data())
def test_overrides_and_active_agree(data: st.DataObject) -> None:
    """A setting's override strings name exactly the fixed keys and the parameters that exist beside
    each other.
    """
    parser = OverridesParser.create()
    keys = ["a", "b", "c", "d"]
    when = {
        key: {keys[i - 1]: data.draw(st.lists(st.sampled_from([1, 2, 3]), min_size=1, unique=True))}
        for i, key in enumerate(keys)
        if i and data.draw(st.booleans())
    }
    params = dict.fromkeys(data.draw(st.permutations(keys)), "choice(1, 2, 3)")
    space = parse_space(params, ["e=5"], parser.parse_overrides, lambda _: False, when)
    values = {key: data.draw(st.sampled_from([1, 2, 3])) for key in keys}
    kept = space.active(values)
    parsed = {
        o.key_or_group: o.value() for o in parser.parse_overrides(list(space.overrides(kept)))
    }
    assert parsed == {**kept, "e": 5}
    for key in keys:
        conditions = when.get(key, {})
        assert (key in kept) == all(
            kept.get(other) in allowed for other, allowed in conditions.items()
        )


def test_a_grid_has_each_setting_once(settle: Settle) -> None:
    """Settings that differ only in parameters that do not exist beside the others are one."""
    space = settle({"clip": "choice(none, norm)", "clip.threshold": "choice(1, 2, 3)"})
    assert space.grid() == [
        {"clip": "none"},
        *({"clip": "norm", "clip.threshold": t} for t in (1, 2, 3)),
    ]


def test_written_and_implied_conditions_both_hold(settle: Settle) -> None:
    """A `when` narrows what the config groups imply; it is never widened by them."""
    params = {
        "schedule": "choice(exponential, cosine, constant)",
        "schedule.length": "'${batch_size}'",
    }
    space = settle(params, when={"schedule.length": {"schedule": ["exponential", "constant"]}})
    assert space.fixed_when["schedule.length"] == {"schedule": ("exponential",)}
    params["schedule.length"] = "range(5, 50)"
    space = settle(params, when={"schedule.length": {"schedule": ["exponential", "constant"]}})
    assert space.parameters["schedule.length"].when == {"schedule": ("exponential",)}
