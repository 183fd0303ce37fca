# Copyright (c) monai_vqprior contributors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""What runs on CUDA, beside the same on the CPU: ``make gpu-check``. Nothing here needs more than one small GPU."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_vqprior.bundles import bundle_root
from monai_vqprior.inferers import TokenizerInferer, VQPriorInferer, encode_grids
from monai_vqprior.losses import TokenizerLoss, ssim_map
from monai_vqprior.metrics import nearest_images
from monai_vqprior.networks import (
    AutoencoderVQ,
    CodeContext,
    CodeSketch,
    CosineCodebook,
    EMACodebook,
    FSQCodebook,
    GatedPixelCNN,
    HierarchicalPrior,
)
from monai_vqprior.runs import mixed_precision, select_device

pytestmark = pytest.mark.gpu

SMALL = ["--spatial_size", "32", "--channels", "[16]", "--num_embeddings", "16", "--embedding_dim", "4"]
SMALL_PRIOR = ["--prior_channels", "16", "--prior_layers", "2", "--prior_sketch_block", "4"]
SMALL_PRIOR += ["--prior_sketch_codes", "8", "--prior_sketch_channels", "16", "--prior_sketch_layers", "2"]
CODEBOOKS = {
    "EMACodebook": lambda: EMACodebook(16, 4, entropy_weight=0.01),
    "CosineCodebook": lambda: CosineCodebook(16, 4),
    "FSQCodebook": lambda: FSQCodebook((4, 4)),
}


@pytest.fixture(scope="module")
def device() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip(f"torch {torch.__version__} finds no CUDA device")
    return torch.device("cuda:0")


def plain_prior(**options: Any) -> GatedPixelCNN:
    torch.manual_seed(0)
    return GatedPixelCNN(2, 16, (6, 8), 8, 3, **options).double().eval()


def sketched_prior() -> HierarchicalPrior:
    torch.manual_seed(0)
    sketch = CodeSketch(16, spatial_size=(6, 8), block=2)
    coarse = GatedPixelCNN(2, sketch.num_sketch_codes, sketch.spatial_size, 8, 2, attention_every=1)
    context = CodeContext(sketch.num_sketch_codes, (6, 8), 8, sketch.block)
    return (
        HierarchicalPrior(sketch, coarse, GatedPixelCNN(2, 16, (6, 8), 8, 3, context_network=context)).double().eval()
    )


def test_a_gpu_is_what_is_chosen(device: torch.device) -> None:
    assert select_device() == device
    assert select_device("cuda").type == "cuda"
    has_bfloat16 = torch.cuda.get_device_capability(device) >= (8, 0)
    assert mixed_precision(device) == (torch.bfloat16 if has_bfloat16 else None)


@pytest.mark.parametrize("name", CODEBOOKS)
def test_a_step_of_the_autoencoder(name: str, device: torch.device) -> None:
    """From the start of the codebook on, in mixed precision."""
    torch.manual_seed(0)
    network = AutoencoderVQ(channels=(16,), codebook=CODEBOOKS[name]())
    network = network.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    images = torch.rand(8, 1, 32, 32, device=device)
    dtype = mixed_precision(device)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            output = network(images)
        loss = TokenizerLoss()(output, images)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert all(value.isfinite().all() for value in network.state_dict().values())


