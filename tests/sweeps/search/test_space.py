"""Hydra's grammar in, Optuna's distributions and Hydra's override strings out."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from optuna.distributions import (
    BaseDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.distributions import CategoricalDistribution as Categorical

from iolaus.sweeps.errors import BadInputError
from iolaus.sweeps.search.parsing import parse_space
from iolaus.sweeps.search.space import Space

Read = Callable[..., Space]


@pytest.fixture(scope="module")
def parse(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[list[str]], list[Override]]]:
    """Hydra's parser for an app with the config group `db`."""
    folder = tmp_path_factory.mktemp("conf")
    for choice in ("mysql", "postgresql", "sqlite"):
        (folder / "db").mkdir(exist_ok=True)
        (folder / "db" / f"{choice}.yaml").write_text(f"driver: {choice}\n")
    with initialize_config_dir(str(folder), version_base=None):
        yield OverridesParser.create(GlobalHydra.instance().config_loader()).parse_overrides


@pytest.fixture(scope="module")
def read(parse: Callable[[list[str]], list[Override]]) -> Read:
    """The space of a command line and of params."""
    return lambda *lines, **params: parse_space(params, lines, parse, lambda key: key == "db")


@pytest.mark.parametrize(
    ("text", "distribution"),
    [
        ("choice(1, 2, 3)", Categorical((1, 2, 3))),
        ("1,2,3", Categorical((1, 2, 3))),
        ("a,b", Categorical(("a", "b"))),
        ("choice(0.5, true, one)", Categorical((0.5, True, "one"))),
        ("null,0.5", Categorical((None, 0.5))),
        ("'a b','c,d'", Categorical(("a b", "c,d"))),
        ('choice("1", 1.5)', Categorical(("1", 1.5))),
        ("choice([1, 2], [3])", Categorical(("[1,2]", "[3]"))),
        ("choice({a: 1}, {b: 2})", Categorical(("{a:1}", "{b:2}"))),
        ("sort(choice(3, 1, 2))", Categorical((1, 2, 3))),
        ("tag(t, choice(1, 2))", Categorical((1, 2))),
        ("float(choice(1, 2))", Categorical((1.0, 2.0))),
        ("int(choice(1.5, 2.5))", Categorical((1, 2))),
        ("str(choice(1, 2))", Categorical(("1", "2"))),
        ("range(1, 4)", IntDistribution(1, 3)),
        ("range(4)", IntDistribution(0, 3)),
        ("range(0, 10, 3)", IntDistribution(0, 9, step=3)),
        ("range(5, 0, -2)", IntDistribution(1, 5, step=2)),
        ("range(-3, 0)", IntDistribution(-3, -1)),
        ("range(7, 8)", IntDistribution(7, 7)),
        ("range(0.0, 1.0, 0.25)", FloatDistribution(0.0, 0.75, step=0.25)),
        ("interval(0, 1)", FloatDistribution(0.0, 1.0)),
        ("interval(0.0, 1)", FloatDistribution(0.0, 1.0)),
        ("float(interval(0, 1))", FloatDistribution(0.0, 1.0)),
        ("int(interval(0.0, 8.0))", IntDistribution(0, 8)),
        ("interval(-1e-3, 2.5)", FloatDistribution(-1e-3, 2.5)),
        ("tag(log, interval(1e-4, 1))", FloatDistribution(1e-4, 1.0, log=True)),
        ("tag(log, interval(1, 128))", FloatDistribution(1.0, 128.0, log=True)),
        ("tag(log, int(interval(1, 128)))", IntDistribution(1, 128, log=True)),
        ("int(tag(log, interval(1, 128)))", IntDistribution(1, 128, log=True)),
    ],
)
def test_each_form_of_the_grammar_is_its_distribution(
    read: Read, text: str, distribution: BaseDistribution
) -> None:
    """A range is half-open and in either direction, an interval is closed, a choice keeps its
    types, order and text.
    """
    for space in (read(f"x={text}"), read(x=text)):
        found = space.parameters["x"].distribution
        assert (type(found), found) == (type(distribution), distribution)
        assert distribution_to_json(found) == distribution_to_json(
            distribution
        )  # 1, True and 1.0 are not the same


def test_a_glob_over_a_config_group_chooses_its_files(read: Read) -> None:
    """The choices of glob are the group's configs; what it excludes is not among them."""
    space = read("db=glob(*, exclude=sql*)")
    assert space.parameters["db"].distribution == Categorical(("mysql", "postgresql"))
    assert list(space.branches()) == [{"db": "mysql"}, {"db": "postgresql"}]


