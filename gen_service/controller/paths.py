"""Which paths a client may name: prompts and outputs under the roots that the operator wrote, and nothing else.

A path is compared with the roots as text before the disk is touched, and again after its links are resolved, so a
client learns nothing of what lies outside: a path there and one that does not exist are refused in the same words.
Whoever can write under a root could still put a link there after the check: roots are folders of people who may read
what the service reads.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from gen_service.errors import InvalidRequest
from gen_service.storage.destination import is_url, local_path

# A folder of prompts is looked through for links; one of more entries than this would hold a thread for minutes.
MOST_ENTRIES = 100_000
# Scheme, place and path of an object store; no user, query, fragment, escape or empty segment.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#%@\\]*(/[^/?#%\\]+)*/?")


def allowed_prompt_path(path: str, roots: Sequence[Path]) -> Path:
    """The file or folder that `path` names, without links, where it lies under one of `roots`.

    Looks at the disk: to be called in a thread. Each link in a folder must stay under a root too.

    Args:
        path: absolute; never a URL.

    Raises:
        InvalidRequest: of field `prompts.path`; in the same words for what lies outside and for what does not exist.
    """
    resolved_roots = _resolved_roots([str(root) for root in roots])
    try:
        found = _resolved(path, roots, resolved_roots)
        if found is not None and (found.is_file() or (found.is_dir() and _keeps_inside(found, resolved_roots))):
            return found
    except OSError:  # A folder that may not be read.
        pass
    raise _refusal("prompts.path", path, "the absolute path of a file or folder under one of data.prompt_roots", roots)


def allowed_output(path: str, roots: Sequence[str]) -> str:
    """The place that `path` names, without links, where it lies under one of `roots`; it need not exist yet.

    Looks at the disk: to be called in a thread.

    Args:
        path: an absolute local path, or a URL where a root is one.
        roots: local folders, and URLs, which are compared by whole segments.

    Raises:
        InvalidRequest: of field `output.path`.
    """
    try:
        found = _allowed_url(path, roots) if is_url(path) else _allowed_folder(path, roots)
    except OSError:
        found = None
    if found is None:
        raise _refusal("output.path", path, "the absolute path of a folder under one of data.output_roots", roots)
    return found


def allowed_dataset(name: str) -> str:
    """The id of a data set on the hub, `owner/name` or `name`.

    The `datasets` library takes a name for a local folder before it asks the hub, so one that names anything in the
    working folder is refused. Looks at the disk: to be called in a thread.

    Raises:
        InvalidRequest: of field `prompts.dataset`.
    """
    if any(segment.startswith(".") for segment in name.split("/")) or Path(name).exists():
        words = f"prompts.dataset: got {name!r}; expected the id of a data set on the hub, owner/name"
        raise InvalidRequest(words, field="prompts.dataset")
    return name


def _refusal(field: str, path: str, expected: str, roots: Sequence[object]) -> InvalidRequest:
    none = "" if roots else ", of which this service has none"
    return InvalidRequest(f"{field}: got {path!r}; expected {expected}{none}", field=field)


def _resolved_roots(roots: Sequence[str]) -> list[Path]:
    return [local_path(root).resolve() for root in roots]


def _resolved(path: str, roots: Sequence[Path], resolved_roots: Sequence[Path]) -> Path | None:
    """The place without links, or None where it is not under a root, as it is written or after that."""
    written_roots = [*(root.absolute() for root in roots), *resolved_roots]
    if not _is_plain(path) or not _is_under(Path(path), written_roots):
        return None
    try:
        found = Path(path).resolve()
    except (OSError, RuntimeError):  # A circle of links, or a name that is too long.
        return None
    return found if _is_plain(str(found)) and _is_under(found, resolved_roots) else None


def _is_plain(path: str) -> bool:
    """Whether this is one local path to whoever reads it: fsspec would chain file systems at `::`."""
    return path.startswith("/") and path.isprintable() and "::" not in path and ".." not in path.split("/")


def _is_under(path: Path, roots: Sequence[Path]) -> bool:
    return any(path.is_relative_to(root) for root in roots)


def _keeps_inside(folder: Path, roots: Sequence[Path]) -> bool:
    """Whether each link in a folder, and in the folders that it leads to, ends under a root."""
    waiting, seen, entries = [folder], {folder}, 0
    while waiting:
        for entry in waiting.pop().iterdir():
            entries += 1
            try:
                target = entry.resolve() if entry.is_symlink() else entry
            except RuntimeError:  # A circle of links.
                return False
            if entries > MOST_ENTRIES or not _is_under(target, roots):
                return False
            if target not in seen and target.is_dir():
                seen.add(target)
                waiting.append(target)
    return True


def _allowed_folder(path: str, roots: Sequence[str]) -> str | None:
    local = [root for root in roots if not is_url(root)]
    found = _resolved(path, [local_path(root) for root in local], _resolved_roots(local))
    if found is None or not next(folder for folder in (found, *found.parents) if folder.exists()).is_dir():
        return None
    return str(found)


def _allowed_url(path: str, roots: Sequence[str]) -> str | None:
    wanted = _segments(path)
    allowed = [_segments(root) for root in roots if is_url(root)]
    if wanted is None or not any(root is not None and wanted[: len(root)] == root for root in allowed):
        return None
    return f"{wanted[0]}://{'/'.join(wanted[1:])}"


def _segments(url: str) -> tuple[str, ...] | None:
    """Scheme, place and each segment of the path; None for what two readers could take for two places."""
    if not _URL.fullmatch(url) or not url.isprintable() or "::" in url:
        return None
    scheme, _, rest = url.partition("://")
    segments = rest.rstrip("/").split("/")
    return None if {".", ".."} & set(segments) else (scheme.lower(), *segments)