@pytest.mark.parametrize("kind", [EMACodebook, CosineCodebook])
def test_codes_follow_as_on_the_cpu(kind: type[EMACodebook], device: torch.device) -> None:
    torch.manual_seed(0)
    batches = torch.randn(4, 2, 4, 8, 8)
    codebook = kind(8, 4, revival_threshold=0).train()  # revivals draw other numbers on each device
    codebook(batches[0])  # the start draws, too
    twin = copy.deepcopy(codebook).to(device)
    for z in batches[1:]:
        outputs = zip(codebook(z), twin(z.to(device)), strict=True)
        for ours, theirs in outputs:
            torch.testing.assert_close(theirs.cpu(), ours, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(twin.embedding.cpu(), codebook.embedding, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", CODEBOOKS)
def test_codes_and_reconstructions_are_those_of_the_cpu(name: str, device: torch.device) -> None:
    torch.manual_seed(0)
    network = AutoencoderVQ(channels=(16,), codebook=CODEBOOKS[name]()).double().eval()
    images = torch.rand(4, 1, 32, 32).double()
    twin = copy.deepcopy(network).to(device)
    ours, theirs = TokenizerInferer()(images, network), TokenizerInferer()(images.to(device), twin)
    # The codebook computes in float32: a vector between two codes may have either.
    assert (ours["codes"] == theirs["codes"].cpu()).float().mean() > 0.99
    same = twin.decode_samples(ours["codes"].to(device)).cpu()
    torch.testing.assert_close(same, network.decode_samples(ours["codes"]), atol=1e-5, rtol=1e-4)


def test_grids_come_back_to_the_cpu(device: torch.device) -> None:
    class Slices:
        images = torch.randint(256, (5, 1, 32, 32), dtype=torch.uint8)

    torch.manual_seed(0)
    network = AutoencoderVQ(channels=(16,), codebook=EMACodebook(16, 4)).to(device)
    grids = encode_grids(network, Slices(), device, mixed_precision(device), 2, progress=False)  # type: ignore
    assert (grids.shape, grids.dtype, grids.device.type) == ((5, 8, 8), torch.int32, "cpu")


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.8, "top_k": 5}, {"top_p": 0.8}],
    ids=["plain", "top_k", "top_p"],
)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("make", [plain_prior, sketched_prior])
def test_codes_of_the_sampler_are_those_of_the_cpu(
    make: Any, batch: int, options: dict[str, Any], device: torch.device
) -> None:
    network = make()
    inferer = VQPriorInferer(tile_size=batch, **options)
    ours = inferer.sample(network, range(5), seed=7)
    theirs = inferer.sample(copy.deepcopy(network).to(device), range(5), seed=7)
    assert theirs.device == device
    assert torch.equal(theirs.cpu(), ours)


@pytest.mark.parametrize("width", [8, 64])
def test_the_sampler_agrees_with_the_network_on_the_gpu(width: int, device: torch.device) -> None:
    torch.manual_seed(0)
    network = GatedPixelCNN(2, 16, (4, width), 8, 2, skip_connections=True).double().eval().to(device)
    draws = torch.rand(4 * width, 4, dtype=torch.float64, device=device)
    seen = []

    def choose(position: int, logits: torch.Tensor) -> torch.Tensor:
        seen.append(logits.clone())
        return VQPriorInferer().draw(logits, draws[position])

    codes = network.generate(choose, 4)
    with torch.no_grad():
        dense = network(codes).flatten(2)
    torch.testing.assert_close(torch.stack(seen, -1), dense, atol=1e-9, rtol=1e-9)


def test_conditions_guidance_and_given_codes(device: torch.device) -> None:
    network = plain_prior(num_classes=[3], num_values=1)
    torch.manual_seed(1)
    given = torch.randint(16, (6, 8))
    mask = torch.rand(6, 8) < 0.5
    asked: dict[str, Any] = {"labels": [2], "values": [0.5], "given": given, "mask": mask}
    inferer = VQPriorInferer(tile_size=2, guidance_scale=2.0)
    ours = inferer.sample(network, range(3), **asked)
    theirs = inferer.sample(copy.deepcopy(network).to(device), range(3), **asked).cpu()
    assert torch.equal(theirs, ours)
    assert torch.equal(theirs[:, mask], given[mask].expand(3, -1))


@pytest.mark.parametrize("make", [plain_prior, sketched_prior])
def test_bits_are_those_of_the_cpu(make: Any, device: torch.device) -> None:
    network = make()
    codes = torch.randint(16, (3, 6, 8), generator=torch.Generator().manual_seed(0))
    ours = VQPriorInferer().bits(codes, network)
    theirs = VQPriorInferer().bits(codes.to(device), copy.deepcopy(network).to(device))
    torch.testing.assert_close(theirs.cpu(), ours, atol=1e-5, rtol=1e-5)


