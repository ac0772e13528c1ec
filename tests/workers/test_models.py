"""Each model is loaded once while it fits, and the least recently used ones make room."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from workers.models import ModelCache, ModelKey


def key(name: str, precision: str = "fp32") -> ModelKey:
    return name, precision


def test_a_model_is_loaded_once_and_then_had() -> None:
    cache = ModelCache(100)
    made = [object()]
    assert cache.get(key("a"), lambda: (made[0], 10)) is made[0]
    assert cache.get(key("a"), lambda: pytest.fail("loaded again")) is made[0]
    assert (cache.loads, cache.held_bytes, cache.holds()) == (1, 10, ("a",))


def test_the_least_recently_used_model_goes_first() -> None:
    cache = ModelCache(30)
    for name in "abc":
        cache.get(key(name), lambda: (object(), 10))
    cache.get(key("a"), lambda: pytest.fail("it is here"))
    assert cache.holds() == ("b", "c", "a")
    cache.get(key("d"), lambda: (object(), 15))
    assert cache.holds() == ("a", "d")
    assert cache.held_bytes == 25


def test_a_model_larger_than_the_limit_is_still_used() -> None:
    cache = ModelCache(30)
    cache.get(key("small"), lambda: (object(), 10))
    assert cache.get(key("large"), lambda: ("large", 99)) == "large"
    assert cache.holds() == ("large",)
    assert cache.get(key("large"), lambda: pytest.fail("it is here")) == "large"
    cache.get(key("small"), lambda: (object(), 10))
    assert cache.holds() == ("small",)


def test_one_file_in_two_precisions_is_two_models_and_one_hash() -> None:
    cache = ModelCache(100)
    assert cache.get(key("a"), lambda: ("full", 20)) == "full"
    cache.get(key("b"), lambda: ("other", 20))
    assert cache.get(key("a", "bf16"), lambda: ("half", 10)) == "half"
    assert cache.holds() == ("b", "a")
    assert cache.held_bytes == 50


def test_what_cannot_be_loaded_is_tried_again() -> None:
    cache = ModelCache(100)

    def fail() -> tuple[object, int]:
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="gone"):
        cache.get(key("a"), fail)
    assert cache.holds() == ()
    assert cache.get(key("a"), lambda: ("here", 1)) == "here"
    assert cache.loads == 1


def test_threads_that_ask_at_once_share_one_load() -> None:
    cache = ModelCache(100)
    started, go = threading.Event(), threading.Event()

    def load() -> tuple[object, int]:
        started.set()
        assert go.wait(30)
        return object(), 10

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(cache.get, key("a"), load) for _ in range(4)]
        assert started.wait(30)
        go.set()
        models = {id(each.result(30)) for each in asked}
    assert len(models) == 1
    assert cache.loads == 1


def test_another_model_can_be_had_while_one_is_loading() -> None:
    cache = ModelCache(100)
    cache.get(key("here"), lambda: ("here", 1))
    started, go = threading.Event(), threading.Event()

    def slow() -> tuple[object, int]:
        started.set()
        assert go.wait(30)
        return "slow", 1

    with ThreadPoolExecutor(2) as pool:
        loading = pool.submit(cache.get, key("slow"), slow)
        assert started.wait(30)
        assert pool.submit(cache.get, key("here"), slow).result(30) == "here"
        assert cache.holds() == ("here",)
        go.set()
        assert loading.result(30) == "slow"
