// What float16 and bfloat16 have in common: numbers of 16 bits that compute in float32, and round
// to nearest, ties to even. A sum, product or quotient of two rounds once more without harm: 24
// bits are more than 2 * 11 + 2.
#pragma once

#define EMULATOR_NARROW(type, bits_of, value_of)                                                 \
  struct alignas(2) type {                                                                       \
    unsigned short bits;                                                                         \
    type() = default;                                                                            \
    type(float x) : bits(bits_of(x)) {}                                                          \
    type(double x) : bits(bits_of(emulator_odd(x))) {}                                           \
    type(int x) : type((double)x) {}                                                             \
    type(unsigned x) : type((double)x) {}                                                        \
    type(long x) : type((double)x) {}                                                            \
    type(unsigned long x) : type((double)x) {}                                                   \
    type(long long x) : type((double)x) {}                                                       \
    type(unsigned long long x) : type((double)x) {}                                              \
    operator float() const { return value_of(bits); }                                            \
  };                                                                                             \
  struct alignas(4) type##2 {                                                                    \
    type x, y;                                                                                   \
    type##2() = default;                                                                         \
    type##2(type x, type y) : x(x), y(y) {}                                                      \
  };                                                                                             \
  static inline type __hadd(type a, type b) { return type((float)a + (float)b); }                \
  static inline type __hsub(type a, type b) { return type((float)a - (float)b); }                \
  static inline type __hmul(type a, type b) { return type((float)a * (float)b); }                \
  static inline type __hdiv(type a, type b) { return type((float)a / (float)b); }                \
  static inline type __hneg(type a) { return type(-(float)a); }                                  \
  static inline type __habs(type a) { return type(fabsf((float)a)); }                            \
  static inline type __hfma(type a, type b, type c) {                                            \
    return type(fma((double)(float)a, (double)(float)b, (double)(float)c));                      \
  }                                                                                              \
  static inline type __hmax(type a, type b) { return type(fmaxf((float)a, (float)b)); }          \
  static inline type __hmin(type a, type b) { return type(fminf((float)a, (float)b)); }          \
  static inline bool __heq(type a, type b) { return (float)a == (float)b; }                      \
  static inline bool __hne(type a, type b) { return (float)a != (float)b; }                      \
  static inline bool __hlt(type a, type b) { return (float)a < (float)b; }                       \
  static inline bool __hle(type a, type b) { return (float)a <= (float)b; }                      \
  static inline bool __hgt(type a, type b) { return (float)a > (float)b; }                       \
  static inline bool __hge(type a, type b) { return (float)a >= (float)b; }                      \
  static inline bool __hisnan(type a) { return isnan((float)a); }                                \
  static inline type operator+(type a, type b) { return __hadd(a, b); }                          \
  static inline type operator-(type a, type b) { return __hsub(a, b); }                          \
  static inline type operator*(type a, type b) { return __hmul(a, b); }                          \
  static inline type operator/(type a, type b) { return __hdiv(a, b); }                          \
  static inline type operator-(type a) { return __hneg(a); }                                     \
  static inline type& operator+=(type& a, type b) { return a = a + b; }                          \
  static inline type& operator-=(type& a, type b) { return a = a - b; }                          \
  static inline type& operator*=(type& a, type b) { return a = a * b; }                          \
  static inline bool operator==(type a, type b) { return __heq(a, b); }                          \
  static inline bool operator!=(type a, type b) { return __hne(a, b); }                          \
  static inline bool operator<(type a, type b) { return __hlt(a, b); }                           \
  static inline bool operator<=(type a, type b) { return __hle(a, b); }                          \
  static inline bool operator>(type a, type b) { return __hgt(a, b); }                           \
  static inline bool operator>=(type a, type b) { return __hge(a, b); }                          \
  static inline type##2 __hadd2(type##2 a, type##2 b) { return {a.x + b.x, a.y + b.y}; }         \
  static inline type##2 __hmul2(type##2 a, type##2 b) { return {a.x * b.x, a.y * b.y}; }         \
  static inline type##2 __hfma2(type##2 a, type##2 b, type##2 c) {                               \
    return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)};                                       \
  }                                                                                              \
  static inline type __low2##type(type##2 a) { return a.x; }                                     \
  static inline type __high2##type(type##2 a) { return a.y; }                                    \
  EMULATOR_ATOMIC(atomicAdd, type, true, o + v)

// A double as a float that is rounded to odd, so that rounding it once more rounds only once.
static inline float emulator_odd(double x) {
  float y = (float)x;
  unsigned bits = __float_as_uint(y);
  if ((double)y == x || x != x || (bits & 0x7fffffff) == 0x7f800000 || bits & 1) return y;
  return __uint_as_float(fabs((double)y) > fabs(x) ? bits - 1 : bits + 1);
}
