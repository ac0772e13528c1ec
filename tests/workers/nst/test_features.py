"""Loss networks give the features that plain torch gives, whatever the layers, pooling, dtype and file."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.vgg import cfgs, make_layers

from tests.workers.nst.network_files import gatys_state, torchvision_state
from workers.nst.features import (
    BLOCKS,
    PREPROCESSING,
    FirstPadding,
    LossNetwork,
    Pooling,
    architecture,
    build_network,
    seeded,
)
from workers.nst.loss_networks import (
    ForeignNetwork,
    NetworkMetadata,
    encode_loss_network,
    import_loss_network,
    load_loss_network,
)
from workers.nst.regions import Region, plan_tile
from workers.nst.tile_features import tap_features

NET = seeded("vgg19", 2, seed=0)


def given(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor


def picture(height: int = 33, width: int = 47, seed: int = 0) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def plain(network: LossNetwork) -> nn.Sequential:
    """Return the network as plain modules, in the order of its layers."""
    pooling: dict[str, Callable[[], nn.Module]] = {
        "max": lambda: nn.MaxPool2d(2),
        "avg": lambda: nn.AvgPool2d(2),
        "l2": lambda: nn.LPPool2d(2, 2),
    }
    modules: list[nn.Module] = []
    for layer in network.layers:
        if layer.weight is None or layer.bias is None:
            modules.append(nn.ReLU() if layer.kind == "relu" else pooling[network.pooling]())
            continue
        mode = network.first_padding if not modules else "zeros"
        conv = nn.Conv2d(layer.weight.shape[1], layer.weight.shape[0], 3, padding=1, padding_mode=mode)
        conv.load_state_dict({"weight": layer.weight, "bias": layer.bias})
        modules.append(conv)
    return nn.Sequential(*modules)


@pytest.mark.parametrize("architecture_name", BLOCKS)
@pytest.mark.parametrize("pooling", ["max", "avg", "l2"])
@pytest.mark.parametrize("first_padding", ["zeros", "replicate"])
def test_every_layer_gives_what_plain_modules_give(
    architecture_name: str, pooling: Pooling, first_padding: FirstPadding
) -> None:
    network = replace(
        seeded(architecture_name, 2, seed=1), pooling=pooling, first_padding=first_padding
    ).up_to(["relu5_1"])
    names = [layer.name for layer in network.layers]
    inputs = network.preprocess(picture())
    found = network.taps(inputs, names)
    expected = inputs
    for name, module in zip(names, plain(network), strict=True):
        expected = module(expected)
        torch.testing.assert_close(found[name], expected.detach(), rtol=1e-4, atol=1e-5, msg=name)


def test_a_convolution_that_is_tapped_is_not_changed_by_the_relu_after_it() -> None:
    inputs = NET.preprocess(picture())
    both = NET.taps(inputs, ["conv3_1", "relu3_1"])
    assert float(both["conv3_1"].min()) < 0
    torch.testing.assert_close(both["relu3_1"], both["conv3_1"].clamp(min=0))
    alone = NET.taps(inputs, ["relu3_1"])
    assert torch.equal(alone["relu3_1"], both["relu3_1"])


def test_gradients_of_taps_are_those_of_finite_differences() -> None:
    network = seeded("vgg16", 1, seed=2).up_to(["relu2_2"]).to(dtype=torch.float64)
    network = replace(network, pooling="avg")
    pixels = picture(4, 5).double().requires_grad_()

    def taps(rgb: Tensor) -> tuple[Tensor, ...]:
        return tuple(network.taps(network.preprocess(rgb), ["conv1_1", "conv1_2", "relu2_2"]).values())

    assert torch.autograd.gradcheck(taps, (pixels,), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(8, 6), (9, 7)])
def test_the_way_back_through_maxima_is_that_of_torch(height: int, width: int) -> None:
    """Also where several of four are the largest, as in a flat sky."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randint(-1, 3, (1, 3, height, width), generator=generator).float()
    features = features.contiguous(memory_format=torch.channels_last)
    ours, theirs = (features.clone().requires_grad_() for _ in range(2))
    pooled, expected = NET.pool(ours), functional.max_pool2d(theirs, 2)
    assert torch.equal(pooled, expected)
    gradient = torch.rand(pooled.shape, generator=generator)
    pooled.backward(gradient)
    expected.backward(gradient)
    assert torch.equal(given(ours.grad), given(theirs.grad))


def test_features_that_were_pooled_are_not_kept_for_the_way_back() -> None:
    """A graph of VGG-19 holds 1040 bytes a pixel of float32 with 64 channels; torch's own, 1520."""
    network, side_px, width = seeded("vgg19", 4, seed=0).up_to(["relu5_1"]), 64, 4
    whole = Region(0, 0, side_px, side_px)
    plan = plan_tile(network.layers, [f"relu{block}_1" for block in range(1, 6)], whole, whole)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.shape[0] == 1:  # features; weights are there anyway
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        taps = tap_features(network, plan, picture(side_px, side_px), graph=True)
    assert len(taps) == 5
    pixels_bytes = 3 * 4 * side_px**2
    assert sum(kept.values()) - pixels_bytes == 1040 * side_px**2 * width // 64


