"""What we rely on of Hydra's and OmegaConf's private parts, each against their own public way.

A failure here after an upgrade says which part has changed; nothing else in this package touches
them.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import ConfigCompositionException
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from iolaus.sweeps import hydra_compat
from iolaus.sweeps.hydra_compat import (
    apply_overrides,
    as_plain,
    as_set_again,
    config_groups,
    copy_without,
    is_changed_range,
    is_known_in_jobs,
    made,
    overrides_dirname,
    overwrite,
    plain_value,
    resolver,
    returned_by,
    set_hydra_config,
    to_yaml,
    values_of_range,
)

ROOT = Path(__file__).parents[2]


class Colour(enum.Enum):
    RED = 1


@dataclass
class Schema:
    colour: Colour = Colour.RED
    path: Path = Path("a/b")
    raw: bytes = b"\x00\xff"
    maybe: int | None = None
    table: dict[str, float] = field(default_factory=lambda: {"a": 1.0})


CONFIG = """
x: 1
of: ${x}
name: ${hydra:job.name}
nested: {a: 1, b: "${x}"}
"""


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("conf")
    (folder / "config.yaml").write_text(CONFIG)
    with initialize_config_dir(str(folder), job_name="app", version_base=None):
        yield folder


def composed(*lines: str) -> DictConfig:
    return compose("config", list(lines), return_hydra_config=True)


def parsed(*lines: str) -> list[Any]:
    return OverridesParser.create().parse_overrides(list(lines))


@pytest.mark.usefixtures("conf")
def test_overrides_of_values_change_a_composed_config_in_place() -> None:
    """`ConfigLoaderImpl._apply_overrides_to_config`: as composing with them, refusals included."""
    lines = ["x=2", "nested.a=[1,2]", "+new.deep=3", "~nested.b"]
    config = composed()
    apply_overrides(config, parsed(*lines))
    expected = composed(*lines)
    for key in ("x", "of", "nested", "new"):
        assert config[key] == expected[key]
    assert "b" not in config.nested
    with pytest.raises(ConfigCompositionException, match="Could not override 'nothing'"):
        apply_overrides(config, parsed("nothing=1"))


@pytest.mark.usefixtures("conf")
def test_the_name_of_a_folder_from_overrides_is_hydras() -> None:
    """`get_overrides_dirname`: what Hydra itself puts into hydra.job.override_dirname."""
    rule = ["hydra.job.config.override_dirname.exclude_keys=[x]"]
    lines = ["nested.a=3", "x=2", "+y=4"]
    config = composed(*rule, *lines)
    assert config.hydra.job.override_dirname == overrides_dirname(
        parsed(*lines), config.hydra.job.config.override_dirname
    )
    assert overrides_dirname(parsed(*lines), config.hydra.job.config.override_dirname) == (
        "+y=4,nested.a=3"
    )


@pytest.mark.usefixtures("conf")
def test_a_copy_without_a_node_leaves_the_config_as_it_was() -> None:
    """`DictConfig._content` is a dict: the copy lacks a node, shares nothing, and resolves."""
    config = composed()
    before = OmegaConf.to_container(config)
    copy = copy_without(config, "hydra")
    assert OmegaConf.to_container(config) == before
    assert set(copy) == set(config) - {"hydra"}
    copy.nested.a = 99
    copy.x = 7
    assert (config.nested.a, config.of, copy.of) == (1, 1, 7)


@pytest.mark.usefixtures("conf")
def test_a_shared_hydra_config_is_hydras_own() -> None:
    """`HydraConfig` takes a `hydra` node that is not copied and resolves into its own config."""
    config = composed()
    kept = HydraConfig.instance().cfg
    try:
        set_hydra_config(config)
        shared = HydraConfig.get()
        assert shared is config.hydra
        HydraConfig.instance().set_config(composed())
        assert OmegaConf.to_container(HydraConfig.get()) == OmegaConf.to_container(shared)
        set_hydra_config(config)
        assert config.name == "app"
        assert OmegaConf.is_readonly(HydraConfig.get())
    finally:
        HydraConfig.instance().cfg = kept


@pytest.mark.usefixtures("conf")
def test_leaves_are_overwritten_and_read_as_they_stand() -> None:
    """`_val`, `_content`, `_get_node`: read-only nodes too; the rest of the config is as it was."""
    config = composed()
    with open_dict(config):
        config.colours = OmegaConf.structured(Schema)
    expected = OmegaConf.to_container(config)
    OmegaConf.set_readonly(config, True)
    overwrite(config, ("hydra", "overrides", "task"), ["a=1", "b=2"])
    overwrite(config, ("hydra", "job", "num"), 7)
    overwrite(config, ("nested", "b"), "${nested.a}")
    assert config.hydra.overrides.task == ["a=1", "b=2"]
    assert config.hydra.job.num == 7
    assert config.nested.b == 1
    assert plain_value(config, ("nested", "b")) == "${nested.a}"
    assert plain_value(config, ("colours", "colour")) == "RED"
    assert plain_value(config, ("colours", "table")) == {"a": 1.0}
    expected["hydra"]["overrides"]["task"] = ["a=1", "b=2"]
    expected["hydra"]["job"]["num"] = 7
    expected["nested"]["b"] = "${nested.a}"
    assert OmegaConf.to_container(config) == expected


@pytest.mark.usefixtures("conf")
def test_a_value_is_resolved_anew_each_time() -> None:
    """`_resolve_interpolation_from_parse_tree`: what `config[key]` gives, or raises."""
    config = composed()
    OmegaConf.set_struct(config, False)
    config.text = "x is ${x}, ${oc.env:HOME}, ${nested.a}"
    resolve = {key: resolver(config, key) for key in ("text", "of", "x")}
    for x in (1, 2, "three"):
        config.x = x
        for key, value in resolve.items():
            assert value() == config[key]
    config.wrong = "${nothing}"
    with pytest.raises(InterpolationKeyError, match="nothing"):
        resolver(config, "wrong")


@pytest.mark.parametrize(("text", "expected"), [("${hydra:job.num}", True), ("${nothing}", False)])
def test_what_only_a_job_knows_is_told_from_what_nobody_does(text: str, expected: bool) -> None:
    """`HydraConfig.get`: its message where no job runs, as an interpolation's error has it."""
    before, HydraConfig.instance().cfg = HydraConfig.instance().cfg, None
    try:
        with pytest.raises(OmegaConfBaseException) as raised:
            OmegaConf.select(OmegaConf.create({"x": text}), "x")
    finally:
        HydraConfig.instance().cfg = before
    assert is_known_in_jobs(raised.value) == expected