@pytest.mark.parametrize(
    ("key", "is_group"), [("db", True), ("db@backup", True), ("+db@b", True), ("dbx", False)]
)
def test_config_groups_are_told_from_values(read: Read, key: str, is_group: bool) -> None:
    """A key that names a group, or has a package, makes branches of configs; any other sets a
    value.
    """
    space = read(f"{key}=mysql,sqlite", "x=range(2)")
    assert space.parameters[key].is_group == is_group
    assert len(list(space.branches())) == (2 if is_group else 1)
    assert space.overrides({key: "sqlite", "x": 1}) == (f"{key}=sqlite", "x=1")


plain_text = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=12)
numbers = st.integers(-(10**12), 10**12) | st.floats(allow_nan=False, allow_infinity=False)


def quoted(text: str) -> str:
    """Text as one writes it in Hydra's grammar: backslashes count only before a quote."""
    return "'" + re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + "\\'" * (m[2] == "'"), text) + "'"


def parsed_back(parse: Callable[[list[str]], list[Override]], space: Space, value: Any) -> Any:
    (line,) = space.overrides({"x": value})
    (override,) = parse([line])
    assert not override.is_sweep_override()
    found = override.value()
    return found.text if hasattr(found, "text") else found


@given(low=numbers, high=numbers, data=st.data())
def test_a_number_survives_its_override(
    parse: Any, read: Read, low: float, high: float, data: st.DataObject
) -> None:
    """Any value of an interval, written as an override, is read by Hydra as the same number of the
    same type.
    """
    assume(low < high and math.isfinite(float(high) - float(low)))
    whole = isinstance(low, int) and isinstance(high, int)
    space = read(
        f"x=int(interval({low!r}, {high!r}))" if whole else f"x=interval({low!r}, {high!r})"
    )
    value = data.draw(
        st.integers(int(low), int(high)) if whole else st.floats(float(low), float(high))
    )
    assert space.parameters["x"].distribution == (
        IntDistribution(low, high) if whole else FloatDistribution(float(low), float(high))
    )
    found = parsed_back(parse, space, value)
    assert (type(found), found) == (type(value), value)


@given(choices=st.lists(plain_text, min_size=2, max_size=4, unique=True))
def test_a_quoted_choice_survives_its_override(parse: Any, read: Read, choices: list[str]) -> None:
    """Any text in quotes, whatever is in it, is the same text in the study and in the trial's
    config.
    """
    space = read(f"x={','.join(map(quoted, choices))}")
    assert space.parameters["x"].distribution == Categorical(tuple(choices))
    for choice in choices:
        assert parsed_back(parse, space, choice) == choice


@pytest.mark.parametrize("choice", ["0", "null", "true", "#", "1e3", "it's"])
def test_a_quoted_text_inside_choice_stays_text(parse: Any, read: Read, choice: str) -> None:
    """A quoted '0' inside choice(...) reaches the config as text, though Hydra forgets its
    quotes.
    """
    space = read(f"x=choice({quoted(choice)}, b)")
    assert parsed_back(parse, space, choice) == choice


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("null,0.5", [None, 0.5]),
        ("true,false", [True, False]),
        ("'true',true", ["true", True]),
        ("'1',2", ["1", 2]),
        ("[1,a],[],[[2]]", [[1, "a"], [], [[2]]]),
        ("choice({a: 1, b: {c: x}}, {})", [{"a": 1, "b": {"c": "x"}}, {}]),
        ("range(0.1, 0.5, 0.1)", [0.1, 0.2, 0.3, 0.4]),
        ("'${y}',b", ["${y}", "b"]),
        ("a b,c", ["a b", "c"]),
        ("'a=b',c", ["a=b", "c"]),
        ("/tmp/x-1.0,s3://b/c", ["/tmp/x-1.0", "s3://b/c"]),
    ],
)
def test_every_choice_survives_its_override(
    parse: Any, read: Read, text: str, values: list[Any]
) -> None:
    """The override of each value in a grid is read by Hydra as the value that was written in the
    choice.
    """
    space = read(f"x={text}")
    found = [parsed_back(parse, space, setting["x"]) for setting in space.grid()]
    assert found == (pytest.approx(values) if isinstance(values[0], float) else values)
    assert [type(value) for value in found] == [type(value) for value in values]


