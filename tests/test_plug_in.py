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

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from ignite.engine import Engine
from monai.data import DataLoader
from monai.engines import IterationEvents, SupervisedEvaluator, SupervisedTrainer
from monai.handlers import MeanSquaredError, from_engine
from monai.inferers import Inferer, VQVAETransformerInferer
from monai.networks.nets import VQVAE, DecoderOnlyTransformer
from monai.transforms import FlattenSubKeysd
from monai.utils.ordering import Ordering
from PIL import Image
from scipy.special import log_softmax
from scipy.stats import entropy
from skimage.metrics import structural_similarity

from monai_vqprior.data import CodeGridDataset, SliceDataset, SliceFolder
from monai_vqprior.engines import PrepareBatchCodes, PrepareBatchSlices
from monai_vqprior.handlers import (
    SSIM,
    BitsPerCode,
    BrainSSIM,
    CodebookPerplexity,
    CodebookUsage,
    ReconstructionWriter,
)
from monai_vqprior.inferers import MixedPrecisionInferer, TokenizerInferer, VQPriorInferer, encode_grids
from monai_vqprior.losses import BitsPerCodeLoss, TokenizerLoss
from monai_vqprior.metrics import BRAIN_THRESHOLD
from monai_vqprior.networks import AutoencoderVQ, EMACodebook, GatedPixelCNN, PreactivationBlock
from monai_vqprior.transforms import LoadSliced

NUM_CODES, LATENT_CHANNELS = 16, 4
Make = Callable[..., nn.Module]


def ours(spatial_dims: int = 2) -> AutoencoderVQ:
    """A network of stride 4."""
    torch.manual_seed(0)
    codebook = EMACodebook(NUM_CODES, LATENT_CHANNELS)
    return AutoencoderVQ(spatial_dims, channels=(16,), num_encoder_blocks=1, num_decoder_blocks=1, codebook=codebook)


def monais(spatial_dims: int = 2) -> VQVAE:
    """MONAI's network of stride 4, its codes where encodings are, or one of them would serve all."""
    torch.manual_seed(0)
    network = VQVAE(
        spatial_dims,
        in_channels=1,
        out_channels=1,
        channels=(16, 16),
        num_res_layers=1,
        num_res_channels=16,
        downsample_parameters=(2, 4, 1, 1),
        upsample_parameters=(2, 4, 1, 1, 0),
        num_embeddings=NUM_CODES,
        embedding_dim=LATENT_CHANNELS,
    )
    quantizer = network.quantizer.quantizer
    with torch.no_grad():
        encodings = network.encode(torch.rand(NUM_CODES, 1, *[16] * spatial_dims).round())
        codes = encodings.flatten(2)[:, :, 5]
        quantizer.embedding.weight.copy_(codes)
        quantizer.ema_w.copy_(codes)
        quantizer.ema_cluster_size.fill_(1)
    return network


def codebook_of(network: nn.Module) -> torch.Tensor:
    """The codes (K, D) of a network."""
    weight = network.quantizer.quantizer.embedding.weight if isinstance(network, VQVAE) else network.codebook.embedding
    return weight.detach().clone()


