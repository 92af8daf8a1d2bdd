"""tf.train.Example in TFRecord files, written and read without TensorFlow. What a corpus keeps in them: corpus.py."""

import struct
from collections.abc import Iterator, Mapping
from typing import IO, Any

import google_crc32c
import numpy as np

# On the wire an example is Example{1: Features{1: map<string, Feature{1: bytes, 2: float, 3: int64}}}}.


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _delimited(field: int, payload: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(payload)) + payload


Value = bytes | list[bytes] | list[int] | list[float]


def encode_example(features: Mapping[str, Value]) -> bytes:
    """Serialises a tf.train.Example; a value's Python type chooses bytes_list, int64_list or float_list."""
    entries = []
    for name, value in features.items():
        if isinstance(value, bytes):
            value = [value]
        if value and isinstance(value[0], bytes):
            feature = _delimited(1, b"".join(_delimited(1, item) for item in value))  # type: ignore[arg-type]
        elif value and isinstance(value[0], int):
            feature = _delimited(3, _delimited(1, b"".join(_varint(int(v)) for v in value)))
        else:
            feature = _delimited(2, _delimited(1, struct.pack(f"<{len(value)}f", *value)))
        entries.append(_delimited(1, _delimited(1, name.encode()) + _delimited(2, feature)))
    return _delimited(1, b"".join(entries))


def _read_varint(buffer: memoryview, at: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        byte = buffer[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, at
        shift += 7


def _fields(buffer: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of one message: (number, integer) for varints, (number, payload) for everything else."""
    at, end = 0, len(buffer)
    while at < end:
        tag, at = _read_varint(buffer, at)
        kind = tag & 7
        if kind == 0:
            value, at = _read_varint(buffer, at)
            yield tag >> 3, value
        elif kind in (1, 2, 5):
            size = {1: 8, 5: 4}.get(kind, 0)
            if kind == 2:
                size, at = _read_varint(buffer, at)
            if at + size > end:
                raise ValueError("a field runs past the end of its message")
            yield tag >> 3, buffer[at : at + size]
            at += size
        else:
            raise ValueError(f"wire type {kind} does not occur in tf.train.Example")


def _values(feature: memoryview) -> list[Any]:
    values: list[Any] = []
    for kind, payload in _fields(feature):
        for _, item in _fields(memoryview(payload)):  # type: ignore[arg-type]
            if kind == 1:
                values.append(item)
            elif kind == 2:
                values.extend(np.frombuffer(item, "<f4").tolist())  # type: ignore[arg-type]
            elif isinstance(item, int):
                values.append(item)
            else:
                at = 0
                while at < len(item):
                    value, at = _read_varint(item, at)
                    values.append(value)
            if kind == 3:
                values = [v - (1 << 64) if v >> 63 else v for v in values]
    return values


def decode_example(record: bytes) -> dict[str, list[Any]]:
    """Parses a serialised tf.train.Example; bytes values come as memoryviews into `record`."""
    out = {}
    for _, features in _fields(memoryview(record)):
        for _, entry in _fields(features):  # type: ignore[arg-type]
            pair = dict(_fields(entry))  # type: ignore[arg-type]
            out[bytes(pair[1]).decode()] = _values(pair[2])  # type: ignore[arg-type]
    return out


def _masked_crc(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def frame_record(record: bytes) -> bytes:
    """As a TFRecord file holds it: its size, the record, a checksum of each."""
    size = struct.pack("<Q", len(record))
    return size + struct.pack("<I", _masked_crc(size)) + record + struct.pack("<I", _masked_crc(record))


def unframe_record(frame: bytes, size: int) -> bytes:
    """The record inside a frame; raises ValueError saying what is damaged."""
    if len(frame) < size + 16:
        raise ValueError(f"the file ends {size + 16 - len(frame)} bytes too early (truncated)")
    if frame[:8] != struct.pack("<Q", size) or frame[8:12] != struct.pack("<I", _masked_crc(frame[:8])):
        raise ValueError("its length field is damaged (crc32c does not match)")
    record = frame[12 : 12 + size]
    if frame[12 + size :] != struct.pack("<I", _masked_crc(record)):
        raise ValueError("its content is damaged (crc32c does not match)")
    return record


def write_record(file: IO[bytes], record: bytes) -> None:
    file.write(frame_record(record))


def read_record(file: IO[bytes]) -> bytes | None:
    """The next record of a stream, None at its end; raises ValueError saying what is damaged."""
    head = file.read(12)
    if not head:
        return None
    if len(head) < 12 or head[8:] != struct.pack("<I", _masked_crc(head[:8])):
        raise ValueError("what comes is no record: its length is damaged or cut short")
    size = struct.unpack("<Q", head[:8])[0]
    return unframe_record(head + file.read(size + 4), size)