def test_config_groups_are_those_of_hydra(tmp_path: Path) -> None:
    """`_parse_overrides_and_create_caching_repo`: as `get_group_options` finds them."""
    for name in ("config", "db/mysql", "db/deep/one"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text("a: 1\n")
    before = GlobalHydra.instance().hydra  # of the fixture, which lasts for the module
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(tmp_path), job_name="app", version_base=None):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        is_group = config_groups(hydra.config_loader)
        for key in ("db", "db/deep", "db/mysql", "a", "nothing", "hydra/sweeper", "hydra"):
            assert is_group(key) == bool(hydra.config_loader.get_group_options(key)), key
    GlobalHydra.instance().hydra = before


@pytest.mark.usefixtures("conf")
def test_what_was_added_can_be_set_again() -> None:
    """An override that adds a key is one that also sets it; others stay as they are."""
    config = composed("+new.deep=1")
    added, changed = parsed("+new.deep=2", "x=3")
    apply_overrides(config, [as_set_again(added), as_set_again(changed)])
    assert (config.new.deep, config.x) == (2, 3)
    assert as_set_again(changed) is changed


@pytest.mark.parametrize("returned", [1.5, None, ValueError("no")])
def test_what_a_job_returned_is_read_without_raising(returned: Any) -> None:
    """`JobReturn._return_value` holds what the public setter was given, errors included."""
    job = JobReturn()
    job.return_value = returned
    job.status = JobStatus.FAILED
    assert returned_by(job) is returned


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False)
    | st.sampled_from(["1e3", "0x1F", "no", "on", "~", "1_000", "1:30", "${x}", "ü: '\n'", ""])
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=10)
)
keys = st.text("abcxyz_", min_size=1, max_size=5)
contents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3)
)


