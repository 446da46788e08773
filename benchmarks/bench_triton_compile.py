"""How long the Triton kernels take to compile, and what they hold, for compute capability 9.0.

python benchmarks/bench_triton_compile.py

Compiling needs no GPU; each kernel is compiled in a process of its own with an empty cache.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import harness

ORDERS = (2, 3, 4, 5, 6, 7, 8)
KINDS = ("spectrum", "attention", "conduit")


def compile_one(kind: str, n: int) -> None:
    """Compile one kernel; print seconds, registers and bytes of local memory as JSON."""
    import time

    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from frictionstore.extract.conduit import DEFAULTS
    from frictionstore.extract.conduit.kernels.gpu import attention as fused_attention_gpu
    from frictionstore.extract.conduit.kernels.gpu import conduit as fused_gpu
    from frictionstore.extract.conduit.kernels.gpu import gram as fused_gram_gpu

    started = time.perf_counter()
    options = fused_gpu.OPTIONS
    if kind == "spectrum":
        kernel = fused_gram_gpu.kernel(n)
    elif kind == "attention":
        heads = 1 if n % 2 else 2
        kernel = fused_attention_gpu.kernel(256, heads, n // heads, (n // heads) ** -0.5)
    else:
        kernel, options = fused_gpu.kernel(n, True, False, DEFAULTS), fused_gpu.options(n)
    kinds = {"settle": "*u8", "slot": "*u8", "count": "i32", "once": "i32", "matrix_rows": "i32"}
    signature = {name: kinds.get(name, "*fp32") for name in kernel.arg_names}
    signature["BLOCK"] = "constexpr"
    compiled = triton.compile(
        ASTSource(
            fn=kernel, signature=signature, constexprs={(len(signature) - 1,): fused_gpu.BLOCK}
        ),
        target=GPUTarget("cuda", 90, 32),
        options={"num_warps": fused_gpu.WARPS, **options},
    )
    seconds = time.perf_counter() - started
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [tool, "-res-usage", file.name], capture_output=True, text=True, check=True
        )
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage.stdout + usage.stderr)
    assert found is not None
    print(json.dumps([seconds, int(found[1]), int(found[2])]))


def main() -> None:
    rows = []
    for n in ORDERS:
        row: dict[str, float | int] = {"n": n}
        for kind in KINDS:
            with tempfile.TemporaryDirectory() as cache:
                done = subprocess.run(
                    [sys.executable, __file__, kind, str(n)],
                    env={**os.environ, "TRITON_CACHE_DIR": cache},
                    capture_output=True,
                    text=True,
                    check=True,
                )
            seconds, registers, local = json.loads(done.stdout.splitlines()[-1])
            row[f"{kind} (s)"] = seconds
            row[f"{kind}, registers"] = registers
            row[f"{kind}, local bytes"] = local
        rows.append(row)
    harness.save(
        "triton_compile",
        rows,
        "compute capability 9.0, compiled on a CPU with an empty cache; `spectrum` is M to S "
        "and V, `attention` that of 256 patches, `conduit` S and V to the maps",
    )


if __name__ == "__main__":
    if len(sys.argv) == 3:
        compile_one(sys.argv[1], int(sys.argv[2]))
    else:
        main()