def test_scaled_pooling_multiplies_what_each_pooling_gives() -> None:
    network = replace(NET, pooling="avg", pool_scale=2.0)
    inputs = network.preprocess(picture())
    twice = network.taps(inputs, ["pool1"])["pool1"]
    assert torch.equal(twice, replace(NET, pooling="avg").taps(inputs, ["pool1"])["pool1"] * 2)


def test_preprocessing_is_what_each_family_says() -> None:
    rgb = picture(4, 5)
    caffe = PREPROCESSING["caffe"](rgb)
    blue, red = caffe[:, 0], caffe[:, 2]
    torch.testing.assert_close(blue, rgb[:, 2] * 255 - 103.939)
    torch.testing.assert_close(red, rgb[:, 0] * 255 - 123.68)
    torchvision = PREPROCESSING["torchvision"](rgb)
    torch.testing.assert_close(torchvision[:, 1], (rgb[:, 1] - 0.456) / 0.224)
    for family in PREPROCESSING.values():
        color = torch.tensor(family.neutral).view(1, 3, 1, 1)
        torch.testing.assert_close(family(color), torch.zeros(1, 3, 1, 1), atol=2e-5, rtol=0)


def test_layers_have_the_names_and_places_of_torchvision() -> None:
    for name, config in (("vgg16", "D"), ("vgg19", "E")):
        modules = make_layers(cfgs[config])
        kinds = {"conv": nn.Conv2d, "relu": nn.ReLU, "pool": nn.MaxPool2d}
        layers = list(architecture(name))
        assert len(layers) == len(modules)
        assert all(isinstance(m, kinds[kind]) for m, (_, kind) in zip(modules, layers, strict=True))
    assert [name for name, _ in architecture("vgg19")][20:23] == ["relu4_1", "conv4_2", "relu4_2"]


