"""Clients of boto3: shared by stores, and what their errors mean."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError, CredentialRetrievalError, NoCredentialsError, SSLError

from jobs.errors import StorageError, UsageError
from jobs.storage.s3 import S3Store
from jobs.storage.s3_client import explain
from jobs.tasks import StoreOptions

NOBODY = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "account")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


def test_stores_that_are_reached_in_one_way_share_a_client_and_no_others(monkeypatch):
    """It takes some 10 MB."""
    options = StoreOptions(endpoint_url=NOBODY, region="eu-west-1")
    with ThreadPoolExecutor(8) as pool:
        stores = list(pool.map(lambda n: S3Store(f"s3://bucket{n}", options), range(16)))
    assert len({id(store._client) for store in stores}) == 1
    elsewhere = StoreOptions(endpoint_url=NOBODY, region="eu-west-2")
    assert S3Store("s3://bucket", elsewhere)._client is not stores[0]._client
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another-account")
    assert S3Store("s3://bucket", options)._client is not stores[0]._client


def test_a_client_ends_with_its_last_store():
    """So that a store that is opened later sees the keys that were put into ~/.aws meanwhile."""
    options = StoreOptions(endpoint_url=NOBODY, region="eu-west-3")
    stores = [S3Store("s3://bucket", options), S3Store("s3://other", options)]
    client = weakref.ref(stores[0]._client)
    assert stores[1]._client is client()
    stores.clear()
    gc.collect()
    assert client() is None


def client_error(code: str, status: int) -> ClientError:
    answer: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "GetObject")


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (client_error("RequestTimeout", 400), True),
        (client_error("SlowDown", 503), True),
        (client_error("AccessDenied", 403), False),
        (client_error("ExpiredToken", 400), False),
        (CredentialRetrievalError(provider="sso", error_msg="no reply"), True),
        (NoCredentialsError(), False),
        (SSLError(endpoint_url="https://s3", error=OSError("cut off")), True),
    ],
)
def test_only_what_can_never_succeed_is_a_wrong_use(error, passes):
    explained = explain(error, "read", "http://s3", answered=False)
    assert isinstance(explained, StorageError if passes else UsageError)
