"""The launching and stopping of a controller, by a command that knows Ray.

`COMMAND launch` is told a `FarmFile` as JSON on stdin and returns when the controller answers on its
`api_url`; in a cluster it may print `{"api_url": ...}` on stdout to say where that is. `COMMAND stop` is told
the same and returns when the controller and its workers are gone. Either fails with a last line on stderr
that says why.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from farm.farm_file import FarmFile
from farm.folders import open_private
from farm.head import last_line
from jobs.errors import FarmError

CONTROL_S = 120.0


def control(
    verb: Literal["launch", "stop"], farm: FarmFile, environment: Mapping[str, str], command: Sequence[str]
) -> dict[str, Any]:
    """Run the command and return the JSON object that it printed, or an empty one.

    Raises:
        FarmError: If it fails, with the last line of what it said.
    """
    log = Path(farm.log_dir) / f"{verb}.log"
    with open_private(log) as output:
        try:
            done = subprocess.run(
                [*command, verb],
                input=farm.to_json(),
                stdout=subprocess.PIPE,
                stderr=output,
                env=environment,
                cwd=farm.log_dir,
                encoding="utf-8",
                start_new_session=True,
                timeout=CONTROL_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise FarmError(
                f"the controller did not answer within {CONTROL_S:.0f} s", f"see {log}"
            ) from error
    if done.returncode != 0:
        reason = last_line(log.read_text("utf-8", "replace"))
        raise FarmError(f"could not {verb} the controller: {reason}", f"see {log}")
    said = last_line(done.stdout)
    return dict(json.loads(said)) if said.startswith("{") else {}
