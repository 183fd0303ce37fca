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

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
import torch.nn as nn
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator
from monai.handlers import from_engine
from monai.networks.nets import VQVAE
from monai.transforms import FlattenSubKeysd, RandFlipd
from skimage.metrics import structural_similarity

from monai_vqprior.data import SliceDataset
from monai_vqprior.engines import PrepareBatchSlices
from monai_vqprior.errors import InputError
from monai_vqprior.handlers import SSIM
from monai_vqprior.inferers import TokenizerInferer, encode_given, encode_grids, encode_views
from monai_vqprior.networks import AutoencoderVQ, EMACodebook, GatedPixelCNN
from monai_vqprior.transforms import BytesToUnitd, fill_from_nearest

MakePrior = Callable[..., GatedPixelCNN]


def ours() -> nn.Module:
    torch.manual_seed(0)
    codebook = EMACodebook(7, 3)
    network = AutoencoderVQ(2, channels=(8,), num_encoder_blocks=1, num_decoder_blocks=1, codebook=codebook)
    network(torch.rand(7, 1, 16, 16))  # codes where the encodings are, or one of them serves all
    return network


def monais() -> nn.Module:
    torch.manual_seed(0)
    network = VQVAE(
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        channels=(8, 8),
        num_res_layers=1,
        num_res_channels=(8, 8),
        downsample_parameters=((2, 4, 1, 1),) * 2,
        upsample_parameters=((2, 4, 1, 1, 0),) * 2,
        num_embeddings=7,
        embedding_dim=3,
    )
    with torch.no_grad():  # codes where the encodings are, or one of them serves all
        encodings = network.encode(torch.rand(7, 1, 16, 16))
        network.quantizer.quantizer.embedding.weight.copy_(encodings[:, :, 1, 1])
    return network


def codebook_of(network: nn.Module) -> np.ndarray:
    """The codes (K, D) of a network."""
    if isinstance(network, VQVAE):
        return network.quantizer.quantizer.embedding.weight.detach().numpy()
    return network.codebook.embedding.numpy()


def nearest_codes(network: nn.Module, images: torch.Tensor) -> np.ndarray:
    """Code grids by brute force, (B, H, W)."""
    with torch.no_grad():
        encodings = network.encode(images).numpy()
    distances = ((encodings[:, None] - codebook_of(network)[None, :, :, None, None]) ** 2).sum(2)
    return distances.argmin(1)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 1, 16, 16, generator=torch.manual_seed(1))


@pytest.mark.parametrize("make", [ours, monais])
class TestTokenizerInferer:
    def test_reconstructs_through_the_codes(self, images: torch.Tensor, make: Callable[[], nn.Module]) -> None:
        network = make().eval()
        output = TokenizerInferer()(images, network)
        assert set(output) == {"reconstruction", "codes"}
        assert np.array_equal(output["codes"], nearest_codes(network, images))
        assert len(torch.unique(output["codes"])) > 2
        expected = network(images)
        expected = expected[0] if isinstance(expected, tuple) else expected
        torch.testing.assert_close(output["reconstruction"], expected.detach().clamp(0, 1), atol=1e-5, rtol=0)
        assert (expected < 0).any() or (expected > 1).any()

    def test_rates_the_codes_with_a_prior(
        self, images: torch.Tensor, make: Callable[[], nn.Module], make_prior: MakePrior
    ) -> None:
        prior = make_prior(num_classes=[2], dropout=0.5)
        labels = torch.tensor([[0], [1], [-1]])
        expected = prior(torch.from_numpy(nearest_codes(make().eval(), images)), labels)
        for arguments, names in (((labels,), {}), ((), {"labels": labels})):
            output = TokenizerInferer(prior.train())(images, make().eval(), *arguments, **names)
            torch.testing.assert_close(output["logits"], expected.detach())

    def test_encodes_once_without_gradients(self, images: torch.Tensor, make: Callable[[], nn.Module]) -> None:
        network, calls = make().eval(), []
        encode = network.encode
        network.encode = lambda images: calls.append(len(images)) or encode(images)
        output = TokenizerInferer()(images, network)
        assert calls == [3]
        assert not output["reconstruction"].requires_grad

    def test_half_precision(self, images: torch.Tensor, make: Callable[[], nn.Module], make_prior: MakePrior) -> None:
        output = TokenizerInferer(make_prior(), torch.bfloat16)(images, make().eval())
        assert [output[key].dtype for key in ("reconstruction", "codes", "logits")] == [
            torch.float32,
            torch.int64,
            torch.float32,
        ]
        exact = TokenizerInferer()(images, make().eval())
        same = (output["codes"] == exact["codes"]).float().mean()
        assert same > 0.8

    def test_in_monais_evaluator(self, images: torch.Tensor, make: Callable[[], nn.Module]) -> None:
        network = make()
        evaluator = SupervisedEvaluator(
            device="cpu",
            val_data_loader=[{"image": images[:2]}, {"image": MetaTensor(images[2:])}],
            network=network,
            prepare_batch=PrepareBatchSlices(),
            inferer=TokenizerInferer(),
            postprocessing=FlattenSubKeysd("pred"),
            key_val_metric={"ssim": SSIM(output_transform=from_engine(["reconstruction", "image"]))},
            decollate=False,
        )
        evaluator.run()
        with torch.no_grad():
            answer = network.eval()(images)
        reconstructions = (answer[0] if isinstance(answer, tuple) else answer).clamp(0, 1)
        values = []
        for one, two in zip(reconstructions[:, 0].numpy(), images[:, 0].numpy(), strict=True):
            _, full = structural_similarity(
                one, two, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1, full=True
            )
            values.append(full[5:-5, 5:-5].mean())
        assert evaluator.state.metrics["ssim"] == pytest.approx(np.mean(values), abs=1e-4)


