"""Packaging: the three packages of the application, run from its checkout (pip install -e .)."""

from setuptools import setup

setup(
    name="imglish",
    version="0.1.0",
    description="Pretraining of BEiT-3: images, texts and image-text pairs in one masked-data-modeling run",
    license="MIT",
    python_requires=">=3.11",
    packages=[
        "data_pipeline",
        "data_pipeline.settings",
        "data_pipeline.sources",
        "model",
        "model.kernels",
        "pretrain",
        "pretrain.formats",
        "pretrain.recipes",
    ],
    install_requires=[
        "annotated-types>=0.7",
        "deepspeed>=0.19.8,<0.20",
        "numpy>=2.0",
        "pillow>=11.0",
        "psutil>=6.0",
        "pydantic>=2.10",
        "safetensors>=0.5",
        "sentencepiece>=0.2.0",
        "torch>=2.11,<2.14",
        "tqdm>=4.60",
        "tyro>=1.0,<2",
    ],
    extras_require={
        "parquet": ["pyarrow>=16"],
        "zstd": ["zstandard>=0.22"],
        "remote": ["aiohttp>=3.9", "fsspec>=2024.6"],
        "dev": [
            "aiohttp",
            "fsspec",
            "ftfy",
            "hypothesis",
            "mypy",
            "pyarrow",
            "pytest",
            "regex",
            "ruff",
            "transformers<5",
            "webdataset",
            "zstandard",
        ],
    },
)
