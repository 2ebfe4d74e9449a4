"""The Triton kernels: interpreted where there is no GPU, on the GPU where there is one, and compiled for one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")
HERE = Path(__file__).parent


def test_the_kernels_equal_the_formulas() -> None:
    environment = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(HERE / "kernel_checks.py")],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout


COMPILE = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from tst_titan.superposition import kernels

for dtype in ("bf16", "fp32"):
    shared = {"lse": "*fp32", "mass": "*fp32", "out": f"*{dtype}", "out_stride": "i32"}
    for kernel, signature, constants in (
        (
            kernels._statistics_kernel,
            {"logits": f"*{dtype}", "row_stride": "i32", "columns": "i32", "row_max": "*fp32", "row_sum": "*fp32"},
            {"BLOCK": kernels._STATISTICS_BLOCK},
        ),
        (
            kernels._gradient_kernel,
            {"logits": f"*{dtype}", "row_stride": "i32", "columns": "i32", **shared},
            {"BLOCK": kernels._GRADIENT_BLOCK},
        ),
        (
            kernels._targets_kernel,
            {"labels": "*i64", "columns": "*i64", "held": "*i8", "at_labels": "*fp32", "slope": "*fp32", **shared,
             "bag_size": "i32"},
            {"BAG": 16},
        ),
    ):
        types = {**signature, **dict.fromkeys(constants, "constexpr")}
        source = ASTSource(fn=kernel, signature={n: types[n] for n in kernel.arg_names}, constexprs=constants)
        built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 8})
        assert built.asm["cubin"], kernel
        print(kernel.__name__, dtype)
"""


@pytest.mark.slow
def test_the_kernels_compile_for_a_gpu_that_is_not_here(tmp_path: Path) -> None:
    """Down to the machine code of compute capability 9.0, which needs no driver."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    script = tmp_path / "compile_kernels.py"  # Triton reads the kernels' sources, so they must lie in files
    script.write_text(COMPILE)
    done = subprocess.run(
        [sys.executable, str(script)],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(HERE.parents[1])},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 6


def test_the_package_imports_neither_triton_nor_anything_of_the_pipeline() -> None:
    program = (
        "import sys, torch; before = set(sys.modules); import tst_titan.superposition; "
        "new = {name.split('.')[0] for name in set(sys.modules) - before}; "
        "print(sorted(name for name in new if name not in sys.stdlib_module_names))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=900, check=True
    )
    assert done.stdout.strip() == "['tst_titan']"
