// The functions of numbers that CUDA has without a header, on those of the C library.
#pragma once

#define EMULATOR_UNARY(name)                             \
  extern "C" float name##f(float) noexcept;              \
  extern "C" double name(double) noexcept;               \
  static inline float name(float x) { return name##f(x); }
#define EMULATOR_BINARY(name)                                           \
  extern "C" float name##f(float, float) noexcept;                      \
  extern "C" double name(double, double) noexcept;                      \
  static inline float name(float x, float y) { return name##f(x, y); }
EMULATOR_UNARY(acos) EMULATOR_UNARY(acosh) EMULATOR_UNARY(asin) EMULATOR_UNARY(asinh)
EMULATOR_UNARY(atan) EMULATOR_UNARY(atanh) EMULATOR_UNARY(cbrt) EMULATOR_UNARY(ceil)
EMULATOR_UNARY(cos) EMULATOR_UNARY(cosh) EMULATOR_UNARY(erf) EMULATOR_UNARY(erfc)
EMULATOR_UNARY(exp) EMULATOR_UNARY(exp2) EMULATOR_UNARY(expm1) EMULATOR_UNARY(fabs)
EMULATOR_UNARY(floor) EMULATOR_UNARY(lgamma) EMULATOR_UNARY(log) EMULATOR_UNARY(log10)
EMULATOR_UNARY(log1p) EMULATOR_UNARY(log2) EMULATOR_UNARY(logb) EMULATOR_UNARY(nearbyint)
EMULATOR_UNARY(rint) EMULATOR_UNARY(round) EMULATOR_UNARY(sin) EMULATOR_UNARY(sinh)
EMULATOR_UNARY(sqrt) EMULATOR_UNARY(tan) EMULATOR_UNARY(tanh) EMULATOR_UNARY(tgamma)
EMULATOR_UNARY(trunc)
EMULATOR_BINARY(atan2) EMULATOR_BINARY(copysign) EMULATOR_BINARY(fdim) EMULATOR_BINARY(fmax)
EMULATOR_BINARY(fmin) EMULATOR_BINARY(fmod) EMULATOR_BINARY(hypot) EMULATOR_BINARY(nextafter)
EMULATOR_BINARY(pow) EMULATOR_BINARY(remainder)
extern "C" {
float fmaf(float, float, float) noexcept;
double fma(double, double, double) noexcept;
float ldexpf(float, int) noexcept;
double ldexp(double, int) noexcept;
float frexpf(float, int*) noexcept;
double frexp(double, int*) noexcept;
float modff(float, float*) noexcept;
double modf(double, double*) noexcept;
void sincosf(float, float*, float*) noexcept;
void sincos(double, double*, double*) noexcept;
int ilogbf(float) noexcept;
int ilogb(double) noexcept;
long lrintf(float) noexcept;
long lrint(double) noexcept;
long long llrintf(float) noexcept;
long long llrint(double) noexcept;
}
static inline float fma(float x, float y, float z) { return fmaf(x, y, z); }
static inline float ldexp(float x, int e) { return ldexpf(x, e); }
static inline float frexp(float x, int* e) { return frexpf(x, e); }
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
static inline float rsqrt(float x) { return rsqrtf(x); }
static inline float fdividef(float x, float y) { return x / y; }
static inline float exp10f(float x) { return powf(10.0f, x); }
static inline double exp10(double x) { return pow(10.0, x); }
static inline float normcdff(float x) { return 0.5f * erfcf(-x * 0.707106781f); }
static inline double normcdf(double x) { return 0.5 * erfc(-x * 0.70710678118654752); }

static inline bool isnan(float x) { return __builtin_isnan(x); }
static inline bool isnan(double x) { return __builtin_isnan(x); }
static inline bool isinf(float x) { return __builtin_isinf(x); }
static inline bool isinf(double x) { return __builtin_isinf(x); }
static inline bool isfinite(float x) { return __builtin_isfinite(x); }
static inline bool isfinite(double x) { return __builtin_isfinite(x); }
static inline bool signbit(float x) { return __builtin_signbit(x); }
static inline bool signbit(double x) { return __builtin_signbit(x); }

// Absolute values, and the lesser and greater of two numbers, of floats as fmin and fmax say.
static inline int abs(int x) { return x < 0 ? (int)-(unsigned)x : x; }
static inline long long llabs(long long x) {
  return x < 0 ? (long long)-(unsigned long long)x : x;
}
static inline long abs(long x) { return llabs(x); }
static inline long long abs(long long x) { return llabs(x); }
static inline float abs(float x) { return fabsf(x); }
static inline double abs(double x) { return fabs(x); }
template <class A, class B>
static inline auto min(A a, B b) -> decltype(a + b) {
  decltype(a + b) x = a, y = b;
  return y < x || x != x ? y : x;
}
template <class A, class B>
static inline auto max(A a, B b) -> decltype(a + b) {
  decltype(a + b) x = a, y = b;
  return y > x || x != x ? y : x;
}

// The quick functions are as exact as the others here: how inexact they are is the hardware's.
static inline float __expf(float x) { return expf(x); }
static inline float __exp10f(float x) { return exp10f(x); }
static inline float __logf(float x) { return logf(x); }
static inline float __log2f(float x) { return log2f(x); }
static inline float __log10f(float x) { return log10f(x); }
static inline float __sinf(float x) { return sinf(x); }
static inline float __cosf(float x) { return cosf(x); }
static inline float __tanf(float x) { return tanf(x); }
static inline float __powf(float x, float y) { return powf(x, y); }
static inline float __fdividef(float x, float y) { return x / y; }
static inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }

// Arithmetic that is rounded to nearest and never contracted.
static inline float __fadd_rn(float x, float y) { return x + y; }
static inline float __fsub_rn(float x, float y) { return x - y; }
static inline float __fmul_rn(float x, float y) { return x * y; }
static inline float __fdiv_rn(float x, float y) { return x / y; }
static inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
static inline float __fsqrt_rn(float x) { return sqrtf(x); }
static inline float __frcp_rn(float x) { return 1.0f / x; }
static inline float __frsqrt_rn(float x) { return (float)(1.0 / sqrt((double)x)); }
static inline double __dadd_rn(double x, double y) { return x + y; }
static inline double __dsub_rn(double x, double y) { return x - y; }
static inline double __dmul_rn(double x, double y) { return x * y; }
static inline double __ddiv_rn(double x, double y) { return x / y; }
static inline double __fma_rn(double x, double y, double z) { return fma(x, y, z); }
static inline double __dsqrt_rn(double x) { return sqrt(x); }
static inline double __drcp_rn(double x) { return 1.0 / x; }

// Bits.
template <class To, class From>
static inline To emulator_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "");
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}
static inline int __float_as_int(float x) { return emulator_cast<int>(x); }
static inline unsigned __float_as_uint(float x) { return emulator_cast<unsigned>(x); }
static inline float __int_as_float(int x) { return emulator_cast<float>(x); }
static inline float __uint_as_float(unsigned x) { return emulator_cast<float>(x); }
static inline long long __double_as_longlong(double x) { return emulator_cast<long long>(x); }
static inline double __longlong_as_double(long long x) { return emulator_cast<double>(x); }
static inline double __hiloint2double(int high, int low) {
  return __longlong_as_double((long long)((unsigned long long)(unsigned)high << 32 | (unsigned)low));
}
static inline int __double2hiint(double x) { return (int)(__double_as_longlong(x) >> 32); }
static inline int __double2loint(double x) { return (int)__double_as_longlong(x); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
static inline unsigned __brev(unsigned x) {
  unsigned y = 0;
  for (int i = 0; i < 32; i++) y |= (x >> i & 1) << (31 - i);
  return y;
}
static inline unsigned long long __brevll(unsigned long long x) {
  return (unsigned long long)__brev((unsigned)x) << 32 | __brev((unsigned)(x >> 32));
}
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  unsigned long long bytes = (unsigned long long)y << 32 | x;
  unsigned out = 0;
  for (int i = 0; i < 4; i++) {
    unsigned code = selector >> (4 * i) & 15, byte = bytes >> 8 * (code & 7) & 255;
    out |= (code & 8 ? (byte & 128 ? 255 : 0) : byte) << (8 * i);
  }
  return out;
}
static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned n) {
  return (unsigned)(((unsigned long long)high << 32 | low) << (n & 31) >> 32);
}
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned n) {
  return (unsigned)(((unsigned long long)high << 32 | low) >> (n & 31));
}
static inline unsigned __umulhi(unsigned x, unsigned y) {
  return (unsigned)((unsigned long long)x * y >> 32);
}
static inline int __mulhi(int x, int y) { return (int)((long long)x * y >> 32); }
static inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
  return (unsigned long long)((unsigned __int128)x * y >> 64);
}
static inline long long __mul64hi(long long x, long long y) {
  return (long long)((__int128)x * y >> 64);
}
static inline int __mul24(int x, int y) {
  return (int)((unsigned)(x << 8 >> 8) * (unsigned)(y << 8 >> 8));
}
static inline unsigned __umul24(unsigned x, unsigned y) { return (x & 0xffffff) * (y & 0xffffff); }
static inline unsigned __sad(int x, int y, unsigned z) {
  return (x > y ? (unsigned)x - (unsigned)y : (unsigned)y - (unsigned)x) + z;
}

