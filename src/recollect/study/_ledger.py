"""The ledger: one SQLite file per study, one row per finished trial, one writer."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import io
import json
import math
import os
import platform
import sqlite3
import threading
import time
import uuid
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from recollect._core._check import invalid
from recollect._core._files import PARTIAL, write_whole
from recollect._core._status import Status
from recollect.study._grid import canonical_text
from recollect.study._trial import Outcome

SCHEMA = 1
_APPLICATION_ID = 0x7265636F  # "reco"
_LARGE_ARRAYS = 64 * 1024  # bytes; above this a trial's arrays go to a file of their own
_HEARTBEAT = 5.0  # seconds
_STALE = 60.0  # seconds
_HOLDERS: set[str] = set()  # leases held in this process

_TABLES = """
CREATE TABLE description (one INTEGER PRIMARY KEY CHECK (one = 1), text TEXT NOT NULL);
CREATE TABLE plan (position INTEGER PRIMARY KEY, trial TEXT NOT NULL UNIQUE);
CREATE TABLE environment (id TEXT PRIMARY KEY, text TEXT NOT NULL);
CREATE TABLE trial (
    id TEXT PRIMARY KEY, function TEXT NOT NULL, revision INTEGER NOT NULL,
    parameters TEXT NOT NULL, seed INTEGER NOT NULL,
    status TEXT NOT NULL, message TEXT NOT NULL, metrics TEXT NOT NULL,
    arrays BLOB, arrays_file TEXT,
    seconds REAL NOT NULL, finished TEXT NOT NULL, environment TEXT NOT NULL
);
CREATE TABLE lease (
    one INTEGER PRIMARY KEY CHECK (one = 1), holder TEXT NOT NULL,
    host TEXT NOT NULL, process TEXT NOT NULL, heartbeat REAL NOT NULL
);
"""
_COLUMNS = (
    "function", "revision", "parameters", "seed", "status", "message", "metrics",
    "arrays", "arrays_file", "seconds", "finished", "environment",
)  # fmt: skip
# Only a trial that failed is ever replaced.
_INSERT = (
    f"INSERT INTO trial (id, {', '.join(_COLUMNS)}) VALUES (?{', ?' * len(_COLUMNS)}) "
    f"ON CONFLICT (id) DO UPDATE SET {', '.join(f'{c} = excluded.{c}' for c in _COLUMNS)} "
    "WHERE trial.status = 'failed'"
)


class LedgerError(ValueError):
    """A file that is no ledger, is damaged, or holds what cannot be laid out."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A finished trial as the ledger holds it.

    Args:
        id: of the trial.
        metrics: numbers, words and truth values by name.
        status: how it ended.
        parameters: keyword arguments of the function.
        seed: of the trial.
        seconds: time it took.
        revision: of the function that computed it.
        is_current: False for results of an earlier revision or a point no longer in the grid.
        environment: versions and machine that computed it.
        arrays: arrays by name.
    """

    id: str
    metrics: dict[str, Any]
    status: Status
    parameters: dict[str, Any]
    seed: int
    seconds: float
    revision: int
    is_current: bool
    environment: dict[str, Any]
    arrays: dict[str, np.ndarray]


class Ledger:
    """A study's results on disk. Use as a context manager.

    Many may read; writing needs `acquire()`, which only one driver at a time is granted.

    Args:
        path: the SQLite file. Arrays above 64 KiB lie in the folder `<path>.arrays` beside it.
        must_exist: refuse to create a new file.

    Raises:
        ValueError: if the file is no ledger, damaged, or of a newer version.
    """

    def __init__(self, path: str | Path, *, must_exist: bool = False):
        self.path = Path(path)
        self.arrays_folder = self.path.with_name(self.path.name + ".arrays")
        self._holder = ""
        self._stop_heartbeat = threading.Event()
        self._heartbeat: threading.Thread | None = None
        self._known_environments: set[str] = set()
        exists = self._check_header()
        if must_exist and not exists:
            raise FileNotFoundError(f"ledger: expected an existing file, got {str(path)!r}")
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"ledger: expected an existing folder, got {str(path)!r}")
        with self._plain_errors():
            self._db = self._connect()
            try:
                self._prepare()
            except BaseException:
                self._db.close()
                raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives the lease back and closes the file."""
        self._stop_heartbeat.set()
        if self._heartbeat is not None:
            self._heartbeat.join()
        if self._holder:
            _HOLDERS.discard(self._holder)
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("DELETE FROM lease WHERE holder = ?", (self._holder,))
            self._holder = ""
        self._db.close()

    # Opening

    def _check_header(self) -> bool:
        # Read as bytes: merely connecting to a newer ledger could change it.
        try:
            with open(self.path, "rb") as file:
                header = file.read(100)
        except FileNotFoundError:
            return False
        if not header:
            return False
        is_sqlite = len(header) == 100 and header.startswith(b"SQLite format 3\0")
        if not is_sqlite or int.from_bytes(header[68:72], "big") != _APPLICATION_ID:
            raise unusable("a ledger written by recollect", repr(str(self.path)))
        version = int.from_bytes(header[60:64], "big")
        if version > SCHEMA:
            raise unusable(
                f"schema {SCHEMA} or older",
                f"schema {version} in {self.path.name!r}",
                "a newer recollect wrote it: update recollect; the file is untouched",
            )
        return True

    def _connect(self) -> sqlite3.Connection:
        target = self.path.resolve().as_uri()
        if self.path.exists() and not os.access(self.path.parent, os.W_OK):
            target += "?immutable=1"  # a reader of a WAL file must otherwise write beside it
        db = sqlite3.connect(
            target, uri=True, timeout=30, isolation_level=None, check_same_thread=False
        )
        db.execute("PRAGMA synchronous = NORMAL")
        return db

    def _prepare(self) -> None:
        if self._db.execute("PRAGMA user_version").fetchone()[0] != SCHEMA:
            with self._transaction():
                if self._db.execute("PRAGMA user_version").fetchone()[0] != SCHEMA:
                    for statement in _TABLES.split(";"):
                        self._db.execute(statement)
                    self._db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                    self._db.execute(f"PRAGMA user_version = {SCHEMA}")
        found = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(found)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _plain_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            code = (getattr(error, "sqlite_errorcode", None) or sqlite3.SQLITE_CORRUPT) & 0xFF
            if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
                raise OSError(
                    f"ledger: the disk is full or failing ({error}); every trial committed so far is "
                    "safe: free some space and run again"
                ) from error
            if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise self._damaged(error) from error
            raise OSError(f"ledger: {self.path.name!r} cannot be used ({error})") from error
        except json.JSONDecodeError as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> LedgerError:
        return unusable(
            "an intact file",
            f"a damaged one, {str(self.path)!r} ({error})",
            "restore a copy, or move it away and run again",
        )

    # The lease

    def acquire(self) -> None:
        """Makes this the only driver; a driver that died is replaced, with a warning.

        Raises:
            BlockingIOError: if another driver is alive.
        """
        holder, now = uuid.uuid4().hex, time.time()
        with self._plain_errors():
            # Not before: the version is then in the main file itself, where it is read as bytes.
            self._db.execute("PRAGMA journal_mode = WAL")
            with self._transaction():
                lease = self._db.execute("SELECT * FROM lease").fetchone()
                word = _judge_lease(*lease[1:], now=now) if lease else ""
                self._db.execute(
                    "INSERT OR REPLACE INTO lease VALUES (1, ?, ?, ?, ?)",
                    (holder, _host(), _process(os.getpid()), now),
                )
            self._holder = holder
            _HOLDERS.add(holder)
            self._sweep_arrays()
        if word:
            warnings.warn(word, stacklevel=3)
        self._heartbeat = threading.Thread(target=self._beat, daemon=True)
        self._heartbeat.start()

    def _beat(self) -> None:
        db = self._connect()
        while not self._stop_heartbeat.wait(_HEARTBEAT):
            with contextlib.suppress(sqlite3.Error):
                statement = "UPDATE lease SET heartbeat = ? WHERE holder = ?"
                db.execute(statement, (time.time(), self._holder))
        db.close()

    def _require_lease(self) -> None:
        row = self._db.execute("SELECT holder FROM lease").fetchone()
        if row is None or row[0] != self._holder:
            raise BlockingIOError(
                "ledger: another driver took this study over (this one was silent for a minute); "
                "nothing more is written from here"
            )

    # Writing

    def describe(self, description: dict[str, Any], trial_ids: Iterable[str]) -> None:
        """Stores what the study is and which trials it wants, in order."""
        with self._plain_errors(), self._transaction():
            self._require_lease()
            self._db.execute(
                "INSERT OR REPLACE INTO description VALUES (1, ?)", (json.dumps(description),)
            )
            self._db.execute("DELETE FROM plan")
            entry = (-1, "")

            def entries() -> Iterator[tuple[int, str]]:
                nonlocal entry
                for entry in enumerate(trial_ids):  # noqa: UP028  (the last one is named in the error)
                    yield entry

            try:
                self._db.executemany("INSERT INTO plan VALUES (?, ?)", entries())
            except sqlite3.IntegrityError:
                query = "SELECT position FROM plan WHERE trial = ?"
                first = self._db.execute(query, entry[1:]).fetchone()[0]
                raise invalid(
                    f"trial {entry[0]}",
                    "trials that differ",
                    f"the same function, parameters and seed as trial {first}",
                ) from None

    def missing(self, *, retry_failed: bool = False) -> list[int]:
        """Returns the positions of the planned trials that have no row yet."""
        query = (
            "SELECT position FROM plan LEFT JOIN trial ON plan.trial = trial.id WHERE id IS NULL"
        )
        if retry_failed:
            query += " OR status = 'failed'"
        with self._plain_errors():
            return [position for (position,) in self._db.execute(query + " ORDER BY position")]

    def commit(
        self, outcomes: list[Outcome], environment: dict[str, Any], *, function: str, revision: int
    ) -> None:
        """Stores outcomes, all of them or none.

        Raises:
            OSError: if the disk is full; what was committed before stays.
            BlockingIOError: if another driver has taken over.
        """
        text = canonical_text(environment)
        environment_id = hashlib.sha256(text.encode()).hexdigest()[:16]
        finished = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        with self._plain_errors():
            rows = [
                (
                    outcome.trial.id, function, revision,
                    canonical_text(outcome.trial.parameters), outcome.trial.seed,
                    outcome.status.code, outcome.status.message, _write_metrics(outcome.metrics),
                    *self._store_arrays(outcome),
                    outcome.seconds, finished, environment_id,
                )
                for outcome in outcomes
            ]  # fmt: skip
            with self._transaction():
                self._require_lease()
                if environment_id not in self._known_environments:
                    self._db.execute(
                        "INSERT OR IGNORE INTO environment VALUES (?, ?)", (environment_id, text)
                    )
                n_changes = self._db.total_changes
                self._db.executemany(_INSERT, rows)
                if self._db.total_changes - n_changes != len(rows):
                    raise RuntimeError("ledger: a trial that has a result came back once more")
        self._known_environments.add(environment_id)

    def _store_arrays(self, outcome: Outcome) -> tuple[bytes | None, str | None]:
        if not outcome.arrays:
            return None, None
        buffer = io.BytesIO()
        np.savez(buffer, **outcome.arrays)  # type: ignore[arg-type]
        content = buffer.getvalue()
        if len(content) <= _LARGE_ARRAYS:
            return content, None
        self.arrays_folder.mkdir(exist_ok=True)
        name = f"{outcome.trial.id}.npz"
        write_whole(self.arrays_folder / name, content)
        return None, name

    def _sweep_arrays(self) -> None:
        # A driver killed between writing a file and committing its row leaves the file behind.
        if not self.arrays_folder.is_dir():
            return
        query = "SELECT 1 FROM trial WHERE arrays_file = ?"
        for file in self.arrays_folder.iterdir():
            if file.suffix not in (".npz", PARTIAL):
                continue
            if self._db.execute(query, (file.name,)).fetchone() is None:
                file.unlink(missing_ok=True)

    # Reading

    def description(self) -> dict[str, Any]:
        """Returns what the study is, as its last run described it; empty before the first."""
        with self._plain_errors():
            row = self._db.execute("SELECT text FROM description").fetchone()
            return json.loads(row[0]) if row else {}

    def require_study(self, name: str) -> None:
        """Does nothing if the ledger is new or holds the study of this name.

        Raises:
            ValueError: if it holds another one.
        """
        held = self.description()
        if held.get("name", name) != name:
            raise unusable(
                f"one of study {name!r}",
                f"{str(self.path)!r}, which holds study {held['name']!r} "
                f"(function {held.get('function')})",
                "give another file (--ledger); this one is untouched",
            )

    def plan(self) -> list[str]:
        """Returns the ids of the planned trials, in the order of the grid."""
        with self._plain_errors():
            return [id for (id,) in self._db.execute("SELECT trial FROM plan ORDER BY position")]

    def count(self) -> dict[str, int]:
        """Returns numbers of trials: planned, missing, kept from elsewhere, and per status."""
        with self._plain_errors():
            planned = self._db.execute("SELECT COUNT(*) FROM plan").fetchone()[0]
            by_status = dict(
                self._db.execute(
                    "SELECT status, COUNT(*) FROM plan JOIN trial ON plan.trial = trial.id "
                    "GROUP BY status ORDER BY status"
                )
            )
            total = self._db.execute("SELECT COUNT(*) FROM trial").fetchone()[0]
        done = sum(by_status.values())
        return {
            "planned": planned,
            "missing": planned - done,
            "superseded": total - done,
            **by_status,
        }

    def seconds(self) -> float:
        """Returns the computing time of the planned trials, summed."""
        query = "SELECT TOTAL(seconds) FROM plan JOIN trial ON plan.trial = trial.id"
        with self._plain_errors():
            return self._db.execute(query).fetchone()[0]

    def rows(self, *, with_superseded: bool = False, with_arrays: bool = True) -> Iterator[Row]:
        """Returns the finished trials one at a time, in the order of the grid.

        Args:
            with_superseded: also those of earlier revisions and of points no longer in the grid,
                last and marked `is_current=False`.
            with_arrays: load the arrays.

        Raises:
            ValueError: if a file of arrays is missing or damaged.
        """
        columns = (
            "id, function, revision, parameters, seed, status, message, metrics, "
            + ("arrays, arrays_file, " if with_arrays else "NULL, NULL, ")
            + "seconds, environment.text, position"
        )
        source = "trial LEFT JOIN plan ON plan.trial = trial.id JOIN environment ON environment = environment.id"
        columns = columns.replace("id, function", "trial.id, function", 1)
        query = f"SELECT {columns} FROM {source}"
        if not with_superseded:
            query += " WHERE position IS NOT NULL"
        query += " ORDER BY position IS NULL, position, trial.rowid"
        with self._plain_errors():
            for row in self._db.execute(query):
                yield Row(
                    id=row[0],
                    metrics=_read_metrics(row[7]),
                    status=Status(row[5], row[6]),
                    parameters=_tuples(json.loads(row[3])),
                    seed=row[4],
                    seconds=row[10],
                    revision=row[2],
                    is_current=row[12] is not None,
                    environment=json.loads(row[11]),
                    arrays=self._load_arrays(row[8], row[9]),
                )

    def array_names(self) -> list[str]:
        """Returns the names of the arrays that the planned trials returned.

        Raises:
            ValueError: if a file of arrays is missing or damaged.
        """
        query = (
            "SELECT arrays, arrays_file FROM plan JOIN trial ON plan.trial = trial.id "
            "WHERE COALESCE(arrays, arrays_file) IS NOT NULL ORDER BY position"
        )
        names: dict[str, None] = {}
        with self._plain_errors():
            for content, name in self._db.execute(query):
                with self._open_arrays(content, name) as archive:
                    names.update(dict.fromkeys(archive.files))
        return list(names)

    def _load_arrays(self, content: bytes | None, name: str | None) -> dict[str, np.ndarray]:
        if content is None and name is None:
            return {}
        with self._open_arrays(content, name) as archive:
            return dict(archive)

    @contextlib.contextmanager
    def _open_arrays(self, content: bytes | None, name: str | None) -> Iterator[Any]:
        try:
            source = io.BytesIO(content) if content is not None else self.arrays_folder / str(name)
            with np.load(source, allow_pickle=False) as archive:
                yield archive
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise unusable(
                "intact arrays",
                f"{name or 'a row'} that is missing or damaged ({type(error).__name__})",
                "restore the folder beside the ledger, or delete the row and run again",
            ) from error


