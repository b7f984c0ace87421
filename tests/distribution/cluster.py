"""Starts several processes that train together on this machine, and reads what they leave."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

WORKER = pathlib.Path(__file__).with_name("_worker.py")
ROOT = WORKER.parents[2]


def free_ports(num):
    sockets = [socket.socket() for _ in range(num)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Cluster:
    """Processes of `_worker.py`, each with its place in `TF_CONFIG`.

    Args:
        scenario: String, the function of `_worker.py` that every process runs.
        directory: Path, where the processes write; handed to the function.
        num: Integer.
    """

    def __init__(self, scenario, directory, num=2):
        self.directory = directory
        addresses = [f"127.0.0.1:{port}" for port in free_ports(num)]
        self.processes, self.logs = [], []
        for index in range(num):
            place = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            self.logs.append(directory / f"log-{index}-{time.monotonic_ns()}.txt")
            environment = {
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
                "TF_CONFIG": json.dumps(place),
                "TF_CPP_MIN_LOG_LEVEL": "3",
                "CUDA_VISIBLE_DEVICES": "-1",
            }
            with open(self.logs[-1], "w") as log:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, str(WORKER), scenario, str(directory)], env=environment, stdout=log, stderr=log
                    )
                )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()

    def kill(self, index):
        self.processes[index].send_signal(signal.SIGKILL)

    def wait(self, timeout=240):
        """Waits for the processes to end and returns their exit codes."""
        return [process.wait(timeout) for process in self.processes]

    def finish(self):
        codes = self.wait()
        assert codes == [0] * len(codes), "\n".join(log.read_text()[-3000:] for log in self.logs)
