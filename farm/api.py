"""The HTTP api of the farm: what the command line and the dashboard talk to."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel

from farm.controller import Controller
from farm.extending import More
from farm.views import View
from jobs.errors import FarmError, ManifestError, NoFarmError, UsageError
from jobs.storage import open_store
from jobs.tasks import StoreOptions

_ENDED = ("completed", "completed with errors", "failed", "canceled")
_KEEPALIVE_S = 15.0
_LARGEST_BODY_BYTES = 16 << 20

_bearer = HTTPBearer(auto_error=False, description="The token in the farm's `api-token` file.")


class Submission(BaseModel):
    """A job to be."""

    manifest: dict[str, Any]
    client_token: str | None = None


class Further(BaseModel):
    """How a finished job goes on: so many iterations of what it optimized, steps of what it trained."""

    iterations: int | None = None
    steps: int | None = None
    client_token: str | None = None


def create_app(controller: Controller, token: str) -> FastAPI:
    """Return the api of a controller; every route but the documentation asks for the token.

    Args:
        controller: Lives in the same event loop.
        token: The bearer token.
    """

    def authorized(credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> None:
        given = credentials.credentials if credentials else ""
        if not secrets.compare_digest(given.encode(), token.encode()):
            raise _DeniedError("the token is missing or wrong", "read it from the farm's api-token file")

    app = FastAPI(
        title="Stylefarm",
        version=version("stylefarm"),
        description="A distributed batch render farm for neural style transfer.",
        docs_url="/docs",
        redoc_url=None,
    )
    app.add_exception_handler(FarmError, _answer_error)
    app.middleware("http")(_limit_body)
    authorize = [Depends(authorized)]
    _add_jobs(app, controller, authorize)
    _add_renders(app, controller.view, authorize)
    _add_commands(app, controller, authorize)
    _add_farm(app, controller, authorize)
    _add_streams(app, controller, authorize)
    return app


class _DeniedError(UsageError):
    """The caller did not show the token."""


async def _answer_error(_: Request, caught: Exception) -> Response:
    error = caught if isinstance(caught, FarmError) else FarmError(str(caught))
    status = 500
    if isinstance(error, _DeniedError):
        status = 401
    elif isinstance(error, ManifestError):
        status = 422
    elif isinstance(error, UsageError):
        status = 404 if error.message.startswith("there is no job") else 400
    elif isinstance(error, NoFarmError):
        status = 503
    kind = "UsageError" if isinstance(error, _DeniedError) else type(error).__name__
    return JSONResponse(
        {"error": {"message": error.message, "hint": error.hint, "type": kind}},
        status,
        {"WWW-Authenticate": "Bearer"} if status == 401 else None,
    )


async def _limit_body(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
    """Refuse a body that is too large, or does not say how large it is, before it is read."""
    if "transfer-encoding" in request.headers:
        return _refused("a body needs a Content-Length", 411)
    if int(request.headers.get("content-length") or 0) > _LARGEST_BODY_BYTES:
        return _refused(f"a request may have at most {_LARGEST_BODY_BYTES} bytes", 413)
    return await go_on(request)


def _refused(message: str, status: int) -> Response:
    return JSONResponse({"error": {"message": message, "hint": "", "type": "UsageError"}}, status)


def _add_jobs(app: FastAPI, controller: Controller, authorize: list[Any]) -> None:
    view = controller.view

    async def submit_and_keep(submission: Submission) -> str:
        _refuse_when_closing(controller)
        job_id = await controller.commands.submit(submission.manifest, submission.client_token)
        controller.flush()
        return job_id

    @app.post("/v1/jobs", dependencies=authorize, status_code=201, tags=["jobs"])
    async def submit(submission: Submission) -> dict[str, Any]:
        """Submit a manifest; the same `client_token` gives the same job."""
        return view.job(await submit_and_keep(submission))

    @app.get("/v1/jobs", dependencies=authorize, tags=["jobs"])
    async def jobs(
        limit: Annotated[int, Query(ge=1, le=100_000)] = 50, user: str | None = None, state: str | None = None
    ) -> dict[str, Any]:
        """List the latest jobs, newest first."""
        return {"jobs": view.jobs(limit, user, state)}

    @app.get("/v1/jobs/{job}", dependencies=authorize, tags=["jobs"])
    async def job(job: str) -> dict[str, Any]:
        """Show one job, by id, start of an id, or name."""
        return view.job(job)

    @app.get("/v1/jobs/{job}/manifest", dependencies=authorize, tags=["jobs"])
    async def manifest(job: str) -> dict[str, Any]:
        """Show the manifest that a job was made from."""
        return view.manifest(job)

    @app.get("/v1/jobs/{job}/items", dependencies=authorize, tags=["jobs"])
    async def items(
        job: str,
        state: str | None = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
        offset: Annotated[int, Query(ge=0)] = 0,
    ) -> dict[str, Any]:
        """List a job's items with their outcomes."""
        return view.items(job, state, limit, offset)

    @app.get("/v1/jobs/{job}/tasks", dependencies=authorize, tags=["jobs"])
    async def tasks(job: str) -> dict[str, Any]:
        """List a job's tasks."""
        return {"tasks": view.tasks(job)}

    @app.get("/v1/jobs/{job}/events", dependencies=authorize, tags=["jobs"])
    async def events(job: str, after: int = 0) -> dict[str, Any]:
        """List what happened to a job after event number `after`."""
        return {"events": view.events(job, after)}


