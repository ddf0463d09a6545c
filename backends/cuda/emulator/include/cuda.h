// CUDA C++ for g++: what NVRTC declares by itself, as far as kernels here use it. It comes before a
// kernel's text. Only declarations and small functions stand here, and no header of the system is
// read, so that a kernel compiles in some fifty milliseconds; the rest is the engine.
#pragma once

#define __CUDA_ARCH__ 900
#define __CUDACC_RTC__ 1
#define __global__ __attribute__((noinline))
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
// `compiler.py` gives each kernel a section of its own, so that the engine knows whose memory it is.
#define __shared__ static __attribute__((section("shared_emulator_common")))

// It comes behind all others, for g++ writes the first one last: an access there is behind them.
__attribute__((used, section("shared_emulator_end"))) static char emulator_end[64];

typedef decltype(sizeof(0)) size_t;

// Vectors. Those of CUDA are aligned to their size, up to 16 bytes, but for those of three.
#define EMULATOR_VECTORS(name, type)                                                            \
  struct name##1 { type x; };                                                                   \
  struct alignas(2 * sizeof(type)) name##2 { type x, y; };                                      \
  struct name##3 { type x, y, z; };                                                             \
  struct alignas(4 * sizeof(type) < 16 ? 4 * sizeof(type) : 16) name##4 { type x, y, z, w; };   \
  static inline name##1 make_##name##1(type x) { return {x}; }                                  \
  static inline name##2 make_##name##2(type x, type y) { return {x, y}; }                       \
  static inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }            \
  static inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
EMULATOR_VECTORS(char, signed char)
EMULATOR_VECTORS(uchar, unsigned char)
EMULATOR_VECTORS(short, short)
EMULATOR_VECTORS(ushort, unsigned short)
EMULATOR_VECTORS(int, int)
EMULATOR_VECTORS(uint, unsigned)
EMULATOR_VECTORS(long, long)
EMULATOR_VECTORS(ulong, unsigned long)
EMULATOR_VECTORS(longlong, long long)
EMULATOR_VECTORS(ulonglong, unsigned long long)
EMULATOR_VECTORS(float, float)
EMULATOR_VECTORS(double, double)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// The engine: threads, barriers, collectives of warps.
extern "C" {
extern const uint3 threadIdx __asm__("emulator_thread");  // each thread sees its own all along
extern const uint3 blockIdx __asm__("emulator_block");
extern const dim3 blockDim __asm__("emulator_block_size");
extern const dim3 gridDim __asm__("emulator_grid_size");
int emulator_barrier(int kind, int predicate, int line);
unsigned long long emulator_collective(
    int kind, unsigned mask, unsigned long long value, unsigned argument, unsigned width, int line);
void* emulator_dynamic();
void emulator_fence(int scope);
void emulator_atomic(const void* place, unsigned bytes, const void* caller);
void emulator_trap(const char* why, int line);
int printf(const char*, ...);
void* memcpy(void*, const void*, size_t);
void* memset(void*, int, size_t);
}
static const int warpSize = 32;

#define __syncthreads() ((void)emulator_barrier(0, 1, __LINE__))
#define __syncthreads_count(p) emulator_barrier(1, !!(p), __LINE__)
#define __syncthreads_and(p) emulator_barrier(2, !!(p), __LINE__)
#define __syncthreads_or(p) emulator_barrier(3, !!(p), __LINE__)
#define __threadfence_block() emulator_fence(0)
#define __threadfence() emulator_fence(1)
#define __threadfence_system() emulator_fence(2)
#define __trap() emulator_trap("__trap()", __LINE__)
#define assert(c) ((c) ? (void)0 : emulator_trap("assert(" #c ")", __LINE__))

enum {  // kinds of collectives; the engine has the same
  EMULATOR_SYNC, EMULATOR_INDEX, EMULATOR_UP, EMULATOR_DOWN, EMULATOR_XOR, EMULATOR_BALLOT,
  EMULATOR_MATCH, EMULATOR_ADD, EMULATOR_MIN, EMULATOR_MAX, EMULATOR_SMIN, EMULATOR_SMAX,
  EMULATOR_AND, EMULATOR_OR, EMULATOR_EXCLUSIVE
};
template <class T>
static inline T emulator_shuffle(
    int line, int kind, unsigned mask, T value, unsigned argument, unsigned width = 32) {
  static_assert(sizeof(T) <= 8, "what is shuffled has at most 8 bytes");
  unsigned long long bits = 0;
  __builtin_memcpy(&bits, &value, sizeof value);
  bits = emulator_collective(kind, mask, bits, argument, width, line);
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}
#define __shfl_sync(...) emulator_shuffle(__LINE__, EMULATOR_INDEX, __VA_ARGS__)
#define __shfl_up_sync(...) emulator_shuffle(__LINE__, EMULATOR_UP, __VA_ARGS__)
#define __shfl_down_sync(...) emulator_shuffle(__LINE__, EMULATOR_DOWN, __VA_ARGS__)
#define __shfl_xor_sync(...) emulator_shuffle(__LINE__, EMULATOR_XOR, __VA_ARGS__)
static inline void emulator_syncwarp(int line, unsigned mask = 0xffffffffu) {
  emulator_collective(EMULATOR_SYNC, mask, 0, 0, 32, line);
}
#define __syncwarp(...) emulator_syncwarp(__LINE__ __VA_OPT__(, ) __VA_ARGS__)
#define EMULATOR_VOTE(kind, mask, value) \
  ((unsigned)emulator_collective(kind, mask, value, 0, 32, __LINE__))