@torch.no_grad()
def codes_by_hand(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Code grids (B, *grid) by brute force in double precision, of a network in evaluation mode."""
    encodings = network.eval().encode(images).movedim(1, -1).double()
    return torch.cdist(encodings, codebook_of(network).double()).argmin(-1)


@torch.no_grad()
def images_by_hand(network: nn.Module, codes: torch.Tensor) -> torch.Tensor:
    """Images (B, 1, *spatial) of code grids (B, *grid), looked up and decoded."""
    return network.eval().decode(codebook_of(network)[codes].movedim(-1, 1))


def similarity(one: torch.Tensor, two: torch.Tensor) -> np.ndarray:
    """SSIM by scikit-image of two images (*spatial) at every place where the window fits."""
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
    _, full = structural_similarity(one.double().numpy(), two.double().numpy(), full=True, **options)
    return full[(slice(5, -5),) * one.dim()]


def snapshot(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def blobs(spatial_dims: int) -> torch.Tensor:
    """Four images (4, 1, *spatial) of a bright ball, each elsewhere."""
    size = {2: 24, 3: 12}[spatial_dims]
    places = np.random.default_rng(0).uniform(0.3, 0.7, (4, spatial_dims))
    axes = np.stack(np.mgrid[(slice(0, size),) * spatial_dims]) / size
    squares = ((axes[None] - places.reshape(4, spatial_dims, *[1] * spatial_dims)) ** 2).sum(1)
    return torch.from_numpy(np.exp(-squares / 0.05)[:, None].astype(np.float32))


def batches_of(images: torch.Tensor, batch_size: int) -> list[dict[str, torch.Tensor]]:
    """What MONAI's default ``prepare_batch`` reads."""
    return [{"image": batch, "label": batch} for batch in images.split(batch_size)]


class Recorder:
    """Notes what an engine does inside its iterations."""

    def __init__(self) -> None:
        self.events: list[IterationEvents] = []
        self.outputs: list[dict[str, Any]] = []
        self.had_gradients: list[bool] = []

    def attach(self, engine: Engine) -> None:
        self.engine = engine
        for event in (
            IterationEvents.FORWARD_COMPLETED,
            IterationEvents.LOSS_COMPLETED,
            IterationEvents.BACKWARD_COMPLETED,
            IterationEvents.MODEL_COMPLETED,
        ):
            engine.add_event_handler(event, self, event)

    def __call__(self, engine: Engine, event: IterationEvents) -> None:
        self.events.append(event)
        if event == IterationEvents.BACKWARD_COMPLETED:
            self.outputs.append(dict(engine.state.output))
            self.had_gradients.append(all(p.grad is not None for p in engine.network.encoder.parameters()))


def train(network: nn.Module, images: torch.Tensor, **arguments: Any) -> Recorder:
    """A stock trainer, one batch of all images an epoch."""
    recorder = Recorder()
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=arguments.pop("max_epochs", 20),
        train_data_loader=batches_of(images, len(images)),
        network=network,
        optimizer=torch.optim.Adam(network.parameters(), lr=5e-3),
        loss_function=TokenizerLoss(),
        **arguments,
    )
    recorder.attach(trainer)
    trainer.run()
    return recorder


@pytest.mark.parametrize("make", [ours, monais])
class TestSupervisedTrainer:
    @pytest.mark.parametrize("spatial_dims", [2, 3])
    @pytest.mark.parametrize("inferer", [None, MixedPrecisionInferer(), MixedPrecisionInferer(torch.bfloat16)])
    def test_loss_falls_and_codes_move(self, make: Make, spatial_dims: int, inferer: Inferer | None) -> None:
        network = make(spatial_dims)
        before = codebook_of(network)
        recorder = train(network, blobs(spatial_dims), inferer=inferer, decollate=False)
        losses = [output["loss"].item() for output in recorder.outputs]
        assert len(losses) == 20
        assert {output["pred"][0].dtype for output in recorder.outputs} == {torch.float32}
        assert losses[-1] < 0.8 * losses[0]
        assert not torch.equal(codebook_of(network), before)
        assert codebook_of(network).isfinite().all()

    @pytest.mark.parametrize("spatial_dims", [2, 3])
    def test_loss_is_that_of_the_pair(self, make: Make, spatial_dims: int) -> None:
        target = blobs(spatial_dims)
        recorder = train(make(spatial_dims), target, max_epochs=2, decollate=False)
        for output in recorder.outputs:
            reconstruction, commitment = (part.detach() for part in output["pred"])
            assert reconstruction.shape == target.shape
            assert commitment.shape == ()
            similarities = [similarity(*pair).mean() for pair in zip(reconstruction[:, 0], target[:, 0], strict=True)]
            expected = float(commitment + (reconstruction - target).abs().mean()) + 1 - np.mean(similarities)
            assert output["loss"].item() == pytest.approx(expected, abs=1e-4)

    def test_every_iteration_fires_monais_events_in_their_order(self, make: Make) -> None:
        recorder = train(make(), blobs(2), max_epochs=3, decollate=False)
        assert recorder.events == 3 * [
            IterationEvents.FORWARD_COMPLETED,
            IterationEvents.LOSS_COMPLETED,
            IterationEvents.BACKWARD_COMPLETED,
            IterationEvents.MODEL_COMPLETED,
        ]
        assert recorder.had_gradients == 3 * [True]

    def test_with_a_metric_on_a_decollated_output(self, make: Make) -> None:
        error = MeanSquaredError(
            output_transform=lambda items: ([item["pred"][0] for item in items], [item["label"] for item in items])
        )
        recorder = train(make(), blobs(2), max_epochs=1, key_train_metric={"mse": error})
        reconstruction = recorder.outputs[0]["pred"][0].detach()
        expected = ((reconstruction - blobs(2)) ** 2).mean().item()
        assert recorder.engine.state.metrics["mse"] == pytest.approx(expected, rel=1e-5)


