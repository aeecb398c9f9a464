"""A minimal reader and writer of GGUF files, to make test files from existing ones."""
import struct

SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def read(path):
    """Reads a file. Returns ([raw key and value], [(name, dimensions, type, data)])."""
    with open(path, "rb") as file:
        data = file.read()
    at = 8
    tensor_count, value_count = struct.unpack_from("<QQ", data, at)
    at += 16

    def skip_value(at, kind):
        if kind == STRING:
            return at + 8 + struct.unpack_from("<Q", data, at)[0]
        if kind == ARRAY:
            kind, count = struct.unpack_from("<IQ", data, at)
            at += 12
            if kind != STRING:
                return at + SIZES[kind] * count
            for _ in range(count):
                at = skip_value(at, STRING)
            return at
        return at + SIZES[kind]

    values = []
    for _ in range(value_count):
        start = at
        at = skip_value(at, STRING)
        at = skip_value(at + 4, struct.unpack_from("<I", data, at)[0])
        values.append(data[start:at])
    headers = []
    for _ in range(tensor_count):
        size = struct.unpack_from("<Q", data, at)[0]
        name = data[at + 8:at + 8 + size].decode()
        at += 8 + size
        count = struct.unpack_from("<I", data, at)[0]
        dimensions = struct.unpack_from(f"<{count}Q", data, at + 4)
        kind, offset = struct.unpack_from("<IQ", data, at + 4 + 8 * count)
        at += 16 + 8 * count
        headers.append((name, dimensions, kind, offset))
    start = (at + 31) // 32 * 32
    ends = sorted(header[3] for header in headers)[1:] + [len(data) - start]
    after = dict(zip(sorted(header[3] for header in headers), ends))
    return values, [(name, dimensions, kind, data[start + offset:start + after[offset]])
                    for name, dimensions, kind, offset in headers]


def value(key, kind, pattern, number):
    return text(key) + struct.pack("<I" + pattern, kind, number)


def string_value(key, content):
    return text(key) + struct.pack("<I", STRING) + text(content)


def array(raw):
    """Returns the elements of a raw key and value that is an array of strings or 32-bit integers."""
    at = 8 + struct.unpack_from("<Q", raw)[0] + 4
    kind, count = struct.unpack_from("<IQ", raw, at)
    at, elements = at + 12, []
    if kind != STRING:
        return list(struct.unpack_from(f"<{count}i", raw, at))
    for _ in range(count):
        size = struct.unpack_from("<Q", raw, at)[0]
        elements.append(raw[at + 8:at + 8 + size].decode())
        at += 8 + size
    return elements


def array_value(key, kind, elements):
    data = b"".join(map(text, elements)) if kind == STRING else struct.pack(f"<{len(elements)}i", *elements)
    return text(key) + struct.pack("<IIQ", ARRAY, kind, len(elements)) + data


def write(path, values, tensors):
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values)) + b"".join(values)
    offset = 0
    for name, dimensions, kind, data in tensors:
        out += text(name) + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, kind, offset)
        offset += (len(data) + 31) // 32 * 32
    out += b"\0" * (-len(out) % 32)
    for _, _, _, data in tensors:
        out += data + b"\0" * (-len(data) % 32)
    with open(path, "wb") as file:
        file.write(out)


def split(path, folder, stem, count):
    """Splits a file into parts. Returns their paths."""
    values, tensors = read(path)
    paths = []
    for part in range(count):
        mine = tensors[len(tensors) * part // count:len(tensors) * (part + 1) // count]
        own = [value("split.no", 2, "H", part), value("split.count", 2, "H", count),
               value("split.tensors.count", 5, "i", len(tensors))]
        paths.append(f"{folder}/{stem}-{part + 1:05d}-of-{count:05d}.gguf")
        write(paths[-1], (values if part == 0 else []) + own, mine)
    return paths
