// x: bfloat16[8192, 4096]
// dy: bfloat16[8192, 4096]
// weight: bfloat16[4096]
// out: bfloat16[8192, 4096]
// partial: float32[264, 4096]
// cast at model.py
// mul, reduce, div, add, sqrt, div at model.py
// mul, cast at model.py
// mul, reduce, mul, cast, mul, mul, reduce at model.py (backward)
// div, negate, mul, mul, div, div, mul, add, add at model.py (backward)
// cast at model.py (backward)
// grid: (264, 1, 1)
extern "C" __global__ void __launch_bounds__(256, 1) rows_cast_mul_sum_div(
    const __nv_bfloat16* __restrict__ x, const __nv_bfloat16* __restrict__ dy,
    const __nv_bfloat16* __restrict__ weight, __nv_bfloat16* __restrict__ out,
    float* __restrict__ partial)
{
  float converted_kept[16];
  float converted_kept_2[16];
  __nv_bfloat16 dy_kept[16];
  float column_sum[16];
  #pragma unroll
  for (int i = 0; i < 16; ++i) {
    column_sum[i] = 0.0f;
  }
  for (int first = blockIdx.x; first < 8192; first += 264) {
    const int row = first;
    float row_sum = 0.0f;
    float row_sum_2 = 0.0f;
    #pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int group = 256 * i + threadIdx.x;
      const Lanes<__nv_bfloat16, 8> x_8 = ((const Lanes<__nv_bfloat16, 8>*)x)[512 * row + group];
      const Lanes<__nv_bfloat16, 8> dy_8 = ((const Lanes<__nv_bfloat16, 8>*)dy)[512 * row + group];
      const Lanes<__nv_bfloat16, 8> weight_8 = ((const Lanes<__nv_bfloat16, 8>*)weight)[group];
      #pragma unroll
      for (int k = 0; k < 8; ++k) {
        const float converted = __bfloat162float(x_8.at[k]);
        const float product = converted * converted;
        row_sum = row_sum + product;
        const __nv_bfloat16 product_2 = __float2bfloat16_rn(__bfloat162float(dy_8.at[k]) * __bfloat162float(weight_8.at[k]));
        const float converted_2 = __bfloat162float(product_2);
        const float product_3 = converted_2 * converted;
        row_sum_2 = row_sum_2 + product_3;
        converted_kept[8 * i + k] = converted_2;
        converted_kept_2[8 * i + k] = converted;
        dy_kept[8 * i + k] = dy_8.at[k];
      }
    }
    #pragma unroll
    for (int apart = 16; apart > 0; apart /= 2) {
      const float other = __shfl_xor_sync(0xffffffffu, row_sum, apart);
      row_sum = row_sum + other;
    }
    #pragma unroll
    for (int apart = 16; apart > 0; apart /= 2) {
      const float other_2 = __shfl_xor_sync(0xffffffffu, row_sum_2, apart);
      row_sum_2 = row_sum_2 + other_2;
    }
    __shared__ float row_sum_warps[8];
    __shared__ float row_sum_2_warps[8];
    if (threadIdx.x % 32 == 0) {
      row_sum_warps[threadIdx.x / 32] = row_sum;
      row_sum_2_warps[threadIdx.x / 32] = row_sum_2;
    }
    __syncthreads();
    row_sum = row_sum_warps[threadIdx.x % 8];
    #pragma unroll
    for (int apart = 4; apart > 0; apart /= 2) {
      const float other_3 = __shfl_xor_sync(0xffffffffu, row_sum, apart);
      row_sum = row_sum + other_3;
    }
    row_sum_2 = row_sum_2_warps[threadIdx.x % 8];
    #pragma unroll
    for (int apart = 4; apart > 0; apart /= 2) {
      const float other_4 = __shfl_xor_sync(0xffffffffu, row_sum_2, apart);
      row_sum_2 = row_sum_2 + other_4;
    }
    const float ratio = row_sum / 4096.0f;
    const float sum = ratio + 1e-05f;
    const float root = sqrtf(sum);
    const float ratio_2 = 1.0f / root;
    const float ratio_3 = ratio_2 / root;
    const float negative = -ratio_3;
    const float product_4 = negative * row_sum_2;
    const float product_5 = product_4 * 0.5f;
    const float ratio_4 = product_5 / root;
    const float ratio_5 = ratio_4 / 4096.0f;
    #pragma unroll
    for (int i_2 = 0; i_2 < 2; ++i_2) {
      const int group_2 = 256 * i_2 + threadIdx.x;
      Lanes<__nv_bfloat16, 8> out_8;
      #pragma unroll
      for (int k_2 = 0; k_2 < 8; ++k_2) {
        const float product_6 = converted_kept[8 * i_2 + k_2] * ratio_2;
        const float product_7 = ratio_5 * converted_kept_2[8 * i_2 + k_2];
        const float sum_2 = product_6 + product_7;
        const float sum_3 = sum_2 + product_7;
        const __nv_bfloat16 converted_3 = __float2bfloat16_rn(sum_3);
        out_8.at[k_2] = converted_3;
        const float product_8 = converted_kept_2[8 * i_2 + k_2] * ratio_2;
        const __nv_bfloat16 converted_4 = __float2bfloat16_rn(product_8);
        const __nv_bfloat16 product_9 = __float2bfloat16_rn(__bfloat162float(dy_kept[8 * i_2 + k_2]) * __bfloat162float(converted_4));
        column_sum[8 * i_2 + k_2] = column_sum[8 * i_2 + k_2] + __bfloat162float(product_9);
      }
      ((Lanes<__nv_bfloat16, 8>*)out)[512 * row + group_2] = out_8;
    }
    __syncthreads();  // until here, what warps left is read
  }
  const int team = blockIdx.x;
  #pragma unroll
  for (int i_3 = 0; i_3 < 2; ++i_3) {
    const int group_3 = 256 * i_3 + threadIdx.x;
    Lanes<float, 8> partial_8;
    #pragma unroll
    for (int k_3 = 0; k_3 < 8; ++k_3) {
      partial_8.at[k_3] = column_sum[8 * i_3 + k_3];
    }
    ((Lanes<float, 8>*)partial)[512 * team + group_3] = partial_8;
  }
}

// partial: float32[264, 4096]
// out: bfloat16[4096]
// grid: (128, 1, 1)
extern "C" __global__ void __launch_bounds__(256, 1) sum_down(
    const float* __restrict__ partial, __nv_bfloat16* __restrict__ out)
{
  const int column = blockIdx.x * 32 + threadIdx.x % 32;
  float total = 0.0f;
  if (column < 4096) {
    for (int i = threadIdx.x / 32; i < 264; i += 8) {
      const float partial_at = partial[4096 * i + column];
      total = total + partial_at;
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
  if (threadIdx.x < 32 && column < 4096) {
    out[column] = __float2bfloat16_rn(total);
  }
}
