"""The form of an upload, parsed as it streams in: one file and its purpose, in any order."""

from __future__ import annotations

import unicodedata
from pathlib import PurePosixPath

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from gen_service.errors import InvalidRequest, UnsupportedMedia
from gen_service.web.incoming import IncomingFile

PURPOSES = ("batch", "prompts")
FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"}
LONGEST_FILENAME = 255
_COMPRESSED = frozenset({".gz", ".zst", ".bz2", ".xz", ".zip", ".lz4", ".z", ".7z", ".tgz"})
_PLAIN = frozenset({"", "binary", "8bit", "7bit"})
_LONGEST_FIELD = 100
_MOST_HEADERS, _LONGEST_HEADER = 8, 4096
_NAMELESS = "upload"


class UploadForm:
    """Takes the bytes of a multipart/form-data body; file bytes go on to `file` at once.

    Args:
        content_type: the request's.
        file: takes what is in the part `file`.

    Attributes:
        purpose, filename: None until they came.
    """

    def __init__(self, content_type: str, file: IncomingFile) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data":
            expected = "multipart/form-data with the parts file and purpose"
            raise UnsupportedMedia(f"the body must be {expected}, not {content_type!r:.100}", field="Content-Type")
        self.purpose: str | None = None
        self.filename: str | None = None
        self._file = file
        self._names: set[str] = set()
        self._name = ""
        self._value = bytearray()
        self._header = bytearray(), bytearray()
        self._headers: dict[str, str] = {}
        self._is_whole = False
        try:
            self._parser = self._make_parser(options.get(b"boundary", b""))
        except FormParserError as error:
            raise InvalidRequest(f"Content-Type: {error}", field="Content-Type") from error

    @property
    def format(self) -> str | None:
        """`jsonl`, `csv` or `parquet`; None while that is not known."""
        if self.purpose is None or self.filename is None:
            return None
        return "jsonl" if self.purpose == "batch" else FORMATS[_ending(self.filename)]

    def feed(self, data: bytes) -> None:
        """Take more of the body.

        Raises:
            RequestError: the form, the file or its purpose is refused.
            OSError: the disk failed, or is full.
        """
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise InvalidRequest(f"the body is not multipart/form-data: {error}") from error
        if self.format == "jsonl":
            self._file.check_lines()

    def finish(self) -> int | None:
        """The body ended; the lines or rows of the file, None where they are not counted.

        Raises:
            RequestError: something is missing, or the file is not what its name says.
        """
        if not self._is_whole:
            raise InvalidRequest("the body ended before the form did")
        for part in ("file", "purpose"):
            if part not in self._names:
                raise InvalidRequest(f"{part}: missing; it is required", field=part, code="missing_required_parameter")
        if self._file.bytes == 0:
            raise InvalidRequest("file: it is empty; expected at least one line", field="file", code="empty_file")
        if self.format == "parquet":
            return self._file.check_parquet()
        self._file.check_is_text()
        return self._file.counter.lines if self.format == "jsonl" else None

    def _make_parser(self, boundary: bytes) -> MultipartParser:
        if not boundary:
            raise InvalidRequest("Content-Type: it has no boundary", field="Content-Type")
        return MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._open_part,
                "on_part_data": self._take,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
            max_header_count=_MOST_HEADERS,
            max_header_size=_LONGEST_HEADER,
        )

    def _begin_part(self) -> None:
        self._headers = {}
        self._value.clear()

    def _end_header(self) -> None:
        name, value = (bytes(piece).decode("latin-1") for piece in self._header)
        self._headers[name.strip().lower()] = value.strip()
        self._header = bytearray(), bytearray()

    def _open_part(self) -> None:
        _, options = parse_options_header(self._headers.get("content-disposition"))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name not in ("file", "purpose"):
            raise InvalidRequest(f"{name!r:.100}: no such field; expected file and purpose", field=name[:100])
        if name in self._names:
            raise InvalidRequest(f"{name}: given twice", field=name)
        encoding = self._headers.get("content-transfer-encoding", "").lower()
        if "content-encoding" in self._headers or encoding not in _PLAIN:
            raise UnsupportedMedia(f"{name}: it is encoded; expected it as it is", field=name)
        self._name = name
        self._names.add(name)
        if name == "file":
            self.filename = plain_filename(options.get(b"filename", b"").decode("utf-8", "replace"))
            self._check_name()

    def _take(self, data: bytes, start: int, end: int) -> None:
        if self._name == "file":
            self._file.write(data[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > _LONGEST_FIELD:
            raise InvalidRequest(f"{self._name}: longer than {_LONGEST_FIELD} bytes", field=self._name)

    def _end_part(self) -> None:
        if self._name == "purpose":
            value = self._value.decode("utf-8", "replace")
            if value not in PURPOSES:
                raise InvalidRequest(f"purpose: got {value!r}; expected one of {', '.join(PURPOSES)}", field="purpose")
            self.purpose = value
            self._check_name()

    def _end(self) -> None:
        self._is_whole = True

    def _check_name(self) -> None:
        """The name says the format of prompts, and must not say otherwise for a batch."""
        if self.filename is None:
            return
        ending = _ending(self.filename)
        if ending in _COMPRESSED:
            words = f"got {self.filename!r}; expected a file that is not compressed"
            raise UnsupportedMedia(f"file: {words}", field="file", code="compressed")
        if self.purpose == "batch" and FORMATS.get(ending, "jsonl") != "jsonl":
            raise InvalidRequest(f"file: got {self.filename!r}; expected JSONL for a batch", field="file")
        if self.purpose == "prompts" and ending not in FORMATS:
            expected = f"a name ending in {', '.join(FORMATS)}"
            raise InvalidRequest(f"file: got {self.filename!r}; expected {expected}", field="file")


def plain_filename(given: str) -> str:
    """A client's filename as text to show: its last component, without characters that steer a terminal or a page,
    at most 255 characters with its ending kept; `upload` where nothing is left."""
    last = given.replace("\\", "/").rsplit("/", 1)[-1]
    text = "".join(char for char in last if unicodedata.category(char)[0] != "C" and char not in "\u2028\u2029").strip()
    if text in ("", ".", ".."):
        return _NAMELESS
    ending = PurePosixPath(text).suffix[:20]
    return text if len(text) <= LONGEST_FILENAME else text[: LONGEST_FILENAME - len(ending)] + ending


def _ending(filename: str) -> str:
    return PurePosixPath(filename).suffix.lower()