def test_similarity_and_neighbors_are_those_of_the_cpu(device: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(6, 1, 40, 200, generator=generator) for _ in range(2))
    torch.testing.assert_close(
        ssim_map(first.to(device), second.to(device)).cpu(), ssim_map(first, second), atol=1e-4, rtol=1e-4
    )
    images = torch.randint(256, (9, 1, 12, 12), generator=generator, dtype=torch.uint8)
    for ours, theirs in zip(nearest_images(images), nearest_images(images, device=device), strict=True):
        assert torch.equal(ours, theirs)


def launched(*words: object, processes: int | None = None) -> str:
    """A command as a user types it, in a process of its own; what it prints."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes] if processes else []
    command = [sys.executable, *map(str, launcher), "-m", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def trained(device: torch.device, phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """Both stages in mixed precision, with the batches and workers of a GPU; options for later commands."""
    output = tmp_path_factory.mktemp("gpu") / "run"
    run = ["--dataset_dir", phantom, "--output_dir", output]
    launched("monai_vqprior", "train", *run, *SMALL, *SMALL_PRIOR, "--device", device, "--max_epochs", 2)
    for name in ("model.pt", "prior.pt", "vqvae_last.pt", "prior_last.pt"):
        assert (output / "models" / name).is_file()
    return run


def metrics_of(run: list[object], where: object) -> dict[str, Any]:
    launched("monai_vqprior", "evaluate", *run, "--device", where, "--overwrite")
    metrics: dict[str, Any] = json.loads((Path(str(run[3])) / "metrics.json").read_text(encoding="utf-8"))
    return metrics


def test_metrics_are_those_of_the_cpu(trained: list[object], device: torch.device) -> None:
    theirs, ours = metrics_of(trained, device), metrics_of(trained, "cpu")
    assert theirs["baselines"]["mean"] == pytest.approx(ours["baselines"]["mean"], abs=1e-4)
    # Convolutions of a GPU round to TF32, and some codes are others.
    for key in ("ssim", "ssim_brain", "ms_ssim"):
        assert theirs[key] == pytest.approx(ours[key], abs=0.01)
    assert theirs["bits_per_code"] == pytest.approx(ours["bits_per_code"], abs=0.1)


def test_a_training_is_resumed(trained: list[object], device: torch.device) -> None:
    launched("monai_vqprior", "train", *trained, "--device", device, "--max_epochs", 3, "--resume")
    for name in ("vqvae_last.pt", "prior_last.pt"):
        state = torch.load(Path(str(trained[3])) / "models" / name, map_location="cpu", weights_only=True)
        assert state["trainer"]["iteration"] > 0


def test_reconstruct_sample_and_neighbors(trained: list[object], phantom: Path, device: torch.device) -> None:
    output = Path(str(trained[3]))
    launched("monai_vqprior", "reconstruct", *trained, "--device", device)
    assert (output / "reconstructions.png").is_file()
    launched("monai_vqprior", "sample", *trained[2:], "--num_samples", 3, "--tile_size", 2, "--device", device)
    assert len(list((output / "samples").glob("*.png"))) == 3
    distances = []
    for where in (device, "cpu"):
        launched("monai_vqprior", "neighbors", *trained, "--device", where, "--overwrite")
        found = json.loads((output / "neighbors.json").read_text(encoding="utf-8"))
        distances.append([item["rms"] for item in found["samples"]] + [found["summary"]["ratio"]])
    assert len(distances[0]) == 4
    assert distances[0] == pytest.approx(distances[1], rel=1e-9)


def test_processes_speak_over_nccl(phantom: Path, tmp_path: Path, device: torch.device) -> None:
    """One process of torchrun on one GPU, by MONAI's command."""
    configs = bundle_root() / "configs"
    files = [str(configs / name) for name in ("train.json", "multi_gpu_train.json")]
    options = ["--bundle_root", bundle_root(), "--dataset_dir", phantom, "--output_dir", tmp_path / "run"]
    launched("monai.bundle", "run", "--config_file", str(files), *options, *SMALL, "--max_epochs", 1, processes=1)
    assert (tmp_path / "run" / "models" / "model.pt").is_file()