class TestEncodeGrids:
    @pytest.fixture
    def dataset(self) -> SliceDataset:
        """Five slices of random pixels; an augmentation that must not be applied makes them black."""
        pixels = np.random.default_rng(0).integers(0, 256, (5, 1, 16, 16), dtype=np.uint8)
        return SliceDataset(
            [{"image": i} for i in range(5)],
            transform=[lambda item: {**item, "image": torch.from_numpy(pixels[item["image"]])}],
            augmentation=[lambda item: {**item, "image": 0 * item["image"]}],
            spatial_size=16,
            progress=False,
        )

    @pytest.mark.parametrize("make", [ours, monais])
    @pytest.mark.parametrize("batch_size", [1, 2, 16])
    def test_slice_by_slice(self, dataset: SliceDataset, make: Callable[[], nn.Module], batch_size: int) -> None:
        network = make().eval()
        grids = encode_grids(network, dataset, batch_size=batch_size, progress=False)
        assert grids.dtype == torch.int32
        assert grids.shape == (5, 4, 4)
        for image, grid in zip(dataset.images, grids, strict=True):
            single = image[None].numpy().astype(np.float32) / 255
            assert np.array_equal(grid, nearest_codes(network, torch.from_numpy(single))[0])
            assert torch.equal(grid.long(), network.index_quantize(torch.from_numpy(single))[0])

    @pytest.mark.parametrize("training", [True, False])
    def test_leaves_the_mode_as_it_was_and_never_trains(self, dataset: SliceDataset, training: bool) -> None:
        network = ours().train(training)
        before = {key: value.clone() for key, value in network.state_dict().items()}
        modes = []
        network.encoder[0].register_forward_hook(lambda module, *_: modes.append(module.training))
        grids = encode_grids(network, dataset, progress=False)
        assert not any(modes)
        assert network.training == training
        assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
        assert not grids.requires_grad

    def test_under_autocast(self, dataset: SliceDataset) -> None:
        network, inside = ours(), []
        network.encoder[0].register_forward_hook(lambda _, __, output: inside.append(output.dtype))
        encode_grids(network, dataset, dtype=torch.bfloat16, progress=False)
        assert set(inside) == {torch.bfloat16}

    @pytest.mark.parametrize("progress", [True, False])
    def test_shows_progress(self, dataset: SliceDataset, progress: bool, capsys: pytest.CaptureFixture[str]) -> None:
        encode_grids(ours(), dataset, progress=progress)
        assert ("encoding slices" in capsys.readouterr().err) == progress