#define __ballot_sync(m, p) EMULATOR_VOTE(EMULATOR_BALLOT, m, !!(p))
#define __any_sync(m, p) (EMULATOR_VOTE(EMULATOR_BALLOT, m, !!(p)) != 0)
#define __all_sync(m, p) (EMULATOR_VOTE(EMULATOR_BALLOT, m, !(p)) == 0)
#define __match_any_sync(m, v) EMULATOR_VOTE(EMULATOR_MATCH, m, emulator_bits(v))
#define __reduce_add_sync(m, v) emulator_reduce(__LINE__, EMULATOR_ADD, EMULATOR_ADD, m, v)
#define __reduce_min_sync(m, v) emulator_reduce(__LINE__, EMULATOR_MIN, EMULATOR_SMIN, m, v)
#define __reduce_max_sync(m, v) emulator_reduce(__LINE__, EMULATOR_MAX, EMULATOR_SMAX, m, v)
#define __reduce_and_sync(m, v) EMULATOR_VOTE(EMULATOR_AND, m, (unsigned)(v))
#define __reduce_or_sync(m, v) EMULATOR_VOTE(EMULATOR_OR, m, (unsigned)(v))
#define __reduce_xor_sync(m, v) EMULATOR_VOTE(EMULATOR_EXCLUSIVE, m, (unsigned)(v))
template <class T>
static inline unsigned long long emulator_bits(T value) {
  unsigned long long bits = 0;
  __builtin_memcpy(&bits, &value, sizeof value);
  return bits;
}
template <class T>
static inline T emulator_reduce(int line, int kind, int kind_signed, unsigned mask, T value) {
  bool negative = (T)-1 < (T)0;
  return (T)emulator_collective(
      negative ? kind_signed : kind, mask, (unsigned long long)(long long)value, 0, 32, line);
}

// Atomics: one thread of the machine runs everything, so plain code is atomic; the engine is told.
#define EMULATOR_UNCHECKED __attribute__((noinline, no_sanitize("thread"))) static inline
#define EMULATOR_ATOMIC(name, type, condition, expression)         \
  EMULATOR_UNCHECKED type name(type* p, type v) {                  \
    emulator_atomic(p, sizeof(type), __builtin_return_address(0)); \
    type o = *p;                                                   \
    if (condition) *p = (expression);                              \
    return o;                                                      \
  }
#define EMULATOR_INTEGERS(name, condition, expression)    \
  EMULATOR_ATOMIC(name, int, condition, expression)       \
  EMULATOR_ATOMIC(name, unsigned, condition, expression)  \
  EMULATOR_ATOMIC(name, long long, condition, expression) \
  EMULATOR_ATOMIC(name, unsigned long long, condition, expression)
EMULATOR_ATOMIC(atomicAdd, int, true, (int)((unsigned)o + (unsigned)v))
EMULATOR_ATOMIC(atomicAdd, unsigned, true, o + v)
EMULATOR_ATOMIC(atomicAdd, unsigned long long, true, o + v)
EMULATOR_ATOMIC(atomicAdd, float, true, o + v)
EMULATOR_ATOMIC(atomicAdd, double, true, o + v)
EMULATOR_ATOMIC(atomicSub, int, true, (int)((unsigned)o - (unsigned)v))
EMULATOR_ATOMIC(atomicSub, unsigned, true, o - v)
EMULATOR_ATOMIC(atomicExch, int, true, v)
EMULATOR_ATOMIC(atomicExch, unsigned, true, v)
EMULATOR_ATOMIC(atomicExch, unsigned long long, true, v)
EMULATOR_ATOMIC(atomicExch, float, true, v)
EMULATOR_INTEGERS(atomicMin, v < o, v)
EMULATOR_INTEGERS(atomicMax, v > o, v)
EMULATOR_ATOMIC(atomicAnd, int, true, o & v)
EMULATOR_ATOMIC(atomicAnd, unsigned, true, o & v)
EMULATOR_ATOMIC(atomicAnd, unsigned long long, true, o & v)
EMULATOR_ATOMIC(atomicOr, int, true, o | v)
EMULATOR_ATOMIC(atomicOr, unsigned, true, o | v)
EMULATOR_ATOMIC(atomicOr, unsigned long long, true, o | v)
EMULATOR_ATOMIC(atomicXor, int, true, o ^ v)
EMULATOR_ATOMIC(atomicXor, unsigned, true, o ^ v)
EMULATOR_ATOMIC(atomicXor, unsigned long long, true, o ^ v)
EMULATOR_ATOMIC(atomicInc, unsigned, true, o >= v ? 0 : o + 1)
EMULATOR_ATOMIC(atomicDec, unsigned, true, o == 0 || o > v ? v : o - 1)
#define EMULATOR_EXCHANGE(type)                                    \
  EMULATOR_UNCHECKED type atomicCAS(type* p, type c, type v) {     \
    emulator_atomic(p, sizeof(type), __builtin_return_address(0)); \
    type o = *p;                                                   \
    if (o == c) *p = v;                                            \
    return o;                                                      \
  }
EMULATOR_EXCHANGE(int)
EMULATOR_EXCHANGE(unsigned)
EMULATOR_EXCHANGE(unsigned short)
EMULATOR_EXCHANGE(unsigned long long)

// Loads and stores with hints for caches.
template <class T> static inline T __ldg(const T* p) { return *p; }
template <class T> static inline T __ldcg(const T* p) { return *p; }
template <class T> static inline T __ldca(const T* p) { return *p; }
template <class T> static inline T __ldcs(const T* p) { return *p; }
template <class T> static inline void __stcs(T* p, T v) { *p = v; }
template <class T> static inline void __stcg(T* p, T v) { *p = v; }
template <class T> static inline void __stwt(T* p, T v) { *p = v; }

#include "cuda_math.h"
