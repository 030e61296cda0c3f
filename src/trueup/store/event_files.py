"""Scalars of TensorBoard event files, read without TensorBoard.

A file is a row of records: length (8 bytes), its checksum (4), data, its checksum (4); checksums are CRC-32C, rotated and shifted. The data
are ``Event`` messages of protocol buffers, of which five fields matter here. The `tensorboard` package reads them too, but brings a web
server and a remote procedure library; it is a tool of the tests, which compare the two.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trueup.core.errors import UserError

LARGEST = 1 << 20
"""Bytes; a longer record is a picture or a graph, holds no scalars, and is passed over unread."""
_POLYNOMIAL = 0x82F63B78
_HEAD, _FOOT = 12, 4


class Scalar(NamedTuple):
    """One number that a writer logged."""

    wall: float
    """Seconds since 1970."""
    step: int
    tag: str
    value: float


class Events(NamedTuple):
    """What a file holds."""

    scalars: list[Scalar]
    cut: bool
    """The last record is incomplete: the writer was killed, or still writes."""


def read_events(path: Path) -> Events:
    """The scalars of one event file, in the order in which they were written.

    Raises:
        UserError: the file cannot be read, or a record is damaged; the place is named in bytes.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror}).", where=str(path)) from error
    places, cut = _records(data, path)
    spans = [(start, length) for start, length in places if length <= LARGEST]
    heads = [(start - _HEAD, 8) for start, _ in places]
    _check(data, heads, path)
    _check(data, spans, path)
    found = [scalar for start, length in spans for scalar in _scalars(data[start : start + length], start, path)]
    return Events(scalars=found, cut=cut)


def _records(data: bytes, path: Path) -> tuple[list[tuple[int, int]], bool]:
    """(first byte, length) of every whole record, and whether one more was begun."""
    found: list[tuple[int, int]] = []
    at = 0
    while at + _HEAD <= len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        if at == 0 and length > len(data):
            raise UserError("is not a TensorBoard event file. Give events.out.tfevents.* or the folder that holds them.", where=str(path))
        if at + _HEAD + length + _FOOT > len(data):
            _check(data, [(at, 8)], path)  # a damaged length must not pass for a killed writer
            return found, True
        found.append((at + _HEAD, length))
        at += _HEAD + length + _FOOT
    return found, at < len(data)


def _check(data: bytes, spans: list[tuple[int, int]], path: Path) -> None:
    """Compare the checksum that follows each span with the span's own."""
    if not spans:
        return
    starts, lengths = (np.array(column, dtype=np.int64) for column in zip(*spans, strict=True))
    raw = np.frombuffer(data, dtype=np.uint8)
    ends = starts + lengths
    stored = sum(raw[ends + i].astype(np.uint32) << np.uint32(8 * i) for i in range(4))
    wrong = np.flatnonzero(masked_crc(raw, starts, lengths) != stored)
    if len(wrong):
        raise UserError(
            f"is damaged at byte {int(starts[wrong[0]])}: a record and its checksum do not agree. Copy the file again.", where=str(path)
        )


def masked_crc(data: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.uint32]:
    """The checksums of many spans at once, as event files store them.

    Args:
        data: all bytes.
        starts: [N] first byte of each span.
        lengths: [N] bytes of each span.

    Returns:
        [N] CRC-32C, rotated right by 15 bits, plus 0xa282ead8.
    """
    table = _table()
    order = np.argsort(-lengths, kind="stable")
    left, crc = lengths[order], np.full(len(starts), 0xFFFFFFFF, dtype=np.uint32)
    at = starts[order]
    for i in range(int(left[0]) if len(left) else 0):
        live = int(np.searchsorted(-left, -i, side="left"))  # spans longer than i come first
        now = crc[:live]
        crc[:live] = table[(now ^ data[at[:live] + i]) & np.uint32(0xFF)] ^ (now >> np.uint32(8))
    out = np.empty_like(crc)
    out[order] = ~crc
    return ((out >> np.uint32(15)) | (out << np.uint32(17))) + np.uint32(0xA282EAD8)


def _table() -> NDArray[np.uint32]:
    values = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        values = np.where(values & 1, (values >> np.uint32(1)) ^ np.uint32(_POLYNOMIAL), values >> np.uint32(1))
    return values.astype(np.uint32)


def _scalars(event: bytes, at: int, path: Path) -> Iterator[Scalar]:
    """Event: 1 wall time, 2 step, 5 summary; a summary is values: 1 tag, 2 simple value, 8 tensor."""
    try:
        fields = _fields(event)
        wall = next((struct.unpack("<d", v)[0] for number, v in fields if number == 1), 0.0)
        step = next((v for number, v in fields if number == 2), 0)
        for summary in (v for number, v in fields if number == 5):
            for value in (v for number, v in _fields(summary) if number == 1):
                parts = dict(_fields(value))
                number = _number(parts)
                if 1 in parts and number is not None:
                    yield Scalar(wall=wall, step=step, tag=parts[1].decode(), value=number)
    except (struct.error, IndexError, UnicodeDecodeError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"holds a record at byte {at} that is no event ({error}). Write the log again.", where=str(path)) from error


def _number(parts: dict[int, Any]) -> float | None:
    """A simple value, or a tensor of one number (1 type, 4 content, 5 floats, 6 doubles); None where it is something else."""
    if 2 in parts:
        return float(struct.unpack("<f", parts[2])[0])
    if 8 not in parts:
        return None
    tensor = dict(_fields(parts[8]))
    for layout, field in (("<f", 5), ("<d", 6)):
        if len(tensor.get(field, b"")) == struct.calcsize(layout):
            return float(struct.unpack(layout, tensor[field])[0])
    whole, content = {1: "<f", 2: "<d"}.get(tensor.get(1, 0)), tensor.get(4, b"")
    return float(struct.unpack(whole, content)[0]) if whole and len(content) == struct.calcsize(whole) else None


def _fields(message: bytes) -> list[tuple[int, Any]]:
    """(number, value) of a message's fields: integers of varints, bytes of all else."""
    found: list[tuple[int, Any]] = []
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        value: Any
        if kind == 0:
            value, at = _varint(message, at)
            value = value - (1 << 64) if value >> 63 else value
        else:
            size = {1: 8, 5: 4}.get(kind)
            if size is None:
                if kind != 2:
                    raise ValueError(f"wire type {kind}")
                size, at = _varint(message, at)
            if at + size > len(message):
                raise ValueError("a field is longer than its record")
            value, at = message[at : at + size], at + size
        found.append((number, value))
    return found


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at
