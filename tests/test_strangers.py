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
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monai_vqprior import cli
from monai_vqprior.bundles import bundle_root, copy_bundle
from monai_vqprior.runs import SINGLE_SLICES

pytestmark = pytest.mark.integration

# Weights of a stranger with settings beside them that are more than data, through every command that reads settings.

MODELS = bundle_root() / "models"
#: of both networks in one file, as earlier versions wrote it; a prior of single slices, whatever the bundle has.
SETTINGS: dict[str, Any] = {
    **json.loads((MODELS / "settings.json").read_text(encoding="utf-8")),
    **json.loads((MODELS / "prior_settings.json").read_text(encoding="utf-8")),
    **SINGLE_SLICES,
}
EMA = "monai_vqprior.networks.EMACodebook"
FSQ = "monai_vqprior.networks.FSQCodebook"
# Makes a file in the folder of the test, wherever it is evaluated.
CODE = "$__import__('pathlib').Path('CANARY').touch()"
CALL = {"_target_": "pathlib.Path.touch", "self": "$__import__('pathlib').Path('CANARY')"}


def codebook(**arguments: Any) -> dict[str, Any]:
    return {"codebook": {**SETTINGS["codebook"], **arguments}}


def conditions(*entries: Any) -> dict[str, Any]:
    return {"conditions": list(entries)}


