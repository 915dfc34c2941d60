"""Hashed n-grams of documents: words, pairs of words, and character trigrams, in vectorised NumPy.

The text of all documents is one array of code points. A word's hash is a polynomial in its code
points modulo 2^64, taken as a difference of two prefix sums, so no Python code runs for a word.
Text is brought to one form first: NFKD without combining marks, lower case, and everything that
separates words (spaces, punctuation, control characters) as one space. Case and accents thus do not
matter, in any script; symbols (emoji, currencies) are words.

Character trigrams stay within a word and include the space at its ends (" mo", "mob", …, "ck ").
They are left out for *atoms* (words with ``=`` or ``≈``, see `documents`), which mean something as
a whole only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from isohop.giant.documents import SEPARATORS

BUCKET_BITS = 22
"""N-grams hash to 2^22 buckets: a million distinct ones meet few others."""

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_INVERSE = np.uint64(pow(int(_MULTIPLIER), -1, 1 << 64))
_WORD, _PAIR, _TRIGRAM = (np.uint64(salt) for salt in (0xA5A5A5A5, 0xC3C3C3C3, 0x96969696))
_SPACE = 32
_EMPTY = pa.scalar("", pa.large_string())
_ATOM_MARKS = np.array([ord("="), ord("≈")], np.uint32)


@dataclass(frozen=True)
class Ngrams:
    """N-grams of documents, each once: ``buckets`` int32 (n-grams,) by document and sorted in each,
    ``counts`` float32 (n-grams,), ``offsets`` int64 (documents + 1,)."""

    buckets: np.ndarray
    counts: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1


def hash_ngrams(documents: pa.Array, characters: int) -> Ngrams:
    """The n-grams of ``documents`` (strings, null is an empty one), each cut at ``characters``."""
    text = pc.fill_null(documents.cast(pa.large_string()), "")
    text = pc.utf8_normalize(pc.utf8_slice_codeunits(text, 0, characters), form="NFKD")
    text = pc.replace_substring_regex(text, r"\p{Mn}+", "")
    text = pc.replace_substring_regex(pc.utf8_lower(text), SEPARATORS, " ")
    space = pa.scalar(" ", pa.large_string())
    text = pc.binary_join_element_wise(space, pc.utf8_trim(text, " "), space, _EMPTY)
    lengths = pc.utf8_length(text).to_numpy(zero_copy_only=False).astype(np.int64)
    code = _code_points(text)
    ends = np.cumsum(lengths)
    starts = ends - lengths

    inside = code != _SPACE
    word_starts = np.flatnonzero(inside[1:] & ~inside[:-1]) + 1
    word_ends = np.flatnonzero(inside[:-1] & ~inside[1:]) + 1
    word_documents = np.searchsorted(starts, word_starts, side="right") - 1
    words = _spans(code, word_starts, word_ends)

    paired = word_documents[:-1] == word_documents[1:]
    pairs = (words[:-1] * _MULTIPLIER + words[1:])[paired]

    marked = (code == _ATOM_MARKS[0]) | (code == _ATOM_MARKS[1])
    marks = np.concatenate([[0], np.cumsum(marked)])
    atom = marks[word_ends] > marks[word_starts]
    sizes = word_ends - word_starts
    centre_documents = np.repeat(word_documents[~atom], sizes[~atom])
    within = np.repeat(~atom, sizes)
    centres = np.flatnonzero(inside)[within]
    wide = code.astype(np.uint64)
    trigrams = (wide[centres - 1] << np.uint64(42)) | (wide[centres] << np.uint64(21))
    trigrams |= wide[centres + 1]

    buckets = np.concatenate(
        [_bucket(words, _WORD), _bucket(pairs, _PAIR), _bucket(trigrams, _TRIGRAM)]
    )
    owners = np.concatenate([word_documents, word_documents[:-1][paired], centre_documents])
    keys = np.sort((owners.astype(np.int64) << BUCKET_BITS) | buckets)
    first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)])
    counts = np.diff(np.append(first, len(keys))).astype(np.float32)
    distinct = keys[first]
    offsets = np.searchsorted(distinct, np.arange(len(lengths) + 1) << BUCKET_BITS)
    mask = np.int64((1 << BUCKET_BITS) - 1)
    return Ngrams((distinct & mask).astype(np.int32), counts, offsets.astype(np.int64))


def _code_points(text: pa.Array) -> np.ndarray:
    """All of a large_string array's text as one uint32 array of code points."""
    offsets = np.frombuffer(text.buffers()[1], np.int64)[text.offset : text.offset + len(text) + 1]
    data = text.buffers()[2]
    joined = b"" if data is None else bytes(data)[offsets[0] : offsets[-1]]
    return np.frombuffer(joined.decode("utf-8").encode("utf-32-le"), np.uint32)


def _spans(code: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """A uint64 hash of each span: Σ c_i m^(i - start), equal for equal spans anywhere."""
    powers = _powers(_MULTIPLIER, len(code))
    sums = np.concatenate(
        [np.zeros(1, np.uint64), np.cumsum((code.astype(np.uint64) + 1) * powers)]
    )
    return (sums[ends] - sums[starts]) * _powers(_INVERSE, len(code))[starts]


def _powers(base: np.uint64, count: int) -> np.ndarray:
    powers = np.full(count, base, np.uint64)
    powers[:1] = 1
    return np.cumprod(powers, dtype=np.uint64)


def _bucket(hashes: np.ndarray, salt: np.uint64) -> np.ndarray:
    """The upper bits after the finaliser of SplitMix64 (Steele, Lea, Flood, 2014)."""
    mixed = hashes + np.uint64(int(salt) * int(_MULTIPLIER) % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(64 - BUCKET_BITS)).astype(np.int64)
