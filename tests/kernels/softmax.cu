// x: float32[4096, 1000]
// out: float32[4096, 1000]
// reduce, eq, select, sub, exp, reduce, div at model.py
// grid: (512, 1, 1)
extern "C" __global__ void __launch_bounds__(256, 1) rows_max_eq_select_sub(
    const float* __restrict__ x, float* __restrict__ out)
{
  float x_kept[32];
  float exponential_kept[32];
  const int row = blockIdx.x * 8 + threadIdx.x / 32;
  float row_max = __int_as_float(0xff800000);
  #pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int group = 32 * i + threadIdx.x % 32;
    if (group < 250) {
      const Lanes<float, 4> x_4 = ((const Lanes<float, 4>*)x)[250 * row + group];
      #pragma unroll
      for (int k = 0; k < 4; ++k) {
        row_max = larger<float>(row_max, x_4.at[k]);
        x_kept[4 * i + k] = x_4.at[k];
      }
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
  for (int i_2 = 0; i_2 < 8; ++i_2) {
    const int group_2 = 32 * i_2 + threadIdx.x % 32;
    if (group_2 < 250) {
      #pragma unroll
      for (int k_2 = 0; k_2 < 4; ++k_2) {
        const float difference = x_kept[4 * i_2 + k_2] - chosen;
        const float exponential = expf(difference);
        row_sum = row_sum + exponential;
        exponential_kept[4 * i_2 + k_2] = exponential;
      }
    }
  }
  #pragma unroll
  for (int apart = 16; apart > 0; apart /= 2) {
    const float other_2 = __shfl_xor_sync(0xffffffffu, row_sum, apart);
    row_sum = row_sum + other_2;
  }
  #pragma unroll
  for (int i_3 = 0; i_3 < 8; ++i_3) {
    const int group_3 = 32 * i_3 + threadIdx.x % 32;
    if (group_3 < 250) {
      Lanes<float, 4> out_4;
      #pragma unroll
      for (int k_3 = 0; k_3 < 4; ++k_3) {
        const float ratio = exponential_kept[4 * i_3 + k_3] / row_sum;
        out_4.at[k_3] = ratio;
      }
      ((Lanes<float, 4>*)out)[250 * row + group_3] = out_4;
    }
  }
}
