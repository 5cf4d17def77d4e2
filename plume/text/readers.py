"""Readers: files and folders as a stream of documents. One bad line costs that line, and is counted.

Everything that was read is accounted for, by id: documents in = kept + dropped + quarantined (spec 24).
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

from plume.errors import UserError
from plume.text.files import LINE_LIMIT, Line, SourceFile, chunks, find, inspect, lines, lines_of

Row = dict[str, Any]
_BLANK_LINE = re.compile(rb"\n[ \t\r\v\f]*\n")


class Document(NamedTuple):
    """``id`` is "file:line" (or "file:row" where a format has no lines); ``more``: the row's further columns."""

    id: str
    text: str
    more: tuple[str, ...] = ()


class Rejected(NamedTuple):
    """A document that was not kept. Dropped: nothing in it; quarantined: damaged."""

    id: str
    status: Literal["dropped", "quarantined"]
    reason: str
    detail: str = ""


@dataclass
class Report:
    """What became of the documents that were read: ``read == kept + dropped + quarantined``.

    ``rows`` holds the first thousand rejected ones; all of them go to ``sink``.
    """

    kept: int = 0
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)  # (status, reason) -> documents
    rows: list[Rejected] = field(default_factory=list)
    sink: Callable[[Rejected], None] | None = None

    @property
    def dropped(self) -> int:
        return sum(n for (status, _), n in self.reasons.items() if status == "dropped")

    @property
    def quarantined(self) -> int:
        return sum(n for (status, _), n in self.reasons.items() if status == "quarantined")

    @property
    def read(self) -> int:
        return self.kept + sum(self.reasons.values())

    def reject(self, row: Rejected) -> None:
        self.reasons[row.status, row.reason] += 1
        if len(self.rows) < 1000:
            self.rows.append(row)
        if self.sink is not None:
            self.sink(row)


class _Bad(NamedTuple):
    """A row that could not be read."""

    number: int
    reason: str
    detail: str = ""


Parsed = Iterator[tuple[int, Row] | _Bad]


def read(
    paths: Path | str | Sequence[Path | str],
    *,
    text_column: str = "text",
    more: Sequence[str] = (),
    report: Report | None = None,
) -> Iterator[Document]:
    """The documents of files and folders, one after the other, streamed.

    .txt: documents are separated by blank lines if the file has any between text, else one document a line;
    .jsonl, .json, .csv, .tsv, .parquet: the value of ``text_column`` (a list of strings is joined by
    newlines); each plain, .gz or .zst. A byte order mark, CRLF and NUL are taken out. ``more`` names further
    columns that belong to the document, such as the translation; a row that lacks one is left out.

    Raises:
        UserError: no files, not text, another encoding, no such column, a cut off archive.
    """
    report = report if report is not None else Report()
    for source in find(paths):
        for item in read_file(source, text_column=text_column, more=more):
            if isinstance(item, Rejected):
                report.reject(item)
            else:
                report.kept += 1
                yield item


def read_file(
    source: SourceFile, *, text_column: str = "text", more: Sequence[str] = ()
) -> Iterator[Document | Rejected]:
    """The documents of one file, and in their places those that were not kept, all in the order of the file."""
    columns = (text_column, *more)
    if more and source.format == "text":
        raise _no_columns(source, columns)
    inspect(source)
    if source.format == "text":
        for line in _text(source):
            if isinstance(line, _Bad):
                yield Rejected(f"{source.name}:{line.number}", "quarantined", line.reason, line.detail)
            elif (text := clean(line[1])) and not text.isspace():
                yield Document(f"{source.name}:{line[0]}", text)
            else:
                yield Rejected(f"{source.name}:{line[0]}", "dropped", "empty")
        return
    for row in _with_columns(source, _rows(source, columns), columns):
        if isinstance(row, _Bad):
            yield Rejected(f"{source.name}:{row.number}", "quarantined", row.reason, row.detail)
            continue
        number, values = row
        text, *others = (clean(_as_text(values[column])) for column in columns)
        if text and not text.isspace() and all(other and not other.isspace() for other in others):
            yield Document(f"{source.name}:{number}", text, tuple(others))
        else:
            yield Rejected(f"{source.name}:{number}", "dropped", "empty")


