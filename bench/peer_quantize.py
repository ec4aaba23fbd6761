"""Quantize the MatMul weights of an ONNX model with onnxruntime's own quantizers, for bench/compare.ts.

    python bench/peer_quantize.py MODEL OUT --algorithm ALGORITHM [--bits 4] [--block-size 32] [--accuracy-level 4]

Algorithms: `symmetric` and `asymmetric` (the default quantizer, min-max), `k_quant` (scales and zero points found by a
weighted search), `hqq` (needs torch). Needs `pip install onnxruntime onnx`. Exit status 3: the algorithm cannot run here.
"""

import argparse
import logging
import sys


def algorithm_config(nbits, name, block_size):
    """The configuration object of an algorithm that is not the default quantizer, else None."""
    if name == "k_quant":
        return nbits.KQuantWeightOnlyQuantConfig()
    if name == "hqq":
        try:
            import torch  # noqa: F401
        except ImportError:
            print("hqq needs torch, which is not installed", file=sys.stderr)
            sys.exit(3)
        return nbits.HQQWeightOnlyQuantConfig(block_size=block_size)
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("output")
    parser.add_argument("--algorithm", required=True, choices=["symmetric", "asymmetric", "k_quant", "hqq"])
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--block-size", type=int, default=32)
    parser.add_argument("--accuracy-level", type=int, default=4)
    options = parser.parse_args()

    try:
        import onnxruntime.quantization.matmul_nbits_quantizer as nbits
    except ImportError as error:
        print(f"onnxruntime's quantizer cannot be imported: {error}", file=sys.stderr)
        sys.exit(3)
    logging.disable(logging.INFO)

    quantizer = nbits.MatMulNBitsQuantizer(
        options.model,
        bits=options.bits,
        block_size=options.block_size,
        is_symmetric=options.algorithm == "symmetric",
        accuracy_level=options.accuracy_level,
        algo_config=algorithm_config(nbits, options.algorithm, options.block_size),
    )
    quantizer.process()
    quantizer.model.save_model_to_file(options.output, False)


if __name__ == "__main__":
    main()
