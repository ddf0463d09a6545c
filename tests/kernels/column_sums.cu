// dy: float16[600, 100]
// out: float16[100]
// grid: (4, 1, 1)
extern "C" __global__ void __launch_bounds__(256, 1) sum_down(
    const __half* __restrict__ dy, __half* __restrict__ out)
{
  const int column = blockIdx.x * 32 + threadIdx.x % 32;
  float total = 0.0f;
  if (column < 100) {
    for (int i = threadIdx.x / 32; i < 600; i += 8) {
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
}