def read_rows(
    path: Path | str | Sequence[Path | str], columns: Sequence[str], *, report: Report | None = None
) -> Iterator[dict[str, str]]:
    """The named columns of labelled data (csv, tsv, jsonl, json, parquet) as strings, row by row.

    Raises:
        UserError: a column is not there (the sentence lists those that are), or the file is plain text.
    """
    report = report if report is not None else Report()
    for source in find(path):
        if source.format == "text":
            raise _no_columns(source, columns)
        inspect(source)
        for row in _with_columns(source, _rows(source, columns), columns):
            if isinstance(row, _Bad):
                report.reject(Rejected(f"{source.name}:{row.number}", "quarantined", row.reason, row.detail))
                continue
            report.kept += 1
            yield {name: clean(_as_text(row[1][name])) for name in columns}


def _no_columns(source: SourceFile, columns: Sequence[str]) -> UserError:
    return UserError(
        f"{source.path} is plain text, without columns: this needs a table (.csv, .tsv, .jsonl or .parquet) with "
        f"the columns {', '.join(columns)}"
    )


def check(sources: Iterable[SourceFile], *, text_column: str = "text", more: Sequence[str] = ()) -> None:
    """The first look at every file, so that a run does not find the bad one after hours.

    Raises:
        UserError: naming the files that cannot be read.
    """
    sentences = []
    for source in sources:
        try:
            inspect(source)
            if source.format != "text" or more:
                next(iter(read_file(source, text_column=text_column, more=more)), None)
        except UserError as error:
            sentences.append(str(error))
    if len(sentences) > 5:
        sentences[5:] = [f"and {len(sentences) - 5} more files like these"]
    if sentences:
        raise UserError("\n".join(sentences))


def clean(text: str) -> str:
    """``text`` without NULs and byte order mark, with ``\\n`` line ends, and valid as UTF-8."""
    if not text.isascii():
        if text[0] == "\ufeff":
            text = text[1:]
        if not valid(text):  # JSON may hold halves of surrogate pairs
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if "\x00" in text:
        text = text.replace("\x00", "")
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text


def valid(text: str) -> bool:
    """Whether ``text`` can be written as UTF-8: it holds no lone surrogates."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return False
    return True


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        return "\n".join(value)
    return json.dumps(value, ensure_ascii=False)


def _with_columns(source: SourceFile, rows: Parsed, columns: Sequence[str]) -> Parsed:
    """Rows that have all columns. No row among the first that has them: the file has no such column."""
    held: list[tuple[int, Row] | _Bad] = []
    names: dict[str, None] = {}
    known = False
    for row in rows:
        if not isinstance(row, _Bad):
            missing = [c for c in columns if c not in row[1]]
            if not missing:
                known = True
            else:
                names.update(dict.fromkeys(row[1]))
                row = _Bad(row[0], f"no column {missing[0]!r}")
        if known:
            yield from held
            held = []
            yield row
            continue
        held.append(row)
        if sum(bad.reason.startswith("no column") for bad in held if isinstance(bad, _Bad)) >= 10:
            break
    if names and not known:
        wanted = ", ".join(repr(c) for c in columns if c not in names) or ", ".join(map(repr, columns))
        raise UserError(
            f"{source.path} has no column {wanted}; there are: {', '.join(map(repr, names))}. Name the right one with "
            f"--text-column (and --label-column), those of pairs in training with windows.source and windows.target "
            f"(source and target in a file of tasks)"
        )
    yield from held


def _rows(source: SourceFile, columns: Sequence[str]) -> Parsed:
    if source.format == "parquet":
        return _parquet(source, columns)
    if source.format == "json":
        return _json(source, columns)
    if source.format == "jsonl":
        return _jsonl(source, columns)
    return _table(source, columns)


def _decoded(line: Line) -> str | _Bad:
    if line.data is None:
        return _Bad(line.number, "line too long", f"{line.size} bytes, the limit is {LINE_LIMIT}")
    try:
        return line.data.decode()
    except UnicodeDecodeError as error:
        at = line.offset + error.start
        return _Bad(line.number, "not UTF-8", f"byte 0x{line.data[error.start]:02x} at offset {at}")


def _text(source: SourceFile) -> Iterator[tuple[int, str] | _Bad]:
    if not _has_blank_lines(source):
        yield from _text_lines(source)
        return
    held: list[str] = []
    size, first = 0, 1
    for line in lines(source, pieces=True):
        text = _decoded(line)
        if isinstance(text, _Bad):
            yield text  # costs this line; the document goes on around it
            continue
        blank = not text or text.isspace()
        if held and (blank or size + len(text) > LINE_LIMIT):
            yield first, "\n".join(held)
            held, size = [], 0
        if not blank:
            first = first if held else line.number
            held.append(text)
            size += len(text)
    if held:
        yield first, "\n".join(held)


def _text_lines(source: SourceFile) -> Iterator[tuple[int, str] | _Bad]:
    """A document a line. Many are decoded at once, up to the first bytes with something unusual in them."""
    stream = chunks(source)
    number, offset, rest = 1, 0, b""
    for chunk in stream:
        data = rest + chunk
        end = data.rfind(b"\n") + 1
        try:
            texts = None if len(data) > LINE_LIMIT or b"\r" in data else data[:end].decode().split("\n")
        except UnicodeDecodeError:
            texts = None
        if texts is None:
            yield from _text_line_by_line(chain([data], stream), number, offset)
            return
        texts.pop()  # what follows the last newline
        for text in texts:
            if text:
                yield number, text
            number += 1
        offset, rest = offset + end, data[end:]
    yield from _text_line_by_line([rest], number, offset)


def _text_line_by_line(stream: Iterable[bytes], number: int, offset: int) -> Iterator[tuple[int, str] | _Bad]:
    for line in lines_of(stream, pieces=True, number=number, offset=offset):
        text = _decoded(line)
        if isinstance(text, _Bad):
            yield text
        elif text:
            yield line.number, text


def _has_blank_lines(source: SourceFile) -> bool:
    """Whether a blank line stands between two lines of text; a file's last empty line separates nothing."""
    rest = b""
    for chunk in chunks(source):
        data = rest + chunk
        if _BLANK_LINE.search(data):
            break
        tail = data[data.rfind(b"\n") + 1 :]
        rest = b"" if tail.strip() else b"\n" + tail
    else:
        return False
    text = blank = False
    for line in lines(source, pieces=True):
        if line.data is not None and not line.data.strip():
            blank = text
        elif blank:
            return True
        else:
            text = True
    return False


