"""What the kernels of the CUDA backend look like: whole texts, to be read."""

from __future__ import annotations

from backends.cuda.lowering import lower
from backends.cuda.steps import Launch
from staging.fusion import fuse
from staging.ir import Block, Builder, Program, Type


def kernels(block: Block) -> str:
    """The kernels of a program after fusion."""
    return text_of(fuse(Program("text", block)))


def text_of(program: Program) -> str:
    """The kernels of a program."""
    steps = [step for op in program.block.ops for step in lower(op)]
    kernels = [step.kernel for step in steps if isinstance(step, Launch)]
    return "\n".join(
        "".join(f"// {line}\n" for line in k.header)
        + f"{k.stem}({', '.join(k.params)}) {{\n{k.body}\n}}"
        for k in kernels
    )


def test_a_fused_loop_reads_neighbours_at_once_and_names_what_the_user_named() -> None:
    b = Builder("model.py:3")
    x = b.param(Type("float32", (6, 8)), "x")
    bias = b.param(Type("float32", (8,)), "params['bias']")
    scale = b.param(Type("float32"), "scale")
    scaled = b.emit("mul", x, b.emit("broadcast", scale, shape=(6, 8)))
    moved = b.emit("add", scaled, b.emit("broadcast", bias, shape=(6, 8)))
    b.place = "model.py:4"
    zero = b.emit("constant", value=0.0, dtype="float32")
    active = b.emit("max", moved, b.emit("broadcast", zero, shape=(6, 8)))
    assert (
        kernels(b.block(active))
        == """\
// x: float32[6, 8]
// scale: float32[]
// bias (params['bias']): float32[8]
// out: float32[6, 8]
// mul, add at model.py:3
// max at model.py:4
mul_add_max(const float* x, const float* scale, const float* bias, float* out) {
  for (int i = blockIdx.x * 256 + threadIdx.x; i < 12; i += gridDim.x * 256) {
    const Lanes<float, 4> x_4 = ((const Lanes<float, 4>*)x)[i];
    const float scale_at = scale[0];
    const int i_div_2 = i / 2;
    const int i_mod_2 = i % 2;
    const Lanes<float, 4> bias_4 = ((const Lanes<float, 4>*)bias)[i_mod_2];
    Lanes<float, 4> out_4;
    #pragma unroll
    for (int k = 0; k < 4; ++k) {
      const float product = x_4.at[k] * scale_at;
      const float sum = product + bias_4.at[k];
      const float upper = larger<float>(sum, 0.0f);
      out_4.at[k] = upper;
    }
    ((Lanes<float, 4>*)out)[i] = out_4;
  }
}"""
    )