class TestEncodeViews:
    @staticmethod
    def dataset(augmentation: Sequence[Callable] | None) -> SliceDataset:
        pixels = np.random.default_rng(0).integers(0, 256, (5, 1, 16, 16), dtype=np.uint8)
        return SliceDataset(
            [{"image": i} for i in range(5)],
            transform=[lambda item: {**item, "image": torch.from_numpy(pixels[item["image"]])}],
            augmentation=augmentation,
            spatial_size=16,
            progress=False,
        )

    @pytest.mark.parametrize("batch_size", [1, 4, 16])
    def test_codes_of_the_slices_as_they_were_changed(self, batch_size: int) -> None:
        network = ours().eval()
        dataset = self.dataset([BytesToUnitd("image"), RandFlipd("image", prob=0.5, spatial_axis=1)])
        views = encode_views(network, dataset, 3, seed=1, batch_size=batch_size, progress=False)
        assert views.dtype == torch.int32
        assert views.shape == (3, 5, 4, 4)
        images = dataset.images.float() / 255
        plain, flipped = (nearest_codes(network, x) for x in (images, images.flip(3)))
        is_plain, is_flipped = ((views == torch.as_tensor(codes)).all((2, 3)) for codes in (plain, flipped))
        assert (is_plain ^ is_flipped).all()
        assert is_plain.any()
        assert is_flipped.any()
        assert len(torch.unique(is_flipped, dim=0)) > 1  # another draw for each view

    def test_slices_of_a_group_are_changed_alike(self) -> None:
        network = ours()
        dataset = self.dataset([BytesToUnitd("image"), RandFlipd("image", prob=0.5, spatial_axis=1)])
        groups = [0, 0, 1, 1, 1]
        views = encode_views(network, dataset, 8, seed=1, groups=groups, progress=False)
        plain = torch.as_tensor(nearest_codes(network, dataset.images.float() / 255))
        is_plain = (views == plain).all((2, 3))
        for members in ([0, 1], [2, 3, 4]):
            assert (is_plain[:, members] == is_plain[:, members[:1]]).all()
        assert len(torch.unique(is_plain, dim=1)[0]) == 2  # the groups differ
        assert dataset.groups is None

    def test_seed_decides(self) -> None:
        network = ours()
        dataset = self.dataset([BytesToUnitd("image"), RandFlipd("image", prob=0.5, spatial_axis=1)])
        one, same, other = (encode_views(network, dataset, 3, seed, progress=False) for seed in (1, 1, 2))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)

    def test_errors(self) -> None:
        with pytest.raises(ValueError, match="must have an augmentation"):
            encode_views(ours(), self.dataset(None), 2)
        for number in (0, -1, 1.5):
            with pytest.raises(InputError, match=r"num_views .* must be a whole number of at least 1"):
                encode_views(ours(), self.dataset([BytesToUnitd("image")]), number)  # type: ignore[arg-type]


class TestEncodeGiven:
    def test_codes_of_the_slices_with_a_hole_hidden(self) -> None:
        network, dataset = ours().eval(), TestEncodeViews.dataset(None)
        grids = encode_grids(network, dataset, progress=False)
        given = encode_given(network, dataset, grids, 3, seed=1, batch_size=2, progress=False)
        assert given.dtype == torch.int32
        assert given.shape == (3, 5, 4, 4)
        different = 0
        for view in given:
            for image, grid, whole in zip(dataset.images, view, grids, strict=True):
                known = (grid >= 0).numpy()
                hole = torch.from_numpy(np.kron(~known, np.ones((4, 4), bool)))
                hidden = fill_from_nearest(image, hole[None])[None].float() / 255
                assert np.array_equal(grid[known], nearest_codes(network, hidden)[0][known])
                different += int((grid != whole)[known].sum())
        assert different  # beside the holes
        assert (given < 0).flatten(1).any(1).all()
        assert len(torch.unique(given[:, 0], dim=0)) == 3
        for seed, same in ((1, True), (2, False)):
            again = encode_given(network, dataset, grids, 3, seed=seed, progress=False)
            assert torch.equal(again < 0, given < 0) == same
