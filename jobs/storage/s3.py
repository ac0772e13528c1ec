"""S3 and what speaks like it, through boto3, which only this file and its client know.

S3 has no rename: the commit of a result is one conditional put, and the attempt that made it stands in the
object's metadata. What a lost reply hides, the metadata tell.
"""

from __future__ import annotations

import io
import logging
import mimetypes
import os
import random
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError

from jobs.errors import BadInputError, FarmError, StorageError, UsageError
from jobs.records import Record
from jobs.storage import objects
from jobs.storage.base import FARM_PREFIX, Committed, Entry, Found
from jobs.storage.rules import safe_key
from jobs.storage.s3_client import (
    CREDENTIALS_HINT,
    CUT_OFF,
    UnsupportedError,
    code_of,
    explain,
    shared_client,
)
from jobs.tasks import StoreOptions

CONTENTION_ATTEMPTS = 8
"""Times that a put which met another one, or a read that broke off, is tried."""

LONGEST_PAUSE_S = 4.0
SINGLE_PUT_LIMIT_BYTES = 5 * 1024**3
MULTIPART_FROM_BYTES = 64 * 1024**2

UPLOAD_AGE_S = 600.0
"""Uploads in parts that are younger may be at work, whoever's they are: an upload is renewed by nobody."""

_ABSENT = frozenset({"404", "NoSuchKey", "NotFound"})
_CONTENDED = frozenset({"ConditionalRequestConflict", "OperationAborted"})
log = logging.getLogger(__name__)


