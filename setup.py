"""Packaging of dedn_hf: two folders, one package.

`modeling/` stays a folder of its own, because it is copied next to the weights on the Hub; installed, it is
`dedn_hf.modeling`.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

# Each floor is the lowest version that the tests have been run with: the newest for Python 3.10 in November 2026.
REQUIRED = [
    "torch>=2.14",
    "torchvision>=0.29",
    "transformers>=5.20",
    "timm>=1.0.31",
    "datasets>=5.2",
    "evaluate>=0.4.6",
    "accelerate>=1.15",
    "filelock>=4.1",
    "jinja2>=3.1",
    "lazy-loader>=0.4",
    "safetensors>=0.8",
    "huggingface-hub>=2.4",
    "numpy>=2.2",
    "openpyxl>=3.1.5",
    "pandas>=2.3.3",
    "pillow>=12.3",
    "pyyaml>=6.0.3",
    "matplotlib>=3.10",
    "tqdm>=4.70",
    "scikit-learn>=1.7",
    "scipy>=1.15",
]
SPACE = ["gradio>=6.31"]
SERVE = ["starlette>=1.7", "uvicorn>=0.54"]
EXPORT = ["onnx>=1.23", "onnxruntime>=1.23", "onnxscript>=0.7.2"]
TEST = [
    *EXPORT,
    *SERVE,
    *SPACE,
    "hypothesis>=6.168",
    "packaging>=26.3",
    "playwright>=1.65",
    "pytest>=9.2",
    "pytest-xdist>=3.8",
    "ruff>=0.17.6",
    "setuptools>=84",
    "tensorboard>=2.21",
]
DEV = [*TEST, "build>=1.2"]


def read_version() -> str:
    """The version written in `dedn_hf/__init__.py`, read without importing the package."""
    source = (ROOT / "dedn_hf" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"', source, re.MULTILINE).group(1)


def read_readme() -> str:
    readme = ROOT / "README.md"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


setup(
    name="dedn-hf",
    version=read_version(),
    description="Dual Expert Distillation Network (DEDN) for generalized zero-shot learning, with Hugging Face",
    long_description=read_readme(),
    long_description_content_type="text/markdown",
    author="The dedn_hf authors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords="zero-shot-learning generalized-zero-shot-learning attributes image-classification pytorch transformers",
    python_requires=">=3.10",
    package_dir={"dedn_hf": "dedn_hf", "dedn_hf.modeling": "modeling", "dedn_hf.model_cards": "model_cards"},
    packages=[*find_packages(include=["dedn_hf", "dedn_hf.*"]), "dedn_hf.model_cards", "dedn_hf.modeling"],
    package_data={"dedn_hf.data": ["metadata/*"], "dedn_hf.model_cards": ["template.md"]},
    install_requires=REQUIRED,
    extras_require={"export": EXPORT, "serve": SERVE, "space": SPACE, "test": TEST, "dev": DEV},
    entry_points={"console_scripts": ["dedn = dedn_hf.cli:main"]},
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