# What MONAI evaluates, in place of each setting and deeper.
EXPRESSIONS: list[dict[str, Any]] = [
    *({key: CODE} for key in SETTINGS),
    *({key: CALL} for key in ("spatial_size", "channels", "patch_size", "conditions")),
    {"channels": [64, CODE]},
    {"channels": [[CODE]]},
    {"num_encoder_blocks": [CODE]},
    {"spatial_size": [256, {"_target_": "os.getcwd", "_requires_": CODE}]},
    codebook(decay=CODE),
    codebook(num_embeddings=[CODE]),
    codebook(gradient=CALL),
    codebook(gradient={"_target_": "monai_vqprior.networks.RotationTrick"}),
    {"codebook": {"_target_": FSQ, "levels": [8, CODE]}},
    conditions(CODE),
    conditions([CODE]),
    conditions({"name": CODE, "classes": ["a"]}),
    conditions({"name": "a", "classes": CODE}),
    conditions({"name": "a", "classes": ["a", CODE]}),
    conditions({"name": "a", "mean": CODE, "std": 1}),
    conditions({"name": "a", "mean": 0, "std": 1, "_requires_": CODE}),
    conditions({"name": "a", "mean": 0, "std": 1, "quantiles": [CODE, 1]}),
    conditions({"name": "a", "classes": ["a"], "shares": CALL}),
    conditions({"name": "a", "classes": ["a"], "related": [CODE]}),
    conditions(CALL),
]
# What builds or calls anything but a codebook of this package.
TARGETS: list[dict[str, Any]] = [
    *(
        {"codebook": {"_target_": target, "args": ["touch CANARY"], "shell": True}}
        for target in ("subprocess.call", "os.system", "builtins.eval", "builtins.exec", "pathlib.Path", "touch")
    ),
    *({"codebook": {"_target_": target}} for target in (CODE, "@network_def", "%train.json::run", 3, None, [EMA], "")),
    *(
        codebook(_target_=target)
        for target in ("EMACodebook", "monai_vqprior.networks.GatedPixelCNN", "monai_vqprior.networks.fsq.math.e")
    ),
    {"codebook": {"levels": [8, 8, 8]}},
    {"codebook": EMA},
    {"codebook": [SETTINGS["codebook"]]},
    *(codebook(**{key: value}) for key, value in (("_disabled_", True), ("_desc_", "x"), ("_mode_", "debug"))),
    codebook(_requires_=[CODE]),
    codebook(levels=[8, 8]),
    codebook(**{"gradient#_target_": "os.getcwd"}),
    {"codebook": {"_target_": FSQ, "levels": [2**20, 2**20]}},
]
# Keys of a configuration that are no settings, and what addresses others.
KEYS: list[dict[str, Any]] = [
    *(
        {key: [CODE]}
        for key in (
            "begin", "initialize", "run", "finalize", "imports", "evaluator", "settings", "train", "inferer",
            "+begin", "~begin", "train#handlers", "train::loss", "network_def#codebook", "handlers", "_meta_",
        )
    ),
    *(
        {key: value}
        for key, value in (
            ("device", "cpu"), ("output_dir", "/tmp"), ("overwrite", True), ("resume", True), ("ckpt", "other.pt"),
            ("ckpt_prior", "other.pt"), ("pretrained", "other.pt"), ("bundle_root", "."), ("models_dir", "."),
            ("dataset_dir", "."), ("batch_size", 1), ("num_workers", 64), ("seed", 1), ("split", "train"),
            ("codebook#_target_", "os.getcwd"), ("codebook::decay", 0.5), ("+spatial_size", 256), ("~channels", None),
            ("config_file", "other.json"), ("args_file", "other.json"), ("logging_file", "a.conf"), ("tracking", "x"),
            ("_target_", "os.getcwd"), ("spatial size", 256), ("", 1), ("channels\nx", [64]),
        )
    ),
]  # fmt: skip
REFERENCES: list[dict[str, Any]] = [
    {key: text}
    for key, text in (
        ("spatial_size", "@patch_size"),
        ("channels", ["@num_embeddings"]),
        ("channels", "%train.json::begin"),
        ("num_embeddings", "%/etc/passwd.json#x"),
        ("prior_layers", "@#run"),
        ("autoencoder_weights", "@output_dir"),
        ("autoencoder_weights", "d6f271df7a4072a4\n"),
    )
] + [
    conditions({"name": "a", "classes": [text]})
    for text in ("@begin", "%a::b", "a @##b", "50 %", "a\nb", "\x1b[2J", "a#b")
]
VALUES: list[dict[str, Any]] = [
    {key: value}
    for key, value in (
        ("spatial_size", -8), ("spatial_size", 10**18), ("spatial_size", [8, 8, 8]), ("spatial_size", True),
        ("channels", []), ("channels", 64), ("channels", {}), ("channels", [[64]]), ("patch_size", 0),
        ("patch_size", 4.5), ("num_embeddings", 1), ("num_embeddings", "512"), ("embedding_dim", None),
        ("prior_kernel_size", 4), ("prior_skip_connections", "yes"), ("prior_position_logits", 1), ("conditions", {}),
        ("conditions", ["age"]), ("conditions", [{"name": "a", "mean": 0, "std": 0}]), ("autoencoder_weights", 3),
        ("reference", []), ("reference", {"ssim": 0.9}), ("reference", {"ssim": [0, CODE, 1]}),
        ("reference", {CODE: [0, 1, 2]}), ("reference", {"ssim": [0, 1, 1e9]}), ("reference", {"ssim": CALL}),
        ("conditions", [{"name": "a", "classes": ["b"]}] * 2), ("conditions", [{"name": 3, "classes": ["b"]}]),
        ("autoencoder_weights", "../../../x"), ("codebook", None),
    )
]  # fmt: skip
# Networks that would take the machine's memory before anybody sees that the weights do not fit.
BOMBS: list[dict[str, Any]] = [
    {"num_embeddings": 2**20, "embedding_dim": 4096},
    {"channels": [8192, 8192]},
    {"channels": [2048], "num_encoder_blocks": 64},
    {"prior_channels": 4096, "prior_layers": 1024},
    {"spatial_size": 8192, "num_embeddings": 2**20, "patch_size": 1},
    codebook(num_embeddings=2**20, embedding_dim=4096),
]
TEXTS: list[bytes] = [
    b"", b"[]", b"null", b"{", b'"x"', b"\xff\xfe{}", b'{"channels": [64], "channels": [32]}', b'{"patch_size": NaN}',
    b'{"spatial_size": 1e999}', b'{"patch_size": -Infinity}', b'{"spatial_size": ' + b"9" * 5000 + b"}",
    b'{"channels": ' + b"[" * 20 + b"]" * 20 + b"}", b'{"channels": ' + b"[" * 10**5 + b"]" * 10**5 + b"}",
    b'{"conditions": [{"name": "\\ud800", "classes": ["a"]}]}', b'{"channels": [64' + b" " * 2**20 + b"]}",
]  # fmt: skip
PAYLOADS: dict[str, bytes] = {
    f"{group}-{number}": payload if isinstance(payload, bytes) else json.dumps({**SETTINGS, **payload}).encode()
    for group, payloads in (
        ("expression", EXPRESSIONS),
        ("target", TARGETS),
        ("key", KEYS),
        ("reference", REFERENCES),
        ("value", VALUES),
        ("memory", BOMBS),
        ("text", TEXTS),
    )
    for number, payload in enumerate(payloads)
}

