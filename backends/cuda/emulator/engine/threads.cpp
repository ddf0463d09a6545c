// The threads of a block: each has a fiber from when it starts. A fiber runs one thread after the
// other, and only a thread that waits keeps its own: a kernel without barriers is a plain loop.
#include <sys/mman.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "engine.h"

// emulator_switch(save, stack): keep the registers on this stack, go on where another one was left.
#if defined(__x86_64__)
asm(R"(
.text
.globl emulator_switch
.type emulator_switch, @function
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulator_switch, .-emulator_switch
)");
#elif defined(__aarch64__)
asm(R"(
.text
.globl emulator_switch
.type emulator_switch, %function
emulator_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size emulator_switch, .-emulator_switch
)");
#else
#error "the emulator switches fibers on x86-64 and AArch64 only"
#endif

extern "C" {
void emulator_switch(void** save, void* stack);
emulator::Index emulator_thread, emulator_block, emulator_block_size, emulator_grid_size;
}

namespace emulator {

static const size_t STACK = 128 << 10;

struct Fiber {
  size_t number;  // by which stacks begin at different places of a page, so that caches hold them
  u8* stack;      // its first page is a guard
  void* pointer;
};

struct Warp {
  u32 living, waiting;  // lanes
};

struct Run {
  std::vector<u32> order, blocks;  // in which threads start, and blocks run
  u32 started;
  std::vector<u32> ready;  // those that waited and may go on
  std::vector<Fiber*> idle;
  std::vector<Warp> warps;
  u32 count, living, at_barrier;
  int barrier_result;
  u64 random;
};

Thread* current;
std::vector<Thread> threads;
u64 block_number;
sigjmp_buf failed;
const Launch* launch;
static Run run;
static Fiber* running;
static void* scheduler;  // its stack
static std::vector<Fiber*> fibers;
static char message[4096];
static u8* dynamic_begin;  // 256 KiB that end at a guard page
static const size_t DYNAMIC = 256 << 10;
static u8* dynamic;

static u32 draw(u32 below) {
  run.random ^= run.random << 13;
  run.random ^= run.random >> 7;
  run.random ^= run.random << 17;
  return (u32)((run.random >> 32) * below >> 32);
}

template <class T>
static void shuffle(std::vector<T>& items) {
  for (size_t i = items.size(); i > 1; i--) std::swap(items[i - 1], items[draw((u32)i)]);
}

std::string here() {
  if (!current) return "no thread";
  char text[128];
  Index b = emulator_block, t = current->index;
  snprintf(text, sizeof text, "block (%u, %u, %u), thread (%u, %u, %u)", b.x, b.y, b.z, t.x, t.y, t.z);
  return text;
}

void fail(const char* format, ...) {
  va_list rest;
  va_start(rest, format);
  vsnprintf(message, sizeof message, format, rest);
  va_end(rest);
  siglongjmp(failed, 1);
}

// ---- fibers

static void leave() { emulator_switch(&running->pointer, scheduler); }

static void finish(Thread& thread);

static void fiber_main() {
  for (;;) {
    while (run.started < run.count) {
      current = &threads[run.order[run.started++]];
      current->fiber = running;
      emulator_thread = current->index;
      launch->entry(launch->arguments);
      finish(*current);
    }
    run.idle.push_back(running);
    leave();
  }
}

static void prepare(Fiber& fiber) {
  void** top = (void**)(fiber.stack + STACK - fiber.number % 16 * 256);
#if defined(__x86_64__)
  top -= 2;  // nothing to return to; the stack is aligned as a call leaves it
  top[0] = (void*)fiber_main;
  top[1] = nullptr;
  top -= 6;
#else
  top -= 20;
  top[11] = (void*)fiber_main;
#endif
  fiber.pointer = top;
}

static Fiber* idle_fiber() {
  if (run.idle.empty()) {
    void* stack = mmap(nullptr, STACK, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED) fail("no memory is left for the stack of a thread");
    mprotect(stack, PAGE, PROT_NONE);
    fibers.push_back(new Fiber{fibers.size(), (u8*)stack, nullptr});
    prepare(*fibers.back());
    run.idle.push_back(fibers.back());
  }
  Fiber* fiber = run.idle.back();
  run.idle.pop_back();
  return fiber;
}

bool on_stack(const u8* place) {
  return place >= running->stack && place < running->stack + STACK;
}

bool in_stack_guard(const u8* place) {
  for (Fiber* fiber : fibers) {
    if (place >= fiber->stack && place < fiber->stack + PAGE) return true;
  }
  return false;
}

static void resume(Fiber* fiber) {
  running = fiber;
  emulator_switch(&scheduler, fiber->pointer);
}

static void wake(Thread& thread) {
  thread.state = State::ready;
  run.ready.push_back(thread.number);
}

void yield() {
  if (draw(4)) return;
  wake(*current);
  leave();
}

// ---- barriers

static void try_barrier() {
  if (!run.at_barrier || run.at_barrier != run.living) return;
  int line = 0, count = 0;
  for (Thread& thread : threads) {
    if (thread.state != State::at_barrier) continue;
    if (line && thread.line != line) {
      fail("divergent barriers: <line %d> and, in %s, <line %d>", line, here().c_str(), thread.line);
    }
    line = thread.line;
    count += thread.predicate;
  }
  if (run.living != run.count) {
    fail("%u of the %u threads of block (%u, %u, %u) have returned before the barrier: <line %d>",
         run.count - run.living, run.count, emulator_block.x, emulator_block.y,
         emulator_block.z, line);
  }
  if (launch->checked) order_block();
  run.barrier_result = count;
  run.at_barrier = 0;
  for (Thread& thread : threads) wake(thread);
}

extern "C" int emulator_barrier(int kind, int predicate, int line) {
  current->line = line;
  current->predicate = predicate;
  current->state = State::at_barrier;
  run.at_barrier++;
  try_barrier();
  leave();
  int count = run.barrier_result;
  return kind == 2 ? count == (int)run.count : kind == 3 ? count != 0 : count;
}

// ---- collectives of a warp

enum Kind { SYNC, INDEX, UP, DOWN, XOR, BALLOT, MATCH, ADD, MIN, MAX, SMIN, SMAX, AND, OR, EXCLUSIVE };

// The lane that a shuffle reads.
static int source(const Thread& thread, int lane) {
  int width = (int)thread.width, base = lane & ~(width - 1), argument = (int)thread.argument;
  int from = lane;
  switch (thread.kind) {
    case INDEX: return base + (argument & (width - 1));
    case UP: from = lane - argument; return from < base ? lane : from;
    case DOWN: from = lane + argument; break;
    case XOR: from = lane ^ argument; break;
  }
  return from >= base + width ? lane : from;
}

static u64 combine(int kind, u64 a, u64 b) {
  switch (kind) {
    case ADD: return (u32)(a + b);
    case MIN: return std::min((u32)a, (u32)b);
    case MAX: return std::max((u32)a, (u32)b);
    case SMIN: return (u64)std::min((int32_t)a, (int32_t)b);
    case SMAX: return (u64)std::max((int32_t)a, (int32_t)b);
    case AND: return a & b;
    case OR: return a | b;
  }
  return a ^ b;
}

static void try_collective(u32 number, u32 mask) {
  Warp& warp = run.warps[number];
  u32 need = mask & warp.living;
  if (!need || (warp.waiting & need) != need) return;
  Thread* lanes = &threads[number * WARP];
  int first = __builtin_ctz(need), kind = lanes[first].kind;
  for (u32 rest = need; rest; rest &= rest - 1) {
    const Thread& thread = lanes[__builtin_ctz(rest)];
    if (thread.mask != mask || thread.kind != kind) return;
  }
  u64 results[WARP] = {}, all = lanes[first].value;
  for (u32 rest = need & (need - 1); rest; rest &= rest - 1) {
    all = combine(kind, all, lanes[__builtin_ctz(rest)].value);
  }
  for (u32 rest = need; rest; rest &= rest - 1) {
    int lane = __builtin_ctz(rest);
    const Thread& thread = lanes[lane];
    results[lane] = all;
    if (kind == SYNC) results[lane] = 0;
    if (kind == BALLOT || kind == MATCH) {
      results[lane] = 0;
      for (u32 other = need; other; other &= other - 1) {
        u64 value = lanes[__builtin_ctz(other)].value;
        bool set = kind == BALLOT ? value != 0 : value == thread.value;
        results[lane] |= (u64)set << __builtin_ctz(other);
      }
    }
    if (kind >= INDEX && kind <= XOR) {
      int from = source(thread, lane);
      if (!(need >> from & 1)) {
        current = &lanes[lane];
        fail("a shuffle reads lane %d, which takes no part in it (mask %08x, living lanes %08x); "
             "%s; <line %d>", from, mask, warp.living, here().c_str(), thread.line);
      }
      results[lane] = lanes[from].value;
    }
  }
  if (launch->checked && kind == SYNC) order_warp(number, need);
  warp.waiting &= ~need;
  for (u32 rest = need; rest; rest &= rest - 1) {
    Thread& thread = lanes[__builtin_ctz(rest)];
    thread.value = results[__builtin_ctz(rest)];
    wake(thread);
  }
}

extern "C" u64 emulator_collective(int kind, u32 mask, u64 value, u32 argument, u32 width, int line) {
  Thread& self = *current;
  u32 warp = self.number / WARP, lane = self.number % WARP;
  if (!(mask >> lane & 1)) {
    fail("lane %u calls a collective whose mask %08x has not got it; %s; <line %d>", lane, mask,
         here().c_str(), line);
  }
  if (!width || width > WARP || (width & (width - 1))) {
    fail("a shuffle of width %u, which is no power of two up to 32; %s; <line %d>", width,
         here().c_str(), line);
  }
  self.kind = kind, self.mask = mask, self.argument = argument, self.width = width;
  self.value = value, self.line = line, self.state = State::at_collective;
  run.warps[warp].waiting |= 1u << lane;
  try_collective(warp, mask);
  leave();
  return self.value;
}

// ---- blocks

static void finish(Thread& thread) {
  thread.state = State::done;
  run.living--;
  Warp& warp = run.warps[thread.number / WARP];
  warp.living &= ~(1u << thread.number % WARP);
  try_barrier();
  for (u32 rest = warp.waiting; rest; rest &= rest - 1) {  // those that waited for it go on
    u32 before = warp.waiting;
    try_collective(thread.number / WARP, threads[thread.number / WARP * WARP + __builtin_ctz(rest)].mask);
    if (warp.waiting != before) break;
  }
}

static void deadlock() {
  std::string who;
  u32 count = 0;
  for (Thread& thread : threads) {
    if (thread.state == State::done || ++count > 3) continue;
    current = &thread;
    who += "; " + here() + (thread.state == State::at_barrier ? " at a barrier" : " at a collective") +
           ", <line " + std::to_string(thread.line) + ">";
  }
  fail("threads wait for each other: %u of %u%s", count, run.count, who.c_str());
}

static void run_block() {
  run.started = run.at_barrier = 0;
  run.living = run.count;
  run.ready.clear();
  for (Warp& warp : run.warps) warp = {~0u, 0};
  if (run.count % WARP) run.warps.back().living = (1u << run.count % WARP) - 1;
  for (Thread& thread : threads) thread.state = State::ready;
  while (run.living) {
    bool fresh = run.started < run.count;
    if (!run.ready.empty() && (!fresh || draw(2))) {
      std::swap(run.ready.back(), run.ready[draw((u32)run.ready.size())]);
      current = &threads[run.ready.back()];
      emulator_thread = current->index;
      run.ready.pop_back();
      resume(current->fiber);
    } else if (fresh) {
      resume(idle_fiber());
    } else {
      deadlock();
    }
  }
}

extern "C" void* emulator_dynamic() { return dynamic; }

extern "C" void emulator_trap(const char* why, int line) {
  fail("%s; %s; <line %d>", why, here().c_str(), line);
}

static void run_grid() {
  Index size = emulator_block_size, grid = emulator_grid_size;
  run.count = size.x * size.y * size.z;
  threads.resize(run.count);
  run.order.resize(run.count);
  run.warps.resize((run.count + WARP - 1) / WARP);
  for (u32 i = 0; i < run.count; i++) {
    threads[i] = Thread{};
    threads[i].number = run.order[i] = i;
    threads[i].index = {i % size.x, i / size.x % size.y, i / size.x / size.y};
  }
  shuffle(run.order);
  run.blocks.resize((size_t)grid.x * grid.y * grid.z);
  for (size_t i = 0; i < run.blocks.size(); i++) run.blocks[i] = (u32)i;
  shuffle(run.blocks);
  if (launch->checked) begin_checks();
  for (u32 block : run.blocks) {
    block_number = block;
    emulator_block = {block % grid.x, block / grid.x % grid.y, block / grid.x / grid.y};
    memset(dynamic, UNKNOWN, launch->dynamic);
    for (int i = 0; i < launch->section_count; i++) {
      Section section = launch->sections[i];
      memset(section.begin, UNKNOWN, section.end - section.begin);
    }
    if (launch->checked) begin_checks_of_block();
    run_block();
  }
}

// Runs a kernel; returns what went wrong, or null.
extern "C" const char* emulator_launch(const Launch* given) {
  if (!dynamic_begin) {
    dynamic_begin = (u8*)mmap(nullptr, DYNAMIC + PAGE, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    mprotect(dynamic_begin + DYNAMIC, PAGE, PROT_NONE);
  }
  dynamic = dynamic_begin + DYNAMIC - (given->dynamic + 15) / 16 * 16;
  launch = given;
  run.random = (given->seed + 1) * 0x9e3779b97f4a7c15ull;
  emulator_grid_size = {given->grid[0], given->grid[1], given->grid[2]};
  emulator_block_size = {given->block[0], given->block[1], given->block[2]};
  Guard guard(given->milliseconds);
  if (sigsetjmp(failed, 1)) {
    for (Fiber* fiber : fibers) prepare(*fiber);  // what they were about is given up
    run.idle = fibers;
    current = nullptr;
    return message;
  }
  run_grid();
  current = nullptr;
  check_surroundings();
  return nullptr;
}

}  // namespace emulator