def _parse(number: int, text: str, columns: Sequence[str]) -> tuple[int, Row] | _Bad:
    try:
        value = json.loads(text)
    except RecursionError:
        return _Bad(number, "not JSON", "nested too deep")
    except ValueError as error:
        return _Bad(number, "not JSON", str(error)[:200])
    return _as_row(number, value, columns)


def _as_row(number: int, value: Any, columns: Sequence[str]) -> tuple[int, Row] | _Bad:
    if isinstance(value, dict):
        return number, value
    if isinstance(value, str) and len(columns) == 1:
        return number, {columns[0]: value}
    return _Bad(number, "not a JSON object")


def _jsonl(source: SourceFile, columns: Sequence[str]) -> Parsed:
    for line in lines(source):
        text = _decoded(line)
        if isinstance(text, _Bad):
            yield text
        elif text and not text.isspace():
            yield _parse(line.number, text, columns)


def _json(source: SourceFile, columns: Sequence[str]) -> Parsed:
    """A .json file: lines of JSON after all, or one array whose elements are taken off one by one."""
    stream = lines(source, pieces=True)
    first = next((line for line in stream if line.data is None or line.data.strip()), None)
    if first is None:
        return
    head = _decoded(first)
    if isinstance(head, str) and not head.lstrip().startswith("["):
        whole = _parse(first.number, head, columns)
        if not isinstance(whole, _Bad):  # one object a line
            yield whole
            for line in stream:
                text = _decoded(line)
                if isinstance(text, _Bad):
                    yield text
                elif text and not text.isspace():
                    yield _parse(line.number, text, columns)
            return
    yield from _array(first, stream, columns)


def _array(first: Line, stream: Iterator[Line], columns: Sequence[str]) -> Parsed:
    decoder = json.JSONDecoder()
    buffer, number, wanted = "", 0, 0
    inside = False
    line: Line | None = first
    while line is not None:
        text = _decoded(line)
        line = next(stream, None)
        if isinstance(text, _Bad):
            yield text
            continue
        buffer += text + "\n"
        if len(buffer) < wanted and line is not None:
            continue  # an element that was incomplete before: try again when there is twice as much
        at = 0
        if not inside:
            at = len(buffer) - len(buffer.lstrip())
            inside = buffer[at : at + 1] == "["
            at += inside
        while True:
            while at < len(buffer) and (buffer[at].isspace() or buffer[at] == ","):
                at += 1
            if at >= len(buffer) or buffer[at] == "]":
                wanted = 0
                break
            try:
                value, end = decoder.raw_decode(buffer, at)
            except RecursionError:
                yield _Bad(number + 1, "not JSON", "nested too deep")
                return
            except ValueError as error:
                wanted = 2 * (len(buffer) - at)
                if wanted > 2 * LINE_LIMIT or line is None:
                    yield _Bad(
                        number + 1, "not JSON", f"{str(error)[:200]}: the rest of the file cannot be read"
                    )
                    return
                break
            number += 1
            yield _as_row(number, value, columns)
            at = end
        buffer = buffer[at:]


