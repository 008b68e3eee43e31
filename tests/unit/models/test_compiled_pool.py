"""A compiled call shared among threads: the same bits, whoever helps, and nobody waits for ever."""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recollect import models
from recollect.models import _compiled

pytestmark = pytest.mark.peers

# Long enough that every kernel is shared: constant, per step and through an activation.
GRADIENTS = """
import hashlib, jax, jax.numpy as jnp, numpy as np
from recollect import models
from recollect.models import _compiled

rng = np.random.default_rng(0)
found = hashlib.sha256()
for dtype in ("float32", "float64", "complex64"):
    with jax.enable_x64(True):
        u = jnp.asarray(rng.standard_normal((700, 20, 67)), dtype)
        a = jnp.asarray(rng.uniform(0.3, 0.98, 67), dtype)
        runs = [(models.linear_diagonal_states, a), (models.linear_diagonal_states, a + 0 * u[:, 0])]
        if dtype != "complex64":
            runs.append((models.nonlinear_diagonal_states, a))
            W = jnp.asarray(rng.standard_normal((67, 67)) / 9, dtype)
            runs.append((models.nonlinear_dense_states, W))
        for run, w in runs:
            loss = lambda w, u: jnp.sum(jnp.abs(run(w, u, form="compiled")) ** 2)
            h = jax.jit(lambda w, u: run(w, u, form="compiled"))(w, u)
            for x in (h, *jax.jit(jax.grad(loss, (0, 1)))(w, u)):
                found.update(np.asarray(x).tobytes())
print(_compiled.count_threads(), found.hexdigest())
"""


@pytest.fixture(autouse=True)
def _numba():
    pytest.importorskip("numba")
    assert _compiled.is_available()


def _in_process(code: str, *, n_cores: int, timeout: float = 240.0) -> list[str]:
    cores = sorted(os.sched_getaffinity(0))[:n_cores]
    limit = f"import os; os.sched_setaffinity(0, {cores})\n"
    found = subprocess.run(
        [sys.executable, "-c", limit + code],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        check=True,
        timeout=timeout,
        capture_output=True,
        text=True,
    )
    return found.stdout.split()


needs_cores = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="needs two cores and a system that binds processes to them",
)


@needs_cores
def test_bits_do_not_depend_on_the_number_of_threads():
    n_cores = min(4, len(os.sched_getaffinity(0)))
    one, many = (_in_process(GRADIENTS, n_cores=n) for n in (1, n_cores))
    assert int(one[0]) == 1
    assert int(many[0]) >= 2, "the pool cannot be asked: its layout has changed"
    assert one[1] == many[1]


def _long_gradient() -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(1)
    a = jnp.asarray(rng.uniform(0.3, 0.98, 64), jnp.float32)
    u = jnp.asarray(rng.standard_normal((600, 32, 64)), jnp.float32)
    run = jax.jit(
        jax.grad(
            lambda a, u: jnp.sum(models.linear_diagonal_states(a, u, form="compiled") ** 2), (0, 1)
        )
    )
    return run, a, u


def _digest(arrays: Any) -> str:
    found = hashlib.sha256()
    for x in jax.tree.leaves(arrays):
        found.update(np.asarray(x).tobytes())
    return found.hexdigest()


def test_many_python_threads_at_once():
    run, a, u = _long_gradient()
    expected = _digest(run(a, u))
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: _digest(run(a, u)), range(128), timeout=240))
    assert set(found) == {expected}


def test_shared_calls_that_run_beside_each_other_in_one_program():
    # XLA's executor starts independent calls together, so they compete for the pool they run on.
    _, a, u = _long_gradient()

    def total(a: Any, u: Any, form: str) -> Any:
        parts = [
            models.linear_diagonal_states(a * c, u, form=form) for c in (1.0, 0.9, 0.8, 0.7, 0.6)
        ]
        return sum(jnp.sum(jnp.sin(x)) for x in parts)

    many, plain = (jax.jit(jax.grad(total, (0, 1)), static_argnums=2) for _ in range(2))
    found = [_digest(many(a, u, "compiled")) for _ in range(8)]
    assert len(set(found)) == 1
    for x, y in zip(many(a, u, "compiled"), plain(a, u, "scan"), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-4 * abs(np.asarray(y)).max())