// Conversions of floats to integers: a value outside is the nearest one that the integer has, nan
// is zero for 32 bits and the least integer for 64.
template <class To, class From>
static inline To emulator_clamped(From x, double low, double high, To least, To most, To nan) {
  return x != x ? nan : x <= low ? least : x >= high ? most : (To)x;
}
#define EMULATOR_TO(From, from)                                                                 \
  static inline int __##from##2int_rz(From x) {                                                 \
    return emulator_clamped<int>(x, -0x1p31, 0x1p31, -2147483647 - 1, 2147483647, 0);           \
  }                                                                                             \
  static inline int __##from##2int_rn(From x) { return __##from##2int_rz(rint(x)); }            \
  static inline int __##from##2int_rd(From x) { return __##from##2int_rz(floor(x)); }           \
  static inline int __##from##2int_ru(From x) { return __##from##2int_rz(ceil(x)); }            \
  static inline unsigned __##from##2uint_rz(From x) {                                           \
    return emulator_clamped<unsigned>(x, 0.0, 0x1p32, 0u, ~0u, 0u);                             \
  }                                                                                             \
  static inline unsigned __##from##2uint_rn(From x) { return __##from##2uint_rz(rint(x)); }     \
  static inline long long __##from##2ll_rz(From x) {                                            \
    return emulator_clamped<long long>(                                                         \
        x, -0x1p63, 0x1p63, -9223372036854775807LL - 1, 9223372036854775807LL,                  \
        -9223372036854775807LL - 1);                                                            \
  }                                                                                             \
  static inline long long __##from##2ll_rn(From x) { return __##from##2ll_rz(rint(x)); }        \
  static inline unsigned long long __##from##2ull_rz(From x) {                                  \
    return emulator_clamped<unsigned long long>(x, 0.0, 0x1p64, 0ull, ~0ull, 1ull << 63);       \
  }
EMULATOR_TO(float, float)
EMULATOR_TO(double, double)
static inline float __double2float_rn(double x) { return (float)x; }
static inline float __int2float_rn(int x) { return (float)x; }
static inline float __uint2float_rn(unsigned x) { return (float)x; }
static inline float __ll2float_rn(long long x) { return (float)x; }
static inline float __ull2float_rn(unsigned long long x) { return (float)x; }
static inline double __int2double_rn(int x) { return x; }
static inline double __ll2double_rn(long long x) { return (double)x; }
static inline double __ull2double_rn(unsigned long long x) { return (double)x; }
