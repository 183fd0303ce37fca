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
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from monai_vqprior.data import Conditions, without_distributions
from monai_vqprior.data.condition_draws import condition_uniforms, cramers_v, fit_distribution
from monai_vqprior.errors import InputError
from monai_vqprior.sampling.draws import sample_uniforms

NAN = math.nan
AGE = {"name": "age", "mean": 50.0, "std": 20.0, "quantiles": [20.0, 30.0, 60.0, 90.0]}
SEX = {"name": "sex", "classes": ["F", "M"], "shares": [0.7, 0.3]}
GRADE = {"name": "cdr", "mean": 0.5, "std": 0.5, "numbers": [0.0, 0.5, 2.0], "shares": [0.5, 0.3, 0.2]}
SITE = {"name": "site", "classes": ["Oslo", "Rome"]}
MIXED: list[dict[str, Any]] = [AGE, SEX, GRADE, SITE]
MANY = 2000


@pytest.fixture(scope="module")
def drawn() -> dict[str, np.ndarray]:
    """Columns of many rows, in the units of the table."""
    rows = Conditions(MIXED).draw({}, range(MANY), seed=5)
    assert rows["labels"].dtype.kind == "i"
    age, grade = rows["values"].T
    sex, site = rows["labels"].T
    return {"age": age * 20 + 50, "cdr": grade * 0.5 + 0.5, "sex": sex, "site": site}


class TestDraw:
    def test_shares(self, drawn: dict[str, np.ndarray]) -> None:
        assert stats.chisquare(np.bincount(drawn["sex"], minlength=2), [0.7 * MANY, 0.3 * MANY]).pvalue > 0.01
        numbers, counts = np.unique(drawn["cdr"].round(9), return_counts=True)
        assert numbers.tolist() == [0, 0.5, 2]
        assert stats.chisquare(counts, np.array([0.5, 0.3, 0.2]) * MANY).pvalue > 0.01

    def test_quantiles(self, drawn: dict[str, np.ndarray]) -> None:
        def cumulative(x: np.ndarray) -> np.ndarray:
            return np.interp(x, [20, 30, 60, 90], [0, 1 / 3, 2 / 3, 1])

        assert stats.kstest(drawn["age"], cumulative).pvalue > 0.01

    def test_each_on_its_own(self, drawn: dict[str, np.ndarray]) -> None:
        assert stats.ks_2samp(*(drawn["age"][drawn["sex"] == label] for label in (0, 1))).pvalue > 0.01

    def test_what_has_no_distribution_is_missing(self, drawn: dict[str, np.ndarray]) -> None:
        assert (drawn["site"] == -1).all()
        plain = Conditions(without_distributions(MIXED))
        assert plain.draw({}, range(3)) == {}
        assert plain.draw(plain.parse("age=70"), range(3)) == plain.parse("age=70")
        assert Conditions().draw({}, range(3)) == {}

    def test_a_row_depends_on_its_number_and_the_seed_alone(self) -> None:
        conditions = Conditions(MIXED)
        all_rows, some = conditions.draw({}, range(50), seed=1), conditions.draw({}, [40, 7], seed=1)
        for kind, rows in all_rows.items():
            np.testing.assert_array_equal(some[kind], rows[[40, 7]])
            assert not np.array_equal(conditions.draw({}, range(50), seed=2)[kind], rows)

    def test_what_was_asked_stays_and_changes_nothing_else(self) -> None:
        conditions = Conditions(MIXED)
        free, asked = (conditions.draw(conditions.parse(text), range(20)) for text in (None, "sex=M,site=Rome"))
        assert asked["labels"].tolist() == [[1, 1]] * 20
        np.testing.assert_array_equal(asked["values"], free["values"])
        every = conditions.parse("sex=M,site=Rome,age=70,cdr=2")
        assert conditions.draw(every, range(20)) == every

    def test_what_something_else_tells(self) -> None:
        conditions = Conditions([AGE, SEX])
        rows = conditions.draw({}, range(4), leave=["age"])
        assert np.isnan(rows["values"]).all()
        assert (rows["labels"] >= 0).all()

    @pytest.mark.parametrize(
        ("asked", "leave", "names"),
        [
            (None, (), ["age", "sex"]),
            ("sex=F", (), ["age"]),
            ("cdr=2", (), ["sex"]),
            (None, ["cdr"], ["sex"]),
            ("age=30", (), ["sex"]),
        ],
    )
    def test_related_conditions(self, asked: str | None, leave: list[str], names: list[str]) -> None:
        """What goes together with what is known by then is left to the network."""
        conditions = Conditions([AGE, SEX, {**GRADE, "related": ["age"]}])
        row = conditions.parse(asked)
        assert conditions.drawn_names(row, leave) == names
        rows = {kind: part[0] for kind, part in conditions.draw(row, [0], leave=leave).items()}
        known = [name for name, cell in conditions.decode(rows).items() if cell]
        assert sorted(known) == sorted([*names, *([asked.split("=")[0]] if asked else [])])

    def test_random_numbers_of_their_own(self) -> None:
        numbers = condition_uniforms(3, 4, 5)
        for part in (0, 1, 2):
            assert not np.isin(numbers, sample_uniforms(3, 4, 100, part)).any()


