"""Shards without their damaged records, and the fuzzer that damages them."""

import json
import random

import pytest

from tests.fuzz import MUTATIONS, check_skipping, check_strict, mutate, write_small_set
from trainer.data.manifest import load_manifest
from trainer.data.records import read_records
from trainer.data.salvage import find_damage, write_clean_shards
from trainer.data.spec import DataError

FAST, MANY = 3, 50  # mutants of each kind


@pytest.fixture
def small(tmp_path):
    return write_small_set(tmp_path / "small")


def damage(path, offset):
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def test_what_is_lost_is_counted_and_named(small, tmp_path):
    manifest = load_manifest(small)
    shard = manifest.splits["train"][1]
    length = shard.num_bytes // shard.num_examples
    for record in (2, 5):
        damage(small / shard.file, record * length + 40)
    found = find_damage(manifest, limit=2)
    assert found.num_lost == 2
    assert [fault.removeprefix(f"{small / shard.file}: ") for fault in found.damages[0].faults] == [
        f"record 2 at byte {2 * length} is damaged",
        f"record 5 at byte {5 * length} is damaged",
    ]
    clean = write_clean_shards(found, manifest, tmp_path / "clean")
    assert clean.num_examples("train") == manifest.num_examples("train") - 2
    kept = list(read_records(small / clean.splits["train"][1].file))
    assert len(kept) == shard.num_examples - 2
    # The same damage gives the same shards again.
    again = write_clean_shards(find_damage(manifest, 2), manifest, tmp_path / "again")
    shas = [[shard.sha256 for shard in m.splits["train"]] for m in (clean, again)]
    assert shas[0] == shas[1]


def test_one_more_than_allowed_is_an_error_that_names_the_first(small):
    manifest = load_manifest(small)
    shard = manifest.splits["train"][0]
    damage(small / shard.file, 50)
    with pytest.raises(
        DataError, match=r"1 records or more are damaged, more than --skip_corrupt=0; the first: .*record 0 at"
    ):
        find_damage(manifest, limit=0)


def test_whole_sets_have_no_damage(small):
    assert find_damage(load_manifest(small), limit=0).damages == []


def test_other_records_than_those_of_the_manifest_are_no_damage_but_an_error(small):
    manifest = load_manifest(small)
    one, two = manifest.splits["train"][:2]
    (small / one.file).write_bytes((small / two.file).read_bytes())
    with pytest.raises(DataError, match="is not what was converted"):
        find_damage(manifest, limit=100)


def test_a_missing_shard_is_an_error(small):
    manifest = load_manifest(small)
    (small / manifest.splits["train"][0].file).unlink()
    with pytest.raises(DataError, match="is missing or no file: --skip_corrupt skips records, not shards"):
        find_damage(manifest, limit=100)


def test_a_split_of_which_nothing_is_left_is_an_error(small, tmp_path):
    manifest = load_manifest(small)
    for shard in manifest.splits["test"]:
        (small / shard.file).write_bytes(b"\0" * shard.num_bytes)
    found = find_damage(manifest, limit=1000)
    with pytest.raises(DataError, match="no record of the test set is whole"):
        write_clean_shards(found, manifest, tmp_path / "clean")


def run_mutants(folder, kind, count, tmp_path):
    rng = random.Random(f"{kind} 1")
    tally = {"unchanged": 0, "strict error": 0, "skipped": 0, "skip error": 0}
    for number in range(count):
        mutant = mutate(folder, kind, rng)
        try:
            tally[check_strict(folder, mutant)] += 1
            tally[check_skipping(folder, mutant, tmp_path / f"clean{number}")] += 1
        finally:
            mutant.path.write_bytes(mutant.before)
    return tally


@pytest.mark.parametrize("kind", MUTATIONS)
def test_mutants_end_in_a_clear_message_or_a_counted_skip(small, tmp_path, kind):
    check_tally(kind, run_mutants(small, kind, FAST, tmp_path), FAST)


def check_tally(kind, tally, count):
    """All are found; all are skipped, but for whole records that are missing or there twice without a trace."""
    assert tally["strict error"] == count
    assert tally["skipped"] == count or (kind == "dropped_or_doubled" and 0 < tally["skipped"] < count)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", MUTATIONS)
def test_many_mutants(kind, small, tmp_path):
    assert len(MUTATIONS) * MANY >= 500
    tally = run_mutants(small, kind, MANY, tmp_path / kind)
    check_tally(kind, tally, MANY)
    print(kind, json.dumps(tally))
