// bfloat16: <cuda_bf16.h> of CUDA, as far as kernels here use it.
#pragma once
#include "cuda.h"
#include "narrow.h"

static inline unsigned short emulator_brain_bits(float x) {
  unsigned bits = __float_as_uint(x);
  if (x != x) return 0x7fff;  // the one nan that CUDA gives
  return (unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
static inline float emulator_brain_value(unsigned short bits) {
  return __uint_as_float((unsigned)bits << 16);
}
EMULATOR_NARROW(__nv_bfloat16, emulator_brain_bits, emulator_brain_value)
typedef __nv_bfloat16 nv_bfloat16;
typedef __nv_bfloat162 nv_bfloat162;

static inline float __bfloat162float(__nv_bfloat16 x) { return (float)x; }
static inline __nv_bfloat16 __float2bfloat16(float x) { return __nv_bfloat16(x); }
static inline __nv_bfloat16 __float2bfloat16_rn(float x) { return __nv_bfloat16(x); }
static inline __nv_bfloat16 __double2bfloat16(double x) { return __nv_bfloat16(x); }
static inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
  return {__nv_bfloat16(x), __nv_bfloat16(y)};
}
static inline __nv_bfloat162 __float2bfloat162_rn(float x) {
  return {__nv_bfloat16(x), __nv_bfloat16(x)};
}
static inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
static inline __nv_bfloat162 make_bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
static inline float2 __bfloat1622float2(__nv_bfloat162 x) { return {(float)x.x, (float)x.y}; }
static inline float __low2float(__nv_bfloat162 x) { return (float)x.x; }
static inline float __high2float(__nv_bfloat162 x) { return (float)x.y; }
static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
static inline short __bfloat16_as_short(__nv_bfloat16 x) { return (short)x.bits; }
static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) {
  return emulator_cast<__nv_bfloat16>(bits);
}
static inline __nv_bfloat16 __short_as_bfloat16(short bits) {
  return emulator_cast<__nv_bfloat16>(bits);
}
