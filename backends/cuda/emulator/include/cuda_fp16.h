// float16: <cuda_fp16.h> of CUDA, as far as kernels here use it.
#pragma once
#include "cuda.h"
#include "narrow.h"

static inline unsigned short emulator_half_bits(float x) {
  unsigned bits = __float_as_uint(x), sign = bits >> 16 & 0x8000;
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return 0x7fff;  // the one nan that CUDA gives
  if (bits >= 0x477ff000) return (unsigned short)(sign | 0x7c00);  // 65520 and more
  if (bits < 0x38800000) {  // below the least normal number: the sum rounds to multiples of 2**-24
    return (unsigned short)(sign | (__float_as_uint(__uint_as_float(bits) + 0.5f) - 0x3f000000));
  }
  return (unsigned short)(sign | ((bits - 0x38000000 + 0xfff + (bits >> 13 & 1)) >> 13));
}
static inline float emulator_half_value(unsigned short half) {
  unsigned sign = (unsigned)(half & 0x8000) << 16, bits = half & 0x7fff;
  if (bits >= 0x7c00) return __uint_as_float(sign | 0x7f800000 | (bits & 0x3ff) << 13);
  float size = __uint_as_float(bits << 13) * 0x1p112f;  // exact: a power of two
  return __uint_as_float(sign | __float_as_uint(size));
}
EMULATOR_NARROW(__half, emulator_half_bits, emulator_half_value)
typedef __half half;
typedef __half2 half2;

static inline float __half2float(__half x) { return (float)x; }
static inline __half __float2half(float x) { return __half(x); }
static inline __half __float2half_rn(float x) { return __half(x); }
static inline __half __double2half(double x) { return __half(x); }
static inline __half2 __floats2half2_rn(float x, float y) { return {__half(x), __half(y)}; }
static inline __half2 __float2half2_rn(float x) { return {__half(x), __half(x)}; }
static inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
static inline __half2 make_half2(__half x, __half y) { return {x, y}; }
static inline float2 __half22float2(__half2 x) { return {(float)x.x, (float)x.y}; }
static inline float __low2float(__half2 x) { return (float)x.x; }
static inline float __high2float(__half2 x) { return (float)x.y; }
static inline unsigned short __half_as_ushort(__half x) { return x.bits; }
static inline short __half_as_short(__half x) { return (short)x.bits; }
static inline __half __ushort_as_half(unsigned short bits) { return emulator_cast<__half>(bits); }
static inline __half __short_as_half(short bits) { return emulator_cast<__half>(bits); }
