"""No worker is left behind."""

import subprocess
import sys

KILLED = """
import os, signal
from dedn_hf.studies.workers import worker_pool

if __name__ == "__main__":
    with worker_pool(2) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_workers_of_a_killed_command_end(tmp_path):
    (tmp_path / "command.py").write_text(KILLED)
    # They hold the command's standard output: it is closed, and `run` comes back, when the last of them is gone.
    done = subprocess.run([sys.executable, tmp_path / "command.py"], capture_output=True, timeout=60, check=False)
    assert done.returncode == -9 and int(done.stdout)