class TestSupervisedEvaluator:
    @pytest.mark.parametrize("spatial_dims", [2, 3])
    @pytest.mark.parametrize("decollate", [True, False])
    def test_gets_one_tensor_of_ours_and_changes_nothing(self, spatial_dims: int, decollate: bool) -> None:
        network, images, predictions = ours(spatial_dims), blobs(spatial_dims), []
        network.train()(images)  # puts the codes where the encodings are
        before = snapshot(network)
        evaluator = SupervisedEvaluator(
            device="cpu",
            val_data_loader=batches_of(images, 3),
            network=network,
            key_val_metric={"mse": MeanSquaredError(output_transform=from_engine(["pred", "label"]))},
            decollate=decollate,
        )
        forward = IterationEvents.FORWARD_COMPLETED
        evaluator.add_event_handler(forward, lambda engine: predictions.append(engine.state.output["pred"]))
        evaluator.run()
        assert network.training
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        assert [type(prediction) for prediction in predictions] == [torch.Tensor] * 2
        expected = images_by_hand(network, codes_by_hand(network, images))
        torch.testing.assert_close(torch.cat(predictions), expected)
        errors = ((expected - images) ** 2).flatten(1).mean(1)
        assert evaluator.state.metrics["mse"] == pytest.approx(errors.mean().item(), rel=1e-5)


@pytest.fixture(scope="module")
def slices(phantom: Path) -> SliceDataset:
    """Seven slices of the phantom."""
    data = SliceFolder(phantom).datalist("train")[:7]
    return SliceDataset(data, LoadSliced("image"), spatial_size=32, progress=False)


@pytest.fixture
def prior() -> GatedPixelCNN:
    """A prior over grids of 8 x 8 codes."""
    torch.manual_seed(1)
    return GatedPixelCNN(num_embeddings=NUM_CODES, spatial_size=8, channels=16, num_layers=2, kernel_size=3)


class TestHandlersOnMonaisNetwork:
    def test_values_are_those_of_scikit_image_and_numpy(
        self, slices: SliceDataset, prior: GatedPixelCNN, phantom: Path, tmp_path: Path
    ) -> None:
        network, images = monais(), slices.images.float() / 255
        pair, codes = from_engine(["reconstruction", "image"]), lambda output: output["codes"]
        metrics = {
            "ssim": SSIM(output_transform=pair),
            "brain": BrainSSIM(output_transform=pair),
            "usage": CodebookUsage(NUM_CODES, output_transform=codes),
            "perplexity": CodebookPerplexity(NUM_CODES, output_transform=codes),
            "bits": BitsPerCode(output_transform=from_engine(["logits", "codes"])),
        }
        before = snapshot(network)
        evaluator = SupervisedEvaluator(
            device="cpu",
            val_data_loader=DataLoader(slices, batch_size=3),
            network=network,
            prepare_batch=PrepareBatchSlices(),
            inferer=TokenizerInferer(prior),
            postprocessing=FlattenSubKeysd("pred"),
            key_val_metric=metrics,
            val_handlers=[ReconstructionWriter(tmp_path, phantom, length=7)],
            decollate=False,
        )
        evaluator.run()
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())

        grids = codes_by_hand(network, images)
        reconstructions = images_by_hand(network, grids).clamp(0, 1)
        maps = [similarity(*two) for two in zip(reconstructions[:, 0], images[:, 0], strict=True)]
        masks = images[:, 0, 5:-5, 5:-5].numpy() > BRAIN_THRESHOLD
        with torch.no_grad():
            logits = log_softmax(prior.eval()(grids).double().numpy(), axis=1)
        expected = {
            "ssim": np.mean(maps),
            "brain": np.mean([values[mask].mean() for values, mask in zip(maps, masks, strict=True)]),
            "usage": len(np.unique(grids)),
            "perplexity": np.exp(entropy(np.bincount(grids.flatten().numpy()))),
            "bits": -np.take_along_axis(logits, grids[:, None].numpy(), axis=1).mean() / np.log(2),
        }
        assert expected["usage"] > 2
        assert evaluator.state.metrics == pytest.approx(expected, abs=1e-4)
        for item, reconstruction in zip(slices.data, reconstructions, strict=True):
            written = Image.open(tmp_path / "reconstructions" / Path(item["image"]).relative_to(phantom))
            assert np.abs(np.asarray(written) - 255 * reconstruction[0].numpy()).max() < 0.51


