// x: float32[4096, 512]
// dy: float32[4096, 512]
// out: float32[4096, 512]
// reduce, eq, select, sub, exp, reduce, div at model.py
// mul, reduce, sub, mul at model.py (backward)
// grid: (512, 1, 1)
extern "C" __global__ void __launch_bounds__(256, 1) rows_max_eq_select_sub(
    const float* __restrict__ x, const float* __restrict__ dy, float* __restrict__ out)
{
  float x_kept[16];
  float exponential_kept[16];
  float ratio_kept[16];
  float dy_kept[16];
  const int row = blockIdx.x * 8 + threadIdx.x / 32;
  float row_max = __int_as_float(0xff800000);
  #pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int group = 32 * i + threadIdx.x % 32;
    const Lanes<float, 4> x_4 = ((const Lanes<float, 4>*)x)[128 * row + group];
    #pragma unroll
    for (int k = 0; k < 4; ++k) {
      row_max = larger<float>(row_max, x_4.at[k]);
      x_kept[4 * i + k] = x_4.at[k];
    }
  }
  #pragma unroll
  for (int apart = 16; apart > 0; apart /= 2) {
    const float other = __shfl_xor_sync(0xffffffffu, row_max, apart);
    row_max = larger<float>(row_max, other);
  }
  const bool equal = row_max == __int_as_float(0xff800000);
  const float chosen = equal ? 0.0f : row_max;
  float row_sum = 0.0f;
  #pragma unroll
  for (int i_2 = 0; i_2 < 4; ++i_2) {
    const int group_2 = 32 * i_2 + threadIdx.x % 32;
    #pragma unroll
    for (int k_2 = 0; k_2 < 4; ++k_2) {
      const float difference = x_kept[4 * i_2 + k_2] - chosen;
      const float exponential = expf(difference);
      row_sum = row_sum + exponential;
      exponential_kept[4 * i_2 + k_2] = exponential;
    }
  }
  #pragma unroll
  for (int apart = 16; apart > 0; apart /= 2) {
    const float other_2 = __shfl_xor_sync(0xffffffffu, row_sum, apart);
    row_sum = row_sum + other_2;
  }
  float row_sum_2 = 0.0f;
  #pragma unroll
  for (int i_3 = 0; i_3 < 4; ++i_3) {
    const int group_3 = 32 * i_3 + threadIdx.x % 32;
    const Lanes<float, 4> dy_4 = ((const Lanes<float, 4>*)dy)[128 * row + group_3];
    #pragma unroll
    for (int k_3 = 0; k_3 < 4; ++k_3) {
      const float ratio = exponential_kept[4 * i_3 + k_3] / row_sum;
      const float product = dy_4.at[k_3] * ratio;
      row_sum_2 = row_sum_2 + product;
      ratio_kept[4 * i_3 + k_3] = ratio;
      dy_kept[4 * i_3 + k_3] = dy_4.at[k_3];
    }
  }
  #pragma unroll
  for (int apart = 16; apart > 0; apart /= 2) {
    const float other_3 = __shfl_xor_sync(0xffffffffu, row_sum_2, apart);
    row_sum_2 = row_sum_2 + other_3;
  }
  #pragma unroll
  for (int i_4 = 0; i_4 < 4; ++i_4) {
    const int group_4 = 32 * i_4 + threadIdx.x % 32;
    Lanes<float, 4> out_4;
    #pragma unroll
    for (int k_4 = 0; k_4 < 4; ++k_4) {
      const float difference_2 = dy_kept[4 * i_4 + k_4] - row_sum_2;
      const float product_2 = ratio_kept[4 * i_4 + k_4] * difference_2;
      out_4.at[k_4] = product_2;
    }
    ((Lanes<float, 4>*)out)[128 * row + group_4] = out_4;
  }
}