# Where the stranger's files go, and the command that meets them.
COMMANDS: dict[str, tuple[str, str]] = {
    "evaluate": ("models", "evaluate --dataset_dir data --ckpt models/model.pt"),
    "evaluate a prior": ("models", "evaluate --dataset_dir data --ckpt_prior models/prior.pt"),
    "evaluate a run": ("out/models", "evaluate --dataset_dir data"),
    "reconstruct": ("models", "reconstruct --dataset_dir data --ckpt models/model.pt"),
    "sample": ("models", "sample --ckpt models/model.pt --ckpt_prior models/prior.pt"),
    "sample a prior": ("models", "sample --ckpt_prior models/prior.pt"),
    "sample a bundle": ("bundle/models", "sample --bundle bundle"),
    "neighbors": ("out/models", "neighbors --dataset_dir data"),
    "train a prior": ("models", "train --dataset_dir data --stage prior --ckpt models/model.pt"),
    "fine-tune": ("models", "train --dataset_dir data --fine_tune --stage vqvae --pretrained models/model.pt"),
    "fine-tune a bundle": ("bundle/models", "train --dataset_dir data --fine_tune --bundle bundle"),
    "train anew": ("out/models", "train --dataset_dir data --overwrite"),
    "resume": ("out/models", "train --dataset_dir data --resume"),
}


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


PRIOR = "prior_settings.json"
CASES = [*((name, "settings.json") for name in COMMANDS), ("sample a prior", PRIOR), ("resume", PRIOR)]


def payloads_for(name: str, file_name: str) -> dict[str, bytes]:
    """
    All for one command of each network: one function reads the settings of all commands. The first of each group and
    its share of the others for each of the other commands: does it call that function?
    """
    if (name, file_name) in (("reconstruct", "settings.json"), ("sample a prior", PRIOR)):
        return PAYLOADS
    place = CASES.index((name, file_name))
    return {
        payload: content
        for number, (payload, content) in enumerate(PAYLOADS.items())
        if number % len(CASES) == place or payload.endswith("-0")
    }


