"""A real PostgreSQL server for tests: on loopback, in a folder of its own, with a password."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["PASSWORD", "Server", "postgres_programs", "running_server"]

PASSWORD = "geheim123"
USER = "iolaus"
START_S = 60


def postgres_programs() -> Path | None:
    """The folder of initdb and pg_ctl, which Debian keeps off the path; None without them."""
    found = shutil.which("initdb")
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    paths = [Path(found).resolve()] if found else debian[-1:]
    return paths[0].parent if paths else None


class Server:
    """A server whose data lie in `folder`. It refuses to run as root, so root lends it to nobody.

    Nothing is synchronised to disk: it need not survive this machine.
    """

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs, self._folder, self._port = programs, folder, _free_port()
        self._numbers = itertools.count()
        self._user = "nobody" if os.getuid() == 0 else None
        if self._user is not None:
            owner = pwd.getpwnam(self._user)
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        secret = folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        self._run("initdb", "--auth=scram-sha-256", f"--username={USER}", f"--pwfile={secret}",
                  "--encoding=UTF8", "--locale=C", "--no-sync")  # fmt: skip

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = f"-p {self._port} -h 127.0.0.1 -k {self._folder} -F"
        self._run("pg_ctl", "start", "-w", "-t", str(START_S), "-l", str(self._folder / "log"),
                  "-o", options)  # fmt: skip

    def stop(self) -> None:
        """Stop it at once: open connections are cut off, as by a crash."""
        self._run("pg_ctl", "stop", "-w", "-m", "immediate")

    def url(self, database: str = "postgres") -> str:
        """What SQLAlchemy connects to, the password included."""
        return f"postgresql+psycopg://{USER}:{PASSWORD}@127.0.0.1:{self._port}/{database}"

    def new_database(self, like: str = "template1") -> str:
        """The URL of a new database: an empty one, or a copy of one that nobody is connected to."""
        import psycopg

        name = f"test_{next(self._numbers)}"
        with psycopg.connect(self.url().replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(
                f"CREATE DATABASE {name} TEMPLATE {like.rpartition('/')[2]} STRATEGY FILE_COPY"
            )
        return self.url(name)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), "-D", str(self._folder / "data"), *arguments]
        done = subprocess.run(
            command,
            user=self._user,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if program == "initdb" else subprocess.DEVNULL,
            stderr=subprocess.STDOUT,  # a pipe would stay open in the server
            text=True,
            timeout=2 * START_S,
        )
        log = self._folder / "log"
        told = done.stdout or (log.read_text() if log.is_file() else "")
        assert done.returncode == 0, f"{program}: {told}"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def running_server(programs: Path) -> Iterator[Server]:
    """A server that has started, ended and deleted afterwards."""
    # Not below pytest's own folder, into which only its user may look.
    with tempfile.TemporaryDirectory(prefix="iolaus-postgres-") as folder:
        server = Server(programs, Path(folder))
        server.start()
        yield server
        server.stop()
