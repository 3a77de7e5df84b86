"""virnuc.lock: what is written is read, and where virnuc.toml says something else it is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from virnuc_assets.encoders.checkpoints import CheckpointError
from virnuc_assets.encoders.registry import registered
from virnuc_assets.workstation.lock import LOCAL, LOCK_FILE, Lock, Locked, LockedFile, read_lock, write_lock

SPEC, OTHER = registered("fastesm2_650"), "b" * 40
FILES = {"vocab.txt": LockedFile(size=125, sha256="1" * 64), "config.json": LockedFile(size=900, sha256="2" * 64)}
ENTRY = Locked(source=SPEC.checkpoint, revision=OTHER, files=FILES)


def test_what_is_written_is_read_and_decides_revision_and_digest(tmp_path: Path) -> None:
    lock = Lock(entries={SPEC.name: ENTRY, "own": Locked(source=LOCAL, revision="", files=FILES)})
    write_lock(tmp_path, lock)
    assert read_lock(tmp_path) == lock
    assert lock.locked(SPEC) == replace(SPEC, revision=OTHER, digest=ENTRY.digest)
    own = replace(SPEC, name="own", checkpoint="", revision="", folder="/models/own")
    assert lock.locked(own) == replace(own, digest=ENTRY.digest)
    for unlocked in (registered("esm2_3b"), registered("kmer_dna"), replace(own, checkpoint="owner/own")):
        assert lock.locked(unlocked) == unlocked


def test_a_digest_follows_names_and_contents() -> None:
    assert ENTRY.model_copy(update={"files": dict(reversed(FILES.items()))}).digest == ENTRY.digest
    renamed = {"vocab.txt": FILES["vocab.txt"], "conf.json": FILES["config.json"]}
    exchanged = {"vocab.txt": FILES["config.json"], "config.json": FILES["vocab.txt"]}
    assert len({ENTRY.model_copy(update={"files": files}).digest for files in (FILES, renamed, exchanged)}) == 3


def test_settings_that_differ_from_the_lock_are_named_and_the_registrys_pin_gives_way() -> None:
    lock = Lock(entries=dict.fromkeys((SPEC.name, "on", "own"), ENTRY))
    like = replace(SPEC, name="on", base=SPEC.name, token_dropout=True)
    for agreeing in (SPEC, like, replace(SPEC, name="own", revision=""), replace(SPEC, revision=OTHER)):
        assert lock.disagreement(agreeing) == ""
    named = replace(SPEC, name="own", revision="c" * 40)
    assert lock.disagreement(named) == f"virnuc.toml names revision {'c' * 40}, {LOCK_FILE} {OTHER}"
    local = replace(SPEC, checkpoint="", revision="", folder="/models")
    assert lock.disagreement(local) == f"virnuc.toml names {LOCAL}, {LOCK_FILE} {SPEC.checkpoint}"
    assert (lock.locked(named), lock.locked(local)) == (named, local)


@pytest.mark.parametrize("content", ["{", "[]", '{"own": 1}', '{"own": {"source": "", "revision": "", "files": []}}'])
def test_a_damaged_lock_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / LOCK_FILE).write_text(content)
    with pytest.raises(CheckpointError, match=LOCK_FILE):
        read_lock(tmp_path)