def test_strides_and_channels_are_those_of_the_features() -> None:
    found = NET.taps(NET.preprocess(picture(64, 64)), ["relu1_1", "relu3_4", "pool4", "relu5_1"])
    for name, features in found.items():
        assert features.shape == (1, NET.channels(name), 64 // NET.stride(name), 64 // NET.stride(name))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NET.taps(NET.preprocess(picture(15, 64)), ["relu5_1"]), "64x15 px is too small for relu5_1"),
        (lambda: NET.taps(picture(), ["relu6_1"]), "no layer 'relu6_1'"),
        (lambda: NET.taps(picture(), []), "no layer is named"),
        (lambda: seeded("vgg13", 2, 0), "'vgg13' is not known"),
        (lambda: seeded("vgg16", 2, 0, family="keras"), "'keras' is not known"),
        (lambda: build_network("vgg16", [(torch.ones(2, 4, 3, 3), torch.ones(2))], "caffe"), "conv1_1 has"),
        (lambda: build_network("vgg16", [], "caffe"), "0 convolutions"),
    ],
)
def test_what_cannot_be_is_refused_by_name(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# --- files --------------------------------------------------------------------------------------------------


def parameters(network: LossNetwork) -> list[tuple[str, Tensor, Tensor]]:
    return [
        (layer.name, layer.weight.contiguous(), layer.bias)
        for layer in network.layers
        if layer.weight is not None and layer.bias is not None
    ]


def same(first: LossNetwork, second: LossNetwork) -> bool:
    pairs = zip(parameters(first), parameters(second), strict=True)
    return all(a[0] == b[0] and torch.equal(a[1], b[1]) and torch.equal(a[2], b[2]) for a, b in pairs)


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("dress", [torchvision_state, gatys_state])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_files_of_every_family_load(
    tmp_path: Path, name: str, dress: Callable[[LossNetwork], dict[str, Tensor]], dtype: torch.dtype
) -> None:
    network = seeded(name, 2, seed=3).to(dtype=dtype)
    torch.save(dress(network), tmp_path / "w.pth")
    loaded = import_loss_network(tmp_path / "w.pth", name, "caffe")
    assert loaded.preprocessing.name == "caffe"
    assert loaded.dtype == torch.float32
    assert same(loaded, network.to(dtype=torch.float32))


def test_safetensors_of_others_are_read_like_files_of_torch(tmp_path: Path) -> None:
    network = seeded("vgg16", 2, seed=8)
    save_file(torchvision_state(network), tmp_path / "w.safetensors")
    torch.save(torchvision_state(network), tmp_path / "w.pth")
    first, second = (
        import_loss_network(tmp_path / name, "vgg16", "caffe") for name in ("w.safetensors", "w.pth")
    )
    assert same(first, network)
    assert same(first, second)


@pytest.mark.parametrize(
    ("name", "deepest", "expected"),
    [
        ("vgg16", "relu5_3", ["vgg16"]),
        ("vgg19", "relu5_4", ["vgg19"]),
        ("vgg19", "relu3_4", ["vgg19"]),
        ("vgg19", "relu3_3", ["vgg16", "vgg19"]),
    ],
)
def test_a_file_shows_its_architecture_where_the_two_differ(
    tmp_path: Path, name: str, deepest: str, expected: list[str]
) -> None:
    state = torchvision_state(seeded(name, 2, seed=9).up_to([deepest]))
    torch.save(state, tmp_path / "w.pth")
    assert ForeignNetwork.read(tmp_path / "w.pth").architectures == expected


def test_only_keys_of_gatys_show_a_family(tmp_path: Path) -> None:
    """Files of both families have torchvision's keys."""
    for dress, family in ((torchvision_state, ""), (gatys_state, "caffe")):
        torch.save(dress(NET), tmp_path / "w.pth")
        assert ForeignNetwork.read(tmp_path / "w.pth").family == family


def test_channel_factors_divide_every_channel_and_nothing_else(tmp_path: Path) -> None:
    network = seeded("vgg16", 2, seed=4).up_to(["relu4_1"])
    torch.save(torchvision_state(network), tmp_path / "w.pth")
    generator = torch.Generator().manual_seed(5)
    index = {layer.name: number for number, layer in enumerate(network.layers)}
    factors = {
        name: torch.rand(len(bias), generator=generator) * 9 + 0.1 for name, _, bias in parameters(network)
    }
    torch.save({f"features.{index[name]}": value for name, value in factors.items()}, tmp_path / "m.pth")
    scaled = import_loss_network(tmp_path / "w.pth", "vgg16", "torchvision", tmp_path / "m.pth")
    inputs = network.preprocess(picture())
    for pooling in ("max", "avg", "l2"):
        names = ["relu1_2", "relu2_1", "relu4_1"]
        before = replace(network, pooling=pooling).taps(inputs, names)
        after = replace(scaled, pooling=pooling).taps(inputs, names)
        for name in names:
            factor = factors[name.replace("relu", "conv")].view(1, -1, 1, 1)
            torch.testing.assert_close(after[name] * factor, before[name], rtol=1e-4, atol=1e-4)


def test_our_own_file_keeps_the_network_to_the_bit_and_is_the_same_each_time(tmp_path: Path) -> None:
    network = seeded("vgg19", 2, seed=6, family="caffe")
    metadata = NetworkMetadata("vgg19", "caffe", channel_scaled=True, origin_sha256="ab")
    content = encode_loss_network(network, metadata)
    assert content == encode_loss_network(network.to(), metadata)
    (tmp_path / "n.safetensors").write_bytes(content)
    loaded, said = load_loss_network(tmp_path / "n.safetensors")
    assert said == metadata
    assert same(loaded, network)
    with pytest.raises(ValueError, match="the metadata is of a vgg16"):
        encode_loss_network(network, NetworkMetadata("vgg16", "caffe"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("features.5.weight"), "lacks conv2_1"),
        (lambda state: state.update({"features.5.bias": torch.ones(3)}), "conv2_1 has weights"),
        (lambda state: state.update({"features.2.weight": torch.full((2, 2, 3, 3), torch.nan)}), "no finite"),
        (lambda state: state.update({"res1.weight": torch.ones(3)}), "it has res1.weight beside it"),
        (
            lambda state: state.clear() or state.update({"a": torch.ones(1)}),
            "holds no vgg16: it lacks conv1_1",
        ),
    ],
)
def test_a_file_of_something_else_is_refused_and_says_why(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    state = torchvision_state(seeded("vgg16", 2, seed=7))
    change(state)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=message):
        import_loss_network(tmp_path / "w.pth", "vgg16", "torchvision")


def test_a_file_of_another_project_is_no_loss_network_of_ours(tmp_path: Path) -> None:
    (tmp_path / "n.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_loss_network(tmp_path / "n.safetensors")
    content = encode_loss_network(NET, NetworkMetadata("vgg19", "torchvision", version=9))
    (tmp_path / "n.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="layout 9"):
        load_loss_network(tmp_path / "n.safetensors")


def test_real_weights_with_channel_factors_have_activations_near_one() -> None:
    folder = Path(os.environ.get("FARM_TEST_DATA", "")) / "vgg"
    if not (folder / "vgg19_features_caffe.fp16.pth").is_file():
        pytest.skip("FARM_TEST_DATA has no vgg/vgg19_features_caffe.fp16.pth")
    weights = folder / "vgg19_features_caffe.fp16.pth"
    network = import_loss_network(weights, "vgg19", "caffe", folder / "vgg19_channel_normaliser.pth")
    features = network.taps(network.preprocess(picture(64, 64)), ["relu1_1", "relu3_1", "relu5_1"])
    assert all(0.2 < float(value.mean()) < 5 for value in features.values())
