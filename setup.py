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

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
ABOUT: dict[str, str] = {}
for line in (ROOT / "monai_vqprior" / "__init__.py").read_text(encoding="utf-8").splitlines():
    if line.startswith("__version__"):
        ABOUT["version"] = line.split('"')[1]

# What registers heads to a template: SimpleITK, and nilearn, whose wheel carries MNI152.
REGISTRATION = ["simpleitk>=2.3", "nilearn>=0.9"]
# ONNX files; torch writes those by way of torch.export from 2.9 on, which is the way that the networks take.
EXPORT = ["torch>=2.9", "onnx", "onnxscript", "onnxruntime"]

setup(
    name="monai-vqprior",
    version=ABOUT["version"],
    description="A discrete latent model of brain MRI slices for MONAI: VQ-VAE and PixelCNN prior, as a bundle",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    # The bundle lies beside the package in the repository and inside it once installed.
    packages=[*find_packages(include=["monai_vqprior", "monai_vqprior.*"]), "monai_vqprior.bundle"],
    package_dir={"monai_vqprior": "monai_vqprior", "monai_vqprior.bundle": "bundle"},
    package_data={
        "monai_vqprior": ["py.typed"],
        "monai_vqprior.report": ["*.html", "*.css"],
        "monai_vqprior.bundle": ["LICENSE", "configs/*", "docs/*", "models/*"],
    },
    install_requires=[
        "monai>=1.6,<2",
        "torch>=2.8",
        "numpy",
        "scipy",
        "pytorch-ignite>=0.5.1",
        "pillow>=10.1",
        "nibabel",
        "scikit-image",
        "jinja2>=3.1",
        "markupsafe>=2.1",
        "pyyaml",
        "tqdm",
        "fire",
        "tensorboard",
    ],
    extras_require={
        "volumes": [],  # its packages are ordinary now; commands with the extra still work
        "registration": REGISTRATION,
        "export": EXPORT,
        "test": [
            "pytest",
            "pytest-cov",
            "pytest-xdist",
            "hypothesis",
            "einops",
            "jsonschema",
            "setuptools>=77",
            # MLflow's client, and what its tables in SQLite need
            "mlflow-skinny>=3",
            "sqlalchemy",
            "alembic",
            "huggingface_hub>=1",
            *REGISTRATION,
            *EXPORT,
        ],
        "benchmark": ["vector-quantize-pytorch", "einops"],
        "check": ["ruff", "mypy", "types-PyYAML"],
        "docs": ["sphinx>=8", "pydata-sphinx-theme", "myst-parser>=4"],
    },
    entry_points={"console_scripts": ["vqprior=monai_vqprior.cli:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
        "Typing :: Typed",
    ],
)