@given(content=st.dictionaries(keys, contents, max_size=4))
def test_libyaml_writes_what_omegaconf_writes(content: dict[str, Any]) -> None:
    """`get_omega_conf_dumper().str_representer`: text that looks like a number keeps its quotes."""
    escaped = as_text_only(content)
    config = OmegaConf.create(escaped)
    assert yaml.safe_load(to_yaml(config)) == yaml.safe_load(OmegaConf.to_yaml(config))
    assert OmegaConf.create(to_yaml(config)) == OmegaConf.create(OmegaConf.to_yaml(config))


def as_text_only(content: Any) -> Any:
    """Without what OmegaConf reads as the beginning of an interpolation that goes wrong."""
    if isinstance(content, dict):
        return {key: as_text_only(value) for key, value in content.items()}
    if isinstance(content, list):
        return [as_text_only(value) for value in content]
    if isinstance(content, str) and content != "${x}":
        return content.replace("${", "").replace("\\", "")
    return content


def test_typed_configs_become_plain() -> None:
    """Enums by name, missing and interpolated values as written, other objects as they are."""
    config = OmegaConf.structured(Schema)
    plain = as_plain({"it": config, "n": 1})
    assert plain["it"]["colour"] == "RED"
    assert plain["n"] == 1
    assert to_yaml(config) == OmegaConf.to_yaml(config)


def test_nothing_else_touches_private_parts() -> None:
    """hydra._internal and omegaconf's underscored modules are imported in this file only."""
    private = re.compile(
        r"hydra\._internal|omegaconf\._|__dict__\[|\._return_value|_apply_overrides_to"
    )
    files = [*(ROOT / "sweeps").rglob("*.py"), *(ROOT / "hydra_plugins").rglob("*.py")]
    assert {"sweeper.py", "driver.py"} < {path.name for path in files}
    guilty = {path.name for path in files if private.search(path.read_text())}
    assert guilty == {"hydra_compat.py"}


@pytest.mark.parametrize(
    ("target", "is_told"), [("optuna.samplers.RandomSampler", True), ("fractions.Fraction", False)]
)
def test_hydra_1_4_is_told_what_a_config_may_name(
    target: str, is_told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`hydra.utils.instantiate` gets a whitelist where all that is made, inside too, is Optuna's or
    ours, and none under Hydra 1.3, which does not know it.
    """
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(hydra_compat.utils, "instantiate", lambda _, **extra: seen.append(extra))
    config = {"_target_": "optuna.samplers.CmaEsSampler", "others": [{"_target_": target}]}
    for version in ("1.3.8", "1.4.0rc3"):
        monkeypatch.setattr(hydra_compat, "hydra_version", version)
        made(config, seed=1)
    of_1_4 = {"_execution_whitelist_": hydra_compat.TRUSTED} if is_told else {}
    assert seen == [{"seed": 1}, {"seed": 1, **of_1_4}]


def test_a_range_has_its_values_in_order() -> None:
    """`RangeSweep.range`: shuffled or not; of Hydra 1.4's `int(range(...))` each as changed."""
    for text in ("range(0, 3)", "shuffle(range(0, 3))"):
        sweep = parsed(f"x={text}")[0].value()
        assert not is_changed_range(sweep)
        assert list(values_of_range(sweep)) == [0, 1, 2]
    changed = parsed("x=int(range(0, 5, 1.5))")[0].value()
    expected = [0, 1, 3, 4] if is_changed_range(changed) else [0, 1, 2, 3, 4]
    assert list(values_of_range(changed)) == expected