def test_the_command_line_beats_the_config(read: Read) -> None:
    """A key of params that the command line searches, fixes or deletes is as the command line
    says.
    """
    configured = {
        "a": "range(3)",
        "b": "choice(1, 2)",
        "c": "interval(0, 1)",
        "d": "7",
        "e": "null",
    }
    space = read("a=choice(7, 8)", "b=5", "~c", **configured)
    assert {key: p.distribution for key, p in space.parameters.items()} == {
        "a": Categorical((7, 8))
    }
    assert set(space.overrides({"a": 8})) == {"a=8", "b=5", "~c", "d=7", "e=null"}


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["x=interval(1, 1)"], r"x=interval\(1, 1\).* is empty"),
        (
            ["x=interval(2, 1)"],
            r"x=interval\(2, 1\).*from 2\.0 down to 1\.0; write interval\(1\.0, 2\.0\)",
        ),
        (["x=tag(log, interval(0, 1))"], r"x=tag\(log, interval\(0, 1\)\).*above 0"),
        (["x=tag(log, interval(-1.0, 1))"], r"x=tag.*above 0, got -1"),
        (["x=interval(0, inf)"], r"x=interval\(0, inf\).*finite"),
        (["x=interval(nan, 1)"], r"x=interval\(nan, 1\).*finite"),
        (["x=choice(a, b, a)"], r"x=choice\(a, b, a\).*a .*twice"),
        (["x='a',a"], "x='a',a: the choice 'a' stands there twice"),
        (
            ["x=1,true"],
            "x=1,true: the choice 1 stands there twice",
        ),  # Optuna cannot tell them apart
        (["x=range(3, 3)"], r"x=range\(3, 3\).*empty"),
        (["x=range(3, 1)"], r"x=range\(3, 1\).*empty"),
        (["x=range(1, 3, 0)"], r"x=range\(1, 3, 0\).*step other than 0"),
        (["x=1", "x=choice(1, 2)"], r"x is both fixed and searched.*x=1 and x=choice\(1, 2\)"),
        (["x=choice(1, 2)", "+x=1"], "x is both fixed and searched"),
        (["x=choice(1, 2)", "~x"], "x is both fixed and searched"),
        (["x=range(2)", "x=choice(1, 2)"], "x is searched twice"),
        (["x=choice("], "cannot read the command line: "),
        (["db=glob(z*)"], r"db=glob\(z\*\).*nothing to choose"),
        (["x=glob(*)"], r"x=glob\(\*\).*nothing to choose|glob"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_sentence(
    read: Read, lines: list[str], sentence: str
) -> None:
    """The sentence names the override as it was written, and what is wrong with it."""
    with pytest.raises(BadInputError, match=sentence) as refused:
        read(*lines)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 250


def test_params_that_do_not_parse_are_refused_as_params(read: Read) -> None:
    """A mistake in the config is not blamed on the command line."""
    with pytest.raises(BadInputError, match=r"cannot read hydra\.sweeper\.params: "):
        read("y=1", x="choice(")


def test_a_grid_needs_values_that_can_be_counted(read: Read) -> None:
    """A grid over an interval is refused by the interval's own text."""
    with pytest.raises(BadInputError, match=r"x=interval\(0\.0, 1\.0\): a grid needs choice"):
        read("y=1,2", "x=interval(0.0, 1.0)").grid()


axes = st.dictionaries(
    st.sampled_from(["a", "b.c", "+d", "db", "e"]),
    st.sampled_from(
        [
            "1,2",
            "choice(x, 'y z')",
            "range(3)",
            "range(-1, 1)",
            "[1],[2]",
            "5",
            "null,1",
            "mysql,sqlite",
        ]
    ),
    min_size=1,
)


@given(axes)
@settings(max_examples=40)
def test_a_grid_is_what_hydras_own_sweeper_runs(
    parse: Any, read: Read, chosen: dict[str, str]
) -> None:
    """The settings of a grid, and their order, are those of Hydra's BasicSweeper on the same
    command line.
    """
    lines = [f"{key}={text}" for key, text in chosen.items()]
    (hydras,) = BasicSweeper.split_arguments(parse(lines), max_batch_size=None)
    space = read(*lines)
    ours = [space.overrides(setting) for setting in space.grid()]

    def read_by_hydra(jobs: list[Any]) -> list[Any]:
        return [[(o.get_key_element(), o.value()) for o in parse(list(job))] for job in jobs]

    assert read_by_hydra(ours) == read_by_hydra(hydras)


@pytest.mark.parametrize(
    "text", ["shuffle(range(0, 40))", f"shuffle({','.join(map(str, range(40)))})"]
)
def test_shuffling_does_not_make_another_space(read: Read, text: str) -> None:
    """A sweep in random order searches the same space as at its last start, or it could not be
    continued.
    """
    assert read(f"x={text}").signature() == read(f"x={text}").signature()


def test_values_from_outside_the_space_follow_at_the_end(read: Read) -> None:
    """What a custom search space suggests becomes an override too."""
    assert read("a=1,2", "b=3").overrides({"a": 2, "c": 0.5, "d": "x y"}) == (
        "a=2",
        "b=3",
        "c=0.5",
        r"d=x\ y",
    )


searches = st.sampled_from(
    ["1,2", "2,1", "range(1, 3)", "interval(1, 2)", "int(interval(1, 3))", "1.5,2", "'1',2"]
)


@given(a=searches, b=searches)
def test_signatures_are_equal_if_and_only_if_the_same_is_searched(
    read: Read, a: str, b: str
) -> None:
    """The signature is plain data that survives JSON, whatever order the keys stand in, and tells
    spaces apart.
    """
    one, same, other = read(f"x={a}", "y=1,2"), read("y=1,2", f"x={a}"), read(f"x={b}", "y=1,2")
    assert json.loads(json.dumps(one.signature())) == same.signature()
    assert (one.signature() == other.signature()) == (a == b)


def test_a_grid_has_its_decimals_as_written(read: Read) -> None:
    """The third step of 0.1 is 0.3, as in Hydra, and not 0.30000000000000004."""
    assert read("x=range(0, 1, 0.1)").parameters["x"].grid() == [i / 10 for i in range(10)]


ends = st.integers(-30, 30) | st.floats(-3, 3, allow_subnormal=False).map(lambda x: round(x, 3))
strides = st.integers(-7, 7) | st.sampled_from([0.1, 0.25, 0.3, -0.1, -0.7, 1e-1, 2.5])


@given(start=ends, stop=ends, step=strides)
@example(start=2.8, stop=0, step=-0.7)  # Hydra's fifth is 6e-28, and no stop
def test_a_range_has_the_values_of_hydras_own(
    read: Read,
    parse: Callable[[list[str]], list[Override]],
    start: float,
    stop: float,
    step: float,
) -> None:
    """A range is read by arithmetic, and has exactly the values that Hydra's expansion has."""
    text = f"x=range({start},{stop},{step})"
    assume(step != 0)
    expected = sorted(parse([text])[0].sweep_iterator())
    if not expected:
        with pytest.raises(BadInputError, match="is empty"):
            read(text)
        return
    values = read(text).parameters["x"].grid()
    assert values == pytest.approx(expected, abs=1e-12)
    assert {type(value) for value in values} == {type(value) for value in expected}


@pytest.mark.parametrize(
    ("text", "distribution"),
    [
        ("range(0, 4294967296)", IntDistribution(0, 2**32 - 1)),
        ("range(4294967296, 0, -3)", IntDistribution(1, 2**32, step=3)),
        ("range(0, 10000000, 0.5)", FloatDistribution(0, 9999999.5, step=0.5)),
    ],
)
def test_a_range_of_any_length_takes_no_memory(
    read: Read, text: str, distribution: BaseDistribution
) -> None:
    """A range is not written out: its ends follow from its start, stop and step."""
    assert read(f"x={text}").parameters["x"].distribution == distribution


@pytest.mark.parametrize("text", ["range(0.0, inf)", "range(nan, 1.0)"])
def test_a_range_without_end_is_refused(read: Read, text: str) -> None:
    """A range that Hydra would write out for ever is refused by name."""
    with pytest.raises(BadInputError, match=r"x=range.*two finite ends"):
        read(f"x={text}")


@pytest.mark.parametrize(
    ("values", "choices", "lines"),
    [
        ([32, 64], (32, 64), ["x=32", "x=64"]),
        ([0.5, None, True], (0.5, None, True), ["x=0.5", "x=null", "x=True"]),
        (["a b", "null", "1"], ("a b", "null", "1"), ["x='a b'", "x='null'", "x='1'"]),
        ([[1, 2], [3]], ("[1,2]", "[3]"), ["x=[1,2]", "x=[3]"]),
        ([{"a": 1}, {"a": 2}], ("{a:1}", "{a:2}"), ["x={a:1}", "x={a:2}"]),
        ([7], (7,), ["x=7"]),
    ],
)
def test_a_list_in_params_is_a_choice(
    read: Read, values: list[Any], choices: tuple[Any, ...], lines: list[str]
) -> None:
    """A YAML list in `params` is a choice between its elements, each of its own type."""
    space = read(x=values)
    assert space.parameters["x"].distribution == Categorical(choices)
    assert [space.line("x", choice) for choice in choices] == lines
    assert read("x=5", x=values).fixed == {"x": "x=5"}


def test_a_list_of_config_group_choices_in_params_is_a_choice(read: Read) -> None:
    """A list under the name of a config group chooses its files."""
    assert read(db=["mysql", "sqlite"]).parameters["db"].is_group


def test_an_empty_list_in_params_is_refused(read: Read) -> None:
    """There is nothing to choose from an empty list, and the message names the key."""
    with pytest.raises(BadInputError, match="x"):
        read(x=[])
