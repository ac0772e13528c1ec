"""The kind of work `train`: one style, trained by all members of a gang together."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from typing import Any

from jobs.errors import BadInputError, ConflictError
from jobs.optimize import state_name
from jobs.tasks import Item, TaskMessage
from jobs.train import KIND, TrainPayload, result_key
from workers import train_files as files
from workers.kinds import Context, Kind, Produced, register
from workers.nst.onnx_files import encode_onnx
from workers.nst.training import Training
from workers.optimize_gang import agree, hear, tell
from workers.optimize_recipe import network_note
from workers.optimize_studio import arithmetic
from workers.train_checks import check
from workers.train_course import Course, DivergedError
from workers.train_data import Batches
from workers.train_forecast import forecast
from workers.train_notes import Notes
from workers.train_recipe import fingerprint
from workers.train_result import quality_of, recipe_document, result_of, style_file
from workers.train_state import Diary, Kept, Position, read_kept
from workers.train_studio import Data, Studio, open_data, open_studio, read_painting

log = logging.getLogger(__name__)


def run(task: TaskMessage, context: Context) -> dict[str, Any]:
    """Train the style of a task; member 0 leads, the others compute with it.

    Returns:
        `name`, `sha256` and `entry` of the style, on member 0, once it is trained.

    Raises:
        FarmError: If what the training needs cannot be used.
    """
    payload = TrainPayload.model_validate(task.payload)
    if context.group.rank > 0:
        _follow(payload, context)
        return {}
    for item, _ in context.read_ahead():
        return _lead(payload, item, context)
    tell(context.group, None)
    return {} if context.should_stop() else _standing(task, payload, context)


def settings(payload: dict[str, Any]) -> dict[str, Any]:
    """Return what of the payload decides the style."""
    return TrainPayload.model_validate(payload).settings()


register(Kind(KIND, run, None, settings, check, forecast))


def _standing(task: TaskMessage, payload: TrainPayload, context: Context) -> dict[str, Any]:
    """Return the result of a style that was finished before."""
    for item in task.items:
        try:
            data = context.finished(item)
        except ConflictError:  # the item has failed with that
            continue
        if data is not None:
            return result_of(data, payload, context)
    return {}


def _follow(payload: TrainPayload, context: Context) -> None:
    words = hear(context.group)
    if words is None:
        return
    studio = open_studio(payload, words["paintings"], context)
    with arithmetic(studio.device, studio.threads):
        if not agree(context.group, [False])[0]:
            return  # member 0 cannot begin, and says why
        training = studio.training(context)
        data = open_data(payload, studio.recipe, context, words["bad"])
        try:
            _train(studio, data, training, Position(**words["position"]), context, None)
        except DivergedError:
            log.info("the training diverges: member 0 says so")


def _lead(payload: TrainPayload, item: Item, context: Context) -> dict[str, Any]:
    try:
        paintings = [read_painting(context.asset(style.sha256), style.name) for style in payload.style_images]
        kept = _kept(payload, context)
    except BadInputError as error:
        tell(context.group, None)
        context.finish_item(item, error)
        return {}
    position, diary = kept.position, kept.diary
    words = {"paintings": paintings, "position": position.to_words(), "bad": diary.bad}
    tell(context.group, words)
    studio = open_studio(payload, paintings, context)
    with arithmetic(studio.device, studio.threads):
        try:
            training = studio.training(context)
            data = open_data(payload, studio.recipe, context, diary.bad)
            notes = Notes(context, studio, data, diary, position.total)
        except BadInputError as error:
            agree(context.group, [False])
            context.finish_item(item, error)
            return {}
        agree(context.group, [True])
        try:
            course = _train(studio, data, training, position, context, notes)
        except BadInputError as error:
            notes.failed()
            context.finish_item(item, error)
            return {}
        return _finish(studio, data, notes, course, item, context) if course else {}


def _train(
    studio: Studio,
    data: Data,
    training: Training,
    position: Position,
    context: Context,
    notes: Notes | None,
) -> Course | None:
    """Train to the end; return the course that it took, or None if it was told to stop."""
    payload, group = studio.payload, context.group
    part = (group.rank, group.size)
    with Batches(data.photographs, data.trained, payload.seed, studio.recipe.batch, part) as batches:
        every = payload.validation.every
        course = Course(training, batches, group, position, every=every, notes=notes)
        return course if course.run(context.should_stop) else None


def _kept(payload: TrainPayload, context: Context) -> Kept:
    """Return what the training goes on from: an earlier attempt, a finished one that is extended, nothing.

    Raises:
        BadInputError: If the training that is to be extended kept nothing to go on from.
    """
    mark = fingerprint(payload)
    found = read_kept(context.load_checkpoint())
    if found and found.fingerprint == mark:
        return found
    if payload.extends is None:
        return Kept(mark, Position(payload.total_steps), Diary())
    job = payload.extends.job
    saved = context.kept_state(job, state_name(result_key(payload.style)))
    found = read_kept(saved.data) if saved else None
    if found is None or found.position.engine is None:
        reason = "kept no last state" if saved is None else "kept a state that cannot be read"
        raise BadInputError(f"it cannot be extended: job {job} {reason}", "submit it with more steps")
    if found.fingerprint != mark:
        raise BadInputError(
            f"it cannot be extended: job {job} trained with other settings", "submit it as a new job"
        )
    total = int(found.position.engine["steps_done"]) + payload.extends.steps[-1]
    return replace(found, position=replace(found.position, total=total))


def _finish(
    studio: Studio, data: Data, notes: Notes, course: Course, item: Item, context: Context
) -> dict[str, Any]:
    """Keep what came of a training, and give its item its outcome."""
    training = course.training
    payload, diary = studio.payload, notes.diary
    notes.finished(course.position())
    quality = quality_of(studio, data, training, context)
    model = style_file(studio, data, diary, training, quality)
    facts = _facts(studio, notes, training, context)
    notes.keep_aside(files.parameters_name(studio.key), recipe_document(studio, facts))
    if payload.onnx:
        _keep_onnx(studio, notes, training)
    result = result_of(model, payload, context)
    note = f"after {training.steps_done} steps {notes.trouble}: train longer" if notes.trouble else ""
    context.finish_item(item, partial(Produced, model, note, facts))
    return result


def _keep_onnx(studio: Studio, notes: Notes, training: Training) -> None:
    try:
        data = encode_onnx(training.trained())
    except (ValueError, RuntimeError) as error:
        notes.say(f"it could not be kept as ONNX: {error}")
    else:
        notes.keep_aside(files.onnx_name(studio.key), data)


def _facts(studio: Studio, notes: Notes, training: Training, context: Context) -> dict[str, Any]:
    payload, recipe, diary = studio.payload, studio.recipe, notes.diary
    judged = [each["loss"] for each in diary.validations if each.get("loss") is not None]
    return {
        "seconds": round(diary.seconds, 3),
        "steps": training.steps_done,
        "pixel_evaluations": notes.steps_here * recipe.batch * recipe.crop.side_px**2,
        "loss": diary.trace.at(len(diary.trace) - 1)["loss"] if len(diary.trace) else None,
        "validation_loss": judged[-1] if judged else None,
        "first_validation_loss": judged[0] if judged else None,
        "preset": payload.preset,
        "network": payload.loss_network.name,
        "network_note": network_note(recipe, studio.metadata),
        "left_out": len(diary.bad),
        "rollbacks": len(diary.rollbacks),
        "workers": context.group.size,
        "threads": studio.threads,
        "device": studio.device,
        "precision": payload.precision,
    }
