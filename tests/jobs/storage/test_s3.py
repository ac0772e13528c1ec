"""What S3 may answer, or not answer: errors are told apart, and a lost reply is not a lost result."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from typing import Any

import pytest
from moto.server import ThreadedMotoServer

from jobs.errors import BadInputError, ConflictError, StorageError, UsageError
from jobs.storage import open_store, s3, s3_client
from jobs.storage.rules import record_key
from jobs.storage.s3 import S3Store
from jobs.tasks import StoreOptions
from tests.jobs.storage.results import KEY, commit, names, record_after, stored_record
from tests.servers import Trouble, troubled

BUCKET = "renders"
SECRET = "do-not-print-this-secret"


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def module_proxy(moto: str) -> Iterator[Trouble]:
    """A proxy that makes trouble; nobody waits between attempts, and boto3 makes two."""
    with pytest.MonkeyPatch.context() as patch, troubled(moto) as trouble:
        patch.setenv("AWS_ACCESS_KEY_ID", "account")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setattr(s3_client, "REQUEST_ATTEMPTS", 2)
        patch.setattr(s3, "LONGEST_PAUSE_S", 0.0)
        patch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)
        yield trouble


@pytest.fixture(scope="module")
def module_store(module_proxy: Trouble) -> S3Store:
    """A store that was probed before the trouble begins."""
    store = S3Store(f"s3://{BUCKET}", StoreOptions(endpoint_url=module_proxy.endpoint_url))
    store._client.create_bucket(Bucket=BUCKET)
    store.probe()
    return store


@pytest.fixture
def proxy(module_proxy: Trouble) -> Trouble:
    module_proxy.plan.clear()
    module_proxy.seen.clear()
    return module_proxy


@pytest.fixture
def store(module_store: S3Store, proxy: Trouble) -> S3Store:
    """The same store at another prefix: a client of its own for each test takes long to make."""
    store = copy(module_store)
    store._prefix = secrets.token_hex(4)
    store.url = f"s3://{BUCKET}/{store._prefix}"
    return store


class TestLostReplies:
    """The store does what it was asked to, and the reply never comes."""

    def test_a_result_whose_reply_was_lost_has_won(self, store: S3Store, proxy: Trouble) -> None:
        found = store.find(KEY)
        proxy.plan.append(("PUT", "lost"))
        committed = commit(store, b"picture", found=found)
        assert committed.won
        assert store.read(KEY) == b"picture"
        assert stored_record(store, KEY, 1) == committed.record

    def test_a_replacement_whose_reply_was_lost_has_won(self, store: S3Store, proxy: Trouble) -> None:
        commit(store, b"first")
        found = store.find(KEY)
        proxy.plan.append(("PUT", "lost"))
        assert commit(store, b"second", found=found, attempt=2).won
        assert store.read(KEY) == b"second"

    def test_a_reply_that_boto3_does_not_get_either_is_found_by_the_next_try(
        self, store: S3Store, proxy: Trouble
    ) -> None:
        found = store.find(KEY)
        proxy.plan += [("PUT", "lost"), ("PUT", 503)]
        with pytest.raises(StorageError):
            commit(store, b"picture", found=found)
        committed = commit(store, b"picture", found=found)
        assert committed.won
        assert stored_record(store, KEY, 1) == committed.record

    def test_a_lock_whose_reply_was_lost_is_ours(self, store: S3Store, proxy: Trouble) -> None:
        proxy.plan.append(("PUT", "lost"))
        assert store.create("lock", b"same")
        assert not store.create("lock", b"same")


class TestErrors:
    """What may pass is a StorageError, what never does is a UsageError, and both say what to do."""

    @pytest.mark.parametrize("status", [500, 503])
    def test_a_busy_store_is_asked_again(self, store: S3Store, proxy: Trouble, status: int) -> None:
        proxy.plan.append(("PUT", status))
        assert commit(store, b"picture").won
        proxy.plan.append(("GET", status))
        assert store.read(KEY) == b"picture"

    @pytest.mark.parametrize("status", [500, 503, 501, 429])
    def test_a_store_that_stays_out_of_order_may_recover(
        self, store: S3Store, proxy: Trouble, status: int
    ) -> None:
        for act in acts(store):
            proxy.plan += [("", status)] * 2
            with pytest.raises(StorageError):
                act()
            proxy.plan.clear()

    def test_a_refusal_is_final_and_says_which_rights_are_needed(
        self, store: S3Store, proxy: Trouble
    ) -> None:
        for act in acts(store):
            proxy.plan.append(("", 403))
            with pytest.raises(UsageError, match="s3://") as caught:
                act()
            assert "get, put and delete" in caught.value.hint
            assert SECRET not in str(caught.value)
            assert proxy.plan == []

    def test_a_put_that_met_another_is_tried_again(self, store: S3Store, proxy: Trouble) -> None:
        found = store.find(KEY)
        proxy.plan += [("PUT", 409)] * 3
        assert commit(store, b"picture", found=found).won

    def test_a_put_that_meets_others_all_the_time_gives_up(self, store: S3Store, proxy: Trouble) -> None:
        found = store.find(KEY)
        proxy.plan += [("PUT", 409)] * s3.CONTENTION_ATTEMPTS
        with pytest.raises(StorageError, match="all the time"):
            commit(store, b"picture", found=found)

    def test_a_record_that_cannot_be_written_does_not_undo_the_result(
        self, store: S3Store, proxy: Trouble, caplog: pytest.LogCaptureFixture
    ) -> None:
        found = store.find(KEY)
        proxy.plan += [("PUT", "pass"), ("PUT", 503), ("PUT", 503)]
        committed = commit(store, b"picture", found=found)
        assert committed.won
        assert "its record is not written" in caplog.text
        assert store.stat(record_key(KEY, 1)) is None
        assert store.find(KEY).record == committed.record
        assert commit(store, b"picture", found=found).won
        assert stored_record(store, KEY, 1) == committed.record

    def test_a_missing_bucket_is_named(self, proxy: Trouble) -> None:
        store = S3Store("s3://no-such-bucket/july", StoreOptions(endpoint_url=proxy.endpoint_url))
        for act in (
            store.probe,
            lambda: store.write("a", b""),
            lambda: store.read("a"),
            lambda: names(store),
        ):
            with pytest.raises(UsageError, match=r"no-such-bucket.*NoSuchBucket") as caught:
                act()
            assert "make the bucket" in caught.value.hint

    def test_a_store_that_never_answered_has_a_wrong_address(self, proxy: Trouble) -> None:
        store = S3Store("s3://bucket", StoreOptions(endpoint_url="http://127.0.0.1:9"))
        with pytest.raises(UsageError, match=r"http://127\.0\.0\.1:9 does not answer") as caught:
            store.probe()
        assert "endpoint" in caught.value.hint

    def test_a_worker_that_starts_while_the_store_is_away_may_try_again(self, proxy: Trouble) -> None:
        """Nothing has ever answered it, and yet the address was right when the job was submitted."""
        store = S3Store("s3://bucket", StoreOptions(endpoint_url="http://127.0.0.1:9"))
        for act in acts(store)[:-1]:  # all but the probe
            with pytest.raises(StorageError, match=r"127\.0\.0\.1:9 does not answer") as caught:
                act()
            assert "endpoint" in caught.value.hint

    def test_a_store_that_is_busy_at_first_has_no_wrong_address(self, proxy: Trouble) -> None:
        store = S3Store(f"s3://{BUCKET}", StoreOptions(endpoint_url=proxy.endpoint_url))
        proxy.plan += [("", 503)] * 2
        with pytest.raises(StorageError, match="SlowDown"):
            store.probe()

    def test_a_store_that_answered_before_may_come_back(self, moto: str, proxy: Trouble) -> None:
        with troubled(moto) as other:
            store = S3Store("s3://comes-back", StoreOptions(endpoint_url=other.endpoint_url))
            store._client.create_bucket(Bucket="comes-back")
            store.probe()
        for act in acts(store):
            with pytest.raises(StorageError, match="does not answer"):
                act()

    def test_missing_credentials_are_a_clear_error(self, moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
        store = S3Store("s3://bucket", StoreOptions(endpoint_url=moto))
        with pytest.raises(UsageError, match="credentials") as caught:
            store.probe()
        assert "AWS_ACCESS_KEY_ID" in caught.value.hint

    @pytest.mark.parametrize(
        ("url", "options"),
        [
            ("s3://", StoreOptions()),
            ("s3:///prefix", StoreOptions()),
            (f"s3://account:{SECRET}@bucket/prefix", StoreOptions()),
            ("s3://bucket/a/../b", StoreOptions()),
            ("s3://bucket", StoreOptions(profile="no-such-profile")),
            ("s3://bucket", StoreOptions(endpoint_url="no address")),
            ("s3://bucket", StoreOptions(endpoint_url=f"http://account:{SECRET}@127.0.0.1:1")),
            ("gs://bucket", StoreOptions()),
        ],
    )
    def test_a_wrong_url_or_option_is_refused_without_telling_secrets(
        self, url: str, options: StoreOptions
    ) -> None:
        with pytest.raises(UsageError) as caught:
            open_store(url, options)
        assert caught.value.hint
        assert SECRET not in str(caught.value)

    def test_a_bucket_name_that_cannot_be_is_refused(self, proxy: Trouble) -> None:
        store = open_store("s3://Not A Bucket!/x", StoreOptions(endpoint_url=proxy.endpoint_url))
        with pytest.raises(UsageError, match="bucket name"):
            store.stat("a")

    def test_a_read_that_is_larger_than_allowed_is_not_fetched(self, store: S3Store) -> None:
        store.write("a", b"12345")
        with pytest.raises(BadInputError):
            store.read("a", limit_bytes=4)


class TestUploads:
    """Uploads in parts that nobody finishes; those of moto were all begun in 2010."""

    def test_a_sweep_ends_those_of_the_farm_and_no_others(self, store: S3Store) -> None:
        keys = [".farm/jobs/half", "half", "a/.farm/half", ".farmer/half"]
        for key in keys:
            store._client.create_multipart_upload(Bucket=BUCKET, Key=f"{store._prefix}/{key}")
        store._client.create_multipart_upload(Bucket=BUCKET, Key=".farm/other-output")
        assert store.sweep(0) == 1
        left = store._client.list_multipart_uploads(Bucket=BUCKET)["Uploads"]
        assert {f"{store._prefix}/{key}" for key in keys[1:]} <= {upload["Key"] for upload in left}
        assert ".farm/other-output" in {upload["Key"] for upload in left}
        assert f"{store._prefix}/{keys[0]}" not in {upload["Key"] for upload in left}

    def test_an_upload_that_has_just_ended_by_itself_stops_no_sweep(
        self, store: S3Store, proxy: Trouble
    ) -> None:
        made = [f"{store._prefix}/.farm/{n}" for n in range(2)]
        for key in made:
            store._client.create_multipart_upload(Bucket=BUCKET, Key=key)
        abort = store._client.abort_multipart_upload
        with pytest.MonkeyPatch.context() as patch:

            def too_late(**request: Any) -> Any:
                if request["Key"] == made[0]:
                    abort(**request)
                return abort(**request)

            patch.setattr(store._client, "abort_multipart_upload", too_late)
            assert store.sweep(0) == 1
        assert store.sweep(0) == 0


class TestConditions:
    """Whether a store honors conditions is found by trying, not by trusting."""

    @pytest.mark.parametrize("nth", [1, 2, 3])
    def test_a_store_that_does_not_know_a_condition_gets_by_without(
        self, store: S3Store, proxy: Trouble, nth: int
    ) -> None:
        """The probe's first put has no condition; the three after it have."""
        proxy.plan += [("PUT", "pass")] * nth + [("PUT", 501)]
        store.probe()
        assert not store.honors_conditions
        before = store.find(KEY)
        assert commit(store, b"picture", found=before).won
        assert not commit(store, b"other", found=before, attempt=2).won
        assert commit(store, b"second", attempt=3).record.generation == 2
        store.write(KEY, b"mine")
        with pytest.raises(ConflictError):
            commit(store, b"third", attempt=4)
        assert store.create("lock", b"1")
        assert not store.create("lock", b"1")

    def test_whoever_needs_to_know_probes_once(self, proxy: Trouble, store: S3Store) -> None:
        other = S3Store(store.url, StoreOptions(endpoint_url=proxy.endpoint_url))
        with ThreadPoolExecutor(4) as pool:
            created = sorted(pool.map(lambda n: other.create("lock", b"%d" % n), range(4)))
        assert created == [False, False, False, True]
        assert len([1 for method, path in proxy.seen if "probe-" in path and method == "DELETE"]) == 1

    def test_what_is_ours_takes_one_request_to_find(self, store: S3Store, proxy: Trouble) -> None:
        commit(store, b"picture")
        proxy.seen.clear()
        assert store.find(KEY).ours
        assert [method for method, _ in proxy.seen] == ["HEAD"]

    def test_a_result_whose_metadata_were_lost_is_known_by_its_bytes(self, store: S3Store) -> None:
        committed = commit(store, b"picture")
        store.write(KEY, b"picture")
        assert store.find(KEY).ours
        assert store.find(KEY).record == committed.record
        assert commit(store, b"second", attempt=2).won

    def test_a_result_that_was_made_and_deleted_just_before_ours_keeps_its_generation(
        self, store: S3Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found, put = store.find(KEY), store.put

        def late_put(*arguments: Any) -> bool:
            monkeypatch.setattr(store, "put", put)
            assert commit(store, b"other", found=found, attempt=2).won
            store.delete(KEY)
            return put(*arguments)

        monkeypatch.setattr(store, "put", late_put)
        committed = commit(store, b"mine", found=found, attempt=1)
        assert committed.won
        assert committed.record.generation == 2
        assert store.find(KEY).record == committed.record
        assert [stored_record(store, KEY, n).attempt for n in (1, 2)] == [2, 1]
        assert store.read(KEY) == b"mine"

    def test_facts_that_are_too_long_for_metadata_come_from_the_record(self, store: S3Store) -> None:
        found = store.find(KEY)
        record = record_after(found, b"picture")
        record.extra["story"] = "é" * 2000
        assert store.commit(record, b"picture", found).won
        assert store.find(KEY).record == record


def acts(store: S3Store) -> list[Callable[[], object]]:
    """Return one call of each kind of request."""
    return [
        lambda: store.read("a"),
        lambda: store.write("a", b""),
        lambda: store.delete("a"),
        lambda: store.stat("a"),
        lambda: names(store),
        lambda: store.find(KEY),
        lambda: store.create("a", b""),
        store.probe,
    ]
