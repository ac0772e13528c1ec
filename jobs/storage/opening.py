"""From a URL to the store that has it."""

from __future__ import annotations

from pathlib import Path

from jobs.errors import UsageError
from jobs.storage.base import Store
from jobs.storage.local import LocalStore
from jobs.tasks import StoreOptions


def open_store(url: str, options: StoreOptions | None = None) -> Store:
    """Open the folder or `s3://bucket/prefix` at `url`; nothing is created until something is written.

    Raises:
        UsageError: If the URL has a scheme that is not known.
    """
    if url.startswith("s3://"):
        from jobs.storage.s3 import S3Store

        return S3Store(url, options or StoreOptions())
    if "://" in url:
        raise UsageError(f"cannot open {url!r}", "give a folder or an s3://bucket/prefix URL")
    return LocalStore(url)


def store_and_key(url: str) -> tuple[str, str]:
    """Return the store and the key of one file: its folder and name, or its bucket and the rest.

    Raises:
        UsageError: If an `s3://` URL names no object.
    """
    if not url.startswith("s3://"):
        path = Path(url)
        return str(path.parent), path.name
    bucket, _, key = url.removeprefix("s3://").partition("/")
    if not bucket or not key:
        raise UsageError(f"{url!r} names no object", "write s3://bucket/key")
    return f"s3://{bucket}", key
