"""What `import synthjax` does to a process, each time in a fresh one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORES = len(os.sched_getaffinity(0))
CHOICES = ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS")
TELL = """
import json
print(json.dumps({"devices": jax.local_device_count(), "x64": jax.config.jax_enable_x64,
                  "dtype": str(jax.numpy.ones(1).dtype)}))
"""


def process(script: str, **environment) -> dict:
    plain = {k: v for k, v in os.environ.items() if k not in CHOICES and not k.startswith("JAX_")}
    done = subprocess.run(
        [sys.executable, "-c", script + TELL],
        cwd=ROOT,
        env=plain | {"JAX_PLATFORMS": "cpu"} | environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


@pytest.mark.parametrize("script", ["import synthjax, jax", "import jax, synthjax"])
def test_a_cpu_device_for_every_core(script):
    assert process(script) == {"devices": CORES, "x64": False, "dtype": "float32"}


def test_the_cores_that_this_process_may_use():
    """As `taskset` or a container leaves them, not as the machine has them."""
    script = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
    assert process(script + "import synthjax, jax")["devices"] == 1


@pytest.mark.parametrize("number", [1, CORES + 1])
def test_a_number_that_the_user_chose_stays(number):
    flags = f"--xla_force_host_platform_device_count={number}"
    chosen = f"import jax; jax.config.update('jax_num_cpu_devices', {number})\nimport synthjax"
    assert process("import synthjax, jax", JAX_NUM_CPU_DEVICES=str(number))["devices"] == number
    assert process("import synthjax, jax", XLA_FLAGS=flags)["devices"] == number
    assert process(chosen)["devices"] == number


def test_other_xla_flags_are_no_choice():
    flags = "--xla_cpu_enable_fast_math=false"
    assert process("import synthjax, jax", XLA_FLAGS=flags)["devices"] == CORES


def test_a_backend_that_is_up_stays_as_it_is():
    script = "import jax; jax.devices()\nimport synthjax"
    assert process(script)["devices"] == 1


def test_x64_that_the_user_chose_stays():
    assert process("import synthjax, jax", JAX_ENABLE_X64="1")["x64"]


def test_the_import_of_a_task_changes_nothing_more():
    """Nor does it start a backend, which would take the number of devices from the user."""
    script = "from synthjax import mixture\nimport jax\n"
    script += "jax.config.update('jax_num_cpu_devices', 3)"
    assert process(script) == {"devices": 3, "x64": False, "dtype": "float32"}


def test_pytorch_stays_out_where_it_is_installed(tmp_path):
    """But of summaries' launcher, for transformers imports it where it reads a tokenizer."""
    (tmp_path / "torch.py").write_text("raise AssertionError('PyTorch is imported')")
    script = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import jax
from launch import eigen, mixture
from synthjax.io.learning_log import _board
_board({str(tmp_path / "tb")!r}).close()
assert "torch" not in sys.modules
"""
    process(script)
