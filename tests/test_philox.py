"""Bits: Philox4x32-10 against published known answers and an independent implementation."""

import hashlib

import numpy as np
import pytest
import randomgen
from cases import SEED, counter_of

import initium as ini
from initium.kernels.reference.philox import philox4x32, philox_words

# Random123's kat_vectors: counter, key, block.
KNOWN_ANSWERS = [
    (
        (0x00000000, 0x00000000, 0x00000000, 0x00000000),
        (0x00000000, 0x00000000),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
NAMES = ["", "w", "h.0.attn.c_attn.weight", "naïve/名", "a" * 1000]
SEEDS = [0, 1, 2**32 - 1, 2**32, SEED, 2**64 - 1]
STARTS = [0, 1, 2, 3, 4, 5, 1023, 2**32 - 3, 2**32, 2**34 - 7, 2**34, 2**34 + 1, 2**40 + 3, 2**63 - 1]


@pytest.mark.parametrize(("counter", "key", "block"), KNOWN_ANSWERS)
def test_known_answers(counter, key, block):
    made = philox4x32(np.array([counter], np.uint32), np.array(key, np.uint32))
    assert made.tolist() == [list(block)]


def test_words_are_the_blocks_of_seed_and_stream():
    counter, key = (0x243F6A88, 0x05A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)
    block = philox4x32(np.array([counter], np.uint32), np.array(key, np.uint32))[0].tolist()
    number, stream, seed = (low | high << 32 for low, high in (counter[:2], counter[2:], key))
    index = np.arange(4, dtype=np.uint64) + np.uint64(4 * number)
    assert philox_words(index, stream, seed).tolist() == block


@pytest.mark.parametrize(("counter", "key", "block"), KNOWN_ANSWERS)
def test_the_inverse_that_other_tests_use(counter, key, block):
    assert counter_of(block, key[0] | key[1] << 32) == counter


def independent_words(count, seed, stream, start):
    """Words of a stream from randomgen, which steps its counter before it makes a block."""
    generator = randomgen.Philox(key=seed, number=4, width=32)
    state = generator.state
    before = ((stream << 64 | start // 4) - 1) % (1 << 128)
    state["state"]["counter"] = np.array([before >> 32 * i & 0xFFFFFFFF for i in range(4)], np.uint32)
    state["state"]["key"] = np.array([seed & 0xFFFFFFFF, seed >> 32], np.uint32)
    state["buffer_pos"] = 4
    generator.state = state
    raw = generator.random_raw(start % 4 + count)
    return np.asarray(raw, np.uint64)[start % 4 :].astype(np.uint32)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("seed", SEEDS)
def test_bits_equal_randomgen(seed, start):
    for name in NAMES:
        made = ini.bits(101, seed=seed, name=name, start=start)
        assert made.dtype == np.uint32
        assert made.shape == (101,)
        np.testing.assert_array_equal(made, independent_words(101, seed, ini.stream_id(name), start))


def test_bits_equal_randomgen_at_length():
    made = ini.bits(1_000_003, seed=SEED, name="long", start=2**34 - 500_001)
    np.testing.assert_array_equal(
        made, independent_words(1_000_003, SEED, ini.stream_id("long"), 2**34 - 500_001)
    )


def test_a_wrong_start_is_noticed():
    made = ini.bits(101, seed=SEED, name="w", start=5)
    assert (made != independent_words(101, SEED, ini.stream_id("w"), 6)).mean() > 0.9


@pytest.mark.parametrize("start", [2**32 - 3, 2**34 - 3])
def test_bits_of_a_part_are_that_part(start):
    whole = ini.bits(64, seed=7, name="w", start=start)
    for first in range(9):
        np.testing.assert_array_equal(
            ini.bits(17, seed=7, name="w", start=start + first), whole[first : first + 17]
        )


@pytest.mark.parametrize("start", [0, 1, 3, 2**32 - 3, 2**34 - 501, 2**64 - 2, 2**66 - 200_001])
def test_backends_agree_on_bits(start):
    for count in (1, 5, 127, 513, 200_001):
        made = ini.bits(count, seed=SEED, name="w", start=start)
        for options in ({"threads": 1}, {"threads": 5}, {"backend": "numpy"}):
            np.testing.assert_array_equal(ini.bits(count, seed=SEED, name="w", start=start, **options), made)


@pytest.mark.parametrize("name", NAMES)
def test_stream_id_is_blake2b(name):
    digest = hashlib.blake2b(name.encode("utf-8"), digest_size=8).digest()
    assert ini.stream_id(name) == int.from_bytes(digest, "little")


@pytest.mark.parametrize(
    ("name", "stream"),
    [
        # b2sum --length=64, bytes read backwards
        ("", 0xB4B2797457A0A6E4),
        ("w", 0x20925082A2286B9E),
        ("h.0.attn.c_attn.weight", 0xA6BA738C8A523575),
    ],
)
def test_stream_id_known_answers(name, stream):
    assert ini.stream_id(name) == stream


def test_no_words_and_the_last_words():
    assert ini.bits(0, seed=0, name="").shape == (0,)
    last = ini.bits(4, seed=1, name="w", start=2**64 - 4)
    np.testing.assert_array_equal(last, independent_words(4, 1, ini.stream_id("w"), 2**64 - 4))


@pytest.mark.parametrize("start", [2**64 - 2, 2**64, 2**64 + 5, 2**66 - 101])
def test_bits_to_the_end_of_the_stream(start):
    made = ini.bits(101, seed=1, name="w", start=start)
    np.testing.assert_array_equal(made, independent_words(101, 1, ini.stream_id("w"), start))
