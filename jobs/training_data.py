"""The list of the pictures of a training: made once, at submit, and kept as an asset.

Which pictures a step of a training takes is a function of this list, the seed and the number of the step. So
a training that goes on, on another machine or after its folder was changed, has the same list.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from jobs.inputs import Picture


def encode_listing(pictures: Iterable[Picture]) -> bytes:
    """Return the list as JSON lines: `url`, `size_bytes` and `stamp` of each picture, in its order."""
    lines = (
        json.dumps({"url": each.url, "size_bytes": each.size_bytes, "stamp": each.stamp}) for each in pictures
    )
    return "".join(f"{line}\n" for line in lines).encode()


def decode_listing(data: bytes) -> list[Picture]:
    """Return the pictures of a list that `encode_listing` made; their keys are their URLs.

    Raises:
        ValueError: If it is something else.
    """
    return list(_pictures(data))


def _pictures(data: bytes) -> Iterator[Picture]:
    for number, line in enumerate(data.decode().splitlines(), 1):
        try:
            said = json.loads(line)
            yield Picture(said["url"], said["url"], int(said["size_bytes"]), said["stamp"])
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"line {number} is no picture of a training: {error}") from error