def test_decode() -> None:
    conditions = Conditions(MIXED)
    row = conditions.parse("age=72.5,sex=M")
    assert conditions.decode(row) == {"age": "72.5", "sex": "M", "cdr": "", "site": ""}
    far = Conditions([{"name": "mm", "mean": 1e6, "std": 0.5}, {"name": "x", "mean": 0.5, "std": 0.3}])
    assert far.decode({"values": [3.0, float(np.float32(-0.5 / 0.3))]}) == {"mm": "1000001.5", "x": "0"}
    assert conditions.decode({}) == dict.fromkeys(conditions.names, "")


class TestSettings:
    def test_they_are_read_again(self) -> None:
        settings = [*MIXED, {"name": "x", "mean": 0, "std": 1, "quantiles": [0, 1], "related": ["age", "sex"]}]
        assert json.loads(json.dumps(Conditions(settings).settings)) == settings
        assert without_distributions([SEX, AGE]) == [
            {"name": "sex", "classes": ["F", "M"]},
            {"name": "age", "mean": 50.0, "std": 20.0},
        ]

    @pytest.mark.parametrize(
        ("entry", "told"),
        [
            (SEX, {"shares": [1.0]}),
            (SEX, {"shares": [0.0, 0.0]}),
            (SEX, {"shares": [-1.0, 2.0]}),
            (SEX, {"shares": [0.5, NAN]}),
            (SEX, {"shares": 1}),
            (SEX, {"quantiles": [0.0, 1.0]}),
            (SEX, {"numbers": [0.0, 1.0]}),
            (SEX, {"related": "age"}),
            (SEX, {"related": [1]}),
            (AGE, {"quantiles": [1.0]}),
            (AGE, {"quantiles": [1.0, 0.0]}),
            (AGE, {"quantiles": [0.0, math.inf]}),
            (AGE, {"shares": [0.5, 0.5]}),
            (GRADE, {"shares": [0.5, 0.5]}),
            (GRADE, {"shares": [], "numbers": []}),
        ],
        ids=str,
    )
    def test_damaged(self, entry: dict[str, Any], told: dict[str, Any]) -> None:
        with pytest.raises(InputError, match="at most the shares or quantiles of them, got"):
            Conditions([{**entry, **told}])

    def test_related_to_what_is_not_there(self) -> None:
        with pytest.raises(InputError, match="sex is related to 'age', which is no condition before it"):
            Conditions([{**SEX, "related": ["age"]}, AGE])


class TestFit:
    def test_shares_of_classes(self) -> None:
        assert fit_distribution(np.array([0, 2, 2, 0, 2.0]), 4).settings == {"shares": [0.4, 0, 0.6, 0]}

    def test_few_values_keep_them(self) -> None:
        known = np.array([0.5, 0, 0.5, 2, 0, 0])
        assert fit_distribution(known, None).settings == {"numbers": [0, 0.5, 2], "shares": [0.5, 0.333333, 0.166667]}

    def test_quantiles_of_many_values(self) -> None:
        known = np.random.default_rng(0).gamma(3, 10, 500)
        fitted = fit_distribution(known, None)
        expected = np.quantile(known, np.arange(21) / 20)
        np.testing.assert_allclose(fitted.settings["quantiles"], expected, rtol=1e-5)
        places = np.array([0, 0.024, 0.5, 0.999])
        np.testing.assert_allclose(fitted.at(places), np.interp(places, np.arange(21) / 20, expected), rtol=1e-5)

    def test_rows_of_a_training(self) -> None:
        """Grades go with age, and are known of the old alone; sex has nothing to do with either."""
        random = np.random.default_rng(1)
        ages, sexes = random.uniform(20, 90, 300), random.integers(0, 2, 300)
        plain = Conditions([*without_distributions([AGE, SEX, GRADE, SITE])])
        rows = [
            plain.encode({"age": str(age), "sex": "FM"[sex], "cdr": str(random.choice([0, 0.5])) if age > 60 else ""})
            for age, sex in zip(ages, sexes, strict=True)
        ]
        age, sex, grade, site = plain.with_distributions(rows).settings
        np.testing.assert_allclose(age["quantiles"], np.quantile(ages, np.arange(21) / 20), rtol=1e-5)
        assert sex["shares"] == pytest.approx(np.bincount(sexes) / 300, abs=1e-6)
        assert grade["numbers"] == [0, 0.5]
        assert grade["related"] == ["age"]
        assert "related" not in sex
        assert site == SITE  # known of nobody
        again = Conditions([age, sex, grade, site]).with_distributions(rows)
        assert again.settings == [age, sex, grade, site]

    def test_how_much_two_have_to_do_with_one_another(self) -> None:
        """Against the definition, with thirds of ranks and missing ones as groups."""
        random = np.random.default_rng(2)
        x = random.normal(size=400)
        label = (x + random.normal(size=400) > 0.5).astype(float)
        x[:40], label[30:60] = NAN, NAN
        groups = np.where(np.isnan(x), 3, np.ceil(3 * stats.rankdata(x, nan_policy="omit") / 360) - 1)
        classes = np.where(np.isnan(label), 2, label)
        counts = np.array([[((groups == i) & (classes == j)).sum() for j in range(3)] for i in range(4)])
        expected = np.outer(counts.sum(1), counts.sum(0)) / 400
        v = math.sqrt((((counts - expected) ** 2 / expected).sum() / 400) / 2)
        assert cramers_v(x, label, (False, True)) == pytest.approx(v)
        assert cramers_v(label, x, (True, False)) == pytest.approx(v)
        assert cramers_v(np.abs(x), x, (False, False)) > 0.5  # neither rises nor falls with it
        assert cramers_v(np.zeros(400), label, (True, True)) == 0
