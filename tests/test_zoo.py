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

import json
import logging
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import monai.bundle
import onnxruntime
import pytest
import torch
from fire.parser import DefaultParseValue
from monai.bundle import ConfigParser, ckpt_export, create_workflow, verify_metadata, verify_net_in_out
from monai.data import load_net_with_metadata
from packaging.specifiers import SpecifierSet

from monai_vqprior.data import write_phantom

# What the model zoo's CI asks of a bundle, by the functions and with the arguments that it calls; and the commands and
# examples of docs/how-to/export.md.

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "how-to" / "export.md").read_text(encoding="utf-8")
#: the Python block of each section of that page, by its heading.
EXAMPLES = dict(re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?```python\n(.*?)```", TEXT, re.DOTALL | re.MULTILINE))
pytestmark = [
    pytest.mark.zoo,
    # torch.export copies its own tree of arguments
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
    # the zoo gives no hash of its schema
    pytest.mark.filterwarnings("ignore:No hash value provided for bundle/eval/schema.json:UserWarning"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """
    A working directory with a copy of the bundle, the schema where the zoo keeps it, and weights: those that the bundle
    ships, and random ones where it ships none.
    """
    folder = tmp_path_factory.mktemp("zoo")
    shutil.copytree(ROOT / "bundle", folder / "bundle")
    (folder / "bundle" / "eval").mkdir()
    shutil.copy(ROOT / "tests" / "schema" / "meta_schema_20240725.json", folder / "bundle" / "eval" / "schema.json")
    for net_id, name in {"network_def": "model.pt", "prior_def": "prior.pt"}.items():
        path = folder / "bundle" / "models" / name
        if not path.exists():
            torch.save(defined(folder, net_id).state_dict(), path)
    shutil.copytree(folder / "bundle" / "models", folder / "output" / "models")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        # MONAI's ONNX export leaves the weights of its temporary file behind.
        patch.setattr(tempfile, "tempdir", str(folder))
        yield folder


@pytest.fixture(scope="module")
def small(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with random networks of fewer layers: an exporter spends its time on layers that are alike."""
    small = tmp_path_factory.mktemp("zoo") / "small"
    shutil.copytree(folder, small, ignore=shutil.ignore_patterns("*.pt", "*.ts"))
    for name, fewer in {
        "inference.json": {"num_encoder_blocks": 1, "num_decoder_blocks": 1},
        "sample.json": {"prior_layers": 2, "prior_sketch_layers": 1},
    }.items():
        path = small / "bundle" / "configs" / name
        path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **fewer}), encoding="utf-8")
    for net_id, name in {"network_def": "model.pt", "prior_def": "prior.pt"}.items():
        for models in (small / "bundle" / "models", small / "output" / "models"):
            torch.save(defined(small, net_id).state_dict(), models / name)
    return small


@pytest.fixture
def _logging_restored() -> Iterator[None]:
    """A bundle's logging.conf gives the root logger another handler."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def config_files(net_id: str, root: Path = Path("bundle")) -> list[str]:
    names = ["inference.json"] if net_id == "network_def" else ["inference.json", "sample.json"]
    return [str(root / "configs" / name) for name in names]


def defined(folder: Path, net_id: str) -> torch.nn.Module:
    """A network as the configurations define it, without weights: random, but no layer at zero."""
    parser = ConfigParser()
    parser.read_config(config_files(net_id, folder / "bundle"))
    torch.manual_seed(0)
    network: torch.nn.Module = parser.get_parsed_content(net_id)
    with torch.no_grad():
        for tensor in [*network.parameters(), *network.buffers()]:
            if tensor.is_floating_point() and not tensor.any():
                tensor.normal_(0, 0.1)
    return network.eval()


def with_weights(folder: Path, net_id: str) -> torch.nn.Module:
    name = {"network_def": "model.pt", "prior_def": "prior.pt"}[net_id]
    network = defined(folder, net_id)
    network.load_state_dict(torch.load(folder / "bundle" / "models" / name, weights_only=True))
    return network


def metadata() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "bundle" / "configs" / "metadata.json").read_text(encoding="utf-8"))
    return found


def images(batch: int = 1) -> torch.Tensor:
    """One pattern of 32 x 32 pixels again and again: few vectors, so that none lies between two codes by accident."""
    rows, columns = metadata()["network_data_format"]["inputs"]["image"]["spatial_shape"]
    generator = torch.Generator().manual_seed(0)
    return torch.rand(batch, 1, 32, 32, generator=generator).tile(rows // 32, columns // 32)


def grids() -> torch.Tensor:
    codes = metadata()["prior_data_format"]["inputs"]["codes"]
    size = (1, *codes["spatial_shape"])
    return torch.randint(codes["value_range"][1] + 1, size, generator=torch.Generator().manual_seed(0))


# the zoo's checks


def test_files_and_version() -> None:
    for name in ("LICENSE", "configs/metadata.json", "configs/inference.json", "docs/README.md"):
        assert (ROOT / "bundle" / name).is_file(), name
    assert metadata()["version"] in metadata()["changelog"]


def test_metadata(folder: Path) -> None:
    verify_metadata(meta_file="bundle/configs/metadata.json", filepath="bundle/eval/schema.json")


@pytest.mark.parametrize("path", sorted((ROOT / "bundle").rglob("*.json")), ids=lambda path: path.name)
def test_json_is_formatted_as_the_zoo_formats_it(path: Path) -> None:
    """By pre-commit's pretty-format-json with --no-sort-keys and --indent=4."""
    text = path.read_text(encoding="utf-8")
    assert text == json.dumps(json.loads(text), indent=4) + "\n"


def test_versions_can_be_installed_on_the_python_of_the_zoo() -> None:
    told = metadata()
    versions = {"monai": told["monai_version"], "torch": told["pytorch_version"], "numpy": told["numpy_version"]}
    for name, version in {**versions, **told["required_packages_version"]}.items():
        found = distribution(name)
        if found.version.partition("+")[0] == version:
            assert SpecifierSet(found.metadata["Requires-Python"]).contains("3.10"), name


def test_data_formats_and_figures_are_told_in_full() -> None:
    told = metadata()
    for network in ("network_data_format", "prior_data_format"):
        for side in told[network].values():
            for tensor in side.values():
                assert tensor["modality"] == "MR"
                channels = [int(channel) for channel in tensor["channel_def"]]
                assert (channels[0], channels[-1]) == (0, tensor["num_channels"] - 1)  # of many codes not each
    row = re.search(r"\| SSIM \| brain SSIM .*\n.*\n(.*)", (ROOT / "bundle" / "docs" / "README.md").read_text("utf-8"))
    assert row is not None
    figures = [float(cell.split()[0]) for cell in row[1].strip("| ").split("|")]
    assert list(told["eval_metrics"].values()) == figures[:-1]  # the last one is that of a histogram


def test_metadata_that_breaks_the_schema_is_refused(folder: Path) -> None:
    broken = metadata()
    del broken["prior_data_format"]["outputs"]["pred"]["value_range"]
    (folder / "broken.json").write_text(json.dumps(broken), encoding="utf-8")
    with pytest.raises(ValueError, match="Failed validating"):
        verify_metadata(meta_file="broken.json", filepath="bundle/eval/schema.json")


@pytest.mark.parametrize("config", ["inference.json", "train.json"])
def test_network_in_and_out(config: str, folder: Path) -> None:
    arguments = {
        "net_id": "network_def",
        "meta_file": "bundle/configs/metadata.json",
        "config_file": f"bundle/configs/{config}",
        "bundle_root": "bundle",
    }
    verify_net_in_out(**arguments)
    with pytest.raises(ValueError, match="output channel number `1` doesn't match: `2`"):
        verify_net_in_out(**arguments, **{"_meta_#network_data_format#outputs#pred#num_channels": 2})


@pytest.mark.parametrize("overlay", [["inference.json", "sample.json"], ["train.json", "train_prior.json"]])
def test_prior_in_and_out(overlay: list[str], folder: Path) -> None:
    """MONAI feeds (1, num_channels, *spatial_shape) floats under the name image; grids of codes have no channels."""
    if "train.json" in overlay:  # which looks for conditions beside the slices
        write_phantom(folder / "data", 4, num_slices=1, size=32, progress=False)
    prior = metadata()["prior_data_format"]
    codes = prior["inputs"]["codes"]
    rows, columns = codes["spatial_shape"]
    image = {**codes, "num_channels": rows, "spatial_shape": [columns], "dtype": "float32"}
    verify_net_in_out(
        net_id="prior_def",
        meta_file="bundle/configs/metadata.json",
        config_file=[f"bundle/configs/{name}" for name in overlay],
        bundle_root="bundle",
        **{"_meta_#network_data_format": {"inputs": {"image": image}, "outputs": prior["outputs"]}},
    )


@pytest.mark.parametrize("net_id", ["network_def", "prior_def"])
def test_torchscript(net_id: str, folder: Path) -> None:
    name = {"network_def": "model", "prior_def": "prior"}[net_id]
    ckpt_export(
        net_id=net_id,
        filepath=f"bundle/models/verify_{name}.ts",
        ckpt_file=f"bundle/models/{name}.pt",
        meta_file="bundle/configs/metadata.json",
        config_file=config_files(net_id),
        bundle_root="bundle",
    )
    loaded, found, others = load_net_with_metadata(
        f"bundle/models/verify_{name}.ts", more_extra_files=["inference.json"]
    )
    assert found["network_data_format"] == metadata()["network_data_format"]
    assert json.loads(others["inference.json"])["network_def"]["_target_"] == "monai_vqprior.networks.AutoencoderVQ"
    x = images() if net_id == "network_def" else grids()
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), with_weights(folder, net_id)(x))


@pytest.mark.usefixtures("_logging_restored")
@pytest.mark.parametrize("workflow_type", ["train", "inference"])
def test_properties(workflow_type: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_phantom(tmp_path / "data", 4, num_slices=1, size=256, progress=False)
    monkeypatch.chdir(tmp_path)
    bundle = folder / "bundle"
    workflow = create_workflow(
        workflow_type=workflow_type,
        bundle_root=str(bundle),
        config_file=str(bundle / "configs" / f"{workflow_type}.json"),
        logging_file=str(bundle / "configs" / "logging.conf"),
        meta_file=str(bundle / "configs" / "metadata.json"),
    )
    assert workflow.check_properties() == []


# docs/how-to/export.md


@pytest.fixture(scope="module")
def exported(small: Path) -> Path:
    """The folder, after the page's commands; words are read as MONAI's command reads them."""
    blocks = "".join(re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)).replace("\\\n", " ")
    commands = [shlex.split(line) for line in blocks.splitlines()]
    assert [command[3] for command in commands] == ["ckpt_export"] * 2 + ["onnx_export"] * 3
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(small)
        for command in commands:
            net_id, *options = command[4:]
            names, values = [word.removeprefix("--") for word in options[::2]], map(DefaultParseValue, options[1::2])
            getattr(monai.bundle, command[3])(net_id, **dict(zip(names, values, strict=True)))
    return small


def run_onnx(path: Path, x: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


@pytest.mark.parametrize(("net_id", "name"), [("network_def", "model"), ("prior_def", "prior")])
def test_commands_of_the_page(net_id: str, name: str, exported: Path) -> None:
    x = images() if net_id == "network_def" else grids()
    with torch.no_grad():
        expected = with_weights(exported, net_id)(x)
        torch.testing.assert_close(torch.jit.load(exported / "output" / f"{name}.ts")(x), expected)
    torch.testing.assert_close(run_onnx(exported / "output" / f"{name}.onnx", x.float()), expected, rtol=0, atol=1e-4)


def test_command_for_any_number_of_images(exported: Path) -> None:
    for number in (1, 3):
        with torch.no_grad():
            expected = with_weights(exported, "network_def")(images(number))
        found = run_onnx(exported / "output" / "any_number.onnx", images(number))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def told_shapes(code: str) -> dict[str, tuple[int, ...]]:
    """Shapes in comments, such as ``# codes (1, 64, 64)``, by the name of the tensor."""
    found = re.findall(r"# (\w+) \((\d+(?:, \d+)+)\)", code)
    return {name: tuple(map(int, shape.split(", "))) for name, shape in found}


def test_artifacts_need_neither_this_package_nor_monai(exported: Path) -> None:
    code = EXAMPLES["Using them without this package"]
    expected = told_shapes(code)
    assert set(expected) == {"codes", "rebuilt", "nats", "again", "logits"}
    words = [
        "import sys; sys.modules.update(monai=None, monai_vqprior=None)",
        code,
        f"print({{name: tuple(globals()[name].shape) for name in {sorted(expected)}}})",
    ]
    command = [sys.executable, "-c", "\n".join(words)]
    done = subprocess.run(command, cwd=exported, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[0] == str(dict(sorted(expected.items())))


def test_exported_programs_of_the_page(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small)
    code = EXAMPLES["torch.export"]
    names: dict[str, Any] = {}
    torch.manual_seed(0)
    exec(code, names)
    assert told_shapes(code) == {"rebuilt": tuple(names["rebuilt"].shape)}
    with torch.no_grad():
        torch.testing.assert_close(names["program"](images()), with_weights(small, "network_def")(images()))
        program = torch.export.load("output/prior.pt2").module()
        torch.testing.assert_close(program(grids()), with_weights(small, "prior_def")(grids()))


def test_encoder_and_decoder_of_the_page(folder: Path) -> None:
    code = EXAMPLES["Encoder and decoder as ONNX of their own"]
    names: dict[str, Any] = {}
    torch.manual_seed(0)
    exec(code, names)
    assert told_shapes(code) == {"codes": tuple(names["codes"].shape)}
    with torch.no_grad():
        network = with_weights(folder, "network_def")
        codes = run_onnx(folder / "output" / "index_quantize.onnx", images(1))
        assert torch.equal(codes, network.index_quantize(images(1)))
        torch.testing.assert_close(
            run_onnx(folder / "output" / "decode_samples.onnx", codes), network(images(1)), rtol=0, atol=1e-4
        )
