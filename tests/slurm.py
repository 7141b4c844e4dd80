"""A real Slurm for tests: one node that claims to have four cores, run by root without systemd."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["Cluster", "running_cluster", "slurm_programs"]

START_S = 60
DAEMONS = ("munged", "slurmctld", "slurmd")

# Jobs of the partition `urgent` take the cores of others, which begin again at once: by default
# Slurm waits two minutes for their credentials to expire.
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SchedulerType=sched/builtin
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=20
ReturnToService=2
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 CoresPerSocket=4 RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE PriorityTier=1
PartitionName=urgent Nodes={host} MaxTime=INFINITE PriorityTier=10
"""


def slurm_programs() -> bool:
    """Whether Slurm and munge are installed, and this user may start them."""
    return os.getuid() == 0 and all(map(shutil.which, DAEMONS))


class Cluster:
    """A cluster of this machine, whose files lie in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        host = socket.gethostname().partition(".")[0]
        for name in ("state", "spool"):
            (folder / name).mkdir()
        text = CONFIG.format(host=host, folder=folder, ports=(_free_port(), _free_port()))
        (folder / "slurm.conf").write_text(text)
        # What its commands, and those who give them, need to find it.
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}

    def start(self) -> None:
        """Start it, and wait until its node takes jobs."""
        key, own = self._folder / "munge.key", self._folder
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        files = [f"--{name}-file={own}/munged.{name}" for name in ("pid", "log", "seed")]
        self.run("munged", "--force", f"--key-file={key}", f"--socket={own}/munge.socket", *files)
        self.run("slurmctld")
        self.run("slurmd")
        deadline_s = time.monotonic() + START_S
        while "idle" not in self.run("sinfo", "--noheader", "--format=%T"):
            assert time.monotonic() < deadline_s, (own / "slurmctld.log").read_text()
            time.sleep(0.1)

    def stop(self) -> None:
        """Cancel its jobs, and end it."""
        self.run("scancel", "--user=root")
        deadline_s = time.monotonic() + START_S
        while self.run("squeue", "--noheader") and time.monotonic() < deadline_s:
            time.sleep(0.1)
        for name in reversed(DAEMONS):
            with suppress(FileNotFoundError, ProcessLookupError):
                os.kill(int((self._folder / f"{name}.pid").read_text()), signal.SIGTERM)

    def run(self, *command: str) -> str:
        """What one of Slurm's commands prints."""
        done = subprocess.run(
            command,
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_S,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """A cluster that has started, ended and deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="iolaus-slurm-", ignore_cleanup_errors=True) as folder:
        cluster = Cluster(Path(folder))
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()
