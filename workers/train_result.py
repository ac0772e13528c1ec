"""What comes of a training: the style model with what it says of itself, and its entry in the library."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jobs.errors import BadInputError, FarmError
from jobs.library import TRAINED
from jobs.train import TrainPayload
from workers.importing import thumbnail
from workers.kinds import Context
from workers.nst.features import LossNetwork
from workers.nst.loss_networks import NetworkMetadata
from workers.nst.style_models import StyleMetadata, encode_style_model, read_style_model
from workers.nst.style_quality import STYLE_LAYERS, style_quality
from workers.nst.training import Training
from workers.nst.transformer import TransformerNet
from workers.train_data import decoded
from workers.train_state import Diary
from workers.train_studio import Data, Studio

_PHOTOGRAPH_PX, _PAINTING_PX = 384, 512
"""Sizes at which the quality of all styles is measured."""

_MEASURED = 10
"""Photographs that it is measured on, at most."""


def style_file(
    studio: Studio, data: Data, diary: Diary, training: Training, quality: dict[str, Any] | None
) -> bytes:
    """Return the style model; the same training gives the same bytes, wherever and however often it stopped.

    Args:
        studio: What trained.
        data: Its photographs.
        diary: What it has been through.
        training: As it ended.
        quality: Figures that no weight of the training can move, where they are known.
    """
    payload, metadata = studio.payload, studio.metadata
    settings = json.dumps(payload.settings(), sort_keys=True)
    trace, judged = diary.trace, [each for each in diary.validations if each.get("loss") is not None]
    said = {
        "preset": payload.preset,
        "network": payload.network,
        "steps": training.steps_done,
        "batch": studio.recipe.batch,
        "crop_px": studio.recipe.crop.side_px,
        "precision": payload.precision,
        "seed": payload.seed,
        "paintings": [style.model_dump() for style in payload.style_images],
        "painting_sizes_px": [[rgb.shape[-1], rgb.shape[-2]] for _, rgb in studio.paintings],
        "loss_network": {**payload.loss_network.model_dump(), **_of_network(metadata)},
        "data": {"sha256": payload.data.sha256, "photographs": len(data.trained)},
        "settings_sha256": hashlib.sha256(settings.encode()).hexdigest(),
        "loss": trace.at(len(trace) - 1)["loss"] if len(trace) else None,
        "validation_loss": judged[-1]["loss"] if judged else None,
        "validation_pictures": len(data.judged),
        "rollbacks": diary.rollbacks,
        "stylefarm": version("stylefarm"),
    }
    if payload.begin_with is not None:
        said["begin_with"] = payload.begin_with.model_dump()
    if quality is not None:
        said["quality"] = quality
    made_of = ", ".join(style.name for style in payload.style_images)
    document = StyleMetadata(
        name=payload.style,
        width=payload.width,
        origin=TRAINED,
        license=payload.license,
        source=payload.source or f"trained on {made_of}",
        training=said,
    )
    return encode_style_model(training.trained(), document)


def quality_of(studio: Studio, data: Data, training: Training, context: Context) -> dict[str, Any] | None:
    """Return how good the style is, or None where figures could not be compared with those of other styles.

    That takes a VGG-19 whose channels are scaled, the same for all, and pictures that were not trained with.
    """
    metadata, network = studio.metadata, studio.network
    if metadata.architecture != "vgg19" or not metadata.channel_scaled or not _has_layers(network):
        return None
    photographs = _photographs(data, context)
    if not photographs:
        return None
    first = studio.payload.style_images[0]
    painting = decoded(context.asset(first.sha256).read_bytes(), _PAINTING_PX, _PAINTING_PX)
    try:
        found = style_quality(network, training.render, photographs, painting)
    except ValueError:  # a picture too small for the network
        return None
    return {
        **{
            name: round(value, 4) if isinstance(value, float) else value
            for name, value in asdict(found).items()
        },
        "photograph_px": _PHOTOGRAPH_PX,
        "painting_px": _PAINTING_PX,
        "loss_network": metadata.origin_sha256 or studio.payload.loss_network.sha256,
    }


def result_of(data: bytes, payload: TrainPayload, context: Context) -> dict[str, Any]:
    """Keep a style model in the farm's store; return what later steps and the library need to know of it.

    Args:
        data: The style model, just trained or found finished.
        payload: Of the task.
        context: Of the attempt.

    Raises:
        FarmError: If it is no style model.
    """
    net, document = _read(data)
    picture = thumbnail(net)
    return {
        "name": payload.style,
        "sha256": context.keep_asset(data),
        "entry": {
            "width": document.width,
            "size_bytes": len(data),
            "source": document.source,
            "license": document.license,
            "metadata": {**asdict(document), "thumbnail_sha256": context.keep_asset(picture)},
        },
    }


def recipe_document(studio: Studio, facts: dict[str, Any]) -> bytes:
    """Return all values of a training as a JSON file."""
    recipe = studio.recipe
    said = {each.name: getattr(recipe, each.name) for each in fields(recipe)}
    said |= {"crop": asdict(recipe.crop), "content_layers": dict(recipe.content_layers)}
    said |= {"style_layers": dict(recipe.style_layers)}
    payload = studio.payload.model_dump(mode="json", exclude_none=True)
    made = {**facts, "torch": torch.__version__}
    return f"{json.dumps({'recipe': said, 'payload': payload, 'made': made}, indent=2)}\n".encode()


def _photographs(data: Data, context: Context) -> Sequence[Tensor]:
    found: list[Tensor] = []
    for number in data.judged:
        if number not in data.judging.bad and len(found) < _MEASURED:
            try:
                found.append(decoded(context.read(data.judging.url(number)), _PHOTOGRAPH_PX, _PHOTOGRAPH_PX))
            except BadInputError:  # it was there when the training began
                continue
    return found


def _has_layers(network: LossNetwork) -> bool:
    return {*STYLE_LAYERS, "relu4_2"} <= {layer.name for layer in network.layers}


def _of_network(metadata: NetworkMetadata) -> dict[str, Any]:
    return {name: value for name, value in asdict(metadata).items() if name != "version"}


def _read(data: bytes) -> tuple[TransformerNet, StyleMetadata]:
    with tempfile.NamedTemporaryFile(prefix="style-", suffix=".safetensors") as file:
        Path(file.name).write_bytes(data)
        try:
            return read_style_model(Path(file.name))
        except ValueError as error:
            raise FarmError(f"the style that is there is none: {error}", "remove it, and retry") from error