def _add_renders(app: FastAPI, view: View, authorize: list[Any]) -> None:
    @app.get("/v1/jobs/{job}/losses", dependencies=authorize, tags=["jobs"])
    async def losses(job: str) -> dict[str, Any]:
        """Show the loss curves of a job, one for each item; old points are thinned out."""
        return {"items": view.losses(job)}

    @app.get("/v1/jobs/{job}/preview", dependencies=authorize, tags=["jobs"])
    async def preview(job: str, task: int | None = None) -> Response:
        """Show the newest preview of an unfinished picture, of one task or of any."""
        data = await asyncio.to_thread(_preview, *view.preview(job, task))
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": "no-store"})


def _refuse_when_closing(controller: Controller) -> None:
    if controller.closing:
        raise NoFarmError("the farm is ending", "ask again: the next command starts another")


def _preview(output: str, options: StoreOptions, key: str) -> bytes:
    try:
        return open_store(output, options).read(key)
    except FileNotFoundError:
        raise UsageError("there is no job preview any more", "wait for the next one") from None


def _add_commands(app: FastAPI, controller: Controller, authorize: list[Any]) -> None:
    commands = {
        "pause": controller.commands.pause,
        "resume": controller.commands.resume,
        "cancel": controller.commands.cancel,
        "retry": controller.commands.retry,
    }
    for name, command in commands.items():
        summary = (command.__doc__ or name).splitlines()[0]
        route = app.post(f"/v1/jobs/{{job}}:{name}", dependencies=authorize, tags=["jobs"], summary=summary)
        route(_command_route(controller, command))

    @app.post("/v1/jobs/{job}:extend", dependencies=authorize, status_code=201, tags=["jobs"])
    async def extend(job: str, further: Further) -> dict[str, Any]:
        """Go on with what a finished job optimized or trained, as a new job; a token makes only one."""
        _refuse_when_closing(controller)
        more = More(further.iterations, further.steps)
        job_id = await controller.commands.extend(job, more, further.client_token)
        controller.flush()
        return controller.view.job(job_id)


def _command_route(
    controller: Controller, command: Callable[[str], str]
) -> Callable[[str], Awaitable[dict[str, Any]]]:
    async def run(job: str) -> dict[str, Any]:
        job_id = command(job)
        controller.flush()
        return controller.view.job(job_id)

    return run


def _add_farm(app: FastAPI, controller: Controller, authorize: list[Any]) -> None:
    @app.get("/v1/health", dependencies=authorize, tags=["farm"])
    async def health() -> dict[str, Any]:
        """Say that the farm is there, and how it is set."""
        return controller.health()

    @app.get("/v1/workers", dependencies=authorize, tags=["farm"])
    async def workers() -> dict[str, Any]:
        """List the workers: device, what they hold, what they are at."""
        return {"workers": await controller.workers()}

    @app.get("/v1/styles", dependencies=authorize, tags=["farm"])
    async def styles() -> dict[str, Any]:
        """List the styles that jobs can name."""
        entries = await asyncio.to_thread(controller.library.styles)
        return {"styles": [asdict(entry) for entry in entries]}


def _add_streams(app: FastAPI, controller: Controller, authorize: list[Any]) -> None:
    @app.get("/v1/jobs/{job}/stream", dependencies=authorize, tags=["events"])
    async def job_stream(job: str, request: Request, after: int = 0) -> StreamingResponse:
        """Follow one job: server-sent events `job` (its state) and `event`, until it has ended."""
        job_id = controller.view.resolve(job)
        return _stream(_follow(controller, request, job_id, after))

    @app.get("/v1/stream", dependencies=authorize, tags=["events"])
    async def stream(request: Request, after: int = 0) -> StreamingResponse:
        """Follow everything that happens on the farm."""
        return _stream(_follow(controller, request, None, after))


def _stream(events: AsyncIterator[str]) -> StreamingResponse:
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


async def _follow(
    controller: Controller, request: Request, job_id: str | None, after: int
) -> AsyncIterator[str]:
    """Yield what changed as soon as it has, at most twice a second."""
    last = ""
    while not await request.is_disconnected():
        changed = controller.changed
        while events := controller.view.events(job_id, after):
            for event in events:
                after = event["id"]
                yield f"id: {after}\nevent: event\ndata: {json.dumps(event)}\n\n"
        if job_id:
            job = controller.view.job(job_id)
            text = json.dumps(job)
            if text != last:
                last = text
                yield f"event: job\ndata: {text}\n\n"
            if job["state"] in _ENDED:
                return
        try:
            await asyncio.wait_for(changed.wait(), _KEEPALIVE_S)
        except TimeoutError:
            yield ": still here\n\n"
        await asyncio.sleep(0.5)
