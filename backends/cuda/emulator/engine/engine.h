// What the parts of the engine know of each other. The engine runs the threads of a kernel one at a
// time, on one thread of the machine; whoever calls it holds the lock of Python.
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

struct Operand {  // what an argument that is a pointer may be used for
  u8 *begin, *end;
  u64 argument;  // its number
  u64 written;   // whether it is not const
};

struct Launch {  // `engine.py` has the same
  void (*entry)(void**);
  void** arguments;
  u32 grid[3], block[3];
  const Section* sections;
  const Operand* operands;
  int32_t section_count, operand_count;
  u32 dynamic;           // bytes
  int32_t milliseconds;  // after which it is taken to be endless
  int32_t checked;       // whether the kernel is compiled with hooks
  int32_t anywhere;      // whether pointers come by other ways than its arguments
  u64 seed;
};

const u32 WARP = 32;
const size_t PAGE = 4096;
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
bool on_stack(const u8* place);  // of the running fiber
bool in_stack_guard(const u8* place);
void yield();  // let others go on, at random

// memory.cpp: buffers between pages that nobody may touch.
struct Cell;
struct Buffer {
  u8* pages;  // with those before and behind it
  size_t mapped;
  u8* start;
  size_t bytes;
  bool live;
  u8* known;    // of each byte, whether anybody wrote it; null: that is not followed
  Cell* cells;  // of each word, who used it last
};
Buffer* nearest(const void* place);  // the buffer in whose pages a place lies
std::string relation(const void* place);
void check_surroundings();  // of the buffers of a launch

// races.cpp: who used what, and what is before what.
void begin_checks();             // of a launch
void begin_checks_of_block();
void order_block();              // all threads of the block have met at a barrier
void order_warp(u32 warp, u32 lanes);  // and these lanes at __syncwarp
Cell* new_cells(size_t bytes);
void free_cells(Cell* cells, size_t bytes);

// faults.cpp: what the processor reports.
struct Guard {  // while it lives, faults of this thread end the launch
  explicit Guard(int milliseconds);
  ~Guard();
};
extern sigjmp_buf failed;  // where `fail` goes on
std::string counter(const void* pc);  // "<pc 1f0>"

}  // namespace emulator
