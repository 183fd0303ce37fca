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
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.bundle import ConfigParser

from monai_vqprior.errors import InputError
from monai_vqprior.networks import CosineCodebook, EMACodebook, FSQCodebook, RotationTrick
from monai_vqprior.runs import check_conditions, component_config, has_other_codes, read_settings, write_settings


class TestWriteSettings:
    def test_keeps_what_an_earlier_stage_wrote(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "settings.json"
        stages: list[dict[str, Any]] = [
            {"spatial_size": 128, "channels": [32, 64]},
            {"prior_layers": 8, "channels": [16], "labels": None},
            {},
        ]
        for stage in stages:
            write_settings(path, stage)
        expected = {"spatial_size": 128, "channels": [16], "prior_layers": 8, "labels": None}
        assert json.loads(path.read_text(encoding="utf-8")) == expected
        assert [path.name for path in path.parent.iterdir()] == ["settings.json"]

    def test_what_is_no_json_leaves_the_file_as_it_was(self, tmp_path: Path) -> None:
        write_settings(tmp_path / "settings.json", {"spatial_size": 128})
        with pytest.raises(TypeError):
            write_settings(tmp_path / "settings.json", {"device": torch.device("cpu")})
        assert json.loads((tmp_path / "settings.json").read_text()) == {"spatial_size": 128}


class TestCheckConditions:
    AGE: ClassVar[dict[str, Any]] = {"name": "age", "mean": 60.5, "std": 20.25}
    SEX: ClassVar[dict[str, Any]] = {"name": "sex", "classes": ["F", "M"]}

    @pytest.mark.parametrize("resume", [True, False])
    @pytest.mark.parametrize("before", [None, [], [AGE], [AGE, SEX], [SEX, AGE], [{**AGE, "mean": 60}]])
    def test_a_run_goes_on_under_its_own(
        self, tmp_path: Path, before: list[dict[str, Any]] | None, resume: bool
    ) -> None:
        path = tmp_path / "settings.json"
        write_settings(path, {"spatial_size": 32} if before is None else {"conditions": before})
        for conditions in ([], [self.AGE], [self.AGE, self.SEX]):
            if not resume or conditions == (before or []):
                check_conditions(path, conditions, resume)
            else:
                with pytest.raises(InputError, match=r"the run to resume was trained with the conditions .*, got "):
                    check_conditions(path, conditions, resume)

    def test_distributions_do_not_count(self, tmp_path: Path) -> None:
        """A run from before there were any goes on, and so does one on data that is distributed otherwise."""
        path, told = tmp_path / "settings.json", [{**self.SEX, "shares": [share, 1 - share]} for share in (0.25, 0.5)]
        for before in ([self.SEX], told[:1]):
            write_settings(path, {"conditions": before})
            for after in ([self.SEX], told[1:]):
                check_conditions(path, after, resume=True)

    def test_without_settings(self, tmp_path: Path) -> None:
        check_conditions(tmp_path / "settings.json", [self.AGE], resume=True)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
    | st.sampled_from(["$1 + 1", "@a", "%a", "_target_", "a#b", "a::b"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.just("_target_"), inner),
    max_leaves=8,
)  # fmt: skip


class TestReadSettings:
    @settings(derandomize=True, deadline=None, max_examples=300)
    @given(key=st.sampled_from(["x", "channels", "codebook", "conditions", "prior_layers"]), value=JSON)
    def test_what_is_read_is_what_monai_leaves_as_it_is(
        self, key: str, value: Any, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        path = tmp_path_factory.getbasetemp() / "settings.json"
        path.write_text(json.dumps({key: value}), encoding="utf-8")
        read, message = None, str(path)
        try:
            read = read_settings(path, codebooks=("a",))
        except InputError as error:
            message = str(error)
        assert len(message.splitlines()) == 1
        assert str(path) in message
        if read is None:
            return
        assert read == {key: value}
        if "_target_" not in str(value):
            assert ConfigParser({"other": 1, **read}).get_parsed_content(key) == value

    def test_the_keys_that_there_may_be(self, tmp_path: Path) -> None:
        path = tmp_path / "settings.json"
        path.write_text('{"spatial_size": 32, "width": [1, "x"]}')
        assert read_settings(path) == read_settings(path, ["width", "spatial_size"]) == json.loads(path.read_text())
        with pytest.raises(InputError, match=r"settings\.json cannot be used, it has no setting 'width': mend it or"):
            read_settings(path, ["spatial_size"])

    @pytest.mark.parametrize("config", [{"_target_": "their.Codebook", "a": [1]}, {"_target_": "os.system"}])
    def test_who_builds_nothing_takes_any_class(self, tmp_path: Path, config: dict[str, Any]) -> None:
        """To compare and to keep settings no class need be known, but code is refused there too."""
        path = tmp_path / "settings.json"
        path.write_text(json.dumps({"codebook": config}))
        write_settings(path, {"prior_layers": 3})
        assert json.loads(path.read_text()) == {"codebook": config, "prior_layers": 3}
        check_conditions(path, [], resume=True)
        assert not has_other_codes(path, {})
        with pytest.raises(InputError, match="which is not of this package: if you know and trust its code, name it"):
            read_settings(path)
        path.write_text(json.dumps({"codebook": {**config, "a": "$1"}}))
        for use in (lambda: write_settings(path, {}), lambda: check_conditions(path, [], True)):
            with pytest.raises(InputError, match=r"settings\.json cannot be used, codebook a must be a number"):
                use()

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"x": "$1"}, "x must be a number, true"),
            ({"spatial_size": -1}, "spatial_size must be a whole number"),
            ({"conditions": [{"name": "a", "classes": ["50 %"]}]}, "'50 %' cannot be written into a configuration"),
            ({"autoencoder_weights": "abc"}, "autoencoder_weights must be 16 hexadecimal digits"),
            ({"a#b": 1}, "it has no setting 'a#b'"),
        ],
    )
    def test_what_could_not_be_read_again_is_not_written(
        self, tmp_path: Path, wrong: dict[str, Any], message: str
    ) -> None:
        path = tmp_path / "settings.json"
        write_settings(path, {"spatial_size": 32})
        with pytest.raises(InputError, match=message):
            write_settings(path, wrong)
        assert json.loads(path.read_text()) == {"spatial_size": 32}


@pytest.mark.parametrize(
    "codebook",
    [
        EMACodebook(16, 4, decay=0.5, entropy_weight=0.1, gradient=RotationTrick()),
        CosineCodebook(12, 3, accumulation_steps=2),
        FSQCodebook((4, 3)),
    ],
    ids=lambda codebook: type(codebook).__name__,
)
def test_component_config_builds_the_same_codebook_again(codebook: torch.nn.Module) -> None:
    config = json.loads(json.dumps(component_config(codebook)))
    assert config["_target_"] == f"monai_vqprior.networks.{type(codebook).__name__}"
    twin = ConfigParser({"codebook": config}).get_parsed_content("codebook")
    assert type(twin) is type(codebook)
    assert component_config(twin) == config
    twin.load_state_dict(codebook.state_dict())
    z = torch.randn(2, codebook.embedding_dim, 3, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(twin.encode(z), codebook.encode(z))


def test_component_config_names_the_module_of_a_class_that_its_package_does_not_export() -> None:
    assert component_config(_Own())["_target_"] == f"{_Own.__module__}._Own"


class _Own(torch.nn.Module):
    pass
