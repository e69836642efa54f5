"""job.json: what a job folder is for, so that two different jobs never share one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import orjson

from gen_service.errors import JobMismatch, StorageError
from gen_service.storage.destination import Destination

JOB_VERSION = 1
NAME = "job.json"


def write_job(destination: Destination, job_id: str, spec: dict[str, Any], identity: dict[str, Any]) -> None:
    """Write job.json, or check it against the one that is there and bring its spec up to date.

    Args:
        spec: the accepted spec, JSON values only; may change from run to run.
        identity: the part of it that decides what a sample is; may not change.

    Raises:
        JobMismatch: the folder belongs to a job of another identity; names the fields that differ.
        StorageError: job.json is damaged, or of a later version.
    """
    tree = {
        "version": JOB_VERSION,
        "job_id": job_id,
        "identity_sha256": hashlib.sha256(orjson.dumps(identity, option=orjson.OPT_SORT_KEYS)).hexdigest(),
        "identity": identity,
        "spec": spec,
    }
    check_identity(destination, identity)
    destination.put(NAME, orjson.dumps(tree, option=orjson.OPT_INDENT_2))


def check_identity(destination: Destination, identity: dict[str, Any]) -> None:
    """Check job.json, where there is one, against what the folder is to be for; raises as `write_job`."""
    if (before := read_job(destination)) is not None:
        differing = list(_differences("", before["identity"], orjson.loads(orjson.dumps(identity))))
        if differing:
            raise JobMismatch(f"{destination.locate(NAME)} is of another job: " + "; ".join(differing))


def read_job(destination: Destination) -> dict[str, Any] | None:
    """What job.json holds; None when there is none.

    Raises:
        StorageError: it is damaged, or of a later version.
    """
    try:
        data = destination.read(NAME)
    except FileNotFoundError:
        return None
    try:
        tree: dict[str, Any] = orjson.loads(data)
        version, _ = tree["version"], tree["identity"]
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{destination.locate(NAME)} cannot be read: {error!r}") from error
    if version > JOB_VERSION:
        raise StorageError(f"{destination.locate(NAME)} has version {version}, newer than {JOB_VERSION}")
    return tree


def _differences(prefix: str, before: object, now: object) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            yield from _differences(f"{prefix}.{key}" if prefix else key, before.get(key), now.get(key))
    elif before != now:
        yield f"{prefix} was {before!r} and is now {now!r}"
