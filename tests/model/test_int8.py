"""int8: layers in bytes against their reference forms, whole networks, calibration in a model folder, and every refusal."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from tests.builders import SMALL_CATEGORIES, SMALL_CONFIG
from torch import Tensor, nn

from proscale.any_network import build_network
from proscale.checkpoints.calibration_file import CALIBRATION_FILE, load_calibration
from proscale.checkpoints.model_folder import save_folder
from proscale.cli import main
from proscale.config import ModelConfig, PixelDecoderConfig, ProScaleEncoderConfig, SemanticModelConfig, SwinConfig
from proscale.errors import CheckpointError
from proscale.int8_network import Calibration, check_kind, observe, to_int8, to_rounded
from proscale.layers.int8 import ByteRange, Int8Convolution, Int8Linear, RoundedConvolution, RoundedLinear
from proscale.layers.linear import Activation, apply_linear, apply_two, normed
from proscale.network import SegmentationNetwork
from proscale.precision import cpu_int8, float_type
from proscale.predictor import Predictor
from proscale.published import PUBLISHED
from proscale.results import SegmentationOptions

needs_bytes = pytest.mark.skipif(not cpu_int8()[0], reason=f"no int8 here: {cpu_int8()[1]}")
SWIN = replace(
    SMALL_CONFIG,
    backbone=SwinConfig(embed_dim=32, depths=(1, 2, 1, 1), heads=(1, 2, 4, 8), window=4),
    pixel_decoder=PixelDecoderConfig(ProScaleEncoderConfig((1, 1, 1)), hidden_dim=32, heads=4, ffn_dim=64, pixel_embedding="conv"),
)


def network_of(config: ModelConfig) -> SegmentationNetwork:
    torch.manual_seed(5)
    return SegmentationNetwork(config).eval().requires_grad_(False)


def calibrated(config: ModelConfig, images: Tensor) -> Calibration:
    network = network_of(config)
    notes = observe(network)
    network.predict(images)
    return Calibration("", 1, {name: (seen.low, seen.high) for name, seen in notes.items()})


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.0, 2.0), (1.0, 2.0), (-5.0, -1.0), (0.0, 0.0)])
def test_a_range_holds_its_ends_and_zero(low: float, high: float) -> None:
    reads = ByteRange.covering(low, high)
    ends = [(byte - reads.zero_point) * reads.scale for byte in (0, 255)]
    assert 0 <= reads.zero_point <= 255
    assert ends[0] <= min(low, 0) + reads.scale
    assert ends[1] >= max(high, 0) - reads.scale


@needs_bytes
@torch.inference_mode()
@pytest.mark.parametrize("activation", ["none", "relu", "gelu"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_agrees_with_its_reference(activation: Activation, bias: bool) -> None:
    layer, x = nn.Linear(40, 24, bias=bias), torch.randn(2, 9, 40)
    reads = ByteRange.covering(-2.5, 4.0)  # some values lie outside
    got = apply_linear(Int8Linear(layer, reads, torch.float32), x, activation)
    assert torch.allclose(got, apply_linear(RoundedLinear(layer, reads), x, activation), atol=1e-4)
    assert apply_linear(Int8Linear(layer, reads, torch.bfloat16), x.bfloat16(), activation).dtype == torch.bfloat16


@needs_bytes
@torch.inference_mode()
def test_a_norm_and_a_feed_forward_block_hand_over_bytes() -> None:
    norm, first, second, x = nn.LayerNorm(32), nn.Linear(32, 64), nn.Linear(64, 32), torch.randn(5, 11, 32)
    ranges = ByteRange.covering(-4, 4), ByteRange.covering(-0.2, 2)
    one, two = (Int8Linear(layer, reads, torch.float32) for layer, reads in zip((first, second), ranges, strict=True))
    slow = [RoundedLinear(layer, reads) for layer, reads in zip((first, second), ranges, strict=True)]
    assert normed(norm, one, x).dtype == torch.uint8
    assert two.read_from(one, x, "gelu").dtype == torch.uint8
    got, want = apply_two(one, two, normed(norm, one, x), "gelu"), apply_two(slow[0], slow[1], normed(norm, slow[0], x), "gelu")
    assert float((got - want).abs().max()) < 3 * ranges[1].scale * float(second.weight.abs().max())  # bytes that lie between two


@needs_bytes
@torch.inference_mode()
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2)])
def test_a_convolution_agrees_with_its_reference(kernel: int, stride: int) -> None:
    """Padding is 0.0, which is not byte 0."""
    layer = nn.Conv2d(16, 24, kernel, stride, padding=kernel // 2)
    x = torch.randn(2, 16, 13, 10).to(memory_format=torch.channels_last)
    reads = ByteRange.covering(-3, 2.5)
    got = Int8Convolution(layer, reads, torch.float32)(x)
    assert torch.allclose(got, RoundedConvolution(layer, reads)(x), atol=1e-4)


@needs_bytes
@torch.inference_mode()
@pytest.mark.parametrize("config", [SWIN, SMALL_CONFIG], ids=["swin", "resnet"])
def test_a_network_agrees_with_its_reference(config: ModelConfig) -> None:
    """Bytes that lie between two may go either way; what is left must be far below what rounding to bytes costs."""
    images = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(6))
    calibration = calibrated(config, images)
    exact, fast, slow = (network_of(config) for _ in range(3))
    to_int8(fast, calibration, torch.float32)
    to_rounded(slow, calibration)
    want, got, reference = (network.pixel_decoder.embed(network.backbone(images))[0] for network in (exact, fast, slow))
    cost = float((reference - want).norm() / want.norm())
    assert 0 < cost < 0.2
    assert float((got - reference).norm() / want.norm()) < cost / 2
    assert torch.isfinite(fast.predict(images).mask_logits).all()


def test_another_networks_calibration_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"has no layer backbone.stages.9.*proscale quantize"):
        to_rounded(network_of(SWIN), Calibration("", 1, {"backbone.stages.9": (0.0, 1.0)}))


def test_networks_that_bytes_are_not_for_are_refused() -> None:
    config = PUBLISHED["segformer-b0"](3)
    assert isinstance(config, SemanticModelConfig)
    with pytest.raises(CheckpointError, match=r"PRO-SCALE and Mask2Former alone; use --precision"):
        check_kind(build_network(config))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures, one of them in a folder below."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "more").mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.jpg", "more/c.png"):
        Image.fromarray(rng.integers(0, 255, (70, 90, 3), np.uint8)).save(folder / name)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small model with a Swin."""
    save_folder(tmp_path / "model", SWIN, SMALL_CATEGORIES, network_of(SWIN).state_dict())
    return tmp_path / "model"