class TestPriorOnMonaisCodes:
    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.parametrize("batch_size", [2, 16])
    def test_grids_are_encoded_in_evaluation_mode(self, slices: SliceDataset, training: bool, batch_size: int) -> None:
        network = monais().train(training)
        before = snapshot(network)
        grids = encode_grids(network, slices, batch_size=batch_size, progress=False)
        assert network.training == training
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        assert torch.equal(grids.long(), codes_by_hand(network, slices.images.float() / 255))
        assert len(grids.unique()) > 2

    def test_prior_learns_the_grids_and_its_samples_are_decoded(
        self, slices: SliceDataset, prior: GatedPixelCNN
    ) -> None:
        network, losses = monais(), []
        grids = encode_grids(network, slices, progress=False)
        inferer = VQPriorInferer(tile_size=2)
        bits_before = inferer.bits(grids.long(), prior.eval()).mean().item()
        trainer = SupervisedTrainer(
            device="cpu",
            max_epochs=2,
            train_data_loader=DataLoader(CodeGridDataset(grids), batch_size=7),
            network=prior,
            optimizer=torch.optim.AdamW(prior.parameters(), lr=3e-2),
            loss_function=BitsPerCodeLoss(),
            prepare_batch=PrepareBatchCodes(),
            inferer=inferer,
            decollate=False,
        )
        completed = IterationEvents.LOSS_COMPLETED
        trainer.add_event_handler(completed, lambda engine: losses.append(float(engine.state.output["loss"].detach())))
        trainer.run()
        assert losses[0] == pytest.approx(bits_before, abs=1e-4)
        assert inferer.bits(grids.long(), prior.eval()).mean() < losses[1] < losses[0]

        codes = inferer.sample(prior, range(3), seed=0)
        assert codes.shape == (3, *grids.shape[1:])
        with torch.no_grad():
            samples = network.eval().decode_samples(codes)
        assert samples.shape == (3, *slices.images.shape[1:])
        torch.testing.assert_close(samples, images_by_hand(network, codes))


class TransformerPrior(nn.Module):
    """MONAI's transformer as a network from code grids (B, *grid) to logits (B, K, *grid)."""

    def __init__(self, length: int) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.transformer = DecoderOnlyTransformer(
            num_tokens=NUM_CODES + 1, max_seq_len=length, attn_layers_dim=8, attn_layers_depth=1, attn_layers_heads=2
        )
        with torch.no_grad():
            self.transformer.to_logits.bias[NUM_CODES] = -torch.inf  # the first token never comes again

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        tokens = F.pad(codes.flatten(1), (1, -1), value=NUM_CODES)
        return self.transformer(tokens)[..., :NUM_CODES].movedim(-1, 1).unflatten(2, codes.shape[1:])


class TestMonaisTransformerAndOurPrior:
    @pytest.fixture(autouse=True)
    def _einops(self) -> None:
        pytest.importorskip("einops", reason="MONAI's transformer needs einops")

    @pytest.mark.parametrize("make", [ours, monais])
    def test_they_read_the_same_grids(self, slices: SliceDataset, make: Make, prior: GatedPixelCNN) -> None:
        network, transformer = make().eval(), TransformerPrior(64).transformer
        grids = encode_grids(network, slices, progress=False).long()
        logits, sequences, grid = VQVAETransformerInferer()(
            slices.images.float() / 255, network, transformer, Ordering("raster_scan", 2, (1, 8, 8)), return_latent=True
        )
        assert torch.equal(sequences.view(-1, *grid), grids)
        assert logits.shape == (*sequences.shape, prior.num_embeddings + 1)
        assert prior(grids).flatten(2).shape == (len(sequences), prior.num_embeddings, sequences.shape[1])

    @pytest.mark.parametrize("make", [ours, monais])
    @pytest.mark.parametrize("spatial_dims", [2, 3])
    def test_bits_are_monais_likelihood(self, make: Make, spatial_dims: int) -> None:
        network, images = make(spatial_dims).eval(), blobs(spatial_dims)
        grids = codes_by_hand(network, images)
        length = math.prod(grids.shape[1:])
        model = TransformerPrior(length).eval()
        ordering = Ordering("raster_scan", spatial_dims, (1, *grids.shape[1:]))
        likelihood = VQVAETransformerInferer().get_likelihood(images, network, model.transformer, ordering)
        torch.testing.assert_close(VQPriorInferer().bits(grids, model), -likelihood / math.log(2))

    def test_our_inferer_samples_from_monais_transformer(self) -> None:
        model, inferer = TransformerPrior(16), VQPriorInferer(tile_size=2)
        grids = inferer.sample(model, range(4), seed=0, spatial_size=(4, 4))
        assert grids.shape == (4, 4, 4)
        assert 0 <= grids.min() < grids.max() < NUM_CODES
        assert torch.equal(inferer.sample(model, [3], seed=0, spatial_size=(4, 4))[0], grids[3])
        with torch.no_grad():
            assert ours().decode_samples(grids).shape == (4, 1, 16, 16)


