"""Clients of boto3: made once for all stores that may share them, and what their errors mean for a person."""

from __future__ import annotations

import os
import threading
from typing import Any
from weakref import WeakValueDictionary

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    MetadataRetrievalError,
)
from botocore.exceptions import ConnectionError as NoConnectionError

from jobs.errors import FarmError, StorageError, UsageError
from jobs.tasks import StoreOptions

REQUEST_ATTEMPTS = 5
"""Times that boto3 sends a request, with growing random pauses, before it gives up."""

CUT_OFF = (NoConnectionError, HTTPClientError, IncompleteReadError, FlexibleChecksumError)
"""Errors of a connection that was not made or broke off."""

_PASSING_STATUSES = frozenset({408, 409, 412, 429})
_PASSING_CODES = frozenset({"RequestTimeout", "PriorRequestNotComplete", "Throttling", "ThrottlingException"})
"""Codes of what may pass by itself and comes with status 400."""

_NO_CREDENTIALS_NOW = (CredentialRetrievalError, MetadataRetrievalError)
"""Whoever hands out credentials did not answer; that there are none at all is another error."""

CREDENTIALS_HINT = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile of ~/.aws; "
    "a farm that runs has the environment of its `farm up`"
)
_HINTS = {
    "NoSuchBucket": "make the bucket first, or check its name",
    "InvalidBucketName": "check the bucket's name",
    "PermanentRedirect": "name the region of the bucket",
    "AuthorizationHeaderMalformed": "name the region of the bucket",
    "IllegalLocationConstraintException": "name the region of the bucket",
    "KeyTooLongError": "use shorter names or a shorter prefix",
}

_clients: WeakValueDictionary[object, Any] = WeakValueDictionary()
_clients_lock = threading.Lock()


class UnsupportedError(StorageError):
    """The store has no such request (501)."""


def shared_client(options: StoreOptions) -> Any:
    """Return the client of all stores of this process with these options and this environment.

    A client takes some 10 MB and is safe to use from many threads. It lives as long as one of its stores, so
    that one which is opened later sees what has changed in the files of `~/.aws`.
    """
    environment = frozenset((name, value) for name, value in os.environ.items() if name.startswith("AWS_"))
    with _clients_lock:
        client = _clients.get((options, environment))
        if client is None:
            client = _clients[options, environment] = _client(options)
        return client


def _client(options: StoreOptions) -> Any:
    """Return a boto3 client that retries with jitter and fails in a bounded time."""
    endpoint = (
        options.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    )
    if endpoint and "@" in endpoint.split("//")[-1].split("/")[0]:
        raise UsageError("the endpoint URL holds a user name or a password", CREDENTIALS_HINT)
    style: Any = "path" if endpoint else "auto"  # few servers of one's own know their buckets as host names
    if options.path_style is not None:
        style = "path" if options.path_style else "virtual"
    config = Config(
        retries={"mode": "standard", "total_max_attempts": REQUEST_ATTEMPTS},
        s3={"addressing_style": style},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=32,
    )
    try:
        session = boto3.Session(profile_name=options.profile, region_name=options.region)
        return session.client("s3", endpoint_url=options.endpoint_url, config=config)
    except (BotoCoreError, ValueError) as error:
        raise UsageError(
            f"cannot reach S3: {error}", "check the endpoint URL, the region and the profile"
        ) from error


def explain(error: ClientError | BotoCoreError, what: str, endpoint: str, *, answered: bool) -> FarmError:
    """Return what a person should read: a UsageError if trying again can never help.

    Args:
        error: What boto3 raised.
        what: What could not be done, and where.
        endpoint: Address of the store.
        answered: Whether anything has ever answered there.
    """
    if isinstance(error, ClientError):
        code, status = code_of(error)
        message = f"cannot {what}: {code}, {error.response['Error'].get('Message') or 'no reason given'}"
        if status == 501:
            return UnsupportedError(message)
        if status >= 500 or status in _PASSING_STATUSES or code in _PASSING_CODES:
            return StorageError(message, "the store is busy or out of order; try again later")
        needed = "the farm needs to list the bucket and to get, put and delete its objects"
        return UsageError(message, _HINTS.get(code, f"{needed}; {CREDENTIALS_HINT}"))
    if isinstance(error, CUT_OFF):
        message = f"cannot {what}: {endpoint} does not answer ({type(error).__name__})"
        wrong = "check the endpoint URL, and that the store is running"
        return StorageError(message, "try again later" if answered else wrong)
    if isinstance(error, _NO_CREDENTIALS_NOW):
        return StorageError(f"cannot {what}: {error}", CREDENTIALS_HINT)
    return UsageError(f"cannot {what}: {error}", CREDENTIALS_HINT)


def code_of(error: ClientError) -> tuple[str, int]:
    """Return the code of S3 and the status of HTTP."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return error.response.get("Error", {}).get("Code", ""), status
