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

from collections.abc import Mapping
from typing import Any

from monai_vqprior.errors import counted
from monai_vqprior.report.columns import BASELINE_IMAGES, COLUMNS, figure, figures_of, text_of
from monai_vqprior.report.neighbors import DISTANCES

__all__ = ["audit_tables", "metrics_tables", "neighbors_table"]

# Tables of the page: for each row a label and its figures, as text.


def metrics_tables(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """
    The metrics beside those of the constant images, intervals by subject, and codecs.

    Args:
        metrics: the content of ``metrics.json``.

    Raises:
        KeyError: and TypeError, AttributeError or InputError, when the content is not what it should be.
    """
    labels = {column.key: (column.label, column.form) for column in COLUMNS}
    by_subject = []
    for name, told in metrics.get("by_subject", {}).items():
        label, form = labels.get(name, (name, ".4g"))
        by_subject.append((label, [figure(told, key, form, "no value") for key in ("mean", "low", "high", "std")]))
    forms = {"ssim": ".4f", "ssim_brain": ".4f", "bits_per_pixel": ".4f"}
    codecs = [
        (
            name,
            ["this Pillow lacks it", "", ""]
            if told is None
            else [figure(told, key, form, "no value") for key, form in forms.items()],
        )
        for name, told in metrics.get("codecs", {}).items()
    ]
    return {
        "split": text_of(metrics, "split"),
        "slices": counted(figure(metrics, "slices", ".0f"), "slice"),
        "subjects": counted(figure(metrics, "subjects", ".0f"), "subject"),
        "heads": ["", "reconstructions", *BASELINE_IMAGES.values()],
        "rows": list(figures_of(metrics)),
        "definition": text_of(metrics, "ssim_definition"),
        "subject_heads": ["", "mean", "95 % interval from", "to", "standard deviation"],
        "by_subject": by_subject,
        "codec_heads": ["", "SSIM", "SSIM over brain windows", "bits a pixel"],
        "codecs": codecs,
    }


def neighbors_table(content: Mapping[str, Any]) -> dict[str, Any]:
    """
    How near samples are to training slices, beside how near slices of unseen subjects are.

    Args:
        content: that of ``neighbors.json``.

    Raises:
        KeyError: and TypeError, AttributeError or InputError, when the content is not what it should be.
    """
    summary = content["summary"]
    statistics = ("median", "quantile_5_percent", "minimum")
    return {
        "samples": counted(figure(summary, "samples", ".0f"), "sample"),
        "distance": text_of(summary, "distance"),
        "heads": ["", "median", "5 % quantile", "minimum"],
        "rows": [
            (label, ["" if summary[key] is None else figure(summary[key], name, ".4f") for name in statistics])
            for key, label in DISTANCES
        ],
        "ratio": figure(summary, "ratio", ".3f", "no value"),
    }


def audit_tables(content: Mapping[str, Any]) -> dict[str, Any]:
    """
    The verdict on samples, and their figures beside those of real slices and of reconstructions.

    Args:
        content: that of ``audit.json``.

    Raises:
        KeyError: and TypeError, AttributeError or InputError, when the content is not what it should be.
    """
    newness, intervals = content["newness"], {"copies of training slices": content["newness"]["copies"]}
    for name in ("rms", "local_ratio", "tolerant_distance"):
        label = f"below the 1 % quantile of unseen slices, {name.replace('_', ' ')}"
        intervals[label] = newness[name]["below_1_percent"]
    if content["membership"] is not None:
        intervals["training slices told from unseen ones by their bits, AUC"] = content["membership"]
        if "recognized" in content["membership"]:
            intervals["training slices recognized at 1 % false alarms"] = content["membership"]["recognized"]
    return {
        "verdict": text_of(content, "verdict"),
        "reasons": [text_of({"reason": reason}, "reason") for reason in content["reasons"]],
        "samples": figure(content, "samples", ".0f"),
        "newness_heads": ["", "value", "95 % interval from", "to"],
        "newness": [
            (label, [figure(told, name, ".3f") for name in ("value", "low", "high")])
            for label, told in intervals.items()
        ],
        "heads": ["", "samples", "real slices", "reconstructions", ""],
        "rows": [
            (
                text_of(told, "label"),
                [
                    figure(told, "samples", ".3f"),
                    figure(told["real"], "value", ".3f"),
                    figure(told["reconstructions"], "value", ".3f"),
                    text_of(told, "word"),
                ],
            )
            for told in content["fidelity"]
        ],
        "condition_heads": ["", "asked", "measured", "training slices", "rank correlation"],
        "conditions": [
            (
                text_of(told, "name"),
                [figure(told, key, ".4g", "") for key in ("asked", "measured", "train", "rank_correlation")],
            )
            for told in content.get("conditions", [])
        ],
    }
