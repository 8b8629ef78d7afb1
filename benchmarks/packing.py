"""Measure packed blocks against blocks padded to the longest, same model, same run.

    python benchmarks/packing.py [--documents 40] [--longest 256] [--repeats 5]

The peer is the layout of the released code: every document block is padded to the longest. It uses our
attention as well, where equal lengths need neither masks nor buckets, so that only the padding differs.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from common import median_ms, random_decoder, random_request, require_green, skewed_lengths

from blockrank_rerank.evaluation.machine import machine
from blockrank_rerank.model.layout import build_layout


def main(documents: int, longest: int, repeats: int) -> None:
    require_green("tests/kernels", "tests/ranking/test_invariants.py")
    lengths = skewed_lengths(documents, longest)
    layouts = {
        "packed": build_layout([random_request(110, lengths, 80)], 16384),
        "padded": build_layout([random_request(110, [longest] * documents, 80)], 16384),
    }
    print(machine())
    print(f"12-layer, 768-wide decoder; {documents} documents, mean {sum(lengths) / documents:.0f}, longest {longest}")
    print("dtype     layout  tokens  padding      ms   ratio")
    for dtype in (torch.float32, torch.bfloat16):
        backbone = random_decoder(12, 768, dtype)
        with torch.inference_mode():
            times = median_ms({n: partial(backbone.document_lse, x) for n, x in layouts.items()}, repeats)
        for name, layout in layouts.items():
            padding = 1 - layouts["packed"].num_tokens / layout.num_tokens
            ratio = times["padded"] / times[name]
            label = str(dtype).removeprefix("torch.")
            print(f"{label:9} {name}  {layout.num_tokens:6}  {padding:6.0%}  {times[name]:7.0f}  {ratio:5.2f}x")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=40)
    parser.add_argument("--longest", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    main(**vars(parser.parse_args()))
