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


def test_a_transpose_goes_through_tiles() -> None:
    b = Builder("model.py:3")
    x = b.param(Type("float32", (64, 100)), "x")
    assert (
        kernels(b.block(b.emit("transpose", x, axes=(1, 0))))
        == """\
// x: float32[64, 100]
// out: float32[100, 64]
// transpose at model.py:3
transpose(const float* __restrict__ x, float* __restrict__ out) {
  __shared__ float tile[32][33];
  const int block = blockIdx.x;
  const int lane = threadIdx.x;
  const int block_div_2 = block / 2;
  const int block_mod_2 = block % 2;
  const int row = 32 * block_div_2;
  const int column = 32 * block_mod_2;
  const int source = 100 * column + lane + row;
  const int target = 64 * row + column + lane;
  for (int k = threadIdx.y; k < 32; k += 8) {
    if (lane + row < 100) {
      tile[k][lane] = x[100 * k + source];
    }
  }
  __syncthreads();
  for (int k = threadIdx.y; k < 32; k += 8) {
    if (k + row < 100) {
      out[64 * k + target] = tile[lane][k];
    }
  }
}"""
    )


def test_a_gather_reads_inside_whatever_the_index_and_reports_it() -> None:
    b = Builder("model.py:3")
    x = b.param(Type("bfloat16", (32000, 512)), "params['embedding']")
    tokens = b.param(Type("int64", (4, 128)), "tokens")
    assert (
        kernels(b.block(b.emit("gather", x, tokens)))
        == """\
// embedding (params['embedding']): bfloat16[32000, 512]
// tokens: int64[4, 128]
// out: bfloat16[4, 128, 512]
// gather at model.py:3
gather(const __nv_bfloat16* __restrict__ embedding, const long long* __restrict__ tokens, __nv_bfloat16* __restrict__ out, unsigned long long* error, unsigned int number) {
  for (int i = blockIdx.x * 256 + threadIdx.x; i < 32768; i += gridDim.x * 256) {
    const int i_div_64 = i / 64;
    const int i_mod_64 = i % 64;
    const long long tokens_at = tokens[i_div_64];
    const bool inside = (unsigned long long)tokens_at < 32000;
    if (!inside && i_mod_64 == 0) {
      fail(error, number, i_div_64, tokens_at, 0);
    }
    const int row = (int)tokens_at;
    ((Lanes<__nv_bfloat16, 8>*)out)[i] = inside ? ((const Lanes<__nv_bfloat16, 8>*)embedding)[64 * row + i_mod_64] : Lanes<__nv_bfloat16, 8>{};
  }
}"""  # noqa: E501
    )


def test_many_rows_are_sorted_by_place_before_they_are_added() -> None:
    b = Builder("model.py:3 (backward)")
    x = b.param(Type("float32", (32000, 512)), "x")
    rows, tokens = b.param(Type("float32", (512, 512)), "rows"), b.param(Type("int64", (512,)))
    text = kernels(b.block(b.emit("scatter", x, rows, tokens, kind="sum")))
    assert (
        text[text.index("// rows") :]
        == """\
// rows: float32[512, 512]
// order: int64[512]
// places: int32[512]
// out: float32[32000, 512]
// scatter at model.py:3 (backward)
scatter_sum_sorted(const float* __restrict__ rows, const long long* __restrict__ order, const int* __restrict__ places, float* __restrict__ out) {
  for (int i = blockIdx.x * 256 + threadIdx.x; i < 262144; i += gridDim.x * 256) {
    const int i_div_512 = i / 512;
    const int i_mod_512 = i % 512;
    const int row = (int)order[i_div_512];
    const int place = places[row];
    if (place >= 0 && (i_div_512 == 0 || !(places[order[i_div_512 - 1]] == place))) {
      const float out_at = out[512 * place + i_mod_512];
      float total = out_at;
      int low = i_div_512;
      int high = i_div_512 + 1;
      if (high < 512 && places[order[high]] == place) {
        high = 512;
      }
      while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (places[order[middle]] == place) low = middle;
        else high = middle;
      }
      for (int j = i_div_512; j < high; ++j) {
        const int other = (int)order[j];
        const float element = rows[512 * other + i_mod_512];
        total = total + element;
      }
      out[512 * place + i_mod_512] = total;
    }
  }
}"""  # noqa: E501
    )


def test_indices_take_64_bits_where_sizes_need_it() -> None:
    b = Builder("model.py:3")
    x, scale = b.param(Type("float32", (1 << 16, 1 << 16)), "x"), b.param(Type("float32"), "scale")
    scaled = b.emit("mul", x, b.emit("broadcast", scale, shape=x.type.shape))
    assert (
        kernels(b.block(scaled))
        == """\
// x: float32[65536, 65536]
// scale: float32[]
// out: float32[65536, 65536]
// mul at model.py:3
mul_each(const float* x, const float* scale, float* out) {
  for (long long i = (long long)blockIdx.x * 256 + threadIdx.x; i < 1073741824; i += gridDim.x * 256) {
    const Lanes<float, 4> x_4 = ((const Lanes<float, 4>*)x)[i];
    const float scale_at = scale[0];
    Lanes<float, 4> out_4;
    #pragma unroll
    for (int k = 0; k < 4; ++k) {
      const float product = x_4.at[k] * scale_at;
      out_4.at[k] = product;
    }
    ((Lanes<float, 4>*)out)[i] = out_4;
  }
}"""  # noqa: E501
    )
