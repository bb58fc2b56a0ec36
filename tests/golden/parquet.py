"""Parquet files as pyarrow writes them: every compression, kind of page and kind of column that image sets use.

Row `i` of each file has a grey picture of 4 x 3 pixels that count up from `i`, and the label `i % 3`, unless the file's
name says otherwise.
"""

import argparse
import io
import json
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

OUT = pathlib.Path(__file__).parent / "parquet"
ROWS = 12


def png(first):
    file = io.BytesIO()
    Image.frombytes("L", (4, 3), bytes(first + i for i in range(12))).save(file, "PNG")
    return file.getvalue()


PICTURES = [png(i) for i in range(ROWS)]
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
STRUCTS = pa.array([{"bytes": file, "path": f"{i}.png"} for i, file in enumerate(PICTURES)], STRUCT)
NUMBERS = pa.array([i % 3 for i in range(ROWS)], pa.int64())
WORDS = ["dog", "ant", "cat"]


def write(name, columns, features=None, **options):
    table = pa.table(columns)
    if features is not None:
        declared = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": declared})
    options = {"compression": "zstd", "store_schema": features is not None, **options}
    pq.write_table(table, OUT / f"{name}.parquet", **options)


def main():
    argparse.ArgumentParser().parse_known_args()
    OUT.mkdir(exist_ok=True)
    for old in OUT.glob("*.parquet"):
        old.unlink()

    both = {"image": STRUCTS, "label": NUMBERS}
    # pages of some rows, groups of some pages
    small = {"row_group_size": 7, "data_page_size": 1, "write_batch_size": 2}
    for codec in ["none", "snappy", "gzip", "brotli", "zstd", "lz4"]:
        for version in ["1.0", "2.0"]:
            for dictionary in [False, True]:
                name = f"packed_{codec}_{version[0]}_{'dictionary' if dictionary else 'plain'}"
                write(name, both, compression=codec, data_page_version=version, use_dictionary=dictionary, **small)

    write("groups", both, row_group_size=1)
    write("plain_bytes", {"image": pa.array(PICTURES, pa.binary()), "label": NUMBERS})
    write("large_bytes", {"img": pa.array(PICTURES, pa.large_binary()), "other": pa.array(PICTURES, pa.binary())})
    write("lists", {"image": pa.array([[file] for file in PICTURES], pa.list_(pa.binary())), "label": NUMBERS})
    write("paths", {"image": pa.array([f"{i}.png" for i in range(ROWS)]), "label": NUMBERS})

    nulls = [{"bytes": file, "path": None} for file in PICTURES]
    nulls[2], nulls[9] = None, {"bytes": None, "path": "9.png"}
    write("null_pictures", {"image": pa.array(nulls, STRUCT), "label": NUMBERS}, row_group_size=5)
    files = list(PICTURES)
    files[0] = files[11] = None
    write("null_bytes", {"image": pa.array(files, pa.binary()), "label": NUMBERS})

    def label(name, array, column="label", **options):
        write(f"label_{name}", {"image": STRUCTS, column: array}, **options)

    words = [WORDS[i % 3] for i in range(ROWS)]
    label("text", pa.array(words))
    label("dictionary", pa.array(words).dictionary_encode())
    label("large_text", pa.array(words, pa.large_string()), row_group_size=2)
    label("truth", pa.array([i % 3 == 1 for i in range(ROWS)]))
    label("int8", pa.array([i % 3 for i in range(ROWS)], pa.int8()))
    label("float", pa.array([float(i % 3) for i in range(ROWS)]))
    label("list", pa.array([[i % 3] for i in range(ROWS)]))
    label("null", pa.array([None if i == 4 else i % 3 for i in range(ROWS)], pa.int64()))
    label("null_text", pa.array([None if i == 4 else words[i] for i in range(ROWS)]))
    label("negative", pa.array([-1 if i == 4 else i % 3 for i in range(ROWS)], pa.int64()))
    classes = {"_type": "ClassLabel", "names": WORDS}
    label("names", NUMBERS, "animal", features={"image": {"_type": "Image"}, "animal": classes})
    label("beyond", pa.array(range(ROWS), pa.int64()), features={"label": classes})
    write("label_none", {"image": STRUCTS})
    two = {"fine": classes, "coarse": classes}
    write("label_two", {"image": STRUCTS, "fine": NUMBERS, "coarse": NUMBERS}, features=two)

    write("empty", {"image": STRUCTS.slice(0, 0), "label": NUMBERS.slice(0, 0)})
    write("empty_untyped", {"image": pa.nulls(0), "label": pa.nulls(0)})

    # 100 MB of zeros
    zeros = {"image": pa.array([bytes(100_000_000)], pa.binary())}
    for codec in ["brotli", "zstd"]:
        write(f"bomb_{codec}", zeros, compression=codec, use_dictionary=False, write_statistics=False)
    # one picture, a million times
    many = {"image": pa.array(PICTURES[:1] * 1_000_000, pa.binary())}
    write("bomb_dictionary", many, use_dictionary=True, write_statistics=False)


if __name__ == "__main__":
    main()