def unusable(expected: str, got: str, remedy: str = "") -> LedgerError:
    """Returns the error for a ledger that cannot be used."""
    return LedgerError(str(invalid("ledger", expected, got, remedy)))


def _judge_lease(holder: str, host: str, process: str, heartbeat: float, *, now: float) -> str:
    age = max(now - heartbeat, 0.0)
    pid = int(process.split(":")[0])
    if host == _host() and pid == os.getpid() and holder not in _HOLDERS:
        return ""  # ours, from a run that a full disk kept from giving its lease back
    if host == _host() and process != _process(pid):
        return f"ledger: took over from a driver that died (process {pid}, {age:.0f} s ago)"
    if age > _STALE:
        return f"ledger: took over from a driver that was silent for {age:.0f} s (process {pid})"
    raise BlockingIOError(
        f"ledger: another driver is running this study (process {pid}, last heard of {age:.0f} s ago); "
        f"wait for it or stop it: a driver silent for {_STALE:.0f} s is taken over"
    )


def _host() -> str:
    # Process numbers mean something within one boot of one machine and one namespace only.
    parts = [platform.node()]
    for read in (
        lambda: Path("/proc/sys/kernel/random/boot_id").read_text("ascii"),
        lambda: os.readlink("/proc/self/ns/pid"),
    ):
        with contextlib.suppress(OSError):
            parts.append(read())
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]


