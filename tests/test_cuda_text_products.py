"""What kernels of tiles look like: whole texts, to be read."""

from __future__ import annotations

from test_cuda_text import kernels

from staging.ir import Block, Builder, Op, Program, Type, Value
from staging.passes.products import join_products


def joined(block: Block) -> str:
    """The kernels of a program whose products are joined with what follows."""
    return kernels(join_products(Program("text", block)).block)


def test_a_thin_product_is_finished_where_its_sums_are() -> None:
    b = Builder("model.py:3")
    x = b.param(Type("float32", (2000, 24)), "x")
    weight = b.param(Type("float32", (24, 640)), "params['weight']")
    bias = b.param(Type("float32", (640,)), "params['bias']")
    y = b.emit("matmul", x, weight, transpose_x=False, transpose_y=False)
    b.place = "model.py:4"
    moved = b.emit("add", y, b.emit("broadcast", bias, shape=(2000, 640)))
    assert (
        joined(b.block(b.emit("tanh", moved)))
        == """\
// x: float32[2000, 24]
// weight (params['weight']): float32[24, 640]
// bias (params['bias']): float32[640]
// out: float32[2000, 640]
// matmul at model.py:3
// add, tanh at model.py:4
matmul_add_tanh(const float* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias, float* __restrict__ out) {
  __shared__ __align__(16) float left[16][68];
  __shared__ __align__(16) float right[16][68];
  const int down = threadIdx.x / 16, along = threadIdx.x % 16;
  const int tile_row = blockIdx.x / 10;
  const int tile_column = blockIdx.x % 10;
  float total[8][4] = {};
  for (int start = 0; start < 24; start += 16) {
    __syncthreads();  // what was staged before has been read
    for (int at = threadIdx.x * 4; at < 1024; at += 512) {
      const int high = at / 16, low = at % 16;
      const int outer = 64 * tile_row + high, inner = start + low;
      Lanes<float, 4> found = {};
      if (outer < 2000 && inner < 24) found = *(const Lanes<float, 4>*)&x[outer * 24 + inner];
      #pragma unroll
      for (int lane = 0; lane < 4; ++lane) {
        left[low + lane][high] = found.at[lane];
      }
    }
    for (int at = threadIdx.x * 4; at < 1024; at += 512) {
      const int high = at / 64, low = at % 64;
      const int outer = 64 * tile_column + low, inner = start + high;
      Lanes<float, 4> found = {};
      if (inner < 24) found = *(const Lanes<float, 4>*)&weight[inner * 640 + outer];
      #pragma unroll
      for (int lane = 0; lane < 4; ++lane) {
        right[high][low + lane] = found.at[lane];
      }
    }
    __syncthreads();
    #pragma unroll 2
    for (int k = 0; k < 16; ++k) {
      Lanes<float, 4> lefts[2];
      #pragma unroll
      for (int group = 0; group < 2; ++group) {
        lefts[group] = *(const Lanes<float, 4>*)&left[k][4 * down + 32 * group];
      }
      const Lanes<float, 4> rights = *(const Lanes<float, 4>*)&right[k][4 * along];
      #pragma unroll
      for (int i = 0; i < 8; ++i) {
        #pragma unroll
        for (int j = 0; j < 4; ++j) {
          total[i][j] = fmaf(lefts[i / 4].at[i % 4], rights.at[j], total[i][j]);
        }
      }
    }
  }
  #pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int m = 64 * tile_row + 4 * down + i / 4 * 32 + i % 4;
    const int n_4 = 16 * tile_column + along;
    if (m < 2000 && n_4 < 160) {
      const Lanes<float, 4> bias_4 = ((const Lanes<float, 4>*)bias)[n_4];
      Lanes<float, 4> out_4;
      #pragma unroll
      for (int k = 0; k < 4; ++k) {
        const float product = total[i][k];
        const float sum = product + bias_4.at[k];
        const float tangent = tanhf(sum);
        out_4.at[k] = tangent;
      }
      ((Lanes<float, 4>*)out)[160 * m + n_4] = out_4;
    }
  }
}"""  # noqa: E501
    )