def test_a_call_in_jit_in_vmap_is_shared_like_any_other():
    run, a, u = _long_gradient()
    mapped = jax.vmap(jax.jit(run), in_axes=(0, None))
    found = mapped(jnp.stack([a, 0.5 * a]), u)
    for k, weights in enumerate((a, 0.5 * a)):
        d_weights, d_drive = run(weights, u)
        # Lanes are lanes; the sum over the batch is XLA's, in an order of its own.
        np.testing.assert_array_equal(found[1][k], d_drive)
        np.testing.assert_allclose(found[0][k], d_weights, rtol=1e-5)


def test_a_loop_of_calls_inside_one_program():
    run, a, u = _long_gradient()
    descend = jax.jit(lambda a: jax.lax.fori_loop(0, 20, lambda _, a: a - 1e-9 * run(a, u)[0], a))
    np.testing.assert_array_equal(descend(a), descend(a))


@needs_cores
def test_spawned_processes_find_the_same(tmp_path: Any):
    program = tmp_path / "program.py"
    program.write_text(
        "import contextlib, io, multiprocessing\n"
        "def find(_):\n"
        "    text = io.StringIO()\n"
        "    with contextlib.redirect_stdout(text):\n"
        f"        exec({GRADIENTS!r}, {{}})\n"
        "    return text.getvalue().split()[1]\n"
        "if __name__ == '__main__':\n"
        "    own = find(0)\n"
        "    with multiprocessing.get_context('spawn').Pool(2) as pool:\n"
        "        print(set(pool.map(find, range(2))) == {own})\n"
    )
    found = subprocess.run(
        [sys.executable, str(program)],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        check=True,
        timeout=240,
        capture_output=True,
        text=True,
    )
    assert found.stdout.split() == ["True"]


FORKED = """
import os, warnings, jax, jax.numpy as jnp, numpy as np
from recollect import models

a, u = jnp.full(64, 0.9, jnp.float32), jnp.ones((600, 32, 64), jnp.float32)
run = jax.jit(lambda a, u: models.linear_diagonal_states(a, u, form="compiled"))
before = np.asarray(run(a, u))
warnings.simplefilter("ignore")
child = os.fork()
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(np.array_equal(run(a, u), before))
"""


@needs_cores
def test_a_fork_leaves_the_parent_working():
    assert _in_process(FORKED, n_cores=2) == ["True"]


STRESS = """
import threading, jax, jax.numpy as jnp, numpy as np
from recollect import models

rng = np.random.default_rng(0)
a = jnp.asarray(rng.uniform(0.3, 0.98, 64), jnp.float32)
u = jnp.asarray(rng.standard_normal((512, 32, 64)), jnp.float32)
run = jax.jit(lambda a, u: models.linear_diagonal_states(a, u, form="compiled")[-1])
expected = np.asarray(run(a, u))
wrong = []

def repeat(n):
    for _ in range(n):
        if not np.array_equal(run(a, u), expected):
            wrong.append(1)

threads = [threading.Thread(target=repeat, args=(1250,)) for _ in range(8)]
for t in threads:
    t.start()
for t in threads:
    t.join()
print(len(wrong))
"""


@pytest.mark.slow
@pytest.mark.parametrize("n_cores", [1, 2, 4])
def test_ten_thousand_shared_calls_end(n_cores: int):
    if not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < n_cores:
        pytest.skip(f"needs {n_cores} cores and a system that binds processes to them")
    assert _in_process(STRESS, n_cores=n_cores) == ["0"]