def _process(pid: int) -> str:
    # With its start time, so that a reused number is not mistaken for the same process.
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("ascii", errors="replace")
        state, *rest = stat.rpartition(")")[2].split()
        return f"{pid}:dead" if state in "ZX" else f"{pid}:{rest[18]}"
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return f"{pid}:dead"
    except OSError:
        pass
    try:
        os.kill(pid, 0) if os.name == "posix" else None
    except ProcessLookupError:
        return f"{pid}:dead"
    except OSError:
        pass
    return f"{pid}:"


def _write_metrics(metrics: dict[str, Any]) -> str:
    # JSON has no NaN and no infinity, but null and 1e999 read back as such, in SQLite too.
    parts = []
    for name, value in metrics.items():
        if isinstance(value, float) and not math.isfinite(value):
            text = "null" if math.isnan(value) else "1e999" if value > 0 else "-1e999"
        else:
            text = json.dumps(value)
        parts.append(f"{json.dumps(name)}:{text}")
    return "{" + ",".join(parts) + "}"


def _read_metrics(text: str) -> dict[str, Any]:
    return {k: math.nan if v is None else v for k, v in json.loads(text).items()}


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(entry) for key, entry in value.items()}
    return tuple(_tuples(entry) for entry in value) if isinstance(value, list) else value
