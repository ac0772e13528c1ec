"""The client: requests, errors, patience."""

from __future__ import annotations

from typing import Any

import pytest

from farm import client
from farm.client import Farm, every_item
from jobs.errors import FarmError, ManifestError, NoFarmError, UsageError
from tests.farm.cli.played import TOKEN, PlayedFarm, make_job


@pytest.fixture
def farm(played: PlayedFarm) -> Farm:
    return Farm(played.url, TOKEN)


def test_submit_posts_manifest_and_client_token(farm: Farm, played: PlayedFarm) -> None:
    played.on("POST", "/v1/jobs", make_job(), status=201)
    assert farm.submit({"version": 1}, "once")["id"] == "j7"
    assert played.requests[0].body == {"manifest": {"version": 1}, "client_token": "once"}


@pytest.mark.parametrize("verb", ["pause", "resume", "cancel", "retry"])
def test_each_command_has_its_route(farm: Farm, played: PlayedFarm, verb: str) -> None:
    played.on("POST", f"/v1/jobs/j7:{verb}", make_job(state=verb))
    assert getattr(farm, verb)("j7")["state"] == verb


def test_extend_says_how_many_iterations_and_has_a_token_of_its_own(farm: Farm, played: PlayedFarm) -> None:
    played.on("POST", "/v1/jobs/j7:extend", make_job(id="j8"), status=201)
    assert [farm.extend("j7", iterations=50)["id"], farm.extend("j7", iterations=50)["id"]] == ["j8", "j8"]
    first, second = (request.body for request in played.requests)
    assert (first["iterations"], second["iterations"]) == (50, 50)
    assert first["client_token"] != second["client_token"]


def test_a_name_with_strange_signs_stays_one_segment(farm: Farm, played: PlayedFarm) -> None:
    played.on("GET", "/v1/jobs/a b?c#d%/é", make_job(name="strange"))
    assert farm.job("a b?c#d%/é")["name"] == "strange"


@pytest.mark.parametrize("word", ["", ".", ".."])
def test_words_that_would_be_another_route_are_no_jobs(farm: Farm, word: str) -> None:
    with pytest.raises(UsageError, match="no job"):
        farm.job(word)


def test_items_come_page_by_page(farm: Farm, played: PlayedFarm) -> None:
    pages = [{"items": [{"id": n} for n in ids], "total": 5} for ids in ([1, 2], [3, 4], [5])]
    played.on("GET", "/v1/jobs/j7/items", *pages)
    assert [item["id"] for item in every_item(farm, "j7", state="failed")] == [1, 2, 3, 4, 5]
    assert [(r.query["offset"], r.query["state"]) for r in played.requests] == [
        ("0", "failed"),
        ("2", "failed"),
        ("4", "failed"),
    ]


@pytest.mark.parametrize(
    ("kind", "raised"),
    [
        ("ManifestError", ManifestError),
        ("UsageError", UsageError),
        ("StorageError", FarmError),
        ("Failure", UsageError),
        ("os", UsageError),
    ],
)
def test_the_error_of_the_farm_is_raised_here(
    farm: Farm, played: PlayedFarm, kind: str, raised: type[FarmError]
) -> None:
    played.refuse("GET", "/v1/jobs/j7", kind, "this is wrong", "do that")
    with pytest.raises(raised) as caught:
        farm.job("j7")
    assert (caught.value.message, caught.value.hint) == ("this is wrong", "do that")


@pytest.mark.parametrize("body", [b"", b"<html>hello</html>", b"[1]", b"\xff\xfe"])
def test_an_answer_that_no_farm_gives_is_said(farm: Farm, played: PlayedFarm, body: bytes) -> None:
    played.on_bytes("GET", "/v1/jobs/j7", body)
    with pytest.raises(FarmError, match="no farm says"):
        farm.job("j7")


def test_a_list_that_is_not_there_is_said(farm: Farm, played: PlayedFarm) -> None:
    played.on("GET", "/v1/workers", {"other": 1})
    with pytest.raises(FarmError, match="no farm says"):
        farm.workers()


def test_a_wrong_token_is_a_usage_error(played: PlayedFarm) -> None:
    with pytest.raises(UsageError, match="token") as caught:
        Farm(played.url, "wrong").health()
    assert "FARM_TOKEN" in caught.value.hint


def test_the_detail_of_another_refusal_is_kept(farm: Farm, played: PlayedFarm) -> None:
    played.on("GET", "/v1/jobs/j7", {"detail": "limit is too large"}, status=422)
    with pytest.raises(FarmError, match="422: limit is too large"):
        farm.job("j7")


def test_a_lost_connection_is_tried_again(farm: Farm, played: PlayedFarm) -> None:
    played.has_job(make_job())
    played.hang_ups = 2
    assert farm.job("j7")["id"] == "j7"


def test_a_busy_farm_is_asked_again(farm: Farm, played: PlayedFarm) -> None:
    played.on("GET", "/v1/jobs/j7", {}, status=503)
    played.has_job(make_job())
    assert farm.job("j7")["id"] == "j7"


def test_no_farm_when_patience_ends(farm: Farm, played: PlayedFarm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_PATIENCE_S", 0.0)
    played.hang_ups = 1000
    with pytest.raises(NoFarmError, match="does not answer"):
        farm.health()


def test_a_farm_that_answered_before_is_waited_for_longer(
    farm: Farm, played: PlayedFarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "FIRST_PATIENCE_S", 0.0)
    played.has_job(make_job())
    farm.job("j7")
    played.hang_ups = 2
    assert farm.job("j7")["id"] == "j7"


@pytest.mark.parametrize(
    "url", ["", "localhost:8420", "ftp://host", "http://", "http://[::1", "http://h:99999"]
)
def test_only_http_addresses_are_farms(url: str) -> None:
    with pytest.raises(UsageError, match="not the address"):
        Farm(url)


@pytest.mark.parametrize("token", ["two\nlines", "tab\t", "ünicode", "\x00"])
def test_a_token_that_cannot_be_sent_is_a_usage_error(token: str) -> None:
    with pytest.raises(UsageError, match="token"):
        Farm("http://127.0.0.1:1", token)


def test_reader_is_what_the_ledger_offers_too() -> None:
    """The two that commands read from take the same calls."""
    from farm.views import View

    reader: dict[str, Any] = {name: member for name, member in vars(client.Reader).items() if name[0] != "_"}
    assert set(reader) == {"jobs", "job", "items", "tasks", "events", "losses", "manifest"}
    assert all(callable(getattr(View, name)) and callable(getattr(Farm, name)) for name in reader)
