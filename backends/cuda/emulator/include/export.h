// What a kernel is called by: its arguments from an array of pointers, as the driver of CUDA does
// it, and what kind each parameter is. It comes behind a kernel's text.
#pragma once

#define UNCHECKED __attribute__((no_sanitize("thread")))

namespace emulator {

struct Parameter {
  // p: pointer, c: pointer to const, t: pointer to pointers, f: float, i: signed integer, u: unsigned,
  // b: bool, s: struct
  char kind;
  unsigned short bytes;
  unsigned short element;  // what a pointer points to: its bytes, and how it has to be aligned
  unsigned short alignment;
};

template <class T, bool is_class = __is_class(T)>
struct Kind {
  static constexpr char kind = (T)0.5f != (T)0 ? 'f' : (T)-1 < (T)0 ? 'i' : 'u';
  static constexpr Parameter value{kind, sizeof(T), 0, 0};
};
template <class T>
struct Kind<T, true> {  // float16 and bfloat16 too
  static constexpr Parameter value{'s', sizeof(T), 0, 0};
};
template <>
struct Kind<bool, false> {
  static constexpr Parameter value{'b', 1, 0, 0};
};
template <class T>
struct Kind<T*, false> {
  static constexpr Parameter value{'p', sizeof(T*), sizeof(T), alignof(T)};
};
template <class T>
struct Kind<T* const*, false> {
  static constexpr Parameter value{'t', sizeof(T*), sizeof(T*), alignof(T*)};
};
template <class T>
struct Kind<const T*, false> {
  static constexpr Parameter value{'c', sizeof(T*), sizeof(T), alignof(T)};
};

template <int...> struct Numbers {};
template <int n, int... i> struct Count : Count<n - 1, n - 1, i...> {};
template <int... i> struct Count<0, i...> { typedef Numbers<i...> type; };

template <class... A, int... i>
UNCHECKED static inline void call(void (*kernel)(A...), void** arguments, Numbers<i...>) {
  kernel(*(A*)arguments[i]...);
}
template <class... A>
UNCHECKED static inline void call(void (*kernel)(A...), void** arguments) {
  call(kernel, arguments, typename Count<sizeof...(A)>::type());
}
template <class... A>
UNCHECKED static inline int signature(void (*)(A...), Parameter* out) {
  const Parameter all[] = {Kind<A>::value..., {}};
  for (unsigned i = 0; i < sizeof...(A); i++) out[i] = all[i];
  return sizeof...(A);
}

}  // namespace emulator

// The sections begin with a byte of their own, so that there are such.
#define EMULATOR_SECTION(name)                                                                    \
  __attribute__((used, section("shared_" #name))) static char emulator_first_##name;              \
  extern "C" __attribute__((visibility("hidden"))) char __start_shared_##name, __stop_shared_##name;

EMULATOR_SECTION(emulator_common)

#define EMULATOR_EXPORT(name)                                                                     \
  EMULATOR_SECTION(name)                                                                          \
  extern "C" UNCHECKED void emulator_call_##name(void** a) { emulator::call(&name, a); }          \
  extern "C" UNCHECKED int emulator_signature_##name(emulator::Parameter* out) {                  \
    return emulator::signature(&name, out);                                                       \
  }                                                                                               \
  extern "C" UNCHECKED void emulator_sections_##name(char** out) {                                \
    out[0] = &__start_shared_emulator_common;                                                     \
    out[1] = &__stop_shared_emulator_common;                                                      \
    out[2] = &__start_shared_##name;                                                              \
    out[3] = &__stop_shared_##name;                                                               \
  }