class _Unclosed(Exception):
    """A quoted field that does not end."""


def _table(source: SourceFile, columns: Sequence[str]) -> Parsed:
    """Comma or tab separated values with a header. A quote that never closes costs its line only."""
    csv.field_size_limit(LINE_LIMIT)
    stream = lines(source)
    waiting: deque[tuple[int, str]] = deque()  # lines to be read again
    record: list[tuple[int, str]] = []  # the lines of the record that is being read
    bad: list[_Bad] = []
    size = 0
    ended = False

    def feed() -> Iterator[str]:
        nonlocal size, ended
        while True:
            if waiting:
                number, text = waiting.popleft()
            else:
                line = next(stream, None)
                if line is None:
                    ended = True
                    return
                decoded = _decoded(line)
                if isinstance(decoded, _Bad):
                    bad.append(decoded)
                    continue
                number, text = line.number, decoded
            record.append((number, text))
            size += len(text)
            if size > 2**20 and len(record) > 1:
                raise _Unclosed
            yield text + "\n"

    header: list[str] | None = None
    delimiter = "\t" if source.format == "tsv" else ","
    reader = csv.reader(feed(), delimiter=delimiter)
    while True:
        record.clear()
        size = 0
        try:
            fields = next(reader, None)
            if fields is not None and len(record) > 1:
                if ended:
                    _closed(record, delimiter)  # the file ended inside quotes?
                if header is not None and len(fields) != len(header):
                    raise _Unclosed  # a quote was closed by the next line's opening one
        except (csv.Error, _Unclosed):
            number, text = record[0]
            waiting.extendleft(reversed(record[1:]))
            ended = False
            reader = csv.reader(feed(), delimiter=delimiter)
            plain = next(csv.reader([text], delimiter=delimiter, quoting=csv.QUOTE_NONE))
            if header is not None and len(plain) == len(header):
                yield number, dict(zip(header, plain, strict=True))
            else:
                bad.append(_Bad(number, "unclosed quote"))
            fields = []
        yield from bad
        bad.clear()
        if fields is None:
            return
        if not fields or not record:
            continue
        number = record[0][0]
        if header is None:
            if delimiter == "," and not set(columns) <= set(fields):
                # Spreadsheets of half of Europe write semicolons.
                other = next(csv.reader([text for _, text in record], delimiter=";"))
                if set(columns) <= set(other):
                    fields, delimiter = other, ";"
                    reader = csv.reader(feed(), delimiter=delimiter)
            header = [clean(name.strip()) if name else name for name in fields]
            if not set(columns) <= set(header):
                yield number, dict.fromkeys(header)  # _with_columns makes the sentence of it
                for _ in range(9):
                    yield number, dict.fromkeys(header)
                return
        elif len(fields) == len(header):
            yield number, dict(zip(header, fields, strict=True))
        else:
            yield _Bad(number, "wrong number of fields", f"{len(fields)}, the header has {len(header)}")


def _closed(record: list[tuple[int, str]], delimiter: str) -> None:
    text = "".join(line + "\n" for _, line in record)
    for _ in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True):
        pass


def _parquet(source: SourceFile, columns: Sequence[str]) -> Parsed:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise UserError(f"{source.path} is a parquet table: pip install pyarrow to read it") from None
    if source.packed:
        raise UserError(f"{source.path}: parquet is packed inside already; unpack the {source.packed} first")
    number = 0
    try:
        with parquet.ParquetFile(source.path) as table:
            names = table.schema_arrow.names
            if not set(columns) <= set(names):
                yield from ((1, dict.fromkeys(names)) for _ in range(10))
                return
            for batch in table.iter_batches(batch_size=256, columns=list(columns)):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (arrow.ArrowException, OSError) as error:
        raise UserError(
            f"{source.path} is cut off or damaged after {number} rows ({str(error)[:200]}): "
            f"fetch it again, or take it away"
        ) from None
