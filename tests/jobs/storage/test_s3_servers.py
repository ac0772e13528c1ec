"""What only a real S3 server can show."""

from __future__ import annotations

import os
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobs.errors import StorageError
from jobs.storage import open_store, s3, s3_client
from jobs.storage.s3 import S3Store
from jobs.tasks import StoreOptions
from tests.jobs.storage.conftest import BUCKET
from tests.jobs.storage.results import KEY, commit, names
from tests.servers import Server, rclone, seaweedfs

pytestmark = pytest.mark.slow


@pytest.fixture
def store(seaweedfs_server: Server, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    return opened(seaweedfs_server, monkeypatch)


def opened(server: Server, monkeypatch: pytest.MonkeyPatch, **options: object) -> S3Store:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return S3Store(f"s3://{BUCKET}/{secrets.token_hex(4)}", StoreOptions(**options))  # type: ignore[arg-type]


def test_a_listing_goes_on_over_pages(store: S3Store) -> None:
    """A page has 1,000 objects."""
    store.write("first", b"")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: store.write(f"many/{n}.jpg", b""), range(1005)))
    assert len(names(store)) == 1006
    assert {entry.key for entry in store.list("many", recursive=False)} == {
        f"many/{n}.jpg" for n in range(1005)
    }


def test_a_large_file_travels_in_parts(
    store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "MULTIPART_FROM_BYTES", 6 * 1024**2)
    source = tmp_path / "large"
    source.write_bytes(os.urandom(17_000_000))
    store.write("from-disk", source)
    store.write("from-memory", source.read_bytes())
    for key in ("from-disk", "from-memory"):
        entry = store.stat(key)
        assert entry is not None
        assert entry.stamp.endswith("-3")  # the etag of an object of three parts
        assert store.read(key) == source.read_bytes()


def test_a_sweep_ends_old_uploads_of_the_farm_and_no_others(
    store: S3Store, seaweedfs_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = seaweedfs_server.client()
    farm, *others = (f"{store._prefix}/{key}" for key in (".farm/half", "half", ".farm-of-mine/half"))
    for key in (farm, *others):
        upload = client.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
        client.upload_part(Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=1, Body=b"half")
    assert store.sweep(0) == 0  # all are young
    monkeypatch.setattr(s3, "UPLOAD_AGE_S", -3600)
    assert store.sweep(-3600) == 1
    assert store.sweep(-3600) == 0
    found = client.list_multipart_uploads(Bucket=BUCKET, Prefix=store._prefix)["Uploads"]
    assert sorted(upload["Key"] for upload in found) == sorted(others)
    assert names(store) == []


def test_objects_that_stand_for_folders_are_not_listed(store: S3Store, seaweedfs_server: Server) -> None:
    client = seaweedfs_server.client()
    client.put_object(Bucket=BUCKET, Key=f"{store._prefix}/july/", Body=b"")
    store.write("july/1.jpg", b"")
    assert names(store) == ["july/1.jpg"]


def test_options_reach_the_server_without_the_environment(
    seaweedfs_server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on a machine with a profile: address, region and path style come from the job."""
    server = seaweedfs_server
    (tmp_path / "credentials").write_text(
        f"[farm]\naws_access_key_id = {server.access_key}\naws_secret_access_key = {server.secret_key}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    options = StoreOptions(
        endpoint_url=server.endpoint_url, region="us-east-1", profile="farm", path_style=True
    )
    store = open_store(f"s3://{BUCKET}/{secrets.token_hex(4)}", options)
    store.probe()
    assert commit(store, b"picture").won


def test_a_server_that_died_is_a_failure_that_may_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_client, "REQUEST_ATTEMPTS", 1)
    with rclone(tmp_path / "one") as server:
        server.make_bucket(BUCKET)
        store = opened(server, monkeypatch)
        assert commit(store, b"picture").won
        server.process.kill()
        server.process.wait()
        with pytest.raises(StorageError, match="does not answer"):
            store.find(KEY)


def test_a_server_that_forgot_the_metadata_still_has_our_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rclone keeps metadata in memory only: the record beside the object and its bytes tell whose it is."""
    with rclone(tmp_path) as server:
        server.make_bucket(BUCKET)
        store = opened(server, monkeypatch)
        committed = commit(store, b"picture")
        prefix = store._prefix
    with rclone(tmp_path) as server:
        store = opened(server, monkeypatch)
        again = S3Store(f"s3://{BUCKET}/{prefix}")
        found = again.find(KEY)
        assert found.ours
        assert found.record == committed.record
        assert commit(again, b"second", attempt=2).won


def test_two_servers_do_not_meet(tmp_path: Path) -> None:
    with seaweedfs(tmp_path / "one") as one, seaweedfs(tmp_path / "two") as two:
        one.make_bucket("only-here")
        assert [b["Name"] for b in two.client().list_buckets()["Buckets"]] == []


@pytest.fixture(autouse=True)
def _no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "LONGEST_PAUSE_S", 0.1)
