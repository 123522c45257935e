"""Packaging of dedn_hf: two folders, one package.

`modeling/` stays a folder of its own, because it is copied next to the weights on the Hub; installed, it is
`dedn_hf.modeling`.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

# Each floor is about a year old: what November 2025 had for Python 3.10, but for transformers 5.0 and what that needs.
# `make test-oldest` runs the tests with exactly these versions.
REQUIRED = [
    "torch>=2.9",
    "torchvision>=0.24",
    "transformers>=5.0",
    "timm>=1.0.22",
    "datasets>=4.4",
    "evaluate>=0.4.6",
    "accelerate>=1.12",
    "argcomplete>=3.6",
    "filelock>=3.30",
    "jinja2>=3.1.2",
    "lazy-loader>=0.4",
    "safetensors>=0.7",
    "huggingface-hub>=1.3",
    "numpy>=2.2",
    "openpyxl>=3.1.5",
    "packaging>=25.0",
    "pandas>=2.3.3",
    "pillow>=11.3",
    "pyyaml>=6.0.3",
    "matplotlib>=3.10",
    "tqdm>=4.67",
    "scikit-learn>=1.7",
    "scipy>=1.15",
]
HEIC = ["pillow-heif>=1.1.1"]
SPACE = ["gradio>=6.1"]
SERVE = ["starlette>=0.50", "uvicorn>=0.38", "httpx>=0.28", "python-multipart>=0.0.20"]
EXPORT = ["onnx>=1.19.1", "onnxruntime>=1.23", "onnxscript>=0.6.2"]
DOCS = ["mkdocs-material>=9.7", "mkdocstrings-python>=2.0", "pymdown-extensions>=10.21"]
TEST = [
    *EXPORT,
    *SERVE,
    *SPACE,
    *HEIC,
    *DOCS,
    "hypothesis>=6.148",
    "ipykernel>=7.1",
    "mypy>=1.19",
    "nbclient>=0.10.2",
    "playwright>=1.56",
    "pytest>=9.0",
    "pytest-xdist>=3.8",
    "ruff>=0.17.6",
    "setuptools>=80.9",
    "tensorboard>=2.20",
]
DEV = [*TEST, "build>=1.2", "pre-commit>=4.4"]


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
    package_data={
        "": ["*.pyi", "py.typed"],
        "dedn_hf.classify": ["page.html"],
        "dedn_hf.cli": ["check.html"],
        "dedn_hf.data": ["metadata/*"],
        "dedn_hf.explain": ["page.html", "style.css"],
        "dedn_hf.model_cards": ["template.md"],
        "dedn_hf.publish": ["evaluation.html"],
        "dedn_hf.training": ["presets/*.yaml"],
    },
    install_requires=REQUIRED,
    extras_require={
        "export": EXPORT,
        "heic": HEIC,
        "serve": SERVE,
        "space": SPACE,
        "docs": DOCS,
        "test": TEST,
        "dev": DEV,
    },
    entry_points={"console_scripts": ["dedn = dedn_hf.cli:main"]},
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 15)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
