"""What kernels of reductions look like: whole texts, to be read."""

from __future__ import annotations

from test_cuda_text import kernels

from staging.ir import Builder, Type


def test_threads_of_a_warp_share_a_row() -> None:
    b = Builder("model.py:3")
    x = b.param(Type("float32", (60, 100)), "logits")
    assert (
        kernels(b.block(b.emit("reduce", x, kind="max", axes=(1,))))
        == """\
// logits: float32[60, 100]
// out: float32[60]
max_across(const float* __restrict__ logits, float* __restrict__ out) {
  const int row = blockIdx.x * 16 + threadIdx.x / 16;
  if (row >= 60) return;
  float total = __int_as_float(0xff800000);
  for (int i = threadIdx.x % 16; i < 25; i += 16) {
    const Lanes<float, 4> logits_4 = ((const Lanes<float, 4>*)logits)[25 * row + i];
    #pragma unroll
    for (int k = 0; k < 4; ++k) {
      total = larger<float>(total, logits_4.at[k]);
    }
  }
  #pragma unroll
  for (int apart = 8; apart > 0; apart /= 2) {
    const float other = __shfl_xor_sync(0xffffffffu, total, apart);
    total = larger<float>(total, other);
  }
  if (threadIdx.x % 16 == 0) {
    out[row] = total;
  }
}"""
    )


def test_columns_are_summed_by_threads_side_by_side() -> None:
    b = Builder("model.py:3")
    dy = b.param(Type("float16", (60, 100)), "dy")
    assert (
        kernels(b.block(b.emit("reduce", dy, kind="sum", axes=(0,))))
        == """\
// dy: float16[60, 100]
// out: float16[100]
sum_down(const __half* __restrict__ dy, __half* __restrict__ out) {
  const int column = blockIdx.x * 32 + threadIdx.x % 32;
  float total = 0.0f;
  if (column < 100) {
    for (int i = threadIdx.x / 32; i < 60; i += 8) {
      const __half dy_at = dy[100 * i + column];
      total = total + __half2float(dy_at);
    }
  }
  __shared__ float totals[256];
  totals[threadIdx.x] = total;
  __syncthreads();
  for (int apart = 128; apart >= 32; apart /= 2) {
    if (threadIdx.x < apart) {
      total = total + totals[threadIdx.x + apart];
      totals[threadIdx.x] = total;
    }
    __syncthreads();
  }
  if (threadIdx.x < 32 && column < 100) {
    out[column] = __float2half_rn(total);
  }
}"""
    )
