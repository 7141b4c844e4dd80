"""Files of rows as frames, whoever wrote them: delimiters, decimal commas, codes, packing, JSON."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import pandas as pd

__all__ = ["JSON", "READ_SUFFIXES", "flat", "kind_of", "read_frame", "read_rows"]

PACKED: Mapping[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.decompress,
    ".bz2": bz2.decompress,
    ".xz": lzma.decompress,
    ".zip": lambda content: _only_member(content),
}
BINARY: Mapping[str, Callable[[Path], pd.DataFrame]] = {
    ".parquet": pd.read_parquet,
    ".pq": pd.read_parquet,
    ".feather": pd.read_feather,
    ".arrow": pd.read_feather,
}
JSON = (".json", ".jsonl", ".ndjson")
READ_SUFFIXES = (".csv", ".tsv", ".txt", *BINARY, *JSON)
SPACES = r"\s+"
MISSING = ["", "-", "--", "?", "nan", "NaN", "NAN", "NA", "N/A", "n/a", "<NA>", "None", "null"]
# Numbers as people write them: of another land, with its unit, as a framework prints them.
NUMBER_WITH_COMMA = re.compile(r"[+-]?[\d.,]*\d,\d[\d.,]*(?:[eE][+-]?\d+)?")
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?")
DRESSED = re.compile(r"^tensor\(\s*([^,()]+).*\)$|^([^%]+?)\s*%$")


def kind_of(path: Path) -> tuple[str, str]:
    """What a file's name says: the end that tells its kind, in small letters, and of its packing.

    >>> kind_of(Path("runs.CSV.gz")), kind_of(Path("train.log"))
    (('.csv', '.gz'), ('.log', ''))
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packing = suffixes.pop() if suffixes and suffixes[-1] in PACKED else ""
    return (suffixes[-1] if suffixes else ""), packing


def read_frame(source: Path, is_text: Callable[[str], bool]) -> pd.DataFrame:
    """The rows of a file: .parquet or .feather, else a table of text, maybe packed.

    is_text: whether a column of this name holds words, in which None and leading zeros mean
    something. A table of text may have its header again in the middle, with other columns; lines
    of comment before it; commas, semicolons, tabs, bars or spaces between its cells; decimal
    commas; a byte order mark. Raises ValueError, which names the file, if it is no table.
    """
    kind, packing = kind_of(source)
    try:
        if kind in BINARY and not packing:
            frame = BINARY[kind](source)
            frame = frame.reset_index() if any(frame.index.names) else frame
        else:
            frame = _table(_text(source, packing), kind, is_text)
    except (ValueError, OSError, EOFError, lzma.LZMAError, zipfile.BadZipFile) as error:
        raise ValueError(f"{source} cannot be read as a table: {error}") from error
    frame.columns = [str(column).strip() for column in frame.columns]
    return _as_numbers(frame, is_text)