def test_integers_are_multiplied_by_tiles() -> None:
    b = Builder("model.py:3")
    x = b.param(Type("int8", (2, 5, 40)), "x")
    y = b.param(Type("int8", (2, 3, 40)), "y")
    assert (
        joined(b.block(b.emit("matmul", x, y, transpose_x=False, transpose_y=True)))
        == """\
// x: int8[2, 5, 40]
// y: int8[2, 3, 40]
// out: int8[2, 5, 3]
// matmul at model.py:3
matmul(const signed char* __restrict__ x, const signed char* __restrict__ y, signed char* __restrict__ out) {
  __shared__ __align__(16) unsigned int left[16][20];
  __shared__ __align__(16) unsigned int right[16][20];
  const int down = threadIdx.x / 16, along = threadIdx.x % 16;
  const int batch = blockIdx.x;
  const signed char* its_x = x + 200 * batch;
  const signed char* its_y = y + 120 * batch;
  unsigned int total[2][1] = {};
  for (int start = 0; start < 40; start += 16) {
    __syncthreads();  // what was staged before has been read
    for (int at = threadIdx.x * 8; at < 256; at += 1024) {
      const int high = at / 16, low = at % 16;
      const int outer = high, inner = start + low;
      Lanes<signed char, 8> found = {};
      if (outer < 5 && inner < 40) found = *(const Lanes<signed char, 8>*)&its_x[outer * 40 + inner];
      #pragma unroll
      for (int lane = 0; lane < 8; ++lane) {
        left[low + lane][high] = (unsigned int)found.at[lane];
      }
    }
    for (int at = threadIdx.x * 8; at < 256; at += 1024) {
      const int high = at / 16, low = at % 16;
      const int outer = high, inner = start + low;
      Lanes<signed char, 8> found = {};
      if (outer < 3 && inner < 40) found = *(const Lanes<signed char, 8>*)&its_y[outer * 40 + inner];
      #pragma unroll
      for (int lane = 0; lane < 8; ++lane) {
        right[low + lane][high] = (unsigned int)found.at[lane];
      }
    }
    __syncthreads();
    #pragma unroll 2
    for (int k = 0; k < 16; ++k) {
      const Lanes<unsigned int, 2> lefts = *(const Lanes<unsigned int, 2>*)&left[k][2 * down];
      const unsigned int rights = right[k][along];
      #pragma unroll
      for (int i = 0; i < 2; ++i) {
        #pragma unroll
        for (int j = 0; j < 1; ++j) {
          total[i][j] = total[i][j] + lefts.at[i] * rights;
        }
      }
    }
  }
  #pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int m = 2 * down + i;
    const int n = along;
    if (m < 5 && n < 3) {
      const signed char product = (signed char)total[i][0];
      out[15 * batch + 3 * m + n] = product;
    }
  }
}"""  # noqa: E501
    )


