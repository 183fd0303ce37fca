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
import math
from typing import Any

import numpy as np
import pytest
from monai.bundle import ConfigParser

from monai_vqprior.data import Conditions, fit_condition
from monai_vqprior.errors import InputError

NAN = math.nan
AGE = {"name": "age", "mean": 60.0, "std": 20.0}
SEX = {"name": "sex", "classes": ["F", "M"]}
SITE = {"name": "site", "classes": ["Boston, MA", "Oslo"]}
POSITION = {"name": "slice", "mean": 0.5, "std": 0.25}
#: labels and values mixed; the network has them in the order (sex, site), (age, slice).
MIXED: list[dict[str, Any]] = [AGE, SEX, POSITION, SITE]


class TestConditions:
    def test_labels_and_values_keep_their_order(self) -> None:
        conditions = Conditions(MIXED)
        assert conditions.names == ["age", "sex", "slice", "site"]
        assert conditions.label_names == ["sex", "site"]
        assert conditions.value_names == ["age", "slice"]
        assert conditions.num_classes == [2, 2]
        assert conditions.num_values == 2

    def test_none(self) -> None:
        conditions = Conditions()
        assert (conditions.num_classes, conditions.num_values, conditions.settings) == ([], 0, [])
        assert conditions.encode({"age": "3"}) == {}
        assert conditions.parse(None) == {}

    @pytest.mark.parametrize(
        ("cells", "expected"),
        [
            ({"age": "70", "sex": "M", "slice": "0", "site": "Oslo"}, (0.5, 1, -2.0, 1)),
            ({"age": "60.0", "sex": "F", "slice": "1e0", "site": "Boston, MA"}, (0.0, 0, 2.0, 0)),
            ({}, (NAN, -1, NAN, -1)),
            ({"age": "", "sex": "", "slice": "n/a", "site": "NA"}, (NAN, -1, NAN, -1)),
            ({"age": "old", "sex": "X", "slice": "inf", "site": "oslo"}, (NAN, -1, NAN, -1)),
        ],
        ids=["known", "other forms", "absent", "empty", "unknown"],
    )
    def test_encode(self, cells: dict[str, str], expected: tuple[float, ...]) -> None:
        encoded = Conditions(MIXED).encode(cells)
        assert list(encoded) == ["age", "sex", "slice", "site"]
        np.testing.assert_equal(list(encoded.values()), expected)
        assert isinstance(encoded["sex"], int)
        assert isinstance(encoded["age"], float)

    @pytest.mark.parametrize(
        ("condition", "labels", "values"),
        [
            ("age=72", [-1, -1], [0.6, NAN]),
            ("slice=0.5,sex=F", [0, -1], [NAN, 0.0]),
            (" sex = M , age = 60 ", [1, -1], [0.0, NAN]),
            ('sex=M,"site=Boston, MA",age=20,slice=1', [1, 0], [-2.0, 2.0]),
        ],
    )
    def test_parse(self, condition: str, labels: list[int], values: list[float]) -> None:
        asked = Conditions(MIXED).parse(condition)
        assert asked["labels"] == labels
        np.testing.assert_allclose(asked["values"], values)

    def test_only_the_kinds_that_there_are(self) -> None:
        assert Conditions([SEX]).parse("sex=F") == {"labels": [0]}
        assert Conditions([AGE]).parse("age=100") == {"values": [2.0]}

    @pytest.mark.parametrize(
        ("condition", "message"),
        [
            ("agee=7", "there is no condition 'agee': the prior knows age, sex, slice, site"),
            ("sex=m", "sex has no class 'm': the prior knows F, M"),
            ("sex=", "sex has no class '': the prior knows F, M"),
            ("age=old", r"age must be a number, got 'old': the prior knows age \(mean 60, standard deviation 20\)"),
            ("age=nan", "age must be a number, got 'nan'"),
            ("age=", "age must be a number, got ''"),
            ("age=3,age=4", "condition must name age once"),
            ("age", "condition must look like name=value,name=value, got 'age'"),
            ("age=3,", "condition must look like name=value"),
            ("", "condition must look like name=value"),
            (5, "condition must look like name=value,name=value, got 5"),
        ],
    )
    def test_what_cannot_be_asked(self, condition: Any, message: str) -> None:
        with pytest.raises(InputError, match=message):
            Conditions(MIXED).parse(condition)

    def test_asking_a_prior_without_conditions(self) -> None:
        with pytest.raises(InputError, match="no condition 'age': the prior was trained without --conditions"):
            Conditions([]).parse("age=3")

    def test_a_value_far_from_all_training_is_told(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            Conditions([POSITION]).parse("slice=1")
            assert not caplog.messages
            Conditions([POSITION]).parse("slice=16")
        assert "slice=16 is far from all that the prior has seen" in caplog.text

    def test_settings_are_words_of_a_configuration(self) -> None:
        settings = json.loads(json.dumps(Conditions(MIXED).settings))
        assert settings == MIXED
        parser = ConfigParser({"conditions": settings, "twin": {"_target_": "monai_vqprior.data.Conditions"}})
        parser["twin"]["conditions"] = "@conditions"
        assert parser.get_parsed_content("twin").settings == MIXED

    @pytest.mark.parametrize(
        "entry",
        [
            "age",
            5,
            {},
            {"name": "age"},
            {"name": "age", "mean": 1},
            {"name": "age", "mean": 1, "std": 0},
            {"name": "age", "mean": 1, "std": "wide"},
            {"name": "sex", "classes": []},
            {"name": "sex", "classes": "FM"},
            {"name": "sex", "classes": 2},
            {"classes": ["F"]},
            {"name": "sex", "classes": ["F"], "mean": 0, "std": 1},
        ],
        ids=str,
    )
    def test_damaged_settings(self, entry: Any) -> None:
        with pytest.raises(InputError, match="a known condition has a name and classes, or a name, a mean and"):
            Conditions([SEX, entry])

    def test_names_that_were_not_fitted(self) -> None:
        with pytest.raises(InputError, match=r"got 'slice=0.5'; --condition asks for one"):
            Conditions("slice=0.5")  # type: ignore[arg-type]
        with pytest.raises(InputError, match="named once each, got sex, sex"):
            Conditions([SEX, SEX])


class TestFitCondition:
    def test_text_is_a_label_with_its_classes_in_natural_order(self) -> None:
        cells = ["grade10", "grade9", "", "grade9", "n/a", "Grade1"]
        assert fit_condition("grade", cells) == {"name": "grade", "classes": ["Grade1", "grade9", "grade10"]}

    def test_one_cell_that_is_no_number_makes_classes(self) -> None:
        assert fit_condition("cdr", ["0", "0.5", "severe"])["classes"] == ["0", "0.5", "severe"]

    def test_numbers_are_a_value(self) -> None:
        numbers = np.random.default_rng(0).normal(72.0, 9.0, 50).tolist()
        fitted = fit_condition("age", ["", *map(str, numbers), "NaN", "n/a"])
        assert set(fitted) == {"name", "mean", "std"}
        assert fitted["mean"] == pytest.approx(np.mean(numbers), rel=1e-5)
        assert fitted["std"] == pytest.approx(np.std(numbers), rel=1e-5)
        assert len(str(fitted["mean"])) <= 7

    @pytest.mark.parametrize(("cell", "kind"), [("3.5", "std"), ("Oslo", "classes")])
    def test_a_constant_says_nothing_and_is_told(self, caplog: pytest.LogCaptureFixture, cell: str, kind: str) -> None:
        fitted = fit_condition("x", [cell, "", cell])
        assert fitted[kind] == (1.0 if kind == "std" else ["Oslo"])
        assert f"the condition x is {cell} for all slices" in caplog.text
        assert Conditions([fitted]).encode({"x": cell}) == {"x": 0}

    def test_nothing_known(self) -> None:
        with pytest.raises(InputError, match="'age' is missing for all 3 slices of the training split"):
            fit_condition("age", ["", "n/a", "NA"])

    @pytest.mark.parametrize(
        ("name", "cell"),
        [("x", "$import os"), ("x", "@seed"), ("a%b", "1"), ("x@", "y"), ("x", "site #2"), ("x", "a\nb")],
    )
    def test_what_a_configuration_would_run(self, name: str, cell: str) -> None:
        with pytest.raises(InputError, match=r"cannot be written into a configuration, where \$, @, % and # mean more"):
            fit_condition(name, [cell, "plain"] if name == "x" else [cell])

    @pytest.mark.parametrize("cells", [["1e308", "1e308"], ["1e200", "-1e200"]])
    def test_numbers_that_have_no_mean_or_scale(self, cells: list[str]) -> None:
        with pytest.raises(InputError, match="'x' has numbers that are too large, such as 1e"):
            fit_condition("x", cells)
