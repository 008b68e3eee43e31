"""The checkpoint on disk: whenever the writer dies, what is read is one whole state."""

from __future__ import annotations

import json
import os
import pathlib

import numpy as np
import pytest

from recollect.training._checkpoint import hash_arrays, read_checkpoint, write_checkpoint

FINGERPRINT = {"start": "abc", "key": [0, 1], "n_batch": None}


def state(step):
    return {
        "param.0": np.full((2, 3), step / 7),
        "state.0": np.int32(step),
        "state.1": np.asfortranarray(np.arange(6.0).reshape(2, 3) + step),
        "losses": np.arange(step) / 3,
    }


def assert_is(found, step):
    assert found is not None
    assert found[0] == step
    for name, array in state(step).items():
        assert np.array_equal(found[1][name], array)
        assert found[1][name].dtype == np.asarray(array).dtype
        # A scalar stays one: with an axis it would make the resumed run another program.
        assert found[1][name].shape == np.shape(array)


def test_what_was_written_is_read(tmp_path):
    assert read_checkpoint(tmp_path / "none", FINGERPRINT) is None
    for step in (3, 10):
        write_checkpoint(tmp_path / "run", step, state(step), FINGERPRINT)
        assert_is(read_checkpoint(tmp_path / "run", FINGERPRINT), step)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"checkpoint.json", "step-000000000010.safetensors"}


class Killed(BaseException):
    pass


def test_a_writer_may_die_between_any_two_operations(tmp_path, monkeypatch):
    # Each system call that changes the disk is made to be the last one.
    real = {"replace": os.replace, "fsync": os.fsync, "unlink": pathlib.Path.unlink}
    died = 0
    for last in range(20):
        directory = tmp_path / str(last)
        write_checkpoint(directory, 5, state(5), FINGERPRINT)
        calls = []

        def dying(name, calls=calls, last=last):
            def call(*args, **kwargs):
                if len(calls) >= last:
                    raise Killed
                calls.append(name)
                return real[name](*args, **kwargs)

            return call

        monkeypatch.setattr(os, "replace", dying("replace"))
        monkeypatch.setattr(os, "fsync", dying("fsync"))
        monkeypatch.setattr(pathlib.Path, "unlink", dying("unlink"))
        try:
            write_checkpoint(directory, 9, state(9), FINGERPRINT)
        except Killed:
            died += 1
        monkeypatch.undo()
        found = read_checkpoint(directory, FINGERPRINT)
        # The record is the last thing to be replaced: before, the old state; after, the new one.
        assert_is(found, 9 if calls.count("replace") == 2 else 5)
        # And the next write leaves nothing behind.
        write_checkpoint(directory, 12, state(12), FINGERPRINT)
        assert len(list(directory.iterdir())) == 2
        if "unlink" in calls[-1:] and calls.count("replace") == 2 and len(calls) < last:
            break
    assert died >= 5


def test_another_run_is_named(tmp_path):
    write_checkpoint(tmp_path, 3, state(3), FINGERPRINT)
    with pytest.raises(ValueError, match="got another key, start"):
        read_checkpoint(tmp_path, {**FINGERPRINT, "key": [0, 2], "start": "def"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d, r: (d / "checkpoint.json").write_text("{"), "not JSON"),
        (lambda d, r: write(d, {**r, "schema": "other"}), "schema"),
        (lambda d, r: write(d, {**r, "version": 99}), "version 99"),
        (lambda d, r: (d / r["tensors"]).unlink(), "missing"),
        (lambda d, r: (d / r["tensors"]).write_bytes(b"damaged"), "damaged"),
        (lambda d, r: write(d, {**r, "sha256": "0"}), "damaged"),
        (lambda d, r: write(d, {**r, "tensors": "../../outside"}), "missing"),
    ],
)
def test_damage_is_told(tmp_path, damage, message):
    write_checkpoint(tmp_path, 3, state(3), FINGERPRINT)
    damage(tmp_path, json.loads((tmp_path / "checkpoint.json").read_text()))
    with pytest.raises(ValueError, match=f"cannot be resumed: .*{message}"):
        read_checkpoint(tmp_path, FINGERPRINT)


def write(directory, record):
    (directory / "checkpoint.json").write_text(json.dumps(record))


def test_a_digest_tells_arrays_apart():
    arrays = [np.zeros(4), np.zeros((2, 2)), np.zeros(4, np.float32), np.ones(4), np.zeros(())]
    assert len({hash_arrays(a) for a in arrays}) == len(arrays)
    assert hash_arrays(np.ones((2, 3)).T) == hash_arrays(np.ones((3, 2)))