def test_attention_goes_over_keys_tile_by_tile() -> None:
    q, k = Type("float32", (2, 4, 100, 2, 32)), Type("float32", (2, 4, 100, 32))
    sums = Type("float32", (2, 4, 100, 2))
    inside, outside = (tuple(map(Value, (q, k, k))) for _ in range(2))
    results = tuple(map(Value, (q, sums)))
    options = {"kind": "attention", "causal": True, "segmented": False}
    op = Op("call", outside, results, options, (Block(inside, (), ()),), "model.py:3")
    assert (
        kernels(Block(outside, (op,), results))
        == """\
// q: float32[2, 4, 100, 2, 32]
// k: float32[2, 4, 100, 32]
// v: float32[2, 4, 100, 32]
// out: float32[2, 4, 100, 2, 32]
// sums: float32[2, 4, 100, 2]
// attention at model.py:3
attention(const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v, float* __restrict__ out, float* __restrict__ sums) {
  __shared__ __align__(16) float left[32][68];
  __shared__ __align__(16) float right[32][68];
  __shared__ __align__(16) float weights[64][68];
  const int down = threadIdx.x / 16, along = threadIdx.x % 16;
  const int head = blockIdx.x / 4;
  const int tile = blockIdx.x % 4;
  const float* its_q = q + 6400 * head;
  const float* its_k = k + 3200 * head;
  const float* its_v = v + 3200 * head;
  float* its_out = out + 6400 * head;
  float* its_sums = sums + 200 * head;
  float top[8], total[8] = {};
  float sum[8][2] = {};
  #pragma unroll
  for (int i = 0; i < 8; ++i) {
    top[i] = (-1e+30f);
  }
  const int seen = min(100, (min(64 * tile + 64, 200) - 1) / 2 + 1);
  for (int first_key = 0; first_key < seen; first_key += 64) {
    float score[8][4] = {};
    for (int start = 0; start < 32; start += 32) {
      __syncthreads();  // what was staged before has been read
      for (int at = threadIdx.x * 4; at < 2048; at += 512) {
        const int high = at / 32, low = at % 32;
        const int outer = 64 * tile + high, inner = start + low;
        Lanes<float, 4> found = {};
        if (outer < 200) found = *(const Lanes<float, 4>*)&its_q[outer * 32 + inner];
        #pragma unroll
        for (int lane = 0; lane < 4; ++lane) {
          left[low + lane][high] = found.at[lane];
        }
      }
      for (int at = threadIdx.x * 4; at < 2048; at += 512) {
        const int high = at / 32, low = at % 32;
        const int outer = first_key + high, inner = start + low;
        Lanes<float, 4> found = {};
        if (outer < 100) found = *(const Lanes<float, 4>*)&its_k[outer * 32 + inner];
        #pragma unroll
        for (int lane = 0; lane < 4; ++lane) {
          right[low + lane][high] = found.at[lane];
        }
      }
      __syncthreads();
      #pragma unroll 2
      for (int k = 0; k < 32; ++k) {
        Lanes<float, 4> lefts[2];
        #pragma unroll
        for (int group = 0; group < 2; ++group) {
          lefts[group] = *(const Lanes<float, 4>*)&left[k][4 * down + 32 * group];
        }
        const Lanes<float, 4> rights = *(const Lanes<float, 4>*)&right[k][4 * along];
        #pragma unroll
        for (int i = 0; i < 8; ++i) {
          #pragma unroll
          for (int j = 0; j < 4; ++j) {
            score[i][j] = fmaf(lefts[i / 4].at[i % 4], rights.at[j], score[i][j]);
          }
        }
      }
    }
    #pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int row = 64 * tile + 4 * down + i / 4 * 32 + i % 4;
      float upper = top[i];
      #pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int key = first_key + 4 * along + j;
        const bool visible = row < 200 && key < 100 && key <= row / 2;
        if (!visible) score[i][j] = __int_as_float(0xff800000);
        upper = fmaxf(upper, score[i][j]);
      }
      for (int apart = 8; apart > 0; apart /= 2) {
        upper = fmaxf(upper, __shfl_xor_sync(0xffffffffu, upper, apart));
      }
      const float scale = expf(top[i] - upper);
      top[i] = upper;
      total[i] = total[i] * scale;
      #pragma unroll
      for (int j = 0; j < 2; ++j) {
        sum[i][j] = sum[i][j] * scale;
      }
      #pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float weight = expf(score[i][j] - upper);
        total[i] = total[i] + weight;
        weights[4 * along + j][4 * down + i / 4 * 32 + i % 4] = weight;
      }
    }
    for (int start = 0; start < 64; start += 32) {
      __syncthreads();  // what was staged before has been read
      for (int at = threadIdx.x * 4; at < 1024; at += 512) {
        const int high = at / 32, low = at % 32;
        const int outer = low, inner = first_key + start + high;
        Lanes<float, 4> found = {};
        if (inner < 100) found = *(const Lanes<float, 4>*)&its_v[inner * 32 + outer];
        #pragma unroll
        for (int lane = 0; lane < 4; ++lane) {
          right[high][low + lane] = found.at[lane];
        }
      }
      __syncthreads();
      #pragma unroll 2
      for (int k = 0; k < 32; ++k) {
        Lanes<float, 4> lefts[2];
        #pragma unroll
        for (int group = 0; group < 2; ++group) {
          lefts[group] = *(const Lanes<float, 4>*)&weights[start + k][4 * down + 32 * group];
        }
        const Lanes<float, 2> rights = *(const Lanes<float, 2>*)&right[k][2 * along];
        #pragma unroll
        for (int i = 0; i < 8; ++i) {
          #pragma unroll
          for (int j = 0; j < 2; ++j) {
            sum[i][j] = fmaf(lefts[i / 4].at[i % 4], rights.at[j], sum[i][j]);
          }
        }
      }
    }
  }
  #pragma unroll
  for (int i = 0; i < 8; ++i) {
    for (int apart = 8; apart > 0; apart /= 2) {
      total[i] = total[i] + __shfl_xor_sync(0xffffffffu, total[i], apart);
    }
    const int row = 64 * tile + 4 * down + i / 4 * 32 + i % 4;
    if (row < 200) {
      const float whole = total[i] == 0.0f ? 1.0f : total[i];
      #pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int column = 2 * along + j;
        its_out[row * 32 + column] = sum[i][j] / whole;
      }
      if (along == 0) its_sums[row] = top[i] + logf(whole);
    }
  }
}"""  # noqa: E501
    )