@pytest.mark.parametrize(("name", "file_name"), CASES)
def test_nothing_of_a_stranger_runs(
    name: str, file_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder, command = COMMANDS[name]
    if folder.startswith("bundle"):
        copy_bundle("bundle")
        shutil.rmtree("bundle/models")
    Path(folder).mkdir(parents=True, exist_ok=True)
    for file in ("model.pt", "prior.pt", "vqvae_last.pt"):
        (Path(folder) / file).write_bytes(b"weights")  # never come to
    settings = Path(folder) / file_name
    words = [*command.split(), "--output_dir", "out"]
    settings.write_bytes(b"{}")
    before = contents(tmp_path)
    assert len(PAYLOADS) > 100
    for payload, content in payloads_for(name, file_name).items():
        settings.write_bytes(content)
        assert cli.main(words) == 2, f"{payload}: {content[:200]!r}"
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1, f"{payload}: {lines}"
        assert lines[0].startswith("vqprior: error: "), payload
        # A new autoencoder writes its own codebook over that of the run that it replaces: nothing is built of that one.
        replaced = name == "train anew" and payload.startswith("target") and "data is not a directory" in lines[0]
        assert replaced or str(settings) in lines[0], f"{payload}: {lines[0]}"
        assert len(lines[0]) < 700, payload
        settings.write_bytes(b"{}")
        assert contents(tmp_path) == before, payload


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Runs ``vqprior sample`` on weights with these settings up to MONAI, and returns what that would be told."""
    (tmp_path / "models").mkdir()
    for file in ("model.pt", "prior.pt"):
        shutil.copy(MODELS / file, tmp_path / "models")
    runs: list[dict[str, Any]] = []
    monkeypatch.setattr("monai_vqprior.cli.running.run_configs", lambda root, names, overrides: runs.append(overrides))

    def run(settings: dict[str, Any], *words: str, bundle: Path | None = None) -> dict[str, Any]:
        (tmp_path / "models" / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        more = [] if bundle is None else ["--bundle", str(bundle)]
        assert cli.main(["sample", "--output_dir", str(tmp_path), *words, *more]) == 0
        return {key: value for key, value in runs.pop().items() if key != "output_dir"}

    return run


@pytest.mark.parametrize(
    "settings",
    [
        {"codebook": {"_target_": FSQ, "levels": [8, 5, 5, 5]}, "num_embeddings": 1000, "embedding_dim": 4},
        codebook(_target_="monai_vqprior.networks.CosineCodebook"),
        codebook(_target_="monai_vqprior.networks.codebook.EMACodebook", accumulation_steps=4),
        {
            "channels": [32, 64],
            "num_encoder_blocks": [1, 2],
            "spatial_size": [128, 160],
            "prior_position_logits": False,
        },
    ],
)
def test_settings_that_training_writes_are_used(told: Callable[..., dict[str, Any]], settings: dict[str, Any]) -> None:
    overrides = told({**SETTINGS, **settings})
    assert {key: overrides.get(key) for key in settings} == settings
    # All others are those of the configuration.
    before = {"prior_sketch_block", "prior_sketch_levels", "prior_sketch_mirror"}  # what settings without them mean
    assert set(overrides) <= {*settings, "codebook", "max_value", *before}


def test_another_codebook_is_used_when_the_user_names_it(
    told: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = {"_target_": "their.Codebook", "size": 3, "names": ["a"]}
    settings = {**SETTINGS, "codebook": theirs}
    for words in (["--codebook#_target_", "their.Codebook"], ["--codebook", str(theirs)]):
        assert told(settings, *words)["codebook"] == theirs
    for words in ([], ["--codebook#_target_", "their.Other"], ["--codebook", "their.Codebook"]):
        with pytest.raises(AssertionError):
            told(settings, *words)
        message = capsys.readouterr().err
        assert "its codebook is the class 'their.Codebook', which is not of this package" in message
        assert "--codebook#_target_" in message
    for extra in ({"x": CODE}, {"_disabled_": True}, {"x": {"y": 1}}):
        with pytest.raises(AssertionError):
            told({**SETTINGS, "codebook": {**theirs, **extra}}, "--codebook#_target_", "their.Codebook")
        assert "settings.json cannot be used, " in capsys.readouterr().err


def test_a_bundle_says_which_settings_there_are(
    told: Callable[..., dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its configurations are trusted; what a stranger writes under their keys is data all the same."""
    bundle = copy_bundle(str(tmp_path / "bundle"))
    for name, stage in (("train.json", {"width": "@width"}), ("inference.json", {})):
        path = bundle / "configs" / name
        config = json.loads(path.read_text(encoding="utf-8"))
        config["width"] = 1
        config.get("settings", {}).update(stage)
        path.write_text(json.dumps(config), encoding="utf-8")
    for width in (3, 0.5, "wide", [1, [2, "x"]], None):
        assert told({**SETTINGS, "width": width}, bundle=bundle).get("width") == width
    for width in (CODE, ["@run"], {"a": 1}, [CALL], "%a::b"):
        with pytest.raises(AssertionError):
            told({**SETTINGS, "width": width}, bundle=bundle)
        assert "settings.json cannot be used, width must be a number, true, false, null" in capsys.readouterr().err
    with pytest.raises(AssertionError):
        told({**SETTINGS, "width": 3})  # the package's own bundle has no such setting
    assert "it has no setting 'width'" in capsys.readouterr().err
