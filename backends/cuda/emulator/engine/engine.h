// What the parts of the engine know of each other. The engine runs the threads of a kernel one at a
// time, on one thread of the machine; whoever launches holds a lock.
#pragma once
#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace emulator {

typedef uint8_t u8;
typedef uint32_t u32;
typedef uint64_t u64;

struct Index {
  u32 x, y, z;
};

struct Section {  // memory that is declared as shared
  u8 *begin, *end;
};

struct Launch {  // `engine.py` has the same
  void (*entry)(void**);
  void** arguments;
  u32 grid[3], block[3];
  const Section* sections;
  int32_t section_count;
  u32 dynamic;           // bytes
  const u64* addresses;  // of the arguments that are some
  int32_t address_count;
  int32_t milliseconds;  // after which it is taken to be endless
  u64 seed;
};

const u8 UNKNOWN = 0xff;  // in memory that nobody wrote: nan as a float, -1 as an integer

// threads.cpp: the threads of a block, where they wait, and who goes on.
struct Fiber;
enum class State : u8 { ready, at_barrier, at_collective, done };

struct Thread {
  u32 number;
  Index index;
  State state;
  Fiber* fiber;  // the stack it runs on, from when it starts until it ends
  int line;      // where it waits
  int predicate;
  int kind;  // of a collective, with what it was called with; `value` becomes the result
  u32 mask;
  u32 argument, width;
  u64 value;
};

extern Thread* current;  // who runs now, if anybody
extern std::vector<Thread> threads;
extern u64 block_number;
extern const Launch* launch;

// Ends the launch with a message. ``<line 3>`` and ``<pc 1f0>`` in it are told by Python.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
std::string here();  // "block (0, 0, 0), thread (5, 0, 0)"

// memory.cpp: buffers between pages that nobody may touch.
struct Buffer {
  u8* pages;  // with those before and behind it
  size_t mapped;
  u8* start;
  size_t bytes;
  bool live;
};
Buffer* nearest(const void* place);  // the buffer in whose pages a place lies
std::string relation(const void* place);
void check_surroundings(const u64* addresses, int count);  // of the buffers of a launch

// faults.cpp: what the processor reports.
struct Guard {  // while it lives, faults of this thread end the launch
  explicit Guard(int milliseconds);
  ~Guard();
};
extern sigjmp_buf failed;  // where `fail` goes on
bool in_stack(const u8* place);  // whether a place is a guard of a fiber's stack
std::string counter(const void* pc);  // "<pc 1f0>"

}  // namespace emulator