LEVELS = {"channels": (16, 16)}
DOWN, UP = (2, 4, 1, 1), (2, 4, 1, 1, 0)


def ours_of_two_levels(**options: Any) -> AutoencoderVQ:
    return AutoencoderVQ(**(LEVELS | options))


def monais_of_two_levels(**options: Any) -> VQVAE:
    given = {"num_res_channels": 16, "downsample_parameters": DOWN, "upsample_parameters": UP} | LEVELS | options
    return VQVAE(2, 1, 1, num_res_layers=1, num_embeddings=NUM_CODES, embedding_dim=LATENT_CHANNELS, **given)


class TestConstructors:
    @pytest.mark.parametrize(
        ("of_ours", "of_monais"),
        [
            pytest.param({"num_encoder_blocks": (1,)}, {"num_res_channels": (16,)}, id="a level too few"),
            pytest.param({"num_encoder_blocks": (1, 1, 1)}, {"num_res_channels": (16,) * 3}, id="a level too many"),
            pytest.param({"num_encoder_blocks": ()}, {"num_res_channels": ()}, id="no level"),
            pytest.param({"num_encoder_blocks": (1,)}, {"downsample_parameters": (DOWN,)}, id="encoder too short"),
            pytest.param({"num_decoder_blocks": (1,)}, {"upsample_parameters": (UP,)}, id="decoder too short"),
            pytest.param({"num_decoder_blocks": [1] * 3}, {"upsample_parameters": [UP] * 3}, id="decoder too long"),
            pytest.param({"channels": ()}, {"channels": (), "num_res_channels": (16,)}, id="no channels"),
            pytest.param({"patch_size": 0}, {"downsample_parameters": (2, 4, 1)}, id="no such downsampling"),
        ],
    )
    def test_both_refuse_what_does_not_fit_together(self, of_ours: dict[str, Any], of_monais: dict[str, Any]) -> None:
        for make, options in ((ours_of_two_levels, of_ours), (monais_of_two_levels, of_monais)):
            state = torch.get_rng_state()
            with pytest.raises(ValueError, match="|".join(options)):
                make(**options)
            assert torch.equal(torch.get_rng_state(), state)  # no weight has been drawn

    @pytest.mark.parametrize("name", ["num_encoder_blocks", "num_decoder_blocks"])
    @pytest.mark.parametrize("sequence", [(), (2,), [2, 3, 4]], ids=str)
    def test_a_sequence_of_another_length_is_quoted(self, name: str, sequence: Sequence[int]) -> None:
        with pytest.raises(ValueError, match=f"^{name} .*{re.escape(f'got {list(sequence)}')}"):
            ours_of_two_levels(**{name: sequence})

    def test_an_integer_stands_for_every_level(self) -> None:
        def shapes(network: nn.Module) -> dict[str, torch.Size]:
            return {name: value.shape for name, value in network.state_dict().items()}

        by_integer = ours_of_two_levels(num_encoder_blocks=1, num_decoder_blocks=2)
        by_sequence = ours_of_two_levels(num_encoder_blocks=(1, 1), num_decoder_blocks=[2, 2])
        assert shapes(by_sequence) == shapes(by_integer)
        assert shapes(monais_of_two_levels(num_res_channels=(16, 16))) == shapes(monais_of_two_levels())

    def test_levels_have_as_many_blocks_as_the_sequence_says(self) -> None:
        network = AutoencoderVQ(channels=(16, 32), num_encoder_blocks=(0, 3), num_decoder_blocks=(1, 4), patch_size=2)
        for part, expected in ((network.encoder, {16: 0, 32: 3}), (network.decoder, {16: 1, 32: 4})):
            widths = [block.conv1.in_channels for block in part if isinstance(block, PreactivationBlock)]
            assert {width: widths.count(width) for width in (16, 32)} == expected
        assert network(torch.rand(1, 1, 16, 16))[0].shape == (1, 1, 16, 16)
