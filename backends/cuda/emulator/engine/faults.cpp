// What the processor and the compiler's checks report of a kernel, in words.
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <sys/time.h>
#include <ucontext.h>

#include <cstdio>
#include <cstring>

#include "engine.h"

namespace emulator {

static const int SIGNALS[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGVTALRM};
static const int SIGNAL_COUNT = sizeof SIGNALS / sizeof *SIGNALS;
static struct sigaction actions_before[SIGNAL_COUNT];
static stack_t stack_before;
static u8 signal_stack[64 << 10];
static pthread_t launcher;
static int limit;

std::string counter(const void* pc) {
  Dl_info found;
  char text[64];
  if (!dladdr(pc, &found) || !found.dli_fbase) return "<pc 0>";
  snprintf(text, sizeof text, "<pc %zx>", (size_t)((u8*)pc - (u8*)found.dli_fbase));
  return text;
}

static void* pc_of(void* context) {
#if defined(__x86_64__)
  return (void*)((ucontext_t*)context)->uc_mcontext.gregs[REG_RIP];
#else
  return (void*)((ucontext_t*)context)->uc_mcontext.pc;
#endif
}

static void on_signal(int signal_number, siginfo_t* info, void* context) {
  if (!pthread_equal(pthread_self(), launcher) || !current) {
    if (signal_number == SIGVTALRM) return;
    signal(signal_number, SIG_DFL);  // not ours: it happens again, and then ends the process
    return;
  }
  std::string where = here() + "; " + counter((u8*)pc_of(context) + 1);
  if (signal_number == SIGVTALRM) {
    fail("after %d ms it still runs: an endless loop, or a thread that waits for another one "
         "without a barrier; %s", limit, where.c_str());
  }
  if (signal_number == SIGFPE) fail("an integer is divided by zero; %s", where.c_str());
  if (signal_number == SIGILL || signal_number == SIGTRAP) {
    fail("an undefined operation; %s", where.c_str());
  }
  u8* place = (u8*)info->si_addr;
  if (in_stack_guard(place)) fail("a thread takes more local memory than there is; %s", where.c_str());
  fail("access out of bounds, %s; %s", relation(place).c_str(), where.c_str());
}

Guard::Guard(int milliseconds) {
  launcher = pthread_self();
  limit = milliseconds;
  stack_t own{};
  own.ss_sp = signal_stack;
  own.ss_size = sizeof signal_stack;
  sigaltstack(&own, &stack_before);
  struct sigaction action{};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  for (int i = 0; i < SIGNAL_COUNT; i++) sigaction(SIGNALS[i], &action, &actions_before[i]);
  itimerval timer{{0, 0}, {milliseconds / 1000, milliseconds % 1000 * 1000}};
  setitimer(ITIMER_VIRTUAL, &timer, nullptr);
}

Guard::~Guard() {
  itimerval none{};
  setitimer(ITIMER_VIRTUAL, &none, nullptr);
  for (int i = 0; i < SIGNAL_COUNT; i++) sigaction(SIGNALS[i], &actions_before[i], nullptr);
  sigaltstack(&stack_before, nullptr);
}

// ---- checks that the compiler has put into a kernel (-fsanitize=...); it calls these where one fails

struct Source {
  const char* file;
  u32 line, column;
};
struct TypeName {
  unsigned short kind, info;
  char name[1];
};
struct Bounds {
  Source place;
  TypeName *array, *index;
};
struct Mismatch {
  Source place;
  TypeName* type_name;
  u8 log_alignment, kind;
};
struct Overflow {
  Source place;
  TypeName* type_name;
};

extern "C" {
void __ubsan_handle_out_of_bounds_abort(Bounds* data, u64 index) {
  fail("index %lld is outside an array of type %s; %s; <line %u>", (long long)index,
       data->array->name, here().c_str(), data->place.line);
}
void __ubsan_handle_type_mismatch_v1_abort(Mismatch* data, u64 address) {
  fail("misaligned access: an address of type %s, which lies at multiples of %d bytes, is %s; %s; "
       "<line %u>", data->type_name->name, 1 << data->log_alignment, relation((void*)address).c_str(),
       here().c_str(), data->place.line);
}
#define EMULATOR_OVERFLOW(kind, text)                                              \
  void __ubsan_handle_##kind##_overflow_abort(Overflow* data, u64, u64) {          \
    fail("a %s of type %s overflows, which is undefined; %s; <line %u>", text,     \
         data->type_name->name, here().c_str(), data->place.line);                      \
  }
EMULATOR_OVERFLOW(add, "sum")
EMULATOR_OVERFLOW(sub, "difference")
EMULATOR_OVERFLOW(mul, "product")
EMULATOR_OVERFLOW(negate, "negation")
void __ubsan_handle_divrem_overflow_abort(Overflow* data, u64, u64 by) {
  fail("%s; %s; <line %u>",
       by ? "a quotient overflows, which is undefined" : "an integer is divided by zero",
       here().c_str(), data->place.line);
}
void __ubsan_handle_shift_out_of_bounds_abort(Mismatch* data, u64, u64 by) {
  fail("a shift by %lld bits is undefined; %s; <line %u>", (long long)by, here().c_str(),
       data->place.line);
}
}

}  // namespace emulator