def quantize(model: Path, data: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["quantize", str(model), "--data", str(data), *options])


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@needs_bytes
def test_a_calibrated_model_finds_nearly_the_same(model: Path, pictures: Path, picture: np.ndarray) -> None:
    before = files_of(model)
    result = quantize(model, pictures)
    assert result.exit_code == 0, result.output
    assert "3 pictures" in result.output
    after = files_of(model)
    assert after.keys() - before.keys() == {CALIBRATION_FILE}
    assert before.items() <= after.items()
    options = [SegmentationOptions(("semantic",))]
    exact, fast = (Predictor.load(model, precision=precision) for precision in ("float32", "int8"))
    assert {p.dtype for p in fast.network.parameters()} == {float_type(torch.device("cpu"), "int8")}
    areas = []
    for predictor in (exact, fast):
        segments = predictor.segment([picture], options)[0].results["semantic"].segments
        areas.append({segment.label: segment.area for segment in segments})
    pixels = picture.shape[0] * picture.shape[1]
    assert sum(abs(areas[0].get(name, 0) - areas[1].get(name, 0)) for name in areas[0] | areas[1]) < 0.2 * pixels


def test_pictures_are_spread_over_the_folder(model: Path, pictures: Path) -> None:
    assert quantize(model, pictures, "--limit", "2").exit_code == 0
    assert load_calibration(model).pictures == 2