def _only_member(content: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        if len(names) != 1:
            raise ValueError(f"it holds {len(names)} files: unpack it, and give the folder")
        return archive.read(names[0])


def _text(source: Path, packing: str) -> str:
    content = source.read_bytes()
    content = PACKED[packing](content) if packing else content
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16")
    if b"\0" in content[:4096] or content.startswith((b"PK\x03\x04", b"\x80")):
        raise ValueError(f"it is no text; what is read is {', '.join(READ_SUFFIXES)}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def _table(text: str, kind: str, is_text: Callable[[str], bool]) -> pd.DataFrame:
    """A table of text with a header."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise ValueError("it is empty")
    separator = None
    if lines[0].lower().startswith("sep=") and len(lines[0].strip()) == 5:  # of Excel
        separator = lines.pop(0)[4]
    comments = list(takewhile(lambda line: line.startswith("#"), lines))
    lines = lines[len(comments) :]
    if comments and (not lines or re.search(r"(^|[\s,;|])[+-]?\.?\d", lines[0])):
        lines.insert(0, comments[-1].lstrip("# "))  # as numpy.savetxt writes it
    separator = separator or ("\t" if kind == ".tsv" else _separator(lines))
    names = _names(lines[0], separator)
    starts = [0, *(n for n in range(1, len(lines)) if _is_header(lines[n], names, separator))]
    ends = [*starts[1:], len(lines)]
    parts = [
        _part("\n".join(lines[a:b]), lines[a], separator, is_text)
        for a, b in zip(starts, ends, strict=True)
    ]
    return parts[0] if len(parts) == 1 else pd.concat(parts, ignore_index=True)


def _separator(lines: Sequence[str]) -> str:
    """What stands between the names of the header: most often of these, else spaces."""
    found = max(",;\t|", key=lines[0].count)
    if found in lines[0]:
        return found
    n_fields = {len(line.split()) for line in lines[:2]}
    return SPACES if len(lines) > 1 and len(n_fields) == 1 and n_fields != {1} else ","


def _is_header(line: str, names: Sequence[str], separator: str) -> bool:
    """Whether a line is the header again, as a logger that was restarted writes it."""
    if names[0] not in line or names[-1] not in line:
        return False
    return set(names) <= {*_names(line, separator)}


def _names(header: str, separator: str) -> list[str]:
    cells = header.split(None if separator == SPACES else separator)
    return [cell.strip(" \"'") for cell in cells if cell.strip()]


def _part(text: str, header: str, separator: str, is_text: Callable[[str], bool]) -> pd.DataFrame:
    quote = "'" if header.startswith("'") and header.rstrip().endswith("'") else '"'
    options: dict[str, Any] = {"sep": separator, "quotechar": quote, "skipinitialspace": True}
    columns = pd.read_csv(io.StringIO(header), nrows=0, **options).columns
    words = [column for column in columns if is_text(str(column).strip())]
    frame: pd.DataFrame = pd.read_csv(
        io.StringIO(text),
        dtype=dict.fromkeys(words, str),
        keep_default_na=False,
        na_values={c: [""] if c in words else MISSING for c in columns},
        low_memory=False,
        index_col=False,
        **options,
    )
    return frame


def _as_numbers(frame: pd.DataFrame, is_text: Callable[[str], bool]) -> pd.DataFrame:
    """The frame with columns of text as numbers, where every cell that is not empty is one."""
    texts = {
        column: frame[column].str.strip()
        for column in frame.columns
        if not frame.columns.duplicated().any()
        and (frame[column].dtype == object or isinstance(frame[column].dtype, pd.StringDtype))
        and frame[column].map(lambda cell: isinstance(cell, str) or pd.isna(cell)).all()
    }
    numbers = {c: t for c, t in texts.items() if not is_text(c)}
    with_comma = {c: _with_comma(t) for c, t in numbers.items()}
    cells = [cell for column in with_comma.values() for cell in column]
    has_points = any("." in c for c in cells) or any(
        pd.api.types.is_float_dtype(column) and (column.dropna() % 1 != 0).any()
        for _, column in frame.items()
    )
    are_thousands = has_points or (cells and all(map(THOUSANDS.fullmatch, cells)))
    new = {}
    for column, text in texts.items():
        if len(with_comma.get(column, ())):
            text = (
                text.str.replace(",", "")
                if are_thousands
                else text.str.replace(".", "").str.replace(",", ".")
            )
        elif column in numbers:
            text = text.map(_undressed, na_action="ignore")
        new[column] = _numbers_if_all_are(text, is_words=column not in numbers)
    return frame.assign(**new)


def _with_comma(text: pd.Series) -> list[str]:
    """The cells with a comma, if they and all others are numbers."""
    cells = text.dropna().unique()
    has_comma = [cell for cell in cells if "," in cell]
    return has_comma if has_comma and all(map(NUMBER_WITH_COMMA.fullmatch, has_comma)) else []


def _undressed(cell: str) -> str:
    match = DRESSED.match(cell)
    return cell if match is None else match[1] or match[2]


def _numbers_if_all_are(column: pd.Series, is_words: bool) -> pd.Series:
    """A column of text as numbers, if each of its cells that is not empty is one.

    is_words: 007 is a name, and None and null may stand beside numbers.
    """
    is_null = column.str.lower().isin(("none", "null")) & is_words
    rest = column.mask(is_null)
    numbers = pd.to_numeric(rest, errors="coerce")
    has_zeros = is_words and rest.dropna().str.fullmatch(r"0\d+").any()
    if has_zeros or not numbers.notna().equals(rest.notna()):
        return column
    return numbers.astype(object).mask(is_null, column) if is_null.any() else numbers


def flat(row: Mapping[str, Any], joint: str, prefix: str = "") -> dict[str, Any]:
    """Nested names joined; what is no single value is left out."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            found |= flat(value, joint, f"{prefix}{name}{joint}")
        elif not isinstance(value, list | tuple):
            found[f"{prefix}{name}"] = value
    return found


def read_rows(source: Path, is_of_run: Callable[[str], bool]) -> list[dict[str, Any]]:
    """The rows of a JSON document or of JSON Lines, nested names joined by /.

    A document may be a list of rows; columns by name; pandas' own; runs by name, of rows or of
    columns; a list of runs, each with columns or a `history` of rows; the state of Hugging Face's
    trainer; Sacred's metrics; TensorBoard's download of a scalar. is_of_run: whether what stands
    beside the columns of a run under this name says something of it. Raises ValueError, which names
    the file, if it is none of them.
    """
    try:
        text = _text(source, kind_of(source)[1])
        try:
            content = json.loads(text)
        except json.JSONDecodeError:
            return list(_json_lines(text))
        rows = [flat(row, "/") for row in _rows_of(content, is_of_run)]
        if not rows and content not in ([], {}):
            raise ValueError("it is no list of rows, and no columns of equal length")
    except (ValueError, OSError, EOFError, lzma.LZMAError, zipfile.BadZipFile) as error:
        raise ValueError(f"{source} cannot be read as a table: {error}") from error
    return rows


def _json_lines(text: str) -> Iterator[dict[str, Any]]:
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if not line.endswith("\n"):
                continue  # the last line, of a run that was killed
            raise ValueError(f"line {number} is no JSON: {error}") from error
        if not isinstance(row, Mapping):
            raise ValueError(f"line {number} is no object with names")
        yield flat(row, "/")


def _rows_of(content: Any, is_of_run: Callable[[str], bool]) -> Iterator[Mapping[str, Any]]:
    """The rows in a JSON document; none if it has no form that is known."""
    if isinstance(content, list):
        if all(isinstance(row, Mapping) for row in content):
            for row in content:
                yield from list(_rows_of_run(row, is_of_run)) or [row]
        elif all(isinstance(row, list) and len(row) == 3 for row in content):
            for row in content:
                yield dict(zip(("wall_time", "step", "value"), row, strict=True))
        return
    if not isinstance(content, Mapping):
        return
    if rows := list(_rows_of_run(content, is_of_run)):
        yield from rows
    elif content and all(isinstance(value, Mapping | list) for value in content.values()):
        yield from _rows_by_name(content, is_of_run)


def _rows_of_run(
    run: Mapping[str, Any], is_of_run: Callable[[str], bool]
) -> Iterator[Mapping[str, Any]]:
    """The rows of one run, which has them as a history or in columns; none if it has neither."""
    about = {name: value for name, value in flat(run, ".").items() if is_of_run(name)}
    history = next((run[name] for name in ("log_history", "history") if name in run), None)
    if history is not None and "log_history" in run:
        about = {}  # its global_step is that of the end
    columns = {name: value for name, value in run.items() if isinstance(value, list)}
    if isinstance(history, list | Mapping):
        for row in _rows_of(history, is_of_run):
            yield {**about, **row}
    elif {"columns", "data"} <= columns.keys():  # of pandas
        for row in columns["data"]:
            yield dict(zip(columns["columns"], row, strict=True))
    elif columns and _are_columns(columns.values()):
        for cells in zip(*columns.values(), strict=True):
            yield {**about, **dict(zip(columns, cells, strict=True))}


def _are_columns(lists: Iterable[list[Any]]) -> bool:
    is_flat = not any(isinstance(cell, Mapping | list) for column in lists for cell in column)
    return is_flat and len({len(column) for column in lists}) == 1


def _rows_by_name(
    content: Mapping[str, Any], is_of_run: Callable[[str], bool]
) -> Iterator[Mapping[str, Any]]:
    """The rows of a document whose names are of metrics, columns, rows or runs."""
    inner = [value for value in content.values() if isinstance(value, Mapping)]
    if len(inner) == len(content) and all({"steps", "values"} <= v.keys() for v in inner):  # Sacred
        for metric, series in content.items():
            named = {name.removesuffix("s"): series[name] for name in series if name != "name"}
            lists = {name: cells for name, cells in named.items() if isinstance(cells, list)}
            for cells in zip(*lists.values(), strict=True):
                yield {"metric": metric, **dict(zip(lists, cells, strict=True))}
    elif len(inner) == len(content) and all(key.isdecimal() for v in inner for key in v):
        for key in inner[0]:  # columns of pandas
            yield {name: value.get(key) for name, value in content.items()}
    elif len(inner) == len(content) and all(key.isdecimal() for key in content):
        yield from inner
    else:
        for name, value in content.items():
            for row in _rows_of(value, is_of_run):
                yield {"run": name, **row}
