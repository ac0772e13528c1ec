"""Wrong values of the options of `farm render` and `farm submit`: one line each, and nothing is handed in."""

from __future__ import annotations

from dataclasses import fields

import pytest

from farm.cli import steps
from farm.cli.render_options import RenderOptions
from tests.farm.cli.conftest import Cli
from tests.farm.cli.played import PlayedFarm

OPTIMIZATION = {
    "--style-image": "painting.jpg",
    "--style-weights": "1",
    "--preset": "gatys",
    "--loss-network": "vgg16",
    "--optimizer": "adam",
    "--size": "512",
    "--iterations": "100",
    "--smallest": "64",
    "--scales": "64:10",
    "--tile": "64",
    "--save-every": "10",
    "--content-weight": "1",
    "--style-weight": "1",
    "--tv-weight": "1",
    "--style-scale": "1",
    "--init": "noise",
    "--colors": "yuv",
    "--seed": "1",
}
"""Right values, for a step that is no optimization."""

WRONG: list[list[str]] = [
    ["--output", ""],
    ["--output", "ftp://host/folder"],
    ["--output", "s3://"],
    ["--priority", "101"],
    ["--priority", "high"],
    ["--tier", "express"],
    ["--user", ""],
    ["--name", "a/b"],
    ["--max-failed", "many"],
    ["--max-failed", "101%"],
    ["--on-existing", "ask"],
    ["--s3-endpoint-url", "no url"],
    ["--s3-endpoint-url", "http://user:password@host"],
    ["--quality"],
    ["--style", "a/b"],
    ["--style", "candy"],
    ["--pattern", "{unknown}"],
    ["--pattern", "../{name}.{ext}"],
    ["--format", "gif"],
    ["--quality", "0"],
    ["--quality", "101"],
    ["--quality", "best"],
    ["--max-size", "0"],
    ["--max-megapixels", "0"],
    ["--max-megapixels", "nan"],
    ["--max-megapixels", "-1"],
    ["--precision", "fp8"],
    ["--precision", "tf32"],
    ["--device", "tpu"],
    ["--threads", "0"],
    ["--chunk-items", "0"],
    ["--workers", "0"],
    ["--workers", "2"],
    ["--workers", "1-2"],
    ["--workers", "many"],
    ["--set", "chunk"],
    ["--set", "chunk.seconds=[1"],
    ["--set", "chunk.seconds=0"],
    ["--set", "chunk.seconds.more=1"],
    ["--set", "kind=optimize"],
    ["--set", "sheep=1"],
    *([option, value] for option, value in OPTIMIZATION.items()),
    ["--sheep"],
]


@pytest.mark.usefixtures("photos")
@pytest.mark.parametrize("options", WRONG, ids=" ".join)
def test_a_wrong_value_is_one_line_about_its_option_with_a_hint(
    farm_cli: Cli, played: PlayedFarm, options: list[str]
) -> None:
    result = farm_cli("render", "photos", "-s", "candy", *options)
    assert result.exit_code == 2
    assert not played.requests, "nothing wrong is handed in"
    error, hint = result.stderr.splitlines()
    assert error.startswith("error: ")
    assert options[0] in error
    assert hint.startswith("hint: ")
    assert result.stdout == ""


WRONG_OPTIMIZATIONS: list[list[str]] = [
    ["--style-image", ""],
    ["--style-image", "ftp://host/painting.jpg"],
    ["--style-weights", "1,2"],
    ["--style-weights", "-1"],
    ["--style-weights", "nan"],
    ["--preset", "gaty"],
    ["--loss-network", ""],
    ["--optimizer", "sgd"],
    ["--size", "8"],
    ["--size", "huge"],
    ["--iterations", "0"],
    ["--smallest", "1024"],
    ["--scales", "256"],
    ["--scales", "512:10,256:10"],
    ["--scales", "8:10,64:10"],
    ["--scales", "256:0"],
    ["--tile", "100"],
    ["--tile", "0"],
    ["--save-every", "0"],
    ["--content-weight", "-1"],
    ["--style-weight", "inf"],
    ["--tv-weight", "much"],
    ["--style-scale", "0"],
    ["--init", "nose"],
    ["--colors", "rgb"],
    ["--seed", "-1"],
    ["--precision", "fp8"],
    ["--workers", "0"],
    ["--workers", "3-2"],
    ["--workers", "two"],
    ["--threads", "0"],
    ["--max-size", "512"],
    ["--chunk-items", "4"],
    ["--set", "checkpoint.seconds=-1"],
    ["--set", "optimizer=fast"],
    ["--set", "colours=yuv"],
    ["--set", "size_px=large"],
    ["--set", "stop.improvement=2"],
]


@pytest.mark.usefixtures("photos")
@pytest.mark.parametrize("options", WRONG_OPTIMIZATIONS, ids=" ".join)
def test_a_wrong_value_of_an_optimization_is_one_line_about_its_option_with_a_hint(
    farm_cli: Cli, played: PlayedFarm, options: list[str]
) -> None:
    painting = [] if options[0] == "--style-image" else ["--style-image", "painting.jpg"]
    result = farm_cli("render", "photos", *painting, *options)
    assert result.exit_code == 2
    assert not played.requests, "nothing wrong is handed in"
    error, hint = result.stderr.splitlines()
    assert error.startswith("error: ")
    assert options[0] in error
    assert hint.startswith("hint: ")


def test_every_option_has_a_wrong_value_above() -> None:
    """Only switches and free text are always right; a profile that is not there is found when it is used."""
    always_right = {"inputs", "recursive", "s3_region", "s3_profile", "s3_path_style"}
    assert {steps.flag(f.name) for f in fields(RenderOptions) if f.name not in always_right} <= {
        options[0] for options in WRONG_OPTIMIZATIONS + WRONG
    }