class S3Store:
    """A bucket, or a prefix in one; see `jobs.storage.base.Store`.

    Args:
        url: `s3://bucket/prefix`.
        options: How to reach it; credentials come from where boto3 finds them.
    """

    def __init__(self, url: str, options: StoreOptions | None = None) -> None:
        self._bucket, self._prefix = _split(url)
        self.url = f"s3://{self._bucket}/{self._prefix}".rstrip("/")
        self.honors_conditions = True
        self._probed = False
        self._probing = threading.Lock()
        self._answered = False
        self._client = shared_client(options or StoreOptions())
        self._endpoint = self._client.meta.endpoint_url

    # Files.

    def list(self, prefix: str = "", *, recursive: bool = True) -> Iterator[Entry]:
        """Yield the objects below `prefix`, page by page, in the order of the store."""
        folder = f"{safe_key(prefix.rstrip('/'))}/" if prefix else ""
        return self.beginning(folder, recursive=recursive)

    def stat(self, key: str) -> Entry | None:
        """Return the object at `key`, or None."""
        head = self.head(key)
        return Entry(key, head.size_bytes, head.stamp) if head else None

    def read(self, key: str, *, limit_bytes: int | None = None) -> bytes:
        """Return the content."""
        last: BotoCoreError | None = None
        for pause_s in _pauses():
            try:
                return self._get(key, limit_bytes)
            except CUT_OFF as error:
                log.info("reading %s/%s broke off: %s", self.url, key, error)
                last = error
                time.sleep(pause_s)
        raise StorageError(f"reading {self.url}/{key} broke off again and again", "try again later") from last

    def write(self, key: str, data: bytes | Path) -> None:
        """Put `data` under `key`; a large one in parts, which become an object together."""
        name, source = self._name(key), data.open("rb") if isinstance(data, Path) else io.BytesIO(data)
        with source, self._asking(f"write {key!r}"):
            self._client.upload_fileobj(
                source,
                self._bucket,
                name,
                ExtraArgs={"ContentType": _content_type(key)},
                Config=TransferConfig(multipart_threshold=MULTIPART_FROM_BYTES),
            )

    def create(self, key: str, data: bytes) -> bool:
        """Put `data` under `key` if nothing is there; exactly one does, if the store honors conditions."""
        return objects.create(self, key, data)

    def delete(self, key: str) -> None:
        """Remove `key`."""
        name = self._name(key)
        with self._asking(f"delete {key!r}"):
            self._client.delete_object(Bucket=self._bucket, Key=name)

    def free_bytes(self) -> None:
        """Return None: such a store does not say."""
        return

    def sweep(self, older_than_s: float) -> int:
        """End uploads in parts below `.farm/` that were begun before, at least `UPLOAD_AGE_S` ago.

        The farm uploads nothing else in parts to an output; what others upload there is theirs.
        """
        before = datetime.now(UTC) - timedelta(seconds=max(older_than_s, UPLOAD_AGE_S))
        count = 0
        try:
            with self._asking("list unfinished uploads"):
                pages = self._client.get_paginator("list_multipart_uploads")
                for page in pages.paginate(Bucket=self._bucket, Prefix=f"{self._folder()}{FARM_PREFIX}/"):
                    for upload in page.get("Uploads", []):
                        if upload["Initiated"] <= before:
                            count += self._end_upload(upload["Key"], upload["UploadId"])
        except UnsupportedError:  # a store without multipart has nothing to end
            return 0
        return count

    def _end_upload(self, name: str, upload: str) -> bool:
        """End an upload; return False if it has just ended by itself."""
        try:
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=name, UploadId=upload)
        except ClientError as error:
            if code_of(error)[0] != "NoSuchUpload":
                raise
            return False
        return True

    def probe(self) -> None:
        """Prove that objects and metadata can be written, read and removed, and whether conditions count.

        Raises:
            UsageError: Also if nothing has ever answered at the store's address: whoever waits for the answer
                has most likely written a wrong one.
        """
        try:
            self._try_out()
        except StorageError as error:
            if self._answered:
                raise
            raise UsageError(error.message, error.hint) from error

    def _try_out(self) -> None:
        key, content = f"{FARM_PREFIX}/probe-{uuid.uuid4().hex}", os.urandom(16)
        self.put(key, content, {"farm-probe": "1"}, {})
        try:
            head = self.head(key)
            if head is None or self.read(key) != content:
                raise StorageError(f"{self.url} does not keep what is written", "use another store")
            if head.metadata.get("farm-probe") != "1":
                raise UsageError(f"{self.url} does not keep the metadata of objects", "use another store")
            self.honors_conditions = self._honors(key, head.stamp)
        finally:
            self.delete(key)
        self._probed = True

    # Results.

    def find(self, key: str) -> Found:
        """Return what stands at an output key: one request, if the object there is ours."""
        return objects.find(self, key)

    def commit(self, record: Record, data: bytes, found: Found, *, on_existing: str = "fail") -> Committed:
        """Make `data` the result at `record.key` with one single put, for exactly one attempt."""
        if len(data) > SINGLE_PUT_LIMIT_BYTES:
            raise UsageError(
                f"{record.key}: {len(data)} bytes are too much for one put", "choose a smaller format"
            )
        return objects.commit(self, record, data, found, on_existing=on_existing)

    # Requests; see `jobs.storage.objects.Objects`.

    def conditional(self) -> bool:
        """Return whether the store honors conditions; the first who needs to know finds out."""
        with self._probing:
            if not self._probed:
                self._try_out()
        return self.honors_conditions

    def _honors(self, key: str, stamp: str) -> bool:
        """Return whether puts to an object that is there end as their conditions say."""
        cases = [
            ({"IfNoneMatch": "*"}, False),
            ({"IfMatch": '"00000000000000000000000000000000"'}, False),
            ({"IfMatch": f'"{stamp}"'}, True),
        ]
        try:
            return all(self.put(key, b"", {}, condition) is expected for condition, expected in cases)
        except UnsupportedError:
            return False

    def put(self, key: str, data: bytes, metadata: Mapping[str, str], condition: Mapping[str, str]) -> bool:
        """Put an object; return False if `condition` did not hold."""
        name, content_type = self._name(key), _content_type(key)
        for pause_s in _pauses():
            with self._asking(f"write {key!r}"):
                try:
                    self._client.put_object(
                        Bucket=self._bucket,
                        Key=name,
                        Body=data,
                        Metadata=metadata,
                        ContentType=content_type,
                        **condition,
                    )
                except ClientError as error:
                    code, status = code_of(error)
                    if condition and (status == 412 or code == "NoSuchKey"):
                        return False
                    if code not in _CONTENDED:
                        raise
                else:
                    return True
            time.sleep(pause_s)
        raise StorageError(f"{self.url}/{key} is written by others all the time", "try again later")

    def head(self, key: str) -> objects.Head | None:
        """Return what one request tells of the object at `key`, or None."""
        name = self._name(key)
        with self._asking(f"look at {key!r}"):
            try:
                answer = self._client.head_object(Bucket=self._bucket, Key=name)
            except ClientError as error:
                if code_of(error)[0] in _ABSENT:
                    return None
                raise
        metadata = {k.lower(): v for k, v in answer["Metadata"].items()}
        return objects.Head(answer["ContentLength"], answer["ETag"].strip('"'), metadata)

    def _get(self, key: str, limit_bytes: int | None) -> bytes:
        name = self._name(key)
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=name)
        except ClientError as error:
            if code_of(error)[0] in _ABSENT:
                raise FileNotFoundError(f"{self.url}/{key}") from None
            raise self._explained(error, f"read {key!r}") from error
        except BotoCoreError as error:
            raise self._explained(error, f"read {key!r}") from error
        with answer["Body"] as body:
            if limit_bytes is not None and answer["ContentLength"] > limit_bytes:
                raise BadInputError(f"{self.url}/{key} is larger than {limit_bytes} bytes")
            self._answered = True
            content: bytes = body.read()
            return content

    def beginning(self, start: str, *, recursive: bool) -> Iterator[Entry]:
        """Yield the objects whose keys begin with `start`."""
        folder = self._folder()
        request: dict[str, Any] = {"Bucket": self._bucket, "Prefix": folder + start}
        if not recursive:
            request["Delimiter"] = "/"
        pages = iter(self._client.get_paginator("list_objects_v2").paginate(**request))
        while True:
            with self._asking(f"list {start!r}"):
                page = next(pages, None)
            if page is None:
                return
            for found in page.get("Contents", []):
                if not found["Key"].endswith("/"):  # some programs make objects that stand for folders
                    yield Entry(found["Key"].removeprefix(folder), found["Size"], found["ETag"].strip('"'))

    def _folder(self) -> str:
        return f"{self._prefix}/" if self._prefix else ""

    def _name(self, key: str) -> str:
        return self._folder() + safe_key(key)

    # Errors.

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        try:
            yield
        except (ClientError, BotoCoreError) as error:
            raise self._explained(error, what) from error
        self._answered = True

    def _explained(self, error: ClientError | BotoCoreError, what: str) -> FarmError:
        self._answered = self._answered or isinstance(error, ClientError)
        return explain(error, f"{what} in {self.url}", self._endpoint, answered=self._answered)


def _split(url: str) -> tuple[str, str]:
    """Return bucket and prefix of an `s3://` URL."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    if "@" in bucket or ":" in bucket:
        raise UsageError("an s3:// URL holds a bucket and a prefix only", CREDENTIALS_HINT)
    if not bucket:
        raise UsageError(f"{url!r} names no bucket", "write s3://bucket/prefix")
    prefix = prefix.strip("/")
    return bucket, safe_key(prefix) if prefix else ""


def _pauses() -> Iterator[float]:
    """Yield seconds to wait before each next attempt, random so that contenders part."""
    for attempt in range(CONTENTION_ATTEMPTS):
        yield random.uniform(0, min(LONGEST_PAUSE_S, 0.05 * 2**attempt))  # noqa: S311 - no secret


def _content_type(key: str) -> str:
    return mimetypes.guess_type(key)[0] or "application/octet-stream"
