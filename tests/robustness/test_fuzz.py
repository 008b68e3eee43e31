"""Whatever a user's file or command says: an answer or one clear error, soon, and no file harmed."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import signal
import zipfile

import numpy as np
import pytest
import typer.main

from recollect import cli, models, study, targets
from recollect.diagnosis import read_measurements
from recollect.study import catalogue

N_QUICK, N_FULL = 150, 10_000
PATIENCE = 20  # seconds for one case: none comes near it, a hang does

# What a refusal may be. Anything else is a traceback for the user.
REFUSALS = (ValueError, TypeError, OSError)

TOKENS = (
    *[
        "0",
        "1",
        "-1",
        "1e999",
        "-1e-999",
        "NaN",
        "inf",
        "9999999999999999999",
        "0x10",
        "1_0",
        "١",
        "½",
        "∞",
        "''",
        '"',
        "'",
        ",",
        ";",
        "\t",
        ":",
        "#",
        "%",
        "\\",
        "/",
        "\x00",
    ],
    *[
        "2020-01-01",
        "12:00",
        "31.12.1999",
        "1,5",
        "1.5.2",
        "true",
        "null",
        "None",
        "t",
        "(t)",
        "t**t",
        "exp(",
        ")",
        "[]",
        "{}",
        "lambda",
        "__import__",
    ],
    *["\ufeff", "\r", "\n", "\u2028", "\ud7ff", "😀", "pump", "level", "time", "é"],
    "\n" * 3,
    "9" * 400,
    "(" * 300,
    "-" * 300,
)


@contextlib.contextmanager
def soon():
    def late(*_):
        raise AssertionError(f"no answer within {PATIENCE} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)


def mutated_text(rng, text):
    for _ in range(rng.integers(1, 5)):
        place = int(rng.integers(0, len(text) + 1))
        length = int(rng.integers(0, 12))
        match rng.integers(6):
            case 0:
                text = text[:place] + str(rng.choice(TOKENS)) + text[place:]
            case 1:
                text = text[:place] + str(rng.choice(TOKENS)) + text[place + length :]
            case 2:
                text = text[:place] + text[place + length :]
            case 3:
                text = text[:place]
            case 4:
                text = (
                    text[:place] + text[place : place + 40] * int(rng.integers(1, 4)) + text[place:]
                )
            case _:
                other = int(rng.integers(0, len(text) + 1))
                text = text[:place] + text[other : other + length] + text[place + length :]
    return text


def mutated_bytes(rng, content):
    content = bytearray(content)
    for _ in range(rng.integers(1, 8)):
        if not content:
            break
        place = int(rng.integers(len(content)))
        match rng.integers(5):
            case 0:
                content[place] ^= 1 << int(rng.integers(8))
            case 1:
                content[place] = int(rng.choice([0, 1, 127, 128, 255]))
            case 2:
                del content[place : place + int(rng.integers(1, 64))]
            case 3:
                content[place:place] = rng.bytes(int(rng.integers(1, 16)))
            case _:
                del content[place + int(rng.integers(1, 512)) :]
    return bytes(content)


def expect_an_answer(call, *paths):
    """Calls; an answer or a refusal in one short line is fine. The files must stay as they are."""
    before = [path.read_bytes() for path in paths]
    with soon(), np.errstate(all="ignore"):
        try:
            call()
            words = "an answer"
        except REFUSALS as error:
            words = str(error).strip()
    assert words, "a refusal without words"
    assert len(words) < 2000, "a refusal nobody reads"
    assert [path.read_bytes() for path in paths] == before, "a file was harmed"


def sizes(name):
    return pytest.mark.parametrize(
        "cases",
        [range(N_QUICK), pytest.param(range(N_QUICK, N_FULL), marks=pytest.mark.slow)],
        ids=[f"{name}-few", f"{name}-many"],
    )


TABLE = "time,pump,level\n" + "".join(
    f"{k},{np.sin(k * k):.3f},{np.sin(k * k - 1) + 0.1 * np.cos(k):.3f}\n" for k in range(24)
)
DATES = "date;rain;head\n" + "".join(
    f"2001-02-{k + 1:02d};{k % 5},5;{np.sin(k):.3f}\n".replace(".", ",") for k in range(24)
)


@sizes("csv")
def test_tables(cases, tmp_path):
    path = tmp_path / "table.csv"
    for case in cases:
        rng = np.random.default_rng(case)
        plain = case % 3 != 0
        text = mutated_text(rng, TABLE if plain else DATES)
        path.write_bytes(
            mutated_bytes(rng, text.encode("utf-8", "surrogatepass"))
            if case % 5 == 0
            else text.encode("utf-8", "surrogatepass")
        )
        names = (
            {"inputs": ["pump"], "outputs": ["level"]}
            if plain
            else {"inputs": ["rain"], "outputs": ["head"]}
        )
        options = (
            {"time": "time" if plain else "date"} if case % 2 else {"dt": str(rng.choice(TOKENS))}
        )
        if case % 4 == 0:
            options["dt"] = "4s"
        gaps = str(rng.choice(["refuse", "interpolate", "split"]))
        read = functools.partial(read_measurements, path, **names, gaps=gaps, **options)
        expect_an_answer(read, path)


@sizes("npz")
def test_archives(cases, tmp_path):
    path = tmp_path / "table.npz"
    for case in cases:
        rng = np.random.default_rng(case)
        n = int(rng.integers(0, 40))
        dtype = str(
            rng.choice(["f8", "f4", "i4", "u1", "b1", "c16", "S4", "U4", "M8[s]", "m8[s]", "O"])
        )
        with np.errstate(all="ignore"):
            values = (rng.standard_normal(n) * 100).astype("f8").astype(dtype)
        shape = [(n,), (n, 1), (1, n), (1, 1, n)][int(rng.integers(4))]
        content = io.BytesIO()
        np.savez(content, pump=rng.standard_normal(n), level=values.reshape(shape))
        raw = content.getvalue()
        if case % 3 == 0:
            raw = mutated_bytes(rng, raw)
        elif case % 7 == 0:
            archive = io.BytesIO()
            with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as bundle:
                bundle.writestr(
                    "pump.npy", mutated_bytes(rng, b"\x93NUMPY\x01\x00v\x00" + rng.bytes(150))
                )
                bundle.writestr("level.txt", "no array")
            raw = archive.getvalue()
        path.write_bytes(raw)
        expect_an_answer(
            lambda: read_measurements(path, inputs=["pump"], outputs=["level"], dt="1s"), path
        )


EXPRESSIONS = (
    "(1+t)**-1.5",
    "exp(-t)+exp(-(t-4)**2/2)",
    "airy(t-6)",
    "box(t,9,11)",
    "2*exp(-3*t)*cos(2*t)-bump(t,4,1)",
    "exp(-t**0.5)/(1+t)**2",
    "where(t<1,t,exp(-t))",
)


@sizes("expression")
def test_expressions(cases):
    for case in cases:
        rng = np.random.default_rng(case)
        text = mutated_text(rng, str(rng.choice(EXPRESSIONS)))
        expect_an_answer(functools.partial(targets.parse_kernel, text))


@sizes("kernel")
def test_kernel_files(cases, tmp_path):
    path = tmp_path / "kernel.csv"
    table = "lag,kernel\ns,1/s\n" + "".join(f"{k / 4},{np.exp(-k / 9):.4f}\n" for k in range(30))
    for case in cases:
        rng = np.random.default_rng(case)
        text = mutated_text(rng, table).encode("utf-8", "surrogatepass")
        path.write_bytes(mutated_bytes(rng, text) if case % 4 == 0 else text)
        expect_an_answer(lambda: targets.read_kernel(path), path)


@sizes("model")
def test_model_files(cases, tmp_path):
    originals = []
    for number, model in enumerate(
        (
            models.LinearRNN([[-1.0, 0.5], [0.0, -2.0]], [[1.0], [1.0]], [[1.0, 2.0]]),
            models.DiagonalRNN([1.0, 2.0], [[1.0], [1.0]], [[1.0, 2.0]], reparam=models.Softplus()),
        )
    ):
        models.save(model, tmp_path / f"original{number}")
        stem = tmp_path / f"original{number}"
        originals.append(
            (stem.with_suffix(".safetensors").read_bytes(), stem.with_suffix(".json").read_text())
        )
    numbers, words = tmp_path / "m.safetensors", tmp_path / "m.json"
    for case in cases:
        rng = np.random.default_rng(case)
        blob, text = originals[case % len(originals)]
        if case % 2:
            blob = mutated_bytes(rng, blob)
        if case % 3:
            text = mutated_text(rng, text)
        with contextlib.suppress(ValueError, AttributeError, TypeError):
            # A hostile writer knows to fix the checksum.
            record = json.loads(text)
            if case % 5:
                record["sha256"] = hashlib.sha256(blob).hexdigest()
            text = json.dumps(record)
        numbers.write_bytes(blob)
        words.write_bytes(text.encode("utf-8", "surrogatepass"))
        expect_an_answer(lambda: models.load(tmp_path / "m"), numbers, words)


def double(x):
    return {"y": 2.0 * x}


@sizes("ledger")
def test_ledgers(cases, tmp_path):
    path = tmp_path / "sound.sqlite"
    study.run(study.Study("double", double, study.product(x=[1.0, 2.0, 3.0])), path)
    sound = path.read_bytes()
    damaged = tmp_path / "damaged.sqlite"

    def read():
        with study.Ledger(damaged, must_exist=True) as book:
            book.description()
            list(book.rows())

    for case in cases:
        rng = np.random.default_rng(case)
        content = bytearray(sound)
        for _ in range(rng.integers(1, 30)):
            content[int(rng.integers(len(content)))] = int(rng.integers(256))
        if case % 4 == 0:
            content = bytearray(mutated_bytes(rng, sound))
        for leftover in tmp_path.glob("damaged.sqlite-*"):
            leftover.unlink()
        damaged.write_bytes(bytes(content))
        expect_an_answer(read, damaged)


COMMANDS = (
    "diagnose missing.csv --input pump --output level --dt 4s --out d",
    "diagnose table.csv --input pumpe --output level --time time --gaps split",
    "fit (1+t)**-1.5 --width 2 --norm l9 --json",
    "fit missing.csv --error 0.1 --norm l3 --weights relative",
    "study status missing.sqlite --json",
    "study export missing.sqlite --out results.nc --force",
    "reproduce no-such-figure --quick --out r",
    "measure missing.json --json",
    "budget --risk -1 --samples 4 --length 2 --nu 1",
    "--version --help",
)


@sizes("command")
def test_command_lines(cases, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # Typer reads the signatures anew for every call: once is enough here.
    monkeypatch.setattr(cli, "app", typer.main.get_command(cli.app))
    # A command that has lost its name reproduces everything: let that be little.
    for name in set(catalogue.ENTRIES) - {"rescaled-rates"}:
        monkeypatch.delitem(catalogue.ENTRIES, name)
    table = tmp_path / "table.csv"
    table.write_text(TABLE)
    for case in cases:
        rng = np.random.default_rng(case)
        words = str(rng.choice(COMMANDS)).split()
        for _ in range(rng.integers(1, 4)):
            place = int(rng.integers(len(words)))
            match rng.integers(4):
                case 0:
                    words[place] = mutated_text(rng, words[place])
                case 1:
                    words.insert(place, str(rng.choice(TOKENS)))
                case 2:
                    words.insert(
                        place,
                        str(rng.choice(["--json", "--force", "--width", "--out", "--", "-h"])),
                    )
                case _:
                    del words[place]
                    words = words or ["fit"]
        before = sorted(p for p in tmp_path.rglob("*"))
        with soon(), pytest.raises(SystemExit) as done, np.errstate(all="ignore"):
            cli.main(words)
        captured = capsys.readouterr()
        assert done.value.code in (0, 1, 2), words
        assert "Traceback" not in captured.err, words
        is_help = words == ["study"] and captured.err.startswith("Usage: ")
        if done.value.code == 2 and not is_help:
            assert captured.err.startswith("error: "), words
            assert captured.err.count("\n") == 1, words
            assert sorted(p for p in tmp_path.rglob("*")) == before, words
        assert table.read_text() == TABLE
