"""JAX's lax.scan of a GRU, timed in a process of its own (two frameworks in one would share its threads).

python benchmarks/jax_peer.py problem.npz result.npz PASSES
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np


def installed() -> bool:
    return importlib.util.find_spec("jax") is not None


def run(cell: Any, us: Any, cotangent: Any, threads: int, passes: int) -> tuple[float, dict[str, Any]]:
    """Milliseconds of a training step, and its outputs and gradients as torch tensors."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        given, result = Path(folder, "problem.npz"), Path(folder, "result.npz")
        weights = {f"w{k}": p.detach().numpy() for k, p in enumerate(cell.parameters())}
        np.savez(given, us=us.detach().numpy(), cotangent=cotangent.numpy(), **weights)
        flags = f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}"
        environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, __file__, str(given), str(result), str(passes)]
        cores = sorted(os.sched_getaffinity(0))[:threads]
        subprocess.run(
            command, check=True, env=environment, preexec_fn=lambda: os.sched_setaffinity(0, cores)
        )
        found = np.load(result)
        tensors = {name: torch.from_numpy(found[name]) for name in found.files if name != "ms"}
        return float(found["ms"]), {name.replace("_", " "): x for name, x in tensors.items()}


def main() -> None:
    import jax
    import jax.numpy as jnp

    given, result, passes = sys.argv[1:]
    data = np.load(given)
    us, cotangent = jnp.asarray(data["us"]), jnp.asarray(data["cotangent"])
    weights = [jnp.asarray(data[f"w{k}"]) for k in range(4)]

    def outputs(weights: list[Any], us: Any) -> Any:
        w_ih, w_hh, b_ih, b_hh = weights
        projected = us @ w_ih.T + b_ih

        def step(h: Any, from_input: Any) -> tuple[Any, Any]:
            i_r, i_z, i_n = jnp.split(from_input, 3, -1)
            h_r, h_z, h_n = jnp.split(h @ w_hh.T + b_hh, 3, -1)
            r, z = jax.nn.sigmoid(i_r + h_r), jax.nn.sigmoid(i_z + h_z)
            h = (1 - z) * jnp.tanh(i_n + r * h_n) + z * h
            return h, h

        start = jnp.zeros((us.shape[1], w_hh.shape[1]))
        return jax.lax.scan(step, start, projected)[1]

    @jax.jit
    def train(weights: list[Any], us: Any) -> Any:
        vs, back = jax.vjp(outputs, weights, us)
        return vs, back(cotangent)

    vs, (grads, input_gradient) = jax.block_until_ready(train(weights, us))
    times = []
    for _ in range(int(passes) + 1):
        start = time.perf_counter()
        jax.block_until_ready(train(weights, us))
        times.append(1e3 * (time.perf_counter() - start))
    named = {f"gradient_{k}": np.asarray(g) for k, g in enumerate(grads)}
    np.savez(
        result,
        ms=statistics.median(times[1:]),
        outputs=np.asarray(vs),
        input_gradient=np.asarray(input_gradient),
        **named,
    )


if __name__ == "__main__":
    main()