def nothing(folder: Path) -> str:
    return "holds no picture"


def broken(folder: Path) -> str:
    shutil.copy(Path(__file__), folder / "broken.png")
    return r"broken.png cannot be read"


def no_folder(folder: Path) -> str:
    folder.rmdir()
    return "no folder at"


@pytest.mark.parametrize("prepare", [nothing, broken, no_folder])
def test_bad_pictures_leave_the_model_as_it_was(prepare: Callable[[Path], str], model: Path, tmp_path: Path) -> None:
    data, before = tmp_path / "data", files_of(model)
    data.mkdir()
    said = prepare(data)
    result = quantize(model, data)
    assert result.exit_code == 1
    assert said in result.output
    assert files_of(model) == before


def test_an_interruption_leaves_the_model_as_it_was(model: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert quantize(model, pictures, "--limit", "1").exit_code == 0
    before = files_of(model)
    segment = Predictor.segment
    done: list[int] = []

    def interrupted(*arguments: object) -> object:
        if done:
            raise KeyboardInterrupt
        done.append(1)
        return segment(*arguments)

    monkeypatch.setattr(Predictor, "segment", interrupted)
    result = quantize(model, pictures)
    assert result.exit_code == 1
    assert "Aborted" in result.output
    assert files_of(model) == before


@needs_bytes
def test_a_model_without_calibration_is_refused_with_the_remedy(model: Path) -> None:
    with pytest.raises(CheckpointError, match=r"int8 needs a calibration.*proscale quantize MODEL --data FOLDER"):
        Predictor.load(model, precision="int8")
    with pytest.raises(CheckpointError, match=r"int8 needs a calibration.*proscale quantize"):
        Predictor(network_of(SWIN), SMALL_CATEGORIES, precision="int8")


@needs_bytes
@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", '{"version": 2}', '{"version": 1, "weights": "", "pictures": 1, "ranges": {}}']
    + [json.dumps({"version": 1, "weights": "", "pictures": 1, "ranges": {"a": ends}}) for ends in ([1], [2, 1], [0, 1e999], "no")],
)
def test_a_broken_calibration_is_refused(text: str, model: Path) -> None:
    (model / CALIBRATION_FILE).write_text(text)
    with pytest.raises(CheckpointError, match=CALIBRATION_FILE):
        Predictor.load(model, precision="int8")


@needs_bytes
def test_the_calibration_of_other_weights_is_refused(model: Path, pictures: Path) -> None:
    assert quantize(model, pictures, "--limit", "1").exit_code == 0
    calibration = (model / CALIBRATION_FILE).read_bytes()
    state = network_of(SWIN).state_dict()
    save_folder(model, SWIN, SMALL_CATEGORIES, {name: tensor + 1 for name, tensor in state.items()})
    assert (model / CALIBRATION_FILE).read_bytes() == calibration
    with pytest.raises(CheckpointError, match=r"belongs to other weights.*proscale quantize"):
        Predictor.load(model, precision="int8")


@needs_bytes
def test_compiling_is_refused(model: Path, pictures: Path) -> None:
    assert quantize(model, pictures, "--limit", "1").exit_code == 0
    with pytest.raises(CheckpointError, match="compiling is for float32 and bfloat16"):
        Predictor.load(model, precision="int8", compile_for=[(64, 64)])


def test_a_processor_without_products_of_bytes_refuses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    with pytest.raises(CheckpointError, match=r"neither VNNI nor AMX.*--precision float32 or bfloat16"):
        Predictor.load(precision="int8")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_vnni": True})
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE")
    assert cpu_int8() == (False, "ONEDNN_MAX_CPU_ISA=AVX512_CORE keeps oneDNN from AVX512-VNNI")
