// x: bfloat16[8192, 4096]
// weight: bfloat16[4096]
// out: bfloat16[8192, 4096]
// cast at model.py
// mul, reduce, div, add, sqrt, div at model.py
// mul, cast, mul at model.py
// grid: (8192, 1, 1)
extern "C" __global__ void __launch_bounds__(128, 1) rows_cast_mul_sum_div(
    const __nv_bfloat16* __restrict__ x, const __nv_bfloat16* __restrict__ weight,
    __nv_bfloat16* __restrict__ out)
{
  float converted_kept[32];
  const int row = blockIdx.x;
  float row_sum = 0.0f;
  #pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int group = 128 * i + threadIdx.x;
    const Lanes<__nv_bfloat16, 8> x_8 = ((const Lanes<__nv_bfloat16, 8>*)x)[512 * row + group];
    #pragma unroll
    for (int k = 0; k < 8; ++k) {
      const float converted = __bfloat162float(x_8.at[k]);
      const float product = converted * converted;
      row_sum = row_sum + product;
      converted_kept[8 * i + k] = converted;
    }
  }
  #pragma unroll
  for (int apart = 16; apart > 0; apart /= 2) {
    const float other = __shfl_xor_sync(0xffffffffu, row_sum, apart);
    row_sum = row_sum + other;
  }
  __shared__ float row_sum_warps[4];
  if (threadIdx.x % 32 == 0) {
    row_sum_warps[threadIdx.x / 32] = row_sum;
  }
  __syncthreads();
  row_sum = row_sum_warps[threadIdx.x % 4];
  #pragma unroll
  for (int apart = 2; apart > 0; apart /= 2) {
    const float other_2 = __shfl_xor_sync(0xffffffffu, row_sum, apart);
    row_sum = row_sum + other_2;
  }
  const float ratio = row_sum / 4096.0f;
  const float sum = ratio + 1e-05f;
  const float root = sqrtf(sum);
  const float ratio_2 = 1.0f / root;
  #pragma unroll
  for (int i_2 = 0; i_2 < 4; ++i_2) {
    const int group_2 = 128 * i_2 + threadIdx.x;
    const Lanes<__nv_bfloat16, 8> weight_8 = ((const Lanes<__nv_bfloat16, 8>*)weight)[group_2];
    Lanes<__nv_bfloat16, 8> out_8;
    #pragma unroll
    for (int k_2 = 0; k_2 < 8; ++k_2) {
      const float product_2 = converted_kept[8 * i_2 + k_2] * ratio_2;
      const __nv_bfloat16 converted_2 = __float2bfloat16_rn(product_2);
      const __nv_bfloat16 product_3 = __float2bfloat16_rn(__bfloat162float(converted_2) * __bfloat162float(weight_8.at[k_2]));
      out_8.at[k_2] = product_3;
    }
    ((Lanes<__nv_bfloat16, 8>*)out)[512 * row + group_2] = out_8;
  }
}
