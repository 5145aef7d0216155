#!/usr/bin/env python3
"""check_gguf.py - block formats of GGUF files against the gguf package, to the bit.

    python tools/check_gguf.py [BLOCKS]     random blocks of each format (default 2000)

Needs the gguf package; make builds build/tools/blocks. Where both are NaN they count as equal: a
scale may be any 16 bits. Prints "N passed, N failed".
"""
import pathlib
import subprocess
import sys

import gguf
import numpy

NAMES = ("F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS").split()
TOOL = pathlib.Path(__file__).resolve().parent.parent / "build" / "tools" / "blocks"


def differing(name, blocks, random):
    """How many numbers differ, of how many."""
    kind = gguf.GGMLQuantizationType[name]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    raw = random.integers(0, 256, (blocks, size), dtype=numpy.uint8)
    with numpy.errstate(all="ignore"):
        want = gguf.quants.dequantize(raw, kind).astype(numpy.float32).reshape(-1)
    out = subprocess.run([str(TOOL), name], input=raw.tobytes(), capture_output=True, check=True)
    got = numpy.frombuffer(out.stdout, dtype=numpy.float32)
    if got.size != blocks * block or want.size != got.size:
        return got.size, want.size
    nan = numpy.isnan(got) & numpy.isnan(want)
    return int(((got.view(numpy.uint32) != want.view(numpy.uint32)) & ~nan).sum()), got.size


def main():
    subprocess.run(["make", "-s", "-C", str(TOOL.parent.parent.parent), "build/tools/blocks"],
                   check=True, stdout=subprocess.DEVNULL)
    blocks = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    random = numpy.random.default_rng(7)
    bad = 0
    for name in NAMES:
        wrong, total = differing(name, blocks, random)
        print(f"{name}: {wrong} of {total} numbers differ")
        bad += wrong != 0 or total == 0
    print(f"{len(NAMES) - bad} passed, {bad} failed")
    sys.exit(bad != 0)


if __name__ == "__main__":
    main()
