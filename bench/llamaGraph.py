"""A Llama as an ONNX graph, in the operators and with the names that torch's exporter writes; for exportSmolLM2.py."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

OPSET = 17


class LlamaGraph:
    """Collects nodes and initializers; tensors are called by their names."""

    def __init__(self, config):
        self.config = config
        self.nodes, self.initializers, self.folded = [], [], 0

    def constant(self, name, array, dtype=np.float32):
        self.initializers.append(numpy_helper.from_array(np.array(array, dtype, order="C"), name))
        return name

    def node(self, operator, inputs, path, **attributes):
        output = f"{path}_output_0"
        self.nodes.append(helper.make_node(operator, inputs, [output], path, **attributes))
        return output

    def linear(self, x, weight, path):
        """y = x Wᵀ of a torch weight [out, in]; the exporter folds the transposition and numbers the constant."""
        self.folded += 1
        constant = self.constant(f"onnx::MatMul_{self.folded}", weight.T)
        return self.node("MatMul", [x, constant], f"{path}/MatMul")

    def rms_norm(self, x, weight, path, name):
        square = self.node("Pow", [x, "two"], f"{path}/Pow")
        mean = self.node("ReduceMean", [square], f"{path}/ReduceMean", axes=[-1], keepdims=1)
        sum_ = self.node("Add", [mean, "epsilon"], f"{path}/Add")
        root = self.node("Sqrt", [sum_], f"{path}/Sqrt")
        inverse = self.node("Div", ["one", root], f"{path}/Div")
        normed = self.node("Mul", [x, inverse], f"{path}/Mul")
        return self.node("Mul", [self.constant(name, weight), normed], f"{path}/Mul_1")

    def heads(self, x, shape, path):
        """[batch, sequence, heads · size] → [batch, heads, sequence, size]."""
        split = self.node("Reshape", [x, shape], f"{path}/Reshape")
        return self.node("Transpose", [split], f"{path}/Transpose", perm=[0, 2, 1, 3])

    def rotate(self, x, path):
        """x cos + rotate_half(x) sin, as Hugging Face has it: pairs are the two halves of a head."""
        first = self.node("Slice", [x, "zero_1d", "half_1d", "axis_last"], f"{path}/Slice")
        second = self.node("Slice", [x, "half_1d", "end_1d", "axis_last"], f"{path}/Slice_1")
        turned = self.node("Concat", [self.node("Neg", [second], f"{path}/Neg"), first], f"{path}/Concat", axis=-1)
        left = self.node("Mul", [x, "/model/rotary_emb/cos_output_0"], f"{path}/Mul")
        right = self.node("Mul", [turned, "/model/rotary_emb/sin_output_0"], f"{path}/Mul_1")
        return self.node("Add", [left, right], f"{path}/Add")

    def repeat(self, x, path):
        """Each key or value head for all the query heads that share it."""
        if self.config["heads"] == self.config["kv_heads"]:
            return x
        five = self.node("Unsqueeze", [x, "axis_two"], f"{path}/Unsqueeze")
        wide = self.node("Expand", [five, "repeats"], f"{path}/Expand")
        return self.node("Reshape", [wide, "all_heads"], f"{path}/Reshape")

    def attention(self, x, weights, path):
        q = self.heads(self.linear(x, weights["q"], f"{path}/q_proj"), "query_heads", f"{path}/q")
        k = self.heads(self.linear(x, weights["k"], f"{path}/k_proj"), "key_heads", f"{path}/k")
        v = self.heads(self.linear(x, weights["v"], f"{path}/v_proj"), "key_heads", f"{path}/v")
        q, k = self.rotate(q, f"{path}/rope_q"), self.rotate(k, f"{path}/rope_k")
        k, v = self.repeat(k, f"{path}/repeat_k"), self.repeat(v, f"{path}/repeat_v")
        keys = self.node("Transpose", [k], f"{path}/Transpose", perm=[0, 1, 3, 2])
        scores = self.node("Mul", [self.node("MatMul", [q, keys], f"{path}/MatMul"), "scale"], f"{path}/Mul")
        masked = self.node("Add", [scores, "/model/Trilu_output_0"], f"{path}/Add")
        shares = self.node("Softmax", [masked], f"{path}/Softmax", axis=-1)
        mixed = self.node("MatMul", [shares, v], f"{path}/MatMul_1")
        back = self.node("Transpose", [mixed], f"{path}/Transpose_1", perm=[0, 2, 1, 3])
        joined = self.node("Reshape", [back, "joined_heads"], f"{path}/Reshape")
        return self.linear(joined, weights["o"], f"{path}/o_proj")

    def feed_forward(self, x, weights, path):
        gate = self.linear(x, weights["gate"], f"{path}/gate_proj")
        share = self.node("Sigmoid", [gate], f"{path}/act_fn/Sigmoid")
        active = self.node("Mul", [gate, share], f"{path}/act_fn/Mul")
        up = self.linear(x, weights["up"], f"{path}/up_proj")
        return self.linear(self.node("Mul", [active, up], f"{path}/Mul"), weights["down"], f"{path}/down_proj")

    def tables(self):
        """Constants, the rotary tables and the causal mask for the length of the input."""
        c = self.config
        size, integers = c["head_size"], np.int64
        angles = np.outer(np.arange(c["positions"]), c["theta"] ** (-np.arange(0, size, 2) / size))
        angles = np.concatenate([angles, angles], axis=1)
        for name, value in {
            "two": 2, "one": 1, "epsilon": c["epsilon"], "scale": size**-0.5,
            "cos_table": np.cos(angles), "sin_table": np.sin(angles),
        }.items():  # fmt: skip
            self.constant(name, value)
        for name, value in {
            "index_one": 1, "zero_1d": [0], "half_1d": [size // 2], "end_1d": [size], "axis_last": [-1],
            "axis_two": [2], "repeats": [1, 1, c["heads"] // c["kv_heads"], 1, 1],
            "query_heads": [0, 0, c["heads"], size], "key_heads": [0, 0, c["kv_heads"], size],
            "all_heads": [0, c["heads"], -1, size], "joined_heads": [0, 0, c["heads"] * size],
        }.items():  # fmt: skip
            self.constant(name, value, integers)
        shape = self.node("Shape", ["input_ids"], "/model/Shape")
        length = self.node("Gather", [shape, "index_one"], "/model/Gather", axis=0)
        length_1d = self.node("Unsqueeze", [length, "zero_1d"], "/model/Unsqueeze")
        for name in ("cos", "sin"):
            self.node("Slice", [f"{name}_table", "zero_1d", length_1d, "zero_1d"], f"/model/rotary_emb/{name}")
        square = self.node("Concat", [length_1d, length_1d], "/model/Concat", axis=0)
        lowest = numpy_helper.from_array(np.array([np.finfo(np.float32).min], np.float32))
        full = self.node("ConstantOfShape", [square], "/model/ConstantOfShape", value=lowest)
        self.node("Trilu", [full, self.constant("diagonal", 1, integers)], "/model/Trilu", upper=1)

    def build(self, embedding, final_norm, block_weights):
        """
        embedding [vocabulary, width], also the head (tied); final_norm [width]; block_weights(i) → q, k, v, o, gate, up,
        down [out, in], norm and ffn_norm [width], called once per block, so that one block is in memory twice at most.
        """
        self.tables()
        table = self.constant("model.embed_tokens.weight", embedding)
        x = self.node("Gather", [table, "input_ids"], "/model/embed_tokens/Gather", axis=0)
        for i in range(self.config["layers"]):
            weights, path, name = block_weights(i), f"/model/layers.{i}", f"model.layers.{i}"
            h = self.rms_norm(x, weights["norm"], f"{path}/input_layernorm", f"{name}.input_layernorm.weight")
            x = self.node("Add", [x, self.attention(h, weights, f"{path}/self_attn")], f"{path}/Add")
            norm = "post_attention_layernorm"
            h = self.rms_norm(x, weights["ffn_norm"], f"{path}/{norm}", f"{name}.{norm}.weight")
            x = self.node("Add", [x, self.feed_forward(h, weights, f"{path}/mlp")], f"{path}/Add_1")
        x = self.rms_norm(x, final_norm, "/model/norm", "model.norm.weight")
        head = self.node("Transpose", [table], "/lm_head/Transpose", perm=[1, 0])
        self.nodes.append(helper.make_node("MatMul", [x, head], ["logits"], "/lm_head/MatMul"))
        vocabulary = embedding.shape[0]
        ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "sequence", vocabulary])
        graph = helper.make_graph(self.nodes, "main_graph", [ids], [logits], self.initializers)
        return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", OPSET)])
